"""Which direction of a calibration measure makes a checkpoint the best one."""

from __future__ import annotations

import logging
import re
from typing import Any

from ..measures import CATALOG

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
