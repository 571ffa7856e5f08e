"""Training on a model's own graded answers, with new answers as it changes."""

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import hf_calib
from hf_calib import (
    PromptFormat,
    RecalibrationConfig,
    RecalibrationTrainer,
    SelfEvaluationCallback,
    SelfEvaluationQuestions,
    self_evaluation_questions,
)
from hf_calib.evaluation.graded_answers import prompt_format_of_answers
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.support import COLOURS, NOUNS, byte_level_tokenizer, questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, grpo, lora, sft

ASKED = [FreeFormQuestion(f"What colour is the {noun}?", (colour,)) for noun in NOUNS for colour in COLOURS[:3]]

pytestmark = pytest.mark.filterwarnings("ignore:self-evaluation")


def even_sum(answer, other):
    """Grade about half of a tiny model's answers as right."""
    return sum(map(ord, answer)) % 2 == 0


@pytest.fixture(scope="module")
def graded(tokenizer):
    return answers(tiny_llama(tokenizer), tokenizer)


def answers(model, tokenizer, **options):
    return self_evaluation_questions(
        model, tokenizer, ASKED, matcher=even_sum, max_new_tokens=4, progress=False, **options
    )


def callback(graded, every=1, **options):
    return SelfEvaluationCallback(graded, every, matcher=even_sum, **options)


def repair(tokenizer, folder, graded, *, callbacks=(), **options):
    torch.manual_seed(1)
    args = RecalibrationConfig(str(folder), supervised_weight=1.0, anchor_weight=0.1, **training_arguments(**options))
    model = tiny_llama(tokenizer)
    return RecalibrationTrainer(model, args, graded, None, tokenizer, callbacks=list(callbacks))


def test_a_model_learns_whether_its_answers_are_right(graded, tokenizer, tmp_path):
    assert 10 < graded.balance["right"] < 20
    trainer = repair(tokenizer, tmp_path, graded, max_steps=60, per_device_train_batch_size=16)
    before = hf_calib.predict(trainer.model, tokenizer, graded).report().measures
    trainer.train()
    after = hf_calib.predict(trainer.model, tokenizer, graded).report().measures
    assert after["accuracy"].value > before["accuracy"].value + 0.1
    assert after["brier"].value < before["brier"].value - 0.1


@pytest.mark.parametrize("make", [dpo, grpo])
def test_every_trainer_takes_them(make, graded, tokenizer, tmp_path):
    trainer = make(
        tokenizer, tmp_path, calibration_dataset=graded, eval_calibration_dataset=graded, em_weight=1.0,
        peft_config=lora(), callbacks=[callback(graded, 2)],
    )  # fmt: skip
    trainer.train()
    assert trainer.calibration_run.terms == ("anchor", "supervised", "em")
    assert trainer.calibration_reports["after"].n == len(graded)
    assert trainer.calibration_run.questions != list(graded)


def test_supervised_fine_tuning_takes_them(graded, tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, train_dataset=graded, peft_config=lora())
    trainer.train()
    assert len(trainer.train_dataset) == len(graded)


def test_the_answers_are_those_of_the_model_as_it_is(graded, tokenizer, tmp_path):
    seen = []

    class Spy(SelfEvaluationCallback):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == 2:
                expected = answers(self.trainer.model, tokenizer, seed=2)
                assert list(self.questions) == list(expected)
                assert list(self.trainer.calibration_run.questions) == list(expected)
            seen.append(self.questions.provenance.get("step"))

    refresh = Spy(graded, 2, matcher=even_sum)
    trainer = repair(tokenizer, tmp_path, graded, callbacks=[refresh], max_steps=5)
    trainer.train()
    assert seen == [None, 2, 2, 4, 4]
    assert list(refresh.questions) != list(graded)
    # Another run starts from the first answers again.
    again = repair(tokenizer, tmp_path, graded, callbacks=[refresh], max_steps=1)
    again.train()
    assert list(again.calibration_run.questions) == list(refresh.questions) == list(graded)


def test_a_resumed_run_goes_on_with_the_answers_of_the_checkpoint(graded, tokenizer, tmp_path):
    weights = []
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    for resumed in (False, True):
        refresh = callback(graded, 2)
        trainer = repair(tokenizer, tmp_path / "run", graded, callbacks=[refresh], **options)
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3") if resumed else None)
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    saved = SelfEvaluationQuestions.load(tmp_path / "run" / "checkpoint-3" / "self_evaluation.parquet")
    assert saved.provenance["step"] == 2
    for whole, continued in zip(*weights, strict=True):
        torch.testing.assert_close(whole, continued)


def test_a_checkpoint_may_have_been_moved(graded, tokenizer, tmp_path, caplog):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    repair(tokenizer, tmp_path / "first", graded, callbacks=[callback(graded, 2)], **options).train()
    checkpoint = (tmp_path / "first" / "checkpoint-3").rename(tmp_path / "moved")
    saved = SelfEvaluationQuestions.load(checkpoint / "self_evaluation.parquet")
    refresh = callback(graded, 100)
    resumed = repair(tokenizer, tmp_path / "second", graded, callbacks=[refresh], **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert list(refresh.questions) == list(resumed.calibration_run.questions) == list(saved)
    (checkpoint / "self_evaluation.parquet").unlink()
    resumed = repair(tokenizer, tmp_path / "third", graded, callbacks=[callback(graded, 100)], **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert "has no self_evaluation.parquet; training continues with the initial answers" in caplog.text


def test_new_answers_keep_their_source(graded, tokenizer, tmp_path):
    named = SelfEvaluationQuestions(graded.answers, graded.provenance | {"source": "asked.jsonl"})
    refresh = callback(named, 2)
    repair(tokenizer, tmp_path, named, callbacks=[refresh]).train()
    assert (refresh.questions.provenance["step"], refresh.questions.source) == (2, "asked.jsonl")


def test_a_refresh_does_not_replace_other_questions(graded, tokenizer, tmp_path):
    trainer = repair(tokenizer, tmp_path, [*graded, *questions(3)], callbacks=[callback(graded)])
    with pytest.raises(ValueError, match="has 33 calibration questions, but SelfEvaluationCallback has 30"):
        trainer.train()


def test_new_answers_need_the_reference_itself(graded, tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    known = hf_calib.reference_distributions(model, tokenizer, graded, prompt_format=prompt_format_of_answers(graded))
    args = RecalibrationConfig(str(tmp_path), supervised_weight=1.0, **training_arguments(max_steps=4))
    trainer = RecalibrationTrainer(model, args, graded, known, tokenizer, callbacks=[callback(graded, 3)])
    with pytest.raises(
        ValueError, match="calibration_reference_model: its distributions were computed beforehand, for the first"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("source", ["questions", "file"])
def test_training_asks_as_measuring_does(source, tmp_path):
    """Of all trainers that take the questions, as objects or from a file."""
    tokenizer = byte_level_tokenizer(chat=True)
    asked_with = PromptFormat(header="Facts.", question="Q: {question}", chat=True, system="Be brief.")
    found = answers(tiny_llama(tokenizer), tokenizer, prompt_format=asked_with)
    found.save(tmp_path / "graded.parquet")
    given = found if source == "questions" else tmp_path / "graded.parquet"
    for trainer in (
        repair(tokenizer, tmp_path / "repair", given),
        sft(tokenizer, tmp_path / "sft", train_dataset=given, peft_config=lora()),
        dpo(tokenizer, tmp_path / "dpo", calibration_dataset=given, peft_config=lora()),
    ):
        assert trainer.prompt_format == found.prompt_format
        assert trainer.calibration_run.prompt_format == found.prompt_format
    own = PromptFormat(header="Other.")
    assert dpo(
        tokenizer, tmp_path, calibration_dataset=given, prompt_format=own, peft_config=lora()
    ).prompt_format == own  # fmt: skip
    plain = answers(tiny_llama(tokenizer), tokenizer)
    with pytest.raises(ValueError, match="calibration_prompt: 'chat' does not fit graded answers"):
        repair(tokenizer, tmp_path, plain, calibration_prompt="chat")


def test_bad_input_is_refused(graded, tokenizer, tmp_path):
    for every in (0, 2.5, "2"):
        with pytest.raises(
            ValueError, match=f"every: must be an integer of at least 1, in optimizer steps, got {every!r}"
        ):
            callback(graded, every)
    assert callback(graded, np.int64(2)).every == 2
    with pytest.raises(TypeError, match="expected SelfEvaluationQuestions, got list"):
        SelfEvaluationCallback(list(graded), 5)
    with pytest.raises(ValueError, match="graded by 'even_sum'; pass that function"):
        SelfEvaluationCallback(graded, 5)
    # At the start, however late the first refresh is.
    refresh = callback(graded, 100)
    trainer = sft(tokenizer, tmp_path, train_dataset=graded, peft_config=lora(), callbacks=[refresh])
    with pytest.raises(ValueError, match="there are no calibration questions to replace"):
        trainer.train()
    rows = [{"input_ids": tokenizer("a b")["input_ids"]}] * 4
    plain = Trainer(
        model=tiny_llama(tokenizer), args=TrainingArguments(str(tmp_path), **training_arguments()),
        train_dataset=rows, processing_class=tokenizer, callbacks=[callback(graded)],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )  # fmt: skip
    with pytest.raises(ValueError, match="Trainer has no calibration questions"):
        plain.train()
