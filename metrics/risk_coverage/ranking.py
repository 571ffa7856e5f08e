"""Measures based on ranking answers by confidence: AUROC, risk-coverage, equal-mass bins, Kolmogorov-Smirnov."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binning import BinStatistics
from .validation import check_answers, check_n_bins, check_unit_interval, check_weights

Array = NDArray[np.float64]


class RankedBlocks(NamedTuple):
    """Samples grouped by equal confidence, in ascending order: sufficient for every measure of ranks."""

    confidences: Array
    weights: Array
    correct: Array


def ranked_blocks(
    confidences: NDArray, correct: NDArray, weights: NDArray | None = None
) -> tuple[RankedBlocks, NDArray[np.intp]]:
    """Return the blocks of checked samples, and each sample's block."""
    values, block = np.unique(confidences, return_inverse=True)
    right = correct if weights is None else correct * weights
    sums = (np.bincount(block, own, len(values)).astype(np.float64) for own in (weights, right))
    return RankedBlocks(values.astype(np.float64), *sums), block


def auroc(confidences: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve of confidence against correctness, in [0, 1].

    It is the probability that a right answer has a higher confidence than a wrong one, with ties counting half; at 0.5
    the confidence is uninformative. NaN if all answers are right, or all wrong.

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.

    References
    ----------
    Hanley, McNeil, *The meaning and use of the area under a receiver operating characteristic (ROC) curve*, Radiology
    143 (1982).
    """
    return auroc_from_blocks(_blocks(confidences, correct, weights))


def auroc_from_blocks(blocks: RankedBlocks) -> float:
    """Return the AUROC of ranked blocks."""
    wrong = blocks.weights - blocks.correct
    wrong_total, right_total = wrong.sum(), blocks.correct.sum()
    if wrong_total <= 0 or right_total <= 0:
        return float("nan")
    below = np.cumsum(wrong) - wrong / 2
    return float(blocks.correct @ below / (wrong_total * right_total))


def auroc_influence(blocks: RankedBlocks) -> tuple[Array, Array]:
    """Return the influence of a wrong and of a right sample of each block on the AUROC (centered placements)."""
    wrong = blocks.weights - blocks.correct
    total, wrong_total, right_total = blocks.weights.sum(), wrong.sum(), blocks.correct.sum()
    area = auroc_from_blocks(blocks)
    below = (np.cumsum(wrong) - wrong / 2) / wrong_total
    above = 1 - (np.cumsum(blocks.correct) - blocks.correct / 2) / right_total
    return (above - area) * total / wrong_total, (below - area) * total / right_total


def of_samples(influence: tuple[Array, Array], block: NDArray[np.intp], correct: NDArray[np.bool_]) -> Array:
    """Return each sample's influence from its block's influences for wrong and right samples."""
    of_wrong, of_right = influence
    return np.where(correct, of_right[block], of_wrong[block])


class RiskCoverageCurve(NamedTuple):
    """The error rate when only the most confident answers are given: see `risk_coverage_curve`."""

    coverage: Array
    risk: Array
    thresholds: Array


def risk_coverage_curve(
    confidences: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None
) -> RiskCoverageCurve:
    """Return the risk-coverage curve of answering only at or above a confidence.

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.

    Returns
    -------
    RiskCoverageCurve
        For each distinct confidence, descending: coverage, the share of samples at or above it, in (0, 1]; risk, the
        share of wrong answers among those, in [0, 1]; and the confidence as the threshold. Samples of equal confidence
        are accepted or rejected together.

    References
    ----------
    El-Yaniv, Wiener, *On the Foundations of Noise-free Selective Classification*, JMLR 11 (2010).
    """
    return curve_from_blocks(_blocks(confidences, correct, weights))


def curve_from_blocks(blocks: RankedBlocks) -> RiskCoverageCurve:
    """Return the risk-coverage curve of ranked blocks; blocks without weight are skipped."""
    filled = np.flatnonzero(blocks.weights > 0)[::-1]
    weights = np.cumsum(blocks.weights[filled])
    wrong = np.cumsum((blocks.weights - blocks.correct)[filled])
    return RiskCoverageCurve(weights / weights[-1], np.clip(wrong / weights, 0, 1), blocks.confidences[filled])


def aurc(confidences: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the area under the risk-coverage curve, in [0, 1]; lower is better.

    It is the mean over the samples of the risk with the sample's own confidence as the threshold (Geifman et al. 2019,
    eq. 2).
    Samples of equal confidence share a threshold, so their order doesn't matter.

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.

    References
    ----------
    Geifman, Uziel, El-Yaniv, *Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers*, ICLR 2019.
    """
    return aurc_from_blocks(_blocks(confidences, correct, weights))


def aurc_from_blocks(blocks: RankedBlocks) -> float:
    """Return the area under the risk-coverage curve of ranked blocks."""
    curve = curve_from_blocks(blocks)
    return float(np.diff(curve.coverage, prepend=0) @ curve.risk)


def aurc_influence(blocks: RankedBlocks) -> tuple[Array, Array]:
    """Return the influence of a wrong and of a right sample of each block on the AURC."""
    total = blocks.weights.sum()
    above = np.cumsum(blocks.weights[::-1])[::-1]
    wrong_above = np.cumsum((blocks.weights - blocks.correct)[::-1])[::-1]
    # A block without weight at or above it is passed by no sample.
    share = np.divide(blocks.weights, above, out=np.zeros_like(above), where=above > 0)
    risk = np.divide(wrong_above, above, out=np.zeros_like(above), where=above > 0)
    area = float(blocks.weights @ risk / total)
    # A sample counts in the risk at every threshold up to its own confidence.
    passed, expected = np.cumsum(share), np.cumsum(share * risk)
    right = risk - area - expected
    return right + passed, right


def excess_aurc(confidences: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the AURC minus that of a perfect ranking with the same accuracy, in [0, 1).

    A perfect ranking puts all right answers first. Its area is r + (1 - r) ln(1 - r) for the error rate r, in the
    limit of many samples (Geifman et al. 2019, eq. 4).

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.
    """
    blocks = _blocks(confidences, correct, weights)
    return aurc_from_blocks(blocks) - best_aurc(1 - blocks.correct.sum() / blocks.weights.sum())


def best_aurc(error_rate: float) -> float:
    """Return the smallest area under the risk-coverage curve for an error rate in [0, 1]."""
    return float(error_rate + (1 - error_rate) * np.log1p(-error_rate)) if error_rate < 1 else 1.0


def aurc_of_unseen(area: float, share: float) -> tuple[float, float]:
    """Return the smallest and largest AURC if a share of answers that are all right, or all wrong, were the opposite.

    The largest for an error rate r, with the wrong answers as the most confident ones, is r (1 - ln r).
    """
    return (0.0, float(share * (1 - np.log(share)))) if area < 0.5 else (best_aurc(1 - share), 1.0)


def excess_of_unseen(share: float) -> tuple[float, float]:
    """Return the smallest and largest excess AURC in the case of `aurc_of_unseen`: 0 and the share's entropy."""
    r = min(share, 0.5)
    return 0.0, float(-r * np.log(r) - (1 - r) * np.log1p(-r))


def accuracy_at_coverage(
    confidences: ArrayLike, correct: ArrayLike, coverage: float, *, weights: ArrayLike | None = None
) -> float:
    """Return the accuracy of the most confident answers that make up at least this share of all, in [0, 1].

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.
    coverage : float
        In (0, 1]. Samples of equal confidence are kept together, so the actual coverage may be larger.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], got {coverage}")
    return accuracy_at(risk_coverage_curve(confidences, correct, weights=weights), coverage)


def accuracy_at(curve: RiskCoverageCurve, coverage: float) -> float:
    """Return a curve's accuracy at the first threshold that reaches a coverage."""
    # Rounding of the sums may leave the last coverages slightly below the requested one.
    return float(1 - curve.risk[np.searchsorted(curve.coverage, coverage * (1 - 1e-12))])


def coverage_at_accuracy(
    confidences: ArrayLike, correct: ArrayLike, accuracy: float, *, weights: ArrayLike | None = None
) -> float:
    """Return the largest share of the most confident answers with at least this accuracy, in [0, 1].

    It is 0 where no threshold reaches the accuracy.

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.
    accuracy : float
        In [0, 1].
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
    return coverage_at(risk_coverage_curve(confidences, correct, weights=weights), accuracy)


def coverage_at(curve: RiskCoverageCurve, accuracy: float) -> float:
    """Return a curve's largest coverage that reaches an accuracy, 0 if none does."""
    good = np.flatnonzero(1 - curve.risk >= accuracy - 1e-12)
    return float(curve.coverage[good[-1]]) if good.size else 0.0


def kolmogorov_smirnov_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """Return the Kolmogorov-Smirnov calibration error max_t |E[(y - c) 1[c <= t]]|, in [0, 1].

    It compares the cumulative number of right answers with the cumulative confidence, without bins.

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.

    References
    ----------
    Gupta et al., *Calibration of Neural Networks using Splines*, ICLR 2021, eq. 8.
    """
    return ks_from_blocks(_blocks(confidences, correct, weights))


def ks_from_blocks(blocks: RankedBlocks) -> float:
    """Return the Kolmogorov-Smirnov calibration error of ranked blocks."""
    gaps = blocks.correct - blocks.weights * blocks.confidences
    return float(np.abs(np.cumsum(gaps)).max() / blocks.weights.sum())


def equal_mass_edges(confidences: ArrayLike, n_bins: int = 10, *, weights: ArrayLike | None = None) -> Array:
    """Return the edges of bins that hold about the same weight each, for `BinStatistics(edges=...)`.

    A confidence v goes to the bin ⌊n_bins · P(c < v)⌋, so equal confidences stay together, whatever their order, and a
    weight of two counts as two samples; confidences of 1 are in the last bin. Bins may be empty.

    Parameters
    ----------
    confidences : array_like of shape (n,)
        In [0, 1].
    n_bins : int, default 10
        Number of bins.
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.

    Returns
    -------
    ndarray of shape (n_bins + 1,)
        Ascending from 0 to 1; the inner edges are observed confidences.
    """
    check_n_bins(n_bins)
    c = check_unit_interval(confidences, "confidences")
    w = check_weights(weights, len(c))
    values, block = np.unique(c, return_inverse=True)
    return edges_from_blocks(values.astype(np.float64), np.bincount(block, w).astype(np.float64), n_bins)


def edges_from_blocks(values: Array, weights: Array, n_bins: int) -> Array:
    """Return the equal-mass edges of ascending confidences with their weights."""
    filled = weights > 0
    values, weights = values[filled], weights[filled]
    below = np.cumsum(weights) - weights
    # Rounding of the sums may leave a share slightly below that of a bin's end.
    index = np.minimum(np.floor(n_bins * below / weights.sum() * (1 + 1e-12)), n_bins - 1)
    # The first confidence of each bin, or of the next one where it is empty.
    starts = np.searchsorted(index, np.arange(1, n_bins))
    inner = np.append(values, 1.0)[starts]
    return np.concatenate([[0.0], inner, [1.0]])


def equal_mass_calibration_error(
    confidences: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 10,
    *,
    norm: int | str = 1,
    debias: bool = False,
    weights: ArrayLike | None = None,
) -> float:
    """Return the calibration error over bins that hold about the same weight each.

    Parameters
    ----------
    confidences, correct, n_bins, norm, debias, weights
        As in `expected_calibration_error`; the bins are those of `equal_mass_edges`.

    References
    ----------
    Nguyen, O'Connor, *Posterior calibration and exploratory analysis for natural language processing models*, EMNLP
    2015; Roelofs et al., *Mitigating Bias in Calibration Error Estimation*, AISTATS 2022.
    """
    edges = equal_mass_edges(confidences, n_bins, weights=weights)
    return BinStatistics.from_predictions(confidences, correct, weights=weights, edges=edges).error(
        norm, debias=debias
    )


def _blocks(confidences: ArrayLike, correct: ArrayLike, weights: ArrayLike | None) -> RankedBlocks:
    return ranked_blocks(*check_answers(confidences, correct, weights))[0]
