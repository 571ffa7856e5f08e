"""Measures of predicted distributions against gold distributions, as the typed-decisions benchmark defines them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .scores import weighted_mean
from .validation import Floats, check_distributions, check_labels, check_probabilities, check_weights

#: Predicted probabilities below this value are raised to it in the divergence, as in the benchmark.
KL_CLIP = 1e-9


def kl_from_gold(
    probabilities: ArrayLike, gold: ArrayLike, *, weights: ArrayLike | None = None, clip: float = KL_CLIP
) -> float:
    """Return the mean divergence KL(gold ‖ prediction) in nats, at least 0.

    Parameters
    ----------
    probabilities : array_like of shape (n, K)
        Each row a distribution over a question's options, padded with exact zeros on the right where it has fewer than
        K.
    gold : array_like of shape (n, K)
        The distributions to compare with, padded in the same way.
    weights : array_like of shape (n,), optional
        Weight of each question, finite and not negative.
    clip : float, default 1e-9
        Lower predicted probabilities are raised to this value, which is above 0 and below 1.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the row.
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip must be between 0 and 1, got {clip}")
    p, g, w = _check(probabilities, gold, weights)
    return weighted_mean(kl_terms(p, g, clip), w)


def brier_from_gold(probabilities: ArrayLike, gold: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean squared distance between prediction and gold, summed over the options, in [0, 2].

    Parameters and errors as in `kl_from_gold`.
    """
    p, g, w = _check(probabilities, gold, weights)
    return weighted_mean(squared_distance(p, g), w)


def total_variation(probabilities: ArrayLike, gold: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean total variation distance, Σ_k |p_k - g_k| / 2, in [0, 1].

    Parameters and errors as in `kl_from_gold`.
    """
    p, g, w = _check(probabilities, gold, weights)
    return weighted_mean(variation_terms(p, g), w)


def expected_score_error(probabilities: ArrayLike, gold: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean distance between the expected levels, |Σ_k k p_k - Σ_k k g_k|, of questions with ordered levels.

    Parameters and errors as in `kl_from_gold`; levels count from 0.
    """
    p, g, w = _check(probabilities, gold, weights)
    return weighted_mean(score_terms(p, g), w)


def labels_with_ties(probabilities: ArrayLike, labels: ArrayLike, gold: ArrayLike) -> NDArray[np.int64]:
    """Return the labels, replaced by the predicted option if both tie for the greatest gold probability.

    A prediction counts as right if it is any of the options with the greatest gold probability. If several options
    have the greatest predicted probability, the first is the predicted one.

    Parameters
    ----------
    probabilities, gold : array_like of shape (n, K)
    labels : array_like of shape (n,)
        Index of each question's right option.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the row.
    """
    p, g, _ = _check(probabilities, gold, None)
    y = check_labels(labels, *p.shape).astype(np.int64, copy=False)
    rows, predicted, top = np.arange(len(p)), p.argmax(axis=1), g.max(axis=1)
    ties = (g[rows, predicted] == top) & (g[rows, y] == top)
    return np.where(ties, predicted, y)


def kl_terms(p: Floats, gold: Floats, clip: float = KL_CLIP) -> NDArray[np.float64]:
    """Return each row's divergence, (n,), for checked input."""
    gold = gold.astype(np.float64, copy=False)
    predicted = np.maximum(p.astype(np.float64, copy=False), clip)
    # Where the gold probability is 0, so is the term.
    ratio = np.divide(gold, predicted, out=np.ones_like(gold), where=gold > 0)
    return np.einsum("nk,nk->n", gold, np.log(ratio))


def squared_distance(p: Floats, gold: Floats) -> NDArray[np.float64]:
    """Return each row's squared distance, (n,), for checked input."""
    return np.square(p.astype(np.float64) - gold).sum(axis=1)


def variation_terms(p: Floats, gold: Floats) -> NDArray[np.float64]:
    """Return each row's total variation distance, (n,), for checked input."""
    return np.abs(p.astype(np.float64) - gold).sum(axis=1) / 2


def score_terms(p: Floats, gold: Floats) -> NDArray[np.float64]:
    """Return each row's distance between expected levels, (n,), for checked input."""
    return np.abs((p.astype(np.float64) - gold) @ np.arange(p.shape[1]))


def _check(
    probabilities: ArrayLike, gold: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats, NDArray[np.float64] | None]:
    p = check_probabilities(probabilities)
    return p, check_distributions(gold, p.shape, "gold"), check_weights(weights, len(p))
