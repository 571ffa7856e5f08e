"""The differentiable expected calibration error (DECE), which models can be trained with."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import check_labeled, check_n_bins

_CHUNK = 16_384


def differentiable_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    n_bins: int = 15,
    *,
    bin_temperature: float = 0.01,
    rank_temperature: float = 0.01,
    weights: ArrayLike | None = None,
) -> float:
    """Return the differentiable expected calibration error (DECE), in [0, 1].

    Both discrete steps of the ECE are replaced by soft ones. A confidence c belongs to bin m with membership
    softmax_m((m c - Σ_{i<m} β_i) / τ), m = 1, ..., M, with edges β_i = i / M: for τ → 0 this is the bin that holds c.
    An answer is right to the degree max(0, 2 - R), with R = 1 + Σ_{k≠y} σ((p_k - p_y) / τ_a) the soft rank of the
    right option.

    Parameters
    ----------
    probabilities : array_like of shape (n, K)
        Each row a distribution over a question's options, padded with exact zeros on the right.
    labels : array_like of shape (n,)
        Index of each question's right option.
    n_bins : int, default 15
        Number M of soft bins.
    bin_temperature, rank_temperature : float, default 0.01
        τ and τ_a, positive.
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.

    References
    ----------
    Bohdal, Yang, Hospedales, *Meta-Calibration: Learning of Model Calibration Using Differentiable Expected
    Calibration Error*, TMLR 2023, section 3.
    """
    p, y, w = check_labeled(probabilities, labels, weights)
    for name, value in (("bin_temperature", bin_temperature), ("rank_temperature", rank_temperature)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    gaps, _ = soft_bins(p, y, check_n_bins(n_bins), bin_temperature, rank_temperature, weights=w)
    return float(np.abs(gaps).sum())


def soft_bins(
    probabilities: NDArray,
    labels: NDArray,
    n_bins: int = 15,
    bin_temperature: float = 0.01,
    rank_temperature: float = 0.01,
    *,
    weights: NDArray[np.float64] | None = None,
    clusters: NDArray[np.intp] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n_bins,) weighted mean gaps E[o_m(c) (a - c)] over the soft bins of checked input, and their covariance.

    The covariance is that of independent samples, or with `clusters` that of clusters 0, 1, ...
    """
    steps = np.arange(1, n_bins + 1)
    offsets = np.concatenate([[0.0], np.cumsum(np.arange(1, n_bins) / n_bins)])
    n_clusters = 0 if clusters is None else int(clusters.max()) + 1
    # Sums over the samples of their terms of the gaps, of the terms' squares, and of the terms times the weights.
    total, square, cross = np.zeros(n_bins), np.zeros((n_bins, n_bins)), np.zeros(n_bins)
    of_clusters = np.zeros((n_clusters, n_bins + 1))
    weight_sum = weight_square = 0.0
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        p = probabilities[part].astype(np.float64)
        w = np.ones(len(p)) if weights is None else weights[part]
        c = p.max(axis=1)
        right = np.take_along_axis(p, labels[part, None], axis=1)
        # The right option itself adds σ(0) = 1/2 to the sum.
        with np.errstate(over="ignore"):
            rank = 0.5 + (1 / (1 + np.exp((right - p) / rank_temperature))).sum(axis=1)
        accuracy = np.maximum(0, 2 - rank)
        scores = (c[:, None] * steps - offsets) / bin_temperature
        membership = np.exp(scores - scores.max(axis=1, keepdims=True))
        membership /= membership.sum(axis=1, keepdims=True)
        terms = membership * (w * (accuracy - c))[:, None]
        total += terms.sum(axis=0)
        weight_sum += float(w.sum())
        if clusters is None:
            square += terms.T @ terms
            cross += w @ terms
            weight_square += float(w @ w)
        else:
            np.add.at(of_clusters, clusters[part], np.column_stack([terms, w]))
    gaps = total / weight_sum
    if clusters is None:
        mixed = np.outer(gaps, cross)
        covariance = square - mixed - mixed.T + weight_square * np.outer(gaps, gaps)
    else:
        influence = of_clusters[:, :-1] - of_clusters[:, -1:] * gaps
        counted = int(np.count_nonzero(of_clusters[:, -1]))
        covariance = counted / max(counted - 1, 1) * influence.T @ influence
    return gaps, covariance / weight_sum**2
