"""What every measure asks of its input, checked once at the edge."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

#: How far a row of probabilities may be from a sum of one. Rounding a distribution to float16 moves its sum by at most
#: 2**-11 of itself, so every distribution that was normalised in float16 or better passes.
SUM_TOLERANCE = 1e-3


def check_unit_interval(values: ArrayLike, name: str) -> Floats:
    """Return `values` as a vector of floats after checking that each is in [0, 1].

    Parameters
    ----------
    values : array_like of shape (n,)
        float16, float32, float64, integers or booleans. float32 and float64 arrays are returned as they are, without a
        copy; the rest becomes float64.
    name : str
        What to call the values in an error.

    Raises
    ------
    TypeError
        The values are not real numbers.
    ValueError
        The shape is not (n,), n is 0, or a value is NaN, infinite or outside [0, 1].
    """
    array = as_floats(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got an array of shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: a measure needs at least one sample")
    check_range(array, name)
    return array


def check_range(array: Floats, name: str) -> None:
    """Raise ValueError if a value of a non-empty array is NaN or outside [0, 1]."""
    # A comparison with NaN is false, so one pair of reductions finds NaN, the infinities and values out of range.
    if array.min() >= 0 and array.max() <= 1:
        return
    bad = np.flatnonzero(~((array >= 0) & (array <= 1)).ravel())
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
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(_ragged(values, name)) from error
    if array.dtype.kind not in "fbiu":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def check_correct(correct: ArrayLike, n: int, name: str = "correct") -> NDArray:
    """Return `correct`, (n,) of booleans or numbers in [0, 1], as it is if it is boolean and as float64 if not.

    A number between 0 and 1 is the probability that the answer is right, where that is known.
    """
    array = np.asarray(correct)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, but there are {n} confidences: expected ({n},)")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be booleans or numbers in [0, 1], got dtype {array.dtype}")
    check_range(array, name)
    return array.astype(np.float64, copy=False)


def check_probabilities(probabilities: ArrayLike) -> Floats:
    """Return an (n, K) array of distributions as float32 or float64, K >= 2.

    Rows with fewer than K options are padded with exact zeros on the right.

    Raises
    ------
    TypeError
        The values are not real numbers.
    ValueError
        The shape is not (n, K), there is no row or only one column, a value is NaN or outside [0, 1], or a row's sum
        is further from one than `SUM_TOLERANCE`.
    """
    array = as_floats(probabilities, "probabilities")
    if array.ndim != 2:
        raise ValueError(f"probabilities must have shape (n, K), a row for each question, got {array.shape}")
    if array.shape[0] == 0:
        raise ValueError("probabilities is empty: a measure needs at least one sample")
    if array.shape[1] < 2:
        raise ValueError("probabilities has one column: a question needs at least two options")
    check_range(array, "probabilities")
    sums = array.sum(axis=1, dtype=np.float64)
    off = np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)
    if off.size:
        raise ValueError(
            f"probabilities[{off[0]}] sums to {sums[off[0]]:.6g}, and {off.size} of {len(array)} rows differ from 1 "
            f"by more than {SUM_TOLERANCE:g}. Normalise each row over its options (softmax in float32 or better)"
        )
    return array


def check_labels(labels: ArrayLike, n: int, n_options: int, name: str = "labels") -> NDArray[np.integer]:
    """Return (n,) integers in [0, n_options): the index of each question's right option."""
    array = np.asarray(labels)
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
    """Return (n,) float64 weights: finite, none negative, their sum positive; None means that all are one."""
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
    return array


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
    """Return the confidence of each answer and whether it is right, from either form that people have them in.

    Parameters
    ----------
    predictions : array_like of shape (n, K) or (n,)
        The probabilities of all options, or the confidence in the answer given.
    references : array_like of shape (n,)
        The right option's index, or 1 where the answer was right and 0 where it was wrong.

    Raises
    ------
    TypeError, ValueError
        The probabilities or labels are not of that kind, or a reference to a confidence is neither 0 nor 1.
    """
    if len(predictions) and np.ndim(predictions[0]) > 0:  # type: ignore[arg-type, index]
        probabilities = check_probabilities(predictions)
        labels = check_labels(references, *probabilities.shape)
        confidences, _, correct = top_prediction(probabilities, labels)
        return confidences, correct
    right = np.asarray(references)
    bad = np.flatnonzero((right != 0) & (right != 1))
    if bad.size:
        raise ValueError(
            f"references[{bad[0]}] is {right[bad[0]]}, but for a list of confidences it must be 1 (the answer was "
            "right) or 0 (it was wrong). Pass the probabilities of all options to give the right option's index"
        )
    return predictions, right == 1


def _ragged(values: ArrayLike, name: str) -> str:
    """Return what to say of nested lists that don't make an array."""
    lengths = [np.size(row) for row in values]  # type: ignore[union-attr]
    odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is None:
        return f"{name} can't be made an array of numbers"
    return (
        f"{name}[{odd}] has {lengths[odd]} values and {name}[0] has {lengths[0]}: rows must have the same length. "
        "Where questions have differing numbers of options, pad the shorter rows with zeros on the right"
    )
