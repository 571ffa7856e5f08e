"""Checking and converting the input of calibrators, and returning results in the input's form."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..measures.validation import ROUNDING, floor_zeros, is_tensor, sum_tolerance, to_numpy

KINDS = ("logits", "probabilities")
# exp(-745) is the smallest positive double; lower log-probabilities are indistinguishable.
LOWEST_LOG_PROBABILITY = -1000.0
UNLABELED = -1
# Squares of features are summed, which must not overflow.
LARGEST_FEATURE = 1e150


@dataclass(frozen=True)
class Inputs:
    """Checked predictions of n questions.

    Attributes
    ----------
    logits : ndarray of float64, shape (n, K)
        The largest of each row is 0; missing options are -inf, all others finite.
    features : ndarray of float64, shape (n, d), or None
    event : bool
        Whether the predictions were one-dimensional: the score of an event, whose options are "no" and "yes".
    """

    logits: NDArray[np.float64]
    features: NDArray[np.float64] | None = None
    event: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def n_options(self) -> int:
        """K."""
        return self.logits.shape[1]


@dataclass(frozen=True)
class Sample(Inputs):
    """Inputs with labels and weights.

    Attributes
    ----------
    labels : ndarray of intp, shape (n,)
        Index of each right option, -1 if unknown.
    weights : ndarray of float64, shape (n,)
        At least 0; they sum to one over the labeled questions.
    """

    labels: NDArray[np.intp] = None  # type: ignore[assignment]
    weights: NDArray[np.float64] = None  # type: ignore[assignment]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the first of the largest logits is the right option, shape (n,)."""
        return self.logits.argmax(axis=1) == self.labels

    def __getitem__(self, rows: Any) -> Sample:
        weights = self.weights[rows]
        total = weights.sum()
        return replace(
            self,
            logits=self.logits[rows],
            features=None if self.features is None else self.features[rows],
            labels=self.labels[rows],
            weights=weights / total if total > 0 else weights,
        )


def like(result: NDArray[np.float64], given: Any) -> Any:
    """Return a result as float64; a tensor on the same device if a tensor was given."""
    if not is_tensor(given):
        return result
    import torch

    return torch.from_numpy(result).to(given.device)


def row_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest value of each row, or NaN if the row has one. NumPy's own is slow on short rows."""
    if values.shape[1] > 64:
        return values.max(axis=1)
    result = values[:, 0].copy()
    for column in range(1, values.shape[1]):
        np.maximum(result, values[:, column], out=result)
    return result


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax of logits whose row maximum is 0, as in `Inputs`."""
    result = np.exp(logits)
    total = result[:, 0].copy()
    for column in range(1, result.shape[1]):
        total += result[:, column]
    result /= total[:, None]
    return result


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-softmax of logits whose row maximum is 0."""
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def shifted(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logits shifted so that each row's maximum is 0, which does not change their softmax."""
    with np.errstate(over="ignore"):
        return logits - row_max(logits)[:, None]


def as_array(values: Any, name: str, fix: str = "one number for each question") -> NDArray[Any]:
    """Return values as an array, or raise a ValueError that says how to fix lists of different lengths."""
    try:
        return np.asarray(to_numpy(values))
    except ValueError:
        raise ValueError(f"{name} must not contain lists of different lengths; pass {fix}") from None


_PADDED = "rows of equal length, padded on the right with -inf for logits or 0 for probabilities"


def check_kind(predictions: ArrayLike, kind: str) -> None:
    """Raise an error if probabilities are given as logits, which would fit without error but wrongly.

    Raises
    ------
    ValueError
        If each row of the last axis lies in [0, 1] and sums to one, as probabilities rounded to three decimals do.
    """
    values = as_array(predictions, "predictions", _PADDED)
    if kind != "logits" or values.ndim < 2 or not values.size or values.dtype.kind not in "fiu":
        return
    whole = (values == 0) | (values == 1)
    off = np.abs(values.sum(axis=-1) - 1)
    if (
        (values >= 0).all()
        and (values <= 1).all()
        and not whole.all()
        and (off <= sum_tolerance(values.shape[-1])).all()
    ):
        raise ValueError(
            "predictions: every row lies in [0, 1] and sums to 1, so these are probabilities; pass "
            'kind="probabilities" (if they are logits all the same, add a constant to each row)'
        )


def check_predictions(
    predictions: ArrayLike, kind: str, *, zeros_exist: bool = True
) -> tuple[NDArray[np.float64], bool]:
    """Return predictions as float64 logits with each row's largest at 0, and whether they were one-dimensional.

    Parameters
    ----------
    predictions, kind
        As in `BaseCalibrator.fit`, which also explains probabilities of zero.
    zeros_exist : bool, default True
        Whether zeros that stand for options get a finite logit; otherwise all zeros become -inf.

    Raises
    ------
    ValueError
        Names what is wrong and in which row.

    Warns
    -----
    UserWarning
        If rows of probabilities were normalized because their sums differ from 1 by more than `ROUNDING`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    values = as_array(predictions, "predictions", _PADDED)
    event = values.ndim == 1
    if not event and (values.ndim != 2 or values.shape[1] < 2):
        raise ValueError(
            "predictions must have the shape (questions, options) with two options or more, or (events,); "
            f"got {values.shape}"
        )
    if values.dtype.kind not in "fiu":
        raise ValueError(f"predictions must be numbers, got the dtype {values.dtype}")
    values = values.astype(np.float64, copy=False)
    if kind == "probabilities":
        inside = (values >= -ROUNDING) & (values <= 1 + ROUNDING)
        _refuse_rows(~inside, f"a probability outside [0, 1] by more than {ROUNDING:g}")
        values = values.clip(0, 1)
        if event:
            values = np.column_stack([1 - values, values])
        _check_sums(values)
        with np.errstate(divide="ignore"):
            values = np.log(values)
    elif event:
        values = np.column_stack([np.zeros(len(values)), values])
    top = row_max(values)
    lowest = values.min() if values.size else 0.0
    if not np.isfinite(top).all() or (np.isneginf(lowest) and kind == "logits"):
        _refuse_rows(np.isnan(values) | (values == np.inf), "a logit that is NaN or +inf")
        _refuse_rows(np.isneginf(values).sum(axis=1) > values.shape[1] - 2, "fewer than two options")
    with np.errstate(over="ignore"):
        result = values - top[:, None]
    if np.isneginf(result.min(initial=0.0)):
        # A difference may overflow, but the option still exists.
        result[np.isneginf(result) & np.isfinite(values)] = np.finfo(np.float64).min
    if kind == "probabilities" and zeros_exist:
        last = result.shape[1] - 1 - np.isfinite(result)[:, ::-1].argmax(axis=1)
        result = floor_zeros(result, np.maximum(last + 1, 2))
    return result, event


def _check_sums(probabilities: NDArray[np.float64]) -> None:
    """Reject rows whose sum is not one, and warn that sums within rounding errors are normalized."""
    off = np.abs(probabilities.sum(axis=1) - 1)
    tolerance = sum_tolerance(probabilities.shape[1])
    _refuse_rows(off > tolerance, f"probabilities that do not sum to one, within the {tolerance:.3g} that rounding to "
                                  "three decimals can be off")  # fmt: skip
    rounded = np.count_nonzero(off > ROUNDING)
    if rounded:
        warn(f"{rounded} of {len(off)} rows of probabilities have sums up to {off.max():.2g} away from 1, as rounding "
             "leaves them; each is divided by its sum")  # fmt: skip


def check_labels(
    labels: ArrayLike,
    logits: NDArray[np.float64],
    *,
    event: bool = False,
    unlabeled: bool = False,
    absent: bool = False,
) -> NDArray[np.intp]:
    """Return labels as indices, or raise a ValueError that names the row that is wrong."""
    values = as_array(labels, "labels")
    if values.shape != (len(logits),):
        raise ValueError(f"{len(logits)} predictions were given, and labels of the shape {values.shape}")
    if len(values) == 0:
        raise ValueError("there is nothing to fit on; give at least one prediction")
    if values.dtype.kind not in ("biu" if event else "iu"):
        raise ValueError(f"labels must be integers, the indices of the right options; got the dtype {values.dtype}")
    values = values.astype(np.intp)
    known = values != UNLABELED if unlabeled else np.ones(len(values), dtype=bool)
    _refuse_rows(known & ((values < 0) | (values >= logits.shape[1])), f"a label outside 0 to {logits.shape[1] - 1}")
    if not known.any():
        raise ValueError("no question has a label; give at least one that is not -1")
    chosen = logits[np.arange(len(values)), np.where(known, values, 0)]
    if not absent:
        _refuse_rows(known & np.isneginf(chosen), "the label of an option with probability 0 (a logit of -inf)")
    return values


def check_weights(weights: ArrayLike | None, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return weights that sum to one over the rows with labels, or raise a ValueError that names what is wrong."""
    n = len(known)
    if weights is None:
        return np.full(n, 1.0 / known.sum())
    values = as_array(weights, "weights").astype(np.float64)
    if values.shape != (n,):
        raise ValueError(f"{n} predictions were given, and weights of the shape {values.shape}")
    _refuse_rows(~(np.isfinite(values) & (values >= 0)), "a weight that is negative or not finite")
    if values[known].sum() == 0:
        raise ValueError("all weights are 0; at least one must be positive")
    return values / values[known].sum()


def check_features(features: ArrayLike | None, n: int) -> NDArray[np.float64] | None:
    """Return features as float64, shape (n, d), or raise a ValueError that names what is wrong."""
    if features is None:
        return None
    values = np.asarray(to_numpy(features))
    if values.ndim != 2 or len(values) != n or values.dtype.kind not in "biuf":
        raise ValueError(
            f"features must be numbers of the shape ({n}, d), got the shape {values.shape} and dtype {values.dtype}"
        )
    values = values.astype(np.float64)
    if values.shape[1] == 0:
        raise ValueError("features must have one column or more; give None where there are none")
    _refuse_rows(~(np.abs(values) <= LARGEST_FEATURE), f"a feature that is not within ±{LARGEST_FEATURE:g}")
    return values


def keep_first_maximum(probabilities: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the largest logits of each row its largest probabilities, by changing the last bit.

    Rounding can make options with different logits equal.
    """
    top = logits.argmax(axis=1)
    rows = np.flatnonzero(probabilities.argmax(axis=1) != top)
    if len(rows):
        above = np.nextafter(probabilities[rows].max(axis=1, keepdims=True), 2.0)
        largest = logits[rows] == logits[rows].max(axis=1, keepdims=True)
        probabilities[rows] = np.where(largest, above, probabilities[rows])
    return probabilities


class UninformativeFitWarning(UserWarning):
    """The sample does not determine a calibrator's parameters, so the fit does not generalize."""


def warn(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Issue a warning that points at the caller of this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(str(__package__)):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _refuse_rows(wrong: NDArray[np.bool_], what: str) -> None:
    rows = np.flatnonzero(wrong.any(axis=1) if wrong.ndim == 2 else wrong)
    if len(rows):
        raise ValueError(f"row {rows[0]}, counted from 0, has {what} ({len(rows)} such row(s))")
