"""Classwise calibration: the calibration error of each option's probability, averaged over the options."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binning import BinStatistics, bin_index
from .ranking import equal_mass_edges
from .validation import Floats, check_labeled


def classwise_statistics(
    probabilities: ArrayLike,
    labels: ArrayLike,
    n_bins: int = 10,
    *,
    threshold: float = 0.0,
    weights: ArrayLike | None = None,
    equal_mass: bool = False,
) -> list[BinStatistics]:
    """Return each option's bin statistics, without the probabilities below `threshold`.

    Parameters as in `classwise_calibration_error`; `equal_mass` selects the bins of `equal_mass_edges`.
    """
    p, y, w = check_labeled(probabilities, labels, weights)
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    result = []
    for option in range(p.shape[1]):
        column, right, weight = np.ascontiguousarray(p[:, option]), y == option, w
        if threshold > 0:
            kept = column >= threshold
            column, right, weight = column[kept], right[kept], None if w is None else w[kept]
        if not len(column) or (weight is not None and not weight.any()):
            result.append(BinStatistics(n_bins))
            continue
        edges = equal_mass_edges(column, n_bins, weights=weight) if equal_mass else None
        result.append(BinStatistics.from_predictions(column, right, n_bins, weights=weight, edges=edges))
    return result


def option_gaps(
    probabilities: Floats, labels: NDArray[np.integer], statistics: list[BinStatistics]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Yield each option's (n,) bin indices and gaps, in the bins of its statistics."""
    for option, of_option in enumerate(statistics):
        column = probabilities[:, option].astype(np.float64)
        yield bin_index(column, of_option.edges), (labels == option) - column


def classwise_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    n_bins: int = 10,
    *,
    norm: int | str = 1,
    threshold: float = 0.0,
    weights: ArrayLike | None = None,
) -> float:
    """Return the calibration error of each option's probability over equal-width bins, averaged over the options.

    Parameters
    ----------
    probabilities : array_like of shape (n, K)
        Each row a distribution over a question's options, padded with exact zeros on the right where it has fewer than
        K: an option that a question lacks has no gap there.
    labels : array_like of shape (n,)
        Index of each question's right option.
    n_bins : int, default 10
        Number of equal-width bins on [0, 1], closed on the left, the last one on both sides.
    norm : {1, 2, "max"}, default 1
        See `BinStatistics.error`.
    threshold : float, default 0
        Leave out probabilities below this value, and weight an option's bins by their share of the others. With many
        options nearly all probabilities are close to 0, and their bins would dominate (Nixon et al. 2019). An option
        whose probabilities are all left out counts as 0.
    weights : array_like of shape (n,), optional
        Weight of each sample, finite and not negative.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the row.

    References
    ----------
    Kull et al., *Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with Dirichlet
    calibration*, NeurIPS 2019, eq. 3.
    Nixon et al., *Measuring Calibration in Deep Learning*, CVPR Workshops 2019 (static calibration error,
    thresholding).

    Examples
    --------
    >>> classwise_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 0])
    0.25
    """
    return _mean_error(classwise_statistics(probabilities, labels, n_bins, threshold=threshold, weights=weights), norm)


def adaptive_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    n_bins: int = 10,
    *,
    threshold: float = 0.0,
    weights: ArrayLike | None = None,
) -> float:
    """Return the adaptive calibration error (ACE): the classwise error over equal-mass bins.

    Parameters
    ----------
    probabilities, labels, n_bins, threshold, weights
        As in `classwise_calibration_error`; the bins are those of `equal_mass_edges` for each option. With a
        threshold, such as the 0.01 of Nixon et al., the result is their TACE.

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Nixon et al., *Measuring Calibration in Deep Learning*, CVPR Workshops 2019, section 3.
    """
    return _mean_error(
        classwise_statistics(probabilities, labels, n_bins, threshold=threshold, weights=weights, equal_mass=True)
    )


def _mean_error(statistics: list[BinStatistics], norm: int | str = 1) -> float:
    return float(np.mean([s.error(norm) if s.weights.any() else 0.0 for s in statistics]))
