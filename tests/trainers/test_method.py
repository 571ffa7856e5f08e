"""method="cft", "rcft" and "auto": plain tuning, the regularizer, and the one until the other is needed."""

import logging

import pytest
import torch

from hf_calib import CalibrationAwareSFTConfig
from hf_calib.trainers.regime_watch import RegimeWatch
from tests.support import questions, tiny_llama, training_arguments
from tests.trainers.runs import sft

RUN = {
    "logging_steps": 1, "max_steps": 60, "learning_rate": 5e-3, "em_steps": 2, "em_batch_size": 16,
    "per_device_train_batch_size": 8, "lr_scheduler_type": "constant",
}  # fmt: skip


def test_the_watch_turns_on_when_the_interval_is_above_zero_and_stays():
    watch = RegimeWatch(0.9)
    assert watch.gap() == (0.0, -1.0, 1.0)
    half = torch.arange(40) % 2
    assert not watch.update(half, half)
    gap, low, high = watch.gap()
    assert gap == 0.0
    assert low == pytest.approx(-high)
    turned = [watch.update(torch.ones(40), half) for _ in range(6)]
    assert turned.count(True) == 1
    assert watch.gap()[1] > 0
    for _ in range(60):
        watch.update(half, half)
    assert watch.gap()[0] < 0.01
    assert watch.memorizing
    restored = RegimeWatch(0.9)
    restored.load_state_dict(watch.state_dict())
    assert restored.gap() == watch.gap()
    assert restored.memorizing


def test_few_questions_do_not_turn_it_on():
    watch = RegimeWatch(0.0)
    watch.update(torch.tensor([1, 1, 1, 0]), torch.tensor([1, 0, 1, 0]))
    assert watch.gap()[0] == 0.25
    assert not watch.memorizing


def test_auto_tunes_plainly_until_the_model_memorizes(tokenizer, tmp_path, caplog):
    """Answers at random: all that is learned of them is memory."""
    asked = questions(60)
    with caplog.at_level(logging.WARNING, logger="hf_calib"):
        auto = sft(tokenizer, tmp_path / "auto", train_dataset=asked, method="auto", em_weight=2.0, **RUN)
        auto.train()
    logs = [entry for entry in auto.state.log_history if "calibration/memorizing" in entry]
    on = [entry["calibration/memorizing"] for entry in logs]
    assert on[0] == 0.0
    assert on[-1] == 1.0
    assert on == sorted(on)
    first = on.index(1.0)
    assert all(entry["calibration/loss"] == 0.0 for entry in logs[:first])
    assert logs[first]["calibration/loss"] == pytest.approx(2.0 * logs[first]["calibration/em"])
    assert auto.calibration_run.terms == ("supervised", "em")
    assert "begun to memorize" in caplog.text
    assert caplog.text.count("turned on with the weight 2") == 1
    # Until then it is plain fine-tuning on the same questions.
    plain = sft(
        tokenizer, tmp_path / "plain", method="cft", train_dataset=[asked[i] for i in kept(auto, asked)], **RUN
    )
    plain.train()
    for mine, theirs in zip(auto.state.log_history[:first], plain.state.log_history[:first], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_prompts_beside_the_questions_do_not_keep_auto_from_turning_on(tokenizer, tmp_path):
    trainer = sft(
        tokenizer, tmp_path, train_dataset=questions(60), calibration_dataset=questions(120, seed=9, answered=False),
        anchor_weight=1e-3, calibration_reference_model=tiny_llama(tokenizer), method="auto", **RUN,
    )  # fmt: skip
    trainer.train()
    assert trainer._calibration_term.watch.memorizing


def test_a_regularizer_that_was_never_turned_on_is_not_on_the_card(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, train_dataset=questions(60), method="auto", **{**RUN, "max_steps": 1})
    trainer.train()
    run = trainer.calibration_run
    assert run.terms == ("supervised",)
    assert "em_weight" not in run.settings
    trainer.create_model_card()
    assert "found by EM" not in (tmp_path / "README.md").read_text(encoding="utf-8")


def kept(trainer, asked):
    texts = {question.question + str(question.choices): i for i, question in enumerate(asked)}
    return [texts[q.question + str(q.choices)] for q in trainer.calibration_run.trained_on]


def test_auto_keeps_the_best_step_by_the_held_out_log_loss(tokenizer, tmp_path):
    trainer = sft(
        tokenizer, tmp_path, train_dataset=questions(60), method="auto", load_best_model_at_end=True,
        eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3, **{**RUN, "max_steps": 12},
    )  # fmt: skip
    assert trainer.args.metric_for_best_model == "eval_calibration/nll"
    assert trainer.args.greater_is_better is False
    trainer.train()
    history = [entry["eval_calibration/nll"] for entry in trainer.calibration_history if entry["step"]]
    assert len(history) >= 4
    assert trainer.state.best_metric == min(history)
    assert trainer.calibration_reports["after"].n == len(trainer._calibration_term.held_out) == 12


def test_the_card_says_that_auto_evaluates_on_the_questions_of_the_e_step(tokenizer, tmp_path):
    options = {"train_dataset": questions(60), "method": "auto", "eval_strategy": "steps", **RUN, "max_steps": 1}
    trainer = sft(tokenizer, tmp_path, **options)
    trainer.train()
    said = "held out from the calibration data; also used by the E-step"
    assert trainer.calibration_run.regime.endswith(f" 12 others (in-memory-questions; {said}).")
    trainer.create_model_card()
    assert f"\nH{said[1:]}. In brackets" in (tmp_path / "README.md").read_text(encoding="utf-8")
    given = sft(tokenizer, tmp_path, em_dataset=questions(5, seed=3), **options)
    assert given.calibration_run.evaluation_source.origin == "also used by the E-step"
    other = sft(tokenizer, tmp_path, eval_calibration_dataset=questions(5, seed=3), **options)
    assert other.calibration_run.evaluation_source.origin is None


def test_rcft_has_the_papers_weight_unless_one_is_given(tmp_path):
    settings = training_arguments()
    assert CalibrationAwareSFTConfig(str(tmp_path), method="rcft", **settings).em_weight == 1.0
    assert CalibrationAwareSFTConfig(str(tmp_path), method="rcft", em_weight=5.0, **settings).em_weight == 5.0
    assert CalibrationAwareSFTConfig(str(tmp_path), method="cft", **settings).em_weight == 0.0
    assert CalibrationAwareSFTConfig(str(tmp_path), **settings).em_weight == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "em"}, "cft, rcft, auto; got 'em'"),
        ({"method": "cft", "em_weight": 1.0}, "no regularizer"),
    ],
)
def test_what_contradicts_itself_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        CalibrationAwareSFTConfig(str(tmp_path), **training_arguments(), **options)
