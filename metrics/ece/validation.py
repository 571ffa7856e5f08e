"""Checks of the measures' input, made once where it enters."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

#: The tolerance for rounding, here and wherever probabilities are read. A value this far or less outside [0, 1] counts
#: as 0 or 1. A zero whose logarithm is needed counts as this part of its row's greatest probability. A softmax in
#: float32 or better stays well within it.
ROUNDING = 1e-6

#: How far a log-probability may be above 0 and count as 0. Servers compute them in bfloat16 or float16.
LOG_ROUNDING = 1e-3

#: How far each probability of a row may be from its exact value, as rounding to three decimals leaves it; this bounds
#: how far the row's sum may be from one. Rounding to float16 moves a sum less.
DECIMAL_ROUNDING = 5e-4


def sum_tolerance(n_options: int) -> float:
    """Return how far from one a row of `n_options` probabilities, rounded to three decimals, may sum."""
    return n_options * DECIMAL_ROUNDING + ROUNDING


def to_numpy(values: Any) -> Any:
    """Return a torch tensor as an array, float32 if NumPy lacks its type; anything else unchanged."""
    if not is_tensor(values):
        return values
    values = values.detach().cpu()
    return values.float().numpy() if values.is_floating_point() and values.element_size() < 4 else values.numpy()


def is_tensor(values: Any) -> bool:
    """Return whether something is a torch tensor, without importing torch."""
    return type(values).__module__.partition(".")[0] == "torch" and hasattr(values, "detach")


def check_unit_interval(values: ArrayLike, name: str) -> Floats:
    """Return `values` as a vector of floats in [0, 1] after checking that each is, up to `ROUNDING`.

    Parameters
    ----------
    values : array_like of shape (n,)
        float16, float32, float64, integers or booleans. float32 and float64 arrays in [0, 1] are returned as they are,
        without a copy; the rest becomes float64. Values up to `ROUNDING` outside are returned as 0 or 1.
    name : str
        Name of the values in error messages.

    Raises
    ------
    TypeError
        The values are not real numbers.
    ValueError
        The shape is not (n,), n is 0, or a value is NaN, infinite or further than `ROUNDING` outside [0, 1].
    """
    array = as_floats(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got an array of shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: a measure needs at least one sample")
    return check_range(array, name)


def check_range(array: Floats, name: str) -> Floats:
    """Return a non-empty array with values up to `ROUNDING` outside [0, 1] as 0 or 1; raise ValueError for others."""
    # A comparison with NaN is false, so one pair of reductions finds NaN, the infinities and values out of range.
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return array
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return array.clip(0, 1)
    bad = np.flatnonzero(~((array >= -ROUNDING) & (array <= 1 + ROUNDING)).ravel())
    first = np.unravel_index(bad[0], array.shape)
    where = ", ".join(str(int(i)) for i in first)
    value = array[first]
    what = "NaN" if np.isnan(value) else f"{float(value)!r}"
    raise ValueError(
        f"{name}[{where}] is {what}, and {len(bad)} of {array.size} values are not in [0, 1]. "
        "Pass probabilities, not logits or percentages"
    )


def as_floats(values: ArrayLike, name: str) -> Floats:
    """Return float32 and float64 arrays unchanged, and other real numbers as float64."""
    try:
        array = np.asarray(to_numpy(values))
    except ValueError as error:
        raise ValueError(_ragged(values, name)) from error
    if array.dtype.kind not in "fbiu":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _as_array(values: ArrayLike, name: str) -> NDArray:
    try:
        return np.asarray(to_numpy(values))
    except ValueError as error:
        raise ValueError(f"{name} must have one dimension, got nested lists of different lengths") from error


def check_correct(correct: ArrayLike, n: int, name: str = "correct") -> NDArray:
    """Return `correct`, (n,) of booleans or numbers in [0, 1], as it is if it is boolean and as float64 if not.

    A number between 0 and 1 is the probability that the answer is right, where that is known.
    """
    array = _as_array(correct, name)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, but there are {n} confidences: expected ({n},)")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be booleans or numbers in [0, 1], got dtype {array.dtype}")
    return check_range(array.astype(np.float64, copy=False), name)


def check_probabilities(probabilities: ArrayLike) -> Floats:
    """Return an (n, K) array of distributions as float32 or float64, K >= 2.

    Rows with fewer than K options are padded with exact zeros on the right. Values up to `ROUNDING` outside [0, 1] are
    returned as 0 or 1. Rows are not normalized.

    Raises
    ------
    TypeError
        The values are not real numbers.
    ValueError
        The shape is not (n, K), there is no row or only one column, a value is NaN or further than `ROUNDING` outside
        [0, 1], or a row's sum is further from one than `sum_tolerance(K)`.
    """
    array = as_floats(probabilities, "probabilities")
    if array.ndim != 2:
        raise ValueError(f"probabilities must have shape (n, K), a row for each question, got {array.shape}")
    if array.shape[0] == 0:
        raise ValueError("probabilities is empty: a measure needs at least one sample")
    if array.shape[1] < 2:
        raise ValueError("probabilities has one column: a question needs at least two options")
    array = check_range(array, "probabilities")
    sums = array.sum(axis=1, dtype=np.float64)
    tolerance = sum_tolerance(array.shape[1])
    off = np.flatnonzero(np.abs(sums - 1) > tolerance)
    if off.size:
        raise ValueError(
            f"probabilities[{off[0]}] sums to {sums[off[0]]:.6g}, and {off.size} of {len(array)} rows differ from 1 "
            f"by more than {tolerance:.3g}, as rounding to three decimals can. Normalize each row over its options"
        )
    return array


def check_distributions(values: ArrayLike, shape: tuple[int, ...], name: str) -> Floats:
    """Return distributions after checking them as `check_probabilities` does, and against its array's shape."""
    array = as_floats(values, name)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but probabilities has {shape}")
    array = check_range(array, name)
    try:
        return check_probabilities(array)
    except ValueError as error:
        raise ValueError(str(error).replace("probabilities[", f"{name}[")) from None


def floor_zeros(logits: NDArray[np.float64], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return log-probabilities, (n, K) with each row's greatest at 0, without -inf for options that the question has.

    An option with probability zero gets `ROUNDING` of the row's greatest probability, or the row's least positive one
    where that is lower, so that no order changes.

    Parameters
    ----------
    logits : ndarray of float64, shape (n, K)
    counts : ndarray of int, shape (n,)
        Number of each question's options, which are the first ones of its row.
    """
    zero = np.isneginf(logits)
    zero_options = zero & (np.arange(logits.shape[1]) < counts[:, None])
    if not zero_options.any():
        return logits
    least = np.where(zero, 0.0, logits).min(axis=1)
    return np.where(zero_options, np.minimum(least, np.log(ROUNDING))[:, None], logits)


def check_labels(labels: ArrayLike, n: int, n_options: int, name: str = "labels") -> NDArray[np.integer]:
    """Return (n,) integers in [0, n_options): the index of each question's right option."""
    array = _as_array(labels, name)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, but there are {n} rows of probabilities: expected ({n},)")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, the index of the right option, got dtype {array.dtype}")
    bad = np.flatnonzero((array < 0) | (array >= n_options))
    if bad.size:
        raise ValueError(
            f"{name}[{bad[0]}] is {array[bad[0]]}, and {bad.size} of {n} {name} are outside 0..{n_options - 1}: "
            f"there are {n_options} options, counted from 0"
        )
    return array


def check_weights(weights: ArrayLike | None, n: int) -> NDArray[np.float64] | None:
    """Return (n,) float64 weights: finite, none negative, one of them positive; None means that all are one.

    Sums of their squares are needed, so the largest must be between 1e-100 and 1e100.
    """
    if weights is None:
        return None
    array = as_floats(weights, "weights").astype(np.float64, copy=False)
    if array.shape != (n,):
        raise ValueError(f"weights has shape {array.shape}, but there are {n} samples: expected ({n},)")
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if bad.size:
        raise ValueError(f"weights[{bad[0]}] is {array[bad[0]]}: weights must be finite and not negative")
    if not array.any():
        raise ValueError("weights are all zero: at least one sample must count")
    largest = array.max()
    if not 1e-100 <= largest <= 1e100:
        raise ValueError(
            f"weights[{array.argmax()}], the largest, is {largest:g}, so its square is out of range: divide all "
            "weights by it, which changes no result"
        )
    return array


def check_answers(
    confidences: ArrayLike, correct: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, NDArray, NDArray[np.float64] | None]:
    """Return checked (n,) confidences, whether the answers are right, and their weights."""
    c = check_unit_interval(confidences, "confidences")
    return c, check_correct(correct, len(c)), check_weights(weights, len(c))


def check_labeled(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, NDArray[np.integer], NDArray[np.float64] | None]:
    """Return checked (n, K) probabilities, (n,) labels and (n,) weights."""
    p = check_probabilities(probabilities)
    return p, check_labels(labels, *p.shape), check_weights(weights, len(p))


def check_n_bins(n_bins: int) -> int:
    """Return `n_bins` after checking that it is a whole number of at least one."""
    if isinstance(n_bins, bool) or not isinstance(n_bins, (int, np.integer)):
        raise TypeError(f"n_bins must be an integer, got {type(n_bins).__name__}")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    return int(n_bins)


def top_prediction(
    probabilities: Floats, labels: NDArray[np.integer]
) -> tuple[Floats, NDArray[np.integer], NDArray[np.bool_]]:
    """Return each row's greatest probability, its option's index (the first one of equals) and whether it is right."""
    predicted = probabilities.argmax(axis=1)
    confidences = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
    return confidences, predicted, predicted == labels


def confidences_and_correct(predictions: ArrayLike, references: ArrayLike) -> tuple[ArrayLike, NDArray[np.bool_]]:
    """Return the confidence of each answer and whether it is right, from either of two common forms.

    Parameters
    ----------
    predictions : array_like of shape (n, K) or (n,)
        The probabilities of all options, or the confidence in the answer given.
    references : array_like of shape (n,)
        The right option's index, or 1 where the answer was right and 0 where it was wrong.

    Raises
    ------
    TypeError, ValueError
        The probabilities or labels are invalid, or a reference to a confidence is neither 0 nor 1.
    """
    if len(predictions) and np.ndim(predictions[0]) > 0:  # type: ignore[arg-type, index]
        probabilities = check_probabilities(predictions)
        n, n_options = probabilities.shape
        labels = check_labels(references, n, n_options, "references")
        confidences, _, correct = top_prediction(probabilities, labels)
        return confidences, correct
    right = np.asarray(to_numpy(references))
    bad = np.flatnonzero((right != 0) & (right != 1))
    if bad.size:
        raise ValueError(
            f"references[{bad[0]}] is {right[bad[0]]}, but for a list of confidences it must be 1 (the answer was "
            "right) or 0 (it was wrong). Pass the probabilities of all options to give the right option's index"
        )
    return predictions, right == 1


def _ragged(values: ArrayLike, name: str) -> str:
    """Return the message about nested lists that do not form an array."""
    lengths = [np.size(row) for row in values]  # type: ignore[union-attr]
    odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is None:
        return f"{name} cannot be converted to an array of numbers"
    return (
        f"{name}[{odd}] has {lengths[odd]} values and {name}[0] has {lengths[0]}: rows must have the same length. "
        "Where questions have differing numbers of options, pad the shorter rows with zeros on the right"
    )
