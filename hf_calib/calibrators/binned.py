"""Histogram binning and scaling-binning."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..measures.validation import check_n_bins
from .confidence_maps import FittedConfidenceMap, laplace_bounds
from .inputs import Inputs
from .parametric_maps import PlattScaling
from .storage import ParameterReader

SCHEMES = ("equal_mass", "equal_width")
MAX_BINS = 1000


def inner_edges(c: NDArray[np.float64], weights: NDArray[np.float64], n_bins: int, scheme: str) -> NDArray[np.float64]:
    """Return the edges between bins; a bin holds [lower, upper)."""
    if scheme == "equal_width":
        return np.arange(1, n_bins) / n_bins
    order = np.argsort(c, kind="stable")
    order = order[weights[order] > 0]
    ordered, mass = c[order], np.cumsum(weights[order])
    cuts = np.searchsorted(mass, np.arange(1, n_bins) / n_bins * mass[-1] * (1 + 1e-12), side="right")
    edges = np.unique(ordered[np.minimum(cuts, len(ordered) - 1)])
    # An edge at the lowest confidence would leave an empty bin below it.
    return edges[edges > ordered[0]]


class HistogramBinning(FittedConfidenceMap):
    """Return each confidence the accuracy of its bin.

    Parameters
    ----------
    n_bins : int, default 10
    scheme : {"equal_mass", "equal_width"}, default "equal_mass"
        Bins with equally many questions, or of equal width.

    Notes
    -----
    A bin's value is limited to the range that its n questions can show, [1/(n+2), (n+1)/(n+2)]; an empty bin has the
    value of its center. The map need not be monotonic.

    Not wrapped: netcal's and probmetrics' take no weights and return 0 and 1, and the former cannot transform with
    bins of equal mass. Otherwise they are the same, as the tests show.

    References
    ----------
    Zadrozny and Elkan, Obtaining calibrated probability estimates from decision trees and naive Bayesian classifiers,
    ICML 2001.
    """

    name: ClassVar[str] = "histogram"
    monotonic: bool = False

    def __init__(self, n_bins: int = 10, scheme: str = "equal_mass") -> None:
        super().__init__()
        if not 1 <= check_n_bins(n_bins) <= MAX_BINS:
            raise ValueError(f"n_bins must be from 1 to {MAX_BINS}, got {n_bins}")
        if scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
        self.n_bins, self.scheme = n_bins, scheme

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        c = expit(log_odds)
        edges = inner_edges(c, weights, self.n_bins, self.scheme)
        index = np.searchsorted(edges, c, side="right")
        size = len(edges) + 1
        mass = np.bincount(index, weights, size)
        counts = np.bincount(index, (weights > 0).astype(np.float64), size)
        bounds = np.concatenate([[0.0], edges, [1.0]])
        centres = (bounds[:-1] + bounds[1:]) / 2
        means = np.bincount(index, weights * outcomes, size) / np.where(mass > 0, mass, 1.0)
        return {"edges": edges, "values": np.where(mass > 0, np.clip(means, *laplace_bounds(counts)), centres)}

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        return parameters["values"][np.searchsorted(parameters["edges"], expit(log_odds), side="right")]

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        return _read_bins(reader)


class ScalingBinning(FittedConfidenceMap):
    """Platt scaling, after which each confidence is replaced by the mean of its bin.

    It has few outputs, so their calibration error can be measured, and their values come from a smooth fit, so it
    needs fewer questions than a histogram.

    Parameters
    ----------
    n_bins : int, default 10
        Bins of equal mass.

    Notes
    -----
    Not wrapped: the implementation in the paper's uncertainty-calibration, which probmetrics uses too, lacks Platt's
    targets and weights. The tests compare with the definition.

    References
    ----------
    Kumar, Liang and Ma, Verified Uncertainty Calibration, NeurIPS 2019.
    """

    name: ClassVar[str] = "scaling_binning"

    def __init__(self, n_bins: int = 10) -> None:
        super().__init__()
        if not 1 <= check_n_bins(n_bins) <= MAX_BINS:
            raise ValueError(f"n_bins must be from 1 to {MAX_BINS}, got {n_bins}")
        self.n_bins = n_bins

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        platt = PlattScaling()._estimate_map(log_odds, outcomes, weights)
        scaled = expit(platt["slope"] * log_odds + platt["intercept"])
        edges = inner_edges(scaled, weights, self.n_bins, "equal_mass")
        index = np.searchsorted(edges, scaled, side="right")
        # Questions with a weight of 0 must not make an empty bin.
        mass = np.bincount(index, weights + 1e-300, len(edges) + 1)
        values = np.bincount(index, (weights + 1e-300) * scaled, len(edges) + 1) / mass
        return {**platt, "edges": edges, "values": np.maximum.accumulate(values)}

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        scaled = expit(parameters["slope"] * log_odds + parameters["intercept"])
        return parameters["values"][np.searchsorted(parameters["edges"], scaled, side="right")]

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        slope, intercept = reader.number("slope", 0.0, 1e100), reader.number("intercept", -1e100, 1e100)
        bins = _read_bins(reader)
        if not (np.diff(bins["values"]) >= 0).all():
            raise ValueError("the values of scaling-binning must not decrease")
        return {"slope": slope, "intercept": intercept, **bins}


def _read_bins(reader: ParameterReader) -> dict[str, Any]:
    values = reader.array("values", (None,), 0.0, 1.0)
    edges = reader.array("edges", (len(values) - 1,), 0.0, 1.0)
    if not (np.diff(edges) > 0).all():
        raise ValueError("the edges of bins must increase")
    return {"edges": edges, "values": values}
