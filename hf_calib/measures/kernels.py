"""Kernel and local calibration error, which compare pairs of samples instead of using bins."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binning import bin_edges, bin_index
from .ranking import RankedBlocks, ranked_blocks
from .validation import as_floats, check_answers, check_correct, check_unit_interval, check_weights

#: Kumar et al.'s width of the Laplacian kernel.
KERNEL_WIDTH = 0.4

# The exponentials of a block of sorted confidences stay below e**30.
_MAX_EXPONENT = 30.0


def kernel_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, *, width: float = KERNEL_WIDTH, weights: ArrayLike | None = None
) -> float:
    """Return the maximum mean calibration error (MMCE), in [0, 1].

    It is the square root of the mean of (y_i - c_i)(y_j - c_j) exp(-|c_i - c_j| / width) over all pairs, including
    each sample with itself. The Laplacian kernel factorizes over the sorted confidences, so one pass over them sums
    all pairs exactly, at any size, without a subsample.

    Parameters
    ----------
    confidences, correct, weights
        As in `expected_calibration_error`.
    width : float, default 0.4
        Width of the Laplacian kernel, positive; the default is that of Kumar et al.

    References
    ----------
    Kumar, Sarawagi, Jain, *Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings*, ICML 2018,
    eq. 3 and 4.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    blocks, _ = ranked_blocks(*check_answers(confidences, correct, weights))
    return kernel_error_from_blocks(blocks, width)


def kernel_error_from_blocks(blocks: RankedBlocks, width: float = KERNEL_WIDTH) -> float:
    """Return the kernel calibration error of ranked blocks."""
    gaps = blocks.correct - blocks.weights * blocks.confidences
    scaled = blocks.confidences / width
    # Σ_ij g_i g_j e^(s_i - s_j) over j > i, in blocks in which the exponentials don't overflow.
    total, carried, start = float(gaps @ gaps), 0.0, 0
    previous = scaled[0]
    while start < len(gaps):
        end = int(np.searchsorted(scaled, scaled[start] + _MAX_EXPONENT, side="right"))
        here = scaled[start:end] - scaled[start]
        g = gaps[start:end]
        carried *= np.exp(previous - scaled[start])
        grown = g * np.exp(here)
        before = np.cumsum(grown) - grown + carried
        total += 2 * float(np.sum(g * np.exp(-here) * before))
        carried = (carried + float(grown.sum())) * float(np.exp(-here[-1]))
        previous = scaled[end - 1]
        start = end
    return float(np.sqrt(max(total, 0.0)) / blocks.weights.sum())


class LocalCalibrationError(NamedTuple):
    """Result of `local_calibration_error`: mean and maximum over the samples, and how many were used."""

    mean: float
    maximum: float
    n_used: int


def local_calibration_error(
    confidences: ArrayLike,
    correct: ArrayLike,
    features: ArrayLike,
    *,
    gamma: float = 0.2,
    n_bins: int = 15,
    weights: ArrayLike | None = None,
    max_samples: int = 5000,
    seed: int = 0,
) -> LocalCalibrationError:
    """Return the local calibration error (LCE): the gap in the neighborhood of each sample.

    Around a sample x, LCE(x) = |Σ_j w_j (c_j - y_j) k(x, x_j)| / Σ_j w_j k(x, x_j) over the samples j of its
    confidence bin, with k(x, x') = exp(-‖φ(x) - φ(x')‖ / γ). It finds subsets of similar questions on which a model is
    miscalibrated although its bins are calibrated on average.

    Parameters
    ----------
    confidences, correct
        As in `expected_calibration_error`.
    features : array_like of shape (n, d)
        A representation φ(x) of each sample; its scale matters.
    gamma : float, default 0.2
        Width γ of the neighborhood, positive; for large γ the LCE is the gap of the bin.
    n_bins : int, default 15
        Number of equal-width bins of the confidence.
    weights : array_like of shape (n,), optional
        Weight w of each sample, finite and not negative; 1 by default.
    max_samples : int, default 5000
        The cost grows with the square of the number of samples; above this number a random subsample is used.
    seed : int, default 0
        Seed of the subsample.

    Returns
    -------
    LocalCalibrationError
        mean (LCE) and maximum (MLCE) in [0, 1], and n_used.

    References
    ----------
    Luo et al., *Localized Calibration: Metrics and Recalibration*, UAI 2022, eq. 3 and 4.
    """
    c = check_unit_interval(confidences, "confidences").astype(np.float64, copy=False)
    y = check_correct(correct, len(c))
    phi = check_features(features, len(c))
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    if max_samples < 1:
        raise ValueError(f"max_samples must be at least 1, got {max_samples}")
    w = check_weights(weights, len(c))
    chosen = local_subsample(len(c), w, max_samples, seed)
    c, y, phi, w = c[chosen], y[chosen], phi[chosen], np.ones(len(chosen)) if w is None else w[chosen]
    local = np.abs(local_map(c, phi, w, gamma, n_bins)(c - y))
    return LocalCalibrationError(float(np.average(local, weights=w)), float(local.max()), len(c))


def local_subsample(n: int, weights: NDArray[np.float64] | None, max_samples: int, seed: int) -> NDArray[np.intp]:
    """Return the indices of the samples with weight, or of a random subsample of them if there are too many."""
    counting = np.arange(n) if weights is None else np.flatnonzero(weights)
    if len(counting) <= max_samples:
        return counting
    return np.random.default_rng(seed).choice(counting, max_samples, replace=False)


def local_map(
    confidences: NDArray[np.float64],
    features: NDArray[np.float64],
    weights: NDArray[np.float64],
    gamma: float = 0.2,
    n_bins: int = 15,
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function that averages (..., n) gaps around each of n samples by the kernel and positive weights."""
    index = bin_index(confidences, bin_edges(n_bins))
    kernels = []
    for b in np.unique(index):
        members = np.flatnonzero(index == b)
        kernel = np.exp(-_distances(features[members], features[members]) / gamma) * weights[members]
        kernels.append((members, kernel / kernel.sum(axis=1, keepdims=True)))

    def around(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
        local = np.empty_like(gaps)
        for members, kernel in kernels:
            local[..., members] = gaps[..., members] @ kernel.T
        return local

    return around


def check_features(features: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return (n, d) finite features."""
    phi = as_floats(features, "features").astype(np.float64, copy=False)
    if phi.ndim != 2 or len(phi) != n:
        raise ValueError(f"features has shape {phi.shape}, but there are {n} samples: expected ({n}, d)")
    if not np.isfinite(phi).all():
        raise ValueError(f"features[{np.argwhere(~np.isfinite(phi))[0][0]}] has a value that is NaN or infinite")
    return phi


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean distances between the rows of two arrays, exactly 0 between equal rows."""
    from scipy.spatial.distance import cdist

    return cdist(a, b)
