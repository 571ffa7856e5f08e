"""A test of calibration that accounts for the bias of the binned error."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binning import BinStatistics, bin_edges, bin_index
from .validation import check_answers

# Up to this many draws per bin, each answer is drawn separately.
_MAX_DRAWS = 2_000_000

# A larger bin is cut into this many groups of neighboring confidences.
_GROUPS = 256


class CalibrationTest(NamedTuple):
    """Result of `calibration_test`: the error, the mean error of a calibrated model on the same data, the p-value."""

    error: float
    expected_error: float
    p_value: float


def calibration_test(
    confidences: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 10,
    *,
    norm: int | str = 1,
    weights: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> CalibrationTest:
    """Test whether the confidences are calibrated, by consistency resampling.

    A calibrated model's answers are right with a probability equal to their confidence. So answers are drawn many
    times with the given confidences, and the binned error of each draw is one that a calibrated model could have on
    this data, bias included. The p-value is the share of draws whose error is at least the observed one, counting the
    observed one as a draw. In bins of more than 2,000,000 / n_resamples samples, neighboring confidences are drawn
    together in 256 groups per bin; with weights, the sum over such a bin is drawn from its normal limit.

    Samples are assumed to be independent given their confidences.

    Parameters
    ----------
    confidences, correct, n_bins, norm, weights
        As in `expected_calibration_error`.
    n_resamples : int, default 1000
        Number of draws, at least 100; the smallest p-value is 1 / (n_resamples + 1).
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    CalibrationTest
        error, expected_error and p_value; a small p-value is evidence against calibration.

    References
    ----------
    Bröcker, Smith, *Increasing the Reliability of Reliability Diagrams*, Weather and Forecasting 22 (2007).
    Vaicenavicius et al., *Evaluating model calibration in classification*, AISTATS 2019, section 5.
    """
    if n_resamples < 100:
        raise ValueError(f"n_resamples must be at least 100, got {n_resamples}")
    checked, y, w = check_answers(confidences, correct, weights)
    c = checked.astype(np.float64, copy=False)
    statistics = BinStatistics.from_predictions(c, y, n_bins, weights=w)
    observed = statistics.error(norm)
    gaps = calibrated_gaps(c, n_bins, w, n_resamples, np.random.default_rng(seed))
    share = statistics.weights / statistics.weights.sum()
    filled = share > 0
    conditional = np.abs(gaps[:, filled]) / share[filled]
    if norm == "max":
        errors = conditional.max(axis=1)
    elif norm == 2:
        errors = np.sqrt(conditional**2 @ share[filled])
    else:
        errors = np.abs(gaps).sum(axis=1)
    # Equal errors may differ by rounding.
    reached = np.count_nonzero(errors >= observed * (1 - 1e-12))
    return CalibrationTest(observed, float(errors.mean()), (1 + reached) / (1 + n_resamples))


def calibrated_gaps(
    confidences: NDArray[np.float64],
    n_bins: int,
    weights: NDArray[np.float64] | None,
    n_resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return (n_resamples, n_bins) draws of the bins' mean gaps under calibration."""
    index = bin_index(confidences, bin_edges(n_bins))
    order = np.lexsort((confidences, index))
    ends = np.searchsorted(index[order], np.arange(n_bins + 1))
    gaps = np.zeros((n_resamples, n_bins))
    for b in range(n_bins):
        chosen = order[ends[b] : ends[b + 1]]
        if len(chosen):
            weight = None if weights is None else weights[chosen]
            gaps[:, b] = _gap_sums(confidences[chosen], weight, n_resamples, rng)
    return gaps / (len(confidences) if weights is None else weights.sum())


def _gap_sums(
    confidences: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    n: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return n draws of Σ w (y - c) with y right with probability c; the confidences are sorted."""
    if len(confidences) * n <= _MAX_DRAWS:
        gap = (rng.random((n, len(confidences))) < confidences) - confidences
        return gap.sum(axis=1) if weights is None else gap @ weights
    if weights is not None:
        variance = np.square(weights) @ (confidences * (1 - confidences))
        return rng.standard_normal(n) * np.sqrt(variance)
    groups = min(_GROUPS, len(confidences))
    cuts = np.linspace(0, len(confidences), groups + 1).astype(int)
    sizes, sums = np.diff(cuts), np.add.reduceat(confidences, cuts[:-1])
    drawn = rng.binomial(sizes, np.minimum(sums / sizes, 1), size=(n, groups))
    return (drawn - sums).sum(axis=1)
