"""Cross-validation: a calibrator's results on questions that it was not fitted on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import UNLABELED
from .protocol import BaseCalibrator
from .registry import by_name

if TYPE_CHECKING:
    from ..confidence import Predictions


@dataclass(frozen=True)
class CrossValidation:
    """Calibrated probabilities of questions, each from a calibrator that was fitted without it.

    Attributes
    ----------
    probabilities : ndarray of shape (n, K), or (n,) for events
    folds : ndarray of int64, shape (n,)
        The fold in which each question was held out.
    """

    probabilities: NDArray[np.float64]
    folds: NDArray[np.int64]


def cross_validate(
    make: Callable[[], BaseCalibrator],
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    kind: str = "logits",
    features: ArrayLike | None = None,
    unlabeled: ArrayLike | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> CrossValidation:
    """Fit a calibrator on all folds but one and apply it to the remaining one, for each fold.

    Parameters
    ----------
    make : callable
        Returns a new calibrator.
    predictions, labels, kind, features
        As in `Calibrator.fit`; labels may be a reference's predictions if the calibrator takes these, and features are
        passed to calibrators that need them.
    unlabeled : array_like, shape (m, K), optional
        Predictions of a target's questions, which are added to every fit with the label -1.
    n_folds : int, default 5
    seed : int, default 0
        Seed of the folds, which are random and differ in size by at most one.

    Raises
    ------
    ValueError
        If there are fewer than two folds, fewer questions than folds, or the input has the wrong form.
    """
    values, answers = np.asarray(predictions), np.asarray(labels)
    n = len(answers)
    if values.ndim not in (1, 2) or answers.shape not in ((len(values),), values.shape):
        raise ValueError(
            f"predictions of the shape {values.shape} and labels of the shape {answers.shape} don't match"
        )
    phi = None if features is None else np.asarray(features)
    target = np.zeros(0) if unlabeled is None else np.asarray(unlabeled)
    folds = random_folds(n, n_folds, seed)
    probabilities = np.zeros(values.shape)
    for fold in range(n_folds):
        held_out = folds == fold
        calibrator = make()
        used = phi if calibrator.needs_features else None
        with warnings.catch_warnings():
            # The fit on all questions gives the warning to the user.
            warnings.simplefilter("ignore", UserWarning)
            if len(target):
                fit_with_target(calibrator, values[~held_out], answers[~held_out], target, kind=kind)
            else:
                calibrator.fit(
                    values[~held_out],
                    answers[~held_out],
                    kind=kind,
                    features=None if used is None else used[~held_out],
                )
        probabilities[held_out] = calibrator.transform(
            values[held_out], kind=kind, features=None if used is None else used[held_out]
        )
    return CrossValidation(probabilities, folds)


def random_folds(n: int, n_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each of n questions, of equal sizes to within one.

    Raises
    ------
    ValueError
        If there are fewer than two folds or fewer questions than folds.
    """
    if not 2 <= n_folds <= n:
        if n < 2:
            raise ValueError(f"cross-validation needs at least 2 questions, got {n}; give more")
        raise ValueError(
            f"folds: {n} questions cannot be divided into {n_folds} folds; pass a number from 2 to {n}, or give more "
            "questions"
        )
    return np.random.default_rng(seed).permutation(n) % n_folds


def held_out_predictions(
    predictions: Predictions, make: Callable[[], BaseCalibrator], labels: ArrayLike | None = None, **options: Any
) -> Predictions:
    """Return predictions with each question's probabilities from a calibrator that was fitted without it.

    Parameters
    ----------
    predictions : Predictions
    make, labels
        As in `cross_validate`; by default, the labels are the answers.
    **options
        Of `cross_validate`: unlabeled, n_folds, seed.
    """
    if labels is None:
        labels = predictions.answers
    options["features"] = predictions.hidden_states
    if np.ndim(labels) == 1 and predictions.are_events_for(make()):
        right = predictions.predicted == np.asarray(labels)
        found = cross_validate(make, predictions.confidences, right, kind="probabilities", **options)
        return predictions.with_confidences(found.probabilities)
    found = cross_validate(make, predictions.logits, labels, **options)
    return predictions.with_probabilities(found.probabilities)


def check_fits_on_answers(name: str) -> None:
    """Raise a ValueError if the named calibrator needs more than one model's predictions and the answers."""
    calibrator = by_name(name)
    alone = getattr(calibrator, "wrappable", False) or name in ("adaptive_ensemble", "auto", "ensemble")
    if not alone or calibrator.needs_features:
        raise ValueError(f"the calibrator {name!r} needs more than predictions and answers; fit it in Python")


def fit_with_target(
    calibrator: Any, predictions: ArrayLike, labels: ArrayLike, target: ArrayLike, **options: Any
) -> Any:
    """Fit a calibrator on labeled questions and a target's unlabeled ones, and return it.

    Parameters
    ----------
    calibrator : Calibrator
    predictions, labels
        As in `Calibrator.fit`.
    target : array_like, shape (m, k)
        The target's predictions, of the same kind; the number of options k may differ.
    **options
        Go to `fit`.

    Raises
    ------
    ValueError
        If the calibrator takes no unlabeled questions.
    """
    if not calibrator.takes_unlabeled:
        raise ValueError(f"the calibrator {calibrator.name!r} does not use a target's questions without answers")
    source, unlabeled = np.asarray(predictions, dtype=np.float64), np.asarray(target, dtype=np.float64)
    absent = 0.0 if options.get("kind") == "probabilities" else -np.inf
    width = max(source.shape[1], unlabeled.shape[1])
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=absent) for part in (source, unlabeled)
    ]
    known = np.concatenate([np.asarray(labels), np.full(len(unlabeled), UNLABELED)])
    return calibrator.fit(np.concatenate(padded), known, **options)
