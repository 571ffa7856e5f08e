"""Scores of whole distributions: accuracy, Brier score and its parts, log-likelihood, target calibration error."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binning import BinStatistics
from .validation import (
    Floats,
    check_correct,
    check_labeled,
    check_probabilities,
    check_unit_interval,
    check_weights,
    top_prediction,
)


def weighted_mean(values: NDArray, weights: NDArray[np.float64] | None) -> float:
    """Return the mean of (n,) values, weighted where weights are given; values of weight zero do not count."""
    if weights is None:
        return float(values.mean(dtype=np.float64))
    values, weights = values[weights > 0], weights[weights > 0]
    # Rounding can leave the mean of equal values slightly beside them.
    return float(np.clip(values @ weights / weights.sum(), values.min(), values.max()))


def accuracy(probabilities: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the share of questions whose most probable option is right, in [0, 1].

    Parameters
    ----------
    probabilities : array_like of shape (n, K)
        Each row a distribution over a question's options, padded with exact zeros on the right where it has fewer than
        K. Of several options with the highest probability, the first counts as the answer.
    labels : array_like of shape (n,)
        Index of each question's right option.
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the row.
    """
    p, y, w = check_labeled(probabilities, labels, weights)
    return weighted_mean(top_prediction(p, y)[2], w)


def mean_confidence(probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean of each row's greatest probability, in [1/K, 1]; parameters as in `accuracy`."""
    p = check_probabilities(probabilities)
    return weighted_mean(p.max(axis=1), check_weights(weights, len(p)))


def option_mass(mass: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean of (n,) raw masses, in [0, 1]: the full softmax's total on a question's options."""
    values = check_unit_interval(mass, "option_mass")
    return weighted_mean(values, check_weights(weights, len(values)))


def brier_score(probabilities: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean squared distance between the distribution and the right answer, in [0, 2].

    Brier's original sum over all options, Σ_k (p_k - 1[k is right])²; for two options it is twice the score of one
    option's probability. Parameters and errors as in `accuracy`.

    References
    ----------
    Brier, *Verification of forecasts expressed in terms of probability*, Monthly Weather Review 78 (1950), eq. 2.
    """
    p, y, w = check_labeled(probabilities, labels, weights)
    return weighted_mean(brier_terms(p, y), w)


def brier_terms(probabilities: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return each row's Brier score, (n,), for checked input."""
    right = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    squares = np.einsum("nk,nk->n", probabilities, probabilities, dtype=np.float64)
    # Σ_k≠y p_k² + (1 - p_y)², which stays exact where the right option has probability one.
    return np.maximum(squares - right**2, 0) + (1 - right) ** 2


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean of -log p(right option) in nats, in [0, inf].

    It is infinite if a right option of positive weight has probability zero. Parameters and errors as in `accuracy`.
    """
    p, y, w = check_labeled(probabilities, labels, weights)
    return weighted_mean(nll_terms(p, y), w)


def nll_terms(probabilities: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return each row's -log p(right option), (n,), for checked input."""
    right = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    with np.errstate(divide="ignore"):
        # Adding zero turns -log 1 = -0.0 into 0.0.
        return -np.log(right) + 0.0


def target_calibration_error(
    confidences: ArrayLike, true_confidences: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """Return E|p*(ŷ|x) - c|, in [0, 1]: the distance of the confidence from the true probability of the given answer.

    It requires true probabilities, known only in simulations. The population's binned ECE is never above it.

    Parameters
    ----------
    confidences : array_like of shape (n,)
        Probability c that the model gives its answer, in [0, 1].
    true_confidences : array_like of shape (n,)
        Probability p*(ŷ|x) that this answer is right.
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.
    """
    c = check_unit_interval(confidences, "confidences")
    truth = check_unit_interval(true_confidences, "true_confidences")
    if truth.shape != c.shape:
        raise ValueError(f"true_confidences has shape {truth.shape}, but there are {len(c)} confidences")
    return weighted_mean(np.abs(truth.astype(np.float64) - c), check_weights(weights, len(c)))


class BrierDecomposition(NamedTuple):
    """Parts of the confidence's Brier score, all in [0, 1]: see `brier_decomposition`."""

    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


def brier_decomposition(
    confidences: ArrayLike, correct: ArrayLike, n_bins: int = 10, *, weights: ArrayLike | None = None
) -> BrierDecomposition:
    """Return the parts of the confidence's Brier score E(c - y)², y being whether the answer is right.

    E(c - y)² = reliability - resolution + uncertainty + within_bin, exactly. Murphy's three terms are reliability, the
    squared calibration error over the bins; resolution, the variance of the bins' accuracies; and uncertainty,
    acc (1 - acc). Confidences that vary within a bin add the fourth (Stephenson et al. 2008), of either sign.

    Parameters
    ----------
    confidences, correct, n_bins, weights
        As in `expected_calibration_error`.

    References
    ----------
    Murphy, *A new vector partition of the probability score*, J. Appl. Meteorology 12 (1973).
    Stephenson, Coelho, Jolliffe, *Two extra components in the Brier score decomposition*, Weather and Forecasting 23
    (2008).
    """
    statistics = BinStatistics.from_predictions(confidences, correct, n_bins, weights=weights)
    share = statistics.weights / statistics.weights.sum()
    filled = share > 0
    share, acc = share[filled], statistics.accuracy[filled]
    base = float(share @ acc)
    reliability = float(share @ (acc - statistics.mean_confidence[filled]) ** 2)
    resolution = float(share @ (acc - base) ** 2)
    uncertainty = base * (1 - base)
    c = check_unit_interval(confidences, "confidences").astype(np.float64, copy=False)
    y = check_correct(correct, len(c)).astype(np.float64, copy=False)
    # For y given as a probability, E(c - y)² over the answer itself adds its variance y (1 - y).
    score = weighted_mean((c - y) ** 2 + y * (1 - y), check_weights(weights, len(c)))
    return BrierDecomposition(reliability, resolution, uncertainty, score - reliability + resolution - uncertainty)
