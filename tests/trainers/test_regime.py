"""The regime that a run leaves its model in, on the model card."""

import pytest

from hf_calib.confidence import predict
from hf_calib.evaluation import diagnose
from hf_calib.tasks import as_questions
from hf_calib.trainers.publishing import card_data
from tests.support import question_rows, questions

from .runs import dpo, lora, sft

NEW = questions(60, seed=9)


def described(trainer):
    return card_data(trainer.calibration_run, trainer)


def expected(trainer, known):
    answers = [predict(trainer.model, trainer.processing_class, asked) for asked in (known, NEW)]
    diagnosis = diagnose(*answers)
    return f"{diagnosis.regime}. {diagnosis.reasons} Estimated from the fine-tuning questions "


@pytest.mark.parametrize("em_weight", [0.0, 1.0])
def test_fine_tuned_model_is_diagnosed_on_what_its_weights_were_trained_on(tokenizer, tmp_path, em_weight):
    trainer = sft(tokenizer, tmp_path, eval_calibration_dataset=NEW, em_weight=em_weight, max_steps=12)
    assert described(trainer).regime is None
    trainer.train()
    known = trainer.calibration_run.trained_on  # without those set aside for the E-step
    assert len(known) == (40 if em_weight == 0 else 32)
    told = described(trainer).regime
    assert told == expected(trainer, known) + f"(all {len(known)}) and from 60 new ones (in-memory-questions)."
    trainer.create_model_card()
    assert f"\nRegime: {told.split('.')[0]}. The " in (tmp_path / "README.md").read_text()


def test_a_part_of_a_large_fine_tuning_set_is_asked(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_calib.evaluation.regime_text.REGIME_QUESTIONS", 10)
    trainer = sft(tokenizer, tmp_path, eval_calibration_dataset=NEW)
    trainer.train()
    assert "fine-tuning questions (10 of 40, drawn at random) and from 60 new ones" in described(trainer).regime
    without = sft(tokenizer, tmp_path)
    without.train()
    assert described(without).regime is None
    weights = (model.model.state_dict() for model in (trainer, without))
    assert all(one.equal(other) for one, other in zip(*(state.values() for state in weights), strict=True))


def test_aligned_model_is_diagnosed_where_answers_were_trained_on(tokenizer, tmp_path):
    rows = question_rows(40)
    for row in rows[:10]:
        row["answer"] = None
    given = {"calibration_dataset": rows, "eval_calibration_dataset": NEW, "peft_config": lora()}
    trainer = dpo(tokenizer, tmp_path, **given)
    trainer.train()
    assert described(trainer).regime.startswith(expected(trainer, as_questions(rows[10:])) + "(all 30)")
    anchored = dpo(tokenizer, tmp_path, supervised_weight=0.0, **given)
    anchored.train()
    assert described(anchored).regime is None  # no answer was used
