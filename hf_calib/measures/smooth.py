"""Smooth ECE: the calibration error after smoothing with a Gaussian whose width is chosen from the data."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import check_answers

# The number of cells of the grid on [0, 1], a power of two. Half a cell is the smallest bandwidth considered.
GRID_CELLS = 4096

_CHUNK = 32_768


class SmoothECE(NamedTuple):
    """Smooth ECE and the bandwidth used for it, both in [0, 1]."""

    value: float
    bandwidth: float


def smooth_ece(
    confidences: ArrayLike,
    correct: ArrayLike,
    *,
    bandwidth: float | None = None,
    weights: ArrayLike | None = None,
) -> SmoothECE:
    """Return the smooth calibration error of Błasiok and Nakkiran.

    smECE_σ = ∫₀¹ |E[K_σ(t, c) (y - c)]| dt, with K_σ the Gaussian kernel reflected at 0 and 1. Without a bandwidth it
    is the largest σ with smECE_σ >= σ, which makes the result a consistent measure of calibration, continuous in the
    confidences, without parameters to choose.

    The integral runs over a grid of 4,097 points. Each gap y - c is split linearly between the two points around its
    confidence, and smoothed exactly in the cosine basis, in which the reflected Gaussian is diagonal. For σ >= 0.01
    the result is within 1e-4 of the integral.

    Parameters
    ----------
    confidences : array_like of shape (n,)
        Probability of the given answer, in [0, 1].
    correct : array_like of shape (n,)
        Whether the answer is right: booleans, 0 and 1, or the probability that it is right where that is known.
    bandwidth : float, optional
        Standard deviation σ of the kernel, in (0, 1]; chosen from the data by default.
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.

    Returns
    -------
    SmoothECE
        value and bandwidth.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the value and its position.

    References
    ----------
    Błasiok, Nakkiran, *Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing*, ICLR 2024, Def. 3 and 4.

    Examples
    --------
    >>> round(smooth_ece([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 1]).value, 4)
    0.25
    """
    return smooth_ece_from_gaps(gap_grid(*check_answers(confidences, correct, weights)), bandwidth)


def gap_grid(confidences: NDArray, correct: NDArray, weights: NDArray | None = None) -> NDArray[np.float64]:
    """Return the (4097,) mean gaps E[(y - c) 1[c near t]]: each sample is split linearly between two grid points."""
    grid = np.zeros(GRID_CELLS + 1)
    for start in range(0, len(confidences), _CHUNK):
        part = slice(start, start + _CHUNK)
        c = confidences[part].astype(np.float64, copy=False)
        gap = correct[part] - c
        if weights is not None:
            gap *= weights[part]
        # Multiplying by a power of two is exact, and so is the fraction.
        position = c * GRID_CELLS
        cell = np.minimum(position.astype(np.intp), GRID_CELLS - 1)
        upper = gap * (position - cell)
        grid += np.bincount(cell, gap - upper, GRID_CELLS + 1)
        grid[1:] += np.bincount(cell, upper, GRID_CELLS)
    return grid / (len(confidences) if weights is None else weights.sum())


def smooth_ece_from_gaps(gaps: NDArray[np.float64], bandwidth: float | None = None) -> SmoothECE:
    """Return the smooth ECE of the gaps on an even grid, as `gap_grid` gives them."""
    smoothed = smoother(gaps)

    def value(sigma: float) -> float:
        return float(grid_integral(np.abs(smoothed(sigma))))

    if bandwidth is not None:
        if not 0 < bandwidth <= 1:
            raise ValueError(f"bandwidth must be in (0, 1], got {bandwidth}")
        return SmoothECE(value(bandwidth), float(bandwidth))
    # smECE_σ decreases in σ, so it crosses σ once. Below the size of a grid cell the kernel is not resolved.
    low, high = 0.5 / (len(gaps) - 1), 1.0
    if value(low) <= low:
        return SmoothECE(value(low), low)
    while high - low > 1e-6:
        middle = (low + high) / 2
        if value(middle) >= middle:
            low = middle
        else:
            high = middle
    return SmoothECE(value(low), low)


def smoother(gaps: NDArray[np.float64]) -> Callable[[float], NDArray[np.float64]]:
    """Return a function from a bandwidth to the gaps on their grid, smoothed by the reflected Gaussian."""
    cells = gaps.shape[-1] - 1
    # The even extension of the grid has period two, and on it the reflected Gaussian is an ordinary convolution. The
    # points at 0 and 1 are their own reflections, so they count twice.
    doubled = np.concatenate([gaps, gaps[..., -2:0:-1]], axis=-1)
    doubled[..., [0, cells]] *= 2
    spectrum = np.fft.rfft(doubled, axis=-1).real * cells
    frequencies = np.pi * np.arange(cells + 1)

    def smoothed(sigma: float) -> NDArray[np.float64]:
        damped = spectrum * np.exp(-0.5 * (frequencies * sigma) ** 2)
        return np.fft.irfft(damped, 2 * cells, axis=-1)[..., : cells + 1]

    return smoothed


def smooth_cells(cells: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    """Return (..., m + 1) values at the edges of m even cells: the (..., m) gaps summed in them, smoothed."""
    # Half of each cell goes to the point on either side.
    points = np.zeros((*cells.shape[:-1], cells.shape[-1] + 1))
    points[..., :-1] += cells / 2
    points[..., 1:] += cells / 2
    return smoother(points)(bandwidth)


def absolute_integral(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral over [0, 1] of the absolute values on an even grid."""
    return grid_integral(np.abs(values))


def grid_integral(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the trapezoidal integral over [0, 1] of values on an even grid."""
    return (values[..., 1:-1].sum(axis=-1) + (values[..., 0] + values[..., -1]) / 2) / (values.shape[-1] - 1)
