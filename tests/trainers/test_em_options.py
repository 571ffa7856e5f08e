"""Where the E-step's questions come from, when it acts, and how its bins are laid."""

import json

import pytest

from hf_calib.regularizers import BinTargets, EqualMassTargets
from hf_calib.tasks import QuestionError
from tests.support import questions
from tests.trainers.runs import dpo, lora, sft


@pytest.fixture
def updates(monkeypatch):
    """How many questions each E-step added."""
    sizes = []
    update = BinTargets.update

    def spy(self, confidences, correct):
        sizes.append(len(confidences))
        update(self, confidences, correct)

    monkeypatch.setattr(BinTargets, "update", spy)
    return sizes


def run(tokenizer, folder, **options):
    trainer = dpo(
        tokenizer, folder, peft_config=lora(),
        **{"em_weight": 1.0, "anchor_weight": 0.0, "supervised_weight": 0.0, "logging_steps": 1, **options},
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_in_the_first_pass_each_question_is_scored_before_it_is_trained_on(updates, accumulation, tokenizer, tmp_path):
    trainer = run(
        tokenizer, tmp_path, calibration_dataset=questions(20), em_source="first_pass", em_steps=2, max_steps=10,
        calibration_batch_size=4, gradient_accumulation_steps=accumulation, per_device_train_batch_size=2,
    )  # fmt: skip
    term = trainer._calibration_term
    assert len(term.questions) == 20  # none was set aside
    assert term.held_out == []
    # Steps 0 to 4 are the first pass; the E-steps before the steps 2, 4 and 6 add what was scored since.
    assert updates == [8, 8, 4]
    assert sum(updates) == 20


def test_what_was_scored_is_saved_with_a_checkpoint(tokenizer, tmp_path):
    options = {
        "em_source": "first_pass", "em_steps": 3, "calibration_batch_size": 4, "save_strategy": "steps",
        "save_steps": 2, "lr_scheduler_type": "constant",
    }  # fmt: skip
    whole = run(tokenizer, tmp_path / "whole", max_steps=6, **options)
    run(tokenizer, tmp_path / "cut", max_steps=2, **options)
    state = json.loads((tmp_path / "cut" / "checkpoint-2" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["CalibrationStateCallback"]["attributes"]["saved"]["term"]
    assert len(saved["scored"]) == 2
    trainer = dpo(
        tokenizer, tmp_path / "cut", peft_config=lora(), em_weight=1.0, anchor_weight=0.0, supervised_weight=0.0,
        logging_steps=1, max_steps=6, **options,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert trainer._calibration_term.state_dict() == whole._calibration_term.state_dict()


def test_the_weight_grows_over_the_warm_up(tokenizer, tmp_path):
    trainer = run(tokenizer, tmp_path, em_warmup_steps=4, em_steps=1, max_steps=6, em_weight=2.0)
    logs = trainer.state.log_history[:6]
    ratios = [entry["calibration/loss"] / entry["calibration/em"] for entry in logs if entry["calibration/em"] > 1e-9]
    assert ratios == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.0][6 - len(ratios) :])
    assert len(ratios) >= 5


def test_the_bins_are_as_asked_for(tokenizer, tmp_path):
    trainer = run(tokenizer, tmp_path, em_binning="mass", em_min_count=3.0, em_bins=4)
    targets = trainer._calibration_term.targets
    assert isinstance(targets, EqualMassTargets)
    assert (targets.n_bins, targets.min_count) == (4, 3.0)
    assert targets.counts.max() <= 2 * targets.counts.sum() / 4


def test_the_first_pass_is_refused_where_it_would_leak_or_has_nothing(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="own loss trains on the same questions"):
        sft(tokenizer, tmp_path, em_weight=1.0, em_source="first_pass")
    with pytest.raises(ValueError, match="leave the em_dataset out"):
        run(tokenizer, tmp_path, em_source="first_pass", em_dataset=questions(4))
    with pytest.raises(QuestionError, match="needs questions with answers"):
        run(
            tokenizer, tmp_path, em_source="first_pass", anchor_weight=1.0,
            calibration_dataset=questions(9, answered=False),
        )  # fmt: skip
