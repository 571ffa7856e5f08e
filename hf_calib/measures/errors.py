"""Calibration errors over equal-width bins, as functions."""

from numpy.typing import ArrayLike

from .binning import BinStatistics


def expected_calibration_error(
    confidences: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 10,
    *,
    norm: int | str = 1,
    debias: bool = False,
    weights: ArrayLike | None = None,
) -> float:
    """Return the calibration error of confidences over equal-width bins.

    Parameters
    ----------
    confidences : array_like of shape (n,)
        Probability of the given answer, in [0, 1]; float16, float32 or float64. Values are not rounded: in float32,
        0.7 is less than 7/10 and falls into the bin below.
    correct : array_like of shape (n,)
        Whether the answer is right: booleans, 0 and 1, or the probability that it is right where that is known.
    n_bins : int, default 10
        Number of bins [0, 1/n_bins), ..., [1 - 1/n_bins, 1]: closed on the left, the last one on both sides.
    norm : {1, 2, "max"}, default 1
        See `BinStatistics.error`: 1 is the ECE, 2 the root mean square error, "max" the maximum calibration error.
    debias : bool, default False
        The debiased estimate of norm 2 of Kumar et al. (2019).
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.

    Returns
    -------
    float
        In [0, 1]; 0 is perfectly calibrated. With norm 1 it is biased upwards on few samples: see
        `calibration_error_interval` and `calibration_test`.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the value and its position.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017, eq. 3 and 5.
    Kumar, Liang, Ma, *Verified Uncertainty Calibration*, NeurIPS 2019, Def. 2.1 and 4.1.

    Examples
    --------
    >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
    0.0
    """
    return BinStatistics.from_predictions(confidences, correct, n_bins, weights=weights).error(norm, debias=debias)


def maximum_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, n_bins: int = 10, *, weights: ArrayLike | None = None
) -> float:
    """Return the largest gap between accuracy and mean confidence of a bin; see `expected_calibration_error`."""
    return expected_calibration_error(confidences, correct, n_bins, norm="max", weights=weights)


def signed_gap(confidences: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return mean confidence - accuracy, in [-1, 1]: positive for overconfidence. Its size is at most the ECE."""
    return BinStatistics.from_predictions(confidences, correct, 1, weights=weights).signed_gap()
