"""Which direction of a calibration measure makes a checkpoint the best one."""

from __future__ import annotations

import logging
import re
from typing import Any

from ..measures import CATALOG, shown_in

logger = logging.getLogger(__name__)

EVALUATION_PREFIX = "eval_calibration"
"""Begins the names under which the calibration-aware trainers log what they evaluate."""

MISSING = "missing_confidence"
"""The logged share of answers whose stated confidence could not be read. It is not in the catalog of measures."""


def set_direction(args: Any) -> None:
    """Set `greater_is_better`, if it was not given, to the direction of the measure that selects the best model.

    Parameters
    ----------
    args : transformers.TrainingArguments
        Before their own `__post_init__`, which sets it to true for every name that does not end in "loss".

    Raises
    ------
    ValueError
        If neither direction of that measure is better.
    """
    measure = _measure(args, EVALUATION_PREFIX)
    if measure is not None and args.greater_is_better is None:
        args.greater_is_better = _direction(args, measure)


def correct_direction(args: Any, prefix: str = EVALUATION_PREFIX) -> None:
    """Correct the `greater_is_better` that transformers has set for a measure of which lower values are better.

    The finished arguments do not show whether the user or transformers set it, so the correction is logged.

    Parameters
    ----------
    args : transformers.TrainingArguments
    prefix : str, default "eval_calibration"
        Begins the names under which the measures are logged.

    Raises
    ------
    ValueError
        If neither direction of the measure is better, and `greater_is_better` is transformers' default.
    """
    measure = _measure(args, prefix)
    if measure is None or not args.greater_is_better or _direction(args, measure):
        return
    args.greater_is_better = False
    if args.process_index == 0:
        logger.warning(
            "metric_for_best_model=%r: lower values are better, so greater_is_better is set to False",
            args.metric_for_best_model,
        )


def check_logged(trainer: Any, evaluator: Any, *, asks_questions: bool = True) -> None:
    """Raise if the calibration measure that selects the best model will not be logged.

    Parameters
    ----------
    trainer : transformers.Trainer
    evaluator : CalibrationEvaluator or None
        Of the trainer's `eval_calibration_dataset`.
    asks_questions : bool, default True
        Whether the trainer can have one.

    Raises
    ------
    ValueError
        Names the missing arguments.
    """
    args, measure = trainer.args, _measure(trainer.args, EVALUATION_PREFIX)
    if measure is None or args.eval_strategy == "no" or getattr(trainer, "compute_metrics", None) is not None:
        return
    metric = args.metric_for_best_model
    needs = []
    if "/preference_" in metric:
        if not (getattr(args, "preference_calibration", False) or getattr(args, "preference_weight", 0.0) > 0):
            needs.append("preference_calibration=True in a trainer on preference pairs")
        if trainer.eval_dataset is None:
            needs.append("an eval_dataset")
        else:
            _check_prefix(metric, trainer.eval_dataset)
    elif not asks_questions:
        raise ValueError(
            f"metric_for_best_model={metric!r}: a reward model answers no questions; choose a measure of the "
            "preference's probability, such as eval_calibration/preference_ece"
        )
    elif not metric.removeprefix("eval_").startswith("calibration/"):
        return  # of a callback with its own prefix
    elif measure != MISSING and "log" not in CATALOG[measure].shown:
        logged = ", ".join(info.key for info in shown_in("log"))
        raise ValueError(f"metric_for_best_model={metric!r}: {measure} is not logged; choose one of {logged}")
    else:
        callbacks = trainer.callback_handler.callbacks
        if evaluator is None and not any(getattr(own, "prefix", None) == EVALUATION_PREFIX for own in callbacks):
            needs.append("an eval_calibration_dataset")
        if "/calibrated_" in metric and getattr(evaluator, "calibrator", None) is None:
            needs.append("an eval_calibrator")
        if measure == MISSING and evaluator is not None and evaluator.asks_options:
            needs.append("free-form questions as eval_calibration_dataset")
    if needs:
        raise ValueError(
            f"metric_for_best_model={metric!r}: needs {' and '.join(needs)}; set what is missing, or choose another "
            "measure"
        )


def _check_prefix(metric: str, datasets: Any) -> None:
    """Raise if the prefix of a preference measure does not match any evaluation dataset."""
    prefixes = [f"eval_{name}_calibration" for name in datasets] if isinstance(datasets, dict) else [EVALUATION_PREFIX]
    prefix, _, measure = metric.partition("/")
    if prefix not in prefixes and f"eval_{prefix}" not in prefixes:
        raise ValueError(
            f"metric_for_best_model={metric!r}: no evaluation dataset logs a measure under this name; choose from "
            f"{', '.join(f'{own}/{measure}' for own in prefixes)}"
        )


def _measure(args: Any, prefix: str) -> str | None:
    """Return the calibration measure that selects the best model, or None if another metric does."""
    # Absent from calibration arguments that are not part of a config.
    metric = getattr(args, "metric_for_best_model", None)
    if metric is None:
        return None
    # transformers adds this prefix when it looks for the metric.
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    # With several evaluation datasets, their names come between.
    begins = r"eval_(?:.+_)?calibration" if prefix == EVALUATION_PREFIX else re.escape(prefix)
    found = re.fullmatch(rf"{begins}/(?:calibrated_)?(?:preference_)?(.+)", name)
    return found[1] if found is not None and (found[1] in CATALOG or found[1] == MISSING) else None


def _direction(args: Any, measure: str) -> bool:
    if measure == MISSING:
        return False
    direction = CATALOG[measure].direction
    if direction is None:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r}: neither higher nor lower values of {measure} are "
            "better; choose a measure that has a best value, such as eval_calibration/ece or eval_calibration/nll"
        )
    return direction == "higher"
