"""The best checkpoint is the one with the better value of a calibration measure, whichever direction that is."""

import logging
from itertools import pairwise

import pytest
from transformers import EarlyStoppingCallback
from trl import DPOConfig, SFTConfig

from hf_calib import CalibrationCallback
from hf_calib.measures import shown_in
from hf_calib.trainers import (
    CalibrationAwareConfig,
    CalibrationAwareGRPOConfig,
    CalibrationAwareKTOConfig,
    CalibrationAwareRewardConfig,
    CalibrationAwareRLOOConfig,
    CalibrationAwareSFTConfig,
    RecalibrationConfig,
    calibration_aware_config,
)
from tests.support import pairs, questions, training_arguments
from tests.trainers.runs import dpo, lora, reward
from tests.trainers.test_calibration_callback import plain

CONFIGS = [
    CalibrationAwareConfig, CalibrationAwareGRPOConfig, CalibrationAwareKTOConfig, CalibrationAwareRewardConfig,
    CalibrationAwareRLOOConfig, CalibrationAwareSFTConfig, RecalibrationConfig, calibration_aware_config(SFTConfig),
]  # fmt: skip
HELD_OUT = questions(13, seed=4)


def made(config, folder, metric, **options):
    settings = training_arguments(per_device_train_batch_size=8, metric_for_best_model=metric, **options)
    return config(str(folder), **settings)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("start", ["", "eval_"])
def test_every_config_sets_the_direction_of_the_measure(config, start, tmp_path):
    def direction(name, **options):
        return made(config, tmp_path, f"{start}calibration/{name}", **options).greater_is_better

    assert direction("ece") is False
    assert direction("calibrated_nll") is False
    assert direction("preference_ece") is False
    assert direction("missing_confidence") is False
    assert made(config, tmp_path, f"{start}one_set_calibration/preference_ece").greater_is_better is False
    assert made(config, tmp_path, f"{start}one_set_calibration/preference_accuracy").greater_is_better is True
    assert direction("accuracy") is True
    assert direction("calibrated_accuracy") is True
    assert direction("ece", greater_is_better=True) is True
    assert direction("accuracy", greater_is_better=False) is False
    assert direction("confidence", greater_is_better=False) is False
    for name in ("confidence", "calibrated_confidence", "preference_confidence"):
        with pytest.raises(ValueError, match="neither higher nor lower values of confidence are better; choose"):
            direction(name)


def test_no_measure_that_is_logged_is_forgotten(tmp_path):
    for info in shown_in("log"):
        if info.direction is not None:
            args = made(CalibrationAwareConfig, tmp_path, f"eval_calibration/{info.key}")
            assert args.greater_is_better is (info.direction == "higher")


@pytest.mark.parametrize(("metric", "expected"), [("loss", False), ("eval_loss", False), ("rewards/margins", True)])
def test_other_metrics_are_left_to_transformers(metric, expected, tmp_path):
    assert made(CalibrationAwareConfig, tmp_path, metric).greater_is_better is expected


@pytest.mark.parametrize("metric", ["eval_calibration/ece", "calibration/ece"])
def test_the_checkpoint_with_the_least_error_is_kept(metric, tokenizer, tmp_path):
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), eval_calibration_dataset=HELD_OUT, max_steps=4, learning_rate=0.3,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model=metric,
    )  # fmt: skip
    trainer.train()
    curve = [entry["eval_calibration/ece"] for entry in trainer.calibration_history]
    assert min(curve) < max(curve)
    assert trainer.state.best_metric == min(curve)


def test_early_stopping_waits_for_the_error_to_fall(tokenizer, tmp_path):
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), eval_calibration_dataset=HELD_OUT, max_steps=12, learning_rate=0.3,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="eval_calibration/nll", callbacks=[EarlyStoppingCallback(1)],
    )  # fmt: skip
    trainer.train()
    curve = [entry["eval_calibration/nll"] for entry in trainer.calibration_history]
    assert curve[-1] >= min(curve[:-1])
    assert all(later < earlier for earlier, later in pairwise(curve[:-1]))


def test_plain_arguments_are_corrected_and_that_is_logged(tokenizer, tmp_path, caplog):
    def trainer_of(metric):
        return dpo(tokenizer, tmp_path, peft_config=lora(), args=made(DPOConfig, tmp_path, metric))

    with caplog.at_level(logging.WARNING, logger="hf_calib"):
        assert trainer_of("eval_calibration/ece").args.greater_is_better is False
    assert "metric_for_best_model='eval_calibration/ece': lower values are better" in caplog.text
    assert trainer_of("eval_calibration/accuracy").args.greater_is_better is True
    with pytest.raises(ValueError, match="neither higher nor lower values of confidence"):
        trainer_of("eval_calibration/confidence")


@pytest.mark.parametrize("prefix", ["eval_calibration", "eval_science"])
def test_the_callback_corrects_the_arguments_of_any_trainer(prefix, tokenizer, tmp_path):
    trainer = plain(
        tokenizer, tmp_path, save_strategy="steps", save_steps=2, load_best_model_at_end=True, learning_rate=0.3,
        metric_for_best_model=f"{prefix}/ece",
    )  # fmt: skip
    callback = CalibrationCallback(HELD_OUT, prefix=prefix)
    trainer.add_callback(callback)
    trainer.train()
    curve = [entry[f"{prefix}/ece"] for entry in callback.history]
    assert min(curve) < max(curve)
    assert trainer.state.best_metric == pytest.approx(min(curve))


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("eval_calibration/ece", {}, "needs an eval_calibration_dataset;"),
        ("calibration/ece", {}, "needs an eval_calibration_dataset;"),
        ("eval_calibration/calibrated_ece", {"eval_calibration_dataset": HELD_OUT}, "needs an eval_calibrator;"),
        ("eval_calibration/auroc", {"eval_calibration_dataset": HELD_OUT}, "auroc is not logged; choose one of acc"),
        (
            "eval_calibration/missing_confidence",
            {"eval_calibration_dataset": HELD_OUT},
            "needs free-form questions as",
        ),
        ("eval_calibration/preference_ece", {}, "needs preference_calibration=True"),
        (
            "eval_calibration/preference_ece",
            {"eval_dataset": None, "eval_calibration_dataset": HELD_OUT, "preference_weight": 1.0},
            "needs an eval_dataset;",
        ),
    ],
)
def test_a_measure_that_is_never_logged_is_refused(metric, options, message, tokenizer, tmp_path):
    given = {"eval_dataset": pairs(4), "eval_strategy": "steps", "metric_for_best_model": metric, **options}
    with pytest.raises(ValueError, match=f"^metric_for_best_model='{metric}': {message}"):
        dpo(tokenizer, tmp_path, peft_config=lora(), **given)


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("eval_calibration/ece", {}, "a reward model answers no questions"),
        ("calibration/preference_ece", {"preference_weight": 0.0}, "needs preference_calibration=True"),
        (
            "calibration/preference_ece",
            {"eval_dataset": {"a": pairs(4), "b": pairs(4)}},
            "no evaluation dataset .* eval_a_calibration/preference_ece, eval_b_calibration/preference_ece$",
        ),
        ("eval_a_calibration/preference_ece", {}, "no evaluation dataset .* eval_calibration/preference_ece$"),
    ],
)
def test_a_reward_trainer_refuses_a_measure_that_is_never_logged(metric, options, message, tokenizer, tmp_path):
    given = {"eval_dataset": pairs(4), "eval_strategy": "steps", "metric_for_best_model": metric, **options}
    with pytest.raises(ValueError, match=f"^metric_for_best_model='{metric}': {message}"):
        reward(tokenizer, tmp_path, **given)


@pytest.mark.parametrize("name", ["a_calibration/preference_ece", "eval_b_calibration/preference_accuracy"])
def test_a_reward_trainer_takes_a_measure_of_one_of_its_datasets(name, tokenizer, tmp_path):
    sets = {"a": pairs(4), "b": pairs(4)}
    reward(tokenizer, tmp_path, eval_dataset=sets, eval_strategy="steps", metric_for_best_model=name)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("eval_calibration/ece", {"callbacks": [CalibrationCallback(HELD_OUT)]}),
        ("eval_calibration/preference_ece", {"preference_calibration": True}),
        ("eval_one_calibration/ece", {}),
        ("eval_calibration/ece", {"eval_strategy": "no"}),
    ],
)
def test_a_measure_that_may_be_logged_is_not_refused(metric, options, tokenizer, tmp_path):
    given = {"eval_dataset": pairs(4), "eval_strategy": "steps", "metric_for_best_model": metric, **options}
    dpo(tokenizer, tmp_path, peft_config=lora(), **given)


def test_the_callback_leaves_what_was_set_for_a_calibration_aware_trainer(tokenizer, tmp_path):
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), metric_for_best_model="eval_calibration/ece", greater_is_better=True,
        callbacks=[CalibrationCallback(HELD_OUT)],
    )  # fmt: skip
    assert trainer.args.greater_is_better is True
