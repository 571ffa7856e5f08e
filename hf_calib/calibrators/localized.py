"""Local recalibration: a question's confidence becomes the accuracy on similar questions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import expit

from .adaptive_temperature import read_standardization, standardization, standardized
from .binned import inner_edges
from .confidence_maps import SCOPES, ConfidenceMap, log_odds_of
from .inputs import Inputs, Sample
from .parametric_maps import PlattScaling
from .storage import ParameterReader

WIDTHS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
_CHUNK = 1024


class LocalizedCalibration(ConfidenceMap):
    """The accuracy on labeled questions of similar confidence and features, weighted by distance.

    p(x) = (Σ_j k(x, x_j) correct_j + s · platt(x)) / (Σ_j k(x, x_j) + s), over the labeled questions j in the bin of
    its confidence, with k = exp(-‖φ(x) - φ(x_j)‖ / γ) on standardized features. Without neighbors it is Platt scaling.
    It helps if subsets that the features distinguish are miscalibrated in different directions, which no map of the
    confidence can correct; uninformative features only add noise.

    Parameters
    ----------
    gamma : float, optional
        Width γ, in units of the median distance between two questions. By default the value from 0.1 to 2 with the
        lowest leave-one-out log-loss.
    n_bins : int, default 15
        Bins of confidence of equal mass.
    prior_count : float, default 1.0
        Weight s of the Platt-scaled confidence, as a number of neighbors.
    max_samples : int, default 4000
        If there are more labeled questions, a random subset of this size is kept.
    seed : int, default 0
        Seed of that subset.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Luo, Bhatnagar et al., Local Calibration: Metrics and Recalibration, UAI 2022 (LoRe; the Platt-scaled prior is
    added here).
    """

    name: ClassVar[str] = "localized"
    monotonic: bool = False
    needs_features: bool = True

    def __init__(
        self,
        gamma: float | None = None,
        n_bins: int = 15,
        prior_count: float = 1.0,
        max_samples: int = 4000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if gamma is not None and not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if not prior_count > 0:
            raise ValueError(f"prior_count must be positive, got {prior_count}")
        if n_bins < 1 or max_samples < 1:
            raise ValueError("n_bins and max_samples must be at least 1")
        self.gamma, self.n_bins, self.prior_count = gamma, n_bins, prior_count
        self.max_samples, self.seed = max_samples, seed

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        assert sample.features is not None
        outcomes = (sample.labels == 1 if sample.event else sample.correct).astype(np.float64)
        log_odds = log_odds_of(sample)
        platt = PlattScaling()._estimate_map(log_odds, outcomes, sample.weights)
        used = np.flatnonzero(sample.weights > 0)
        if len(used) > self.max_samples:
            used = np.sort(np.random.default_rng(self.seed).choice(used, self.max_samples, replace=False))
        counts = sample.weights[used] * len(used) / sample.weights[used].sum()
        mean, scale = standardization(sample.features[used])
        phi = standardized(sample.features[used], mean, scale)
        c, y = expit(log_odds[used]), outcomes[used]
        edges = inner_edges(c, counts, self.n_bins, "equal_mass")
        index = np.searchsorted(edges, c, side="right")
        prior = expit(platt["slope"] * log_odds[used] + platt["intercept"])
        unit = _median_distance(phi)
        widths = WIDTHS if self.gamma is None else (self.gamma,)
        losses = [self._left_out_loss(phi, index, y, counts, prior, width * unit) for width in widths]
        return {
            "scope": SCOPES[sample.event],
            **platt,
            "gamma": float(widths[int(np.argmin(losses))] * unit),
            "prior_count": self.prior_count,
            "features": phi,
            "bins": index.astype(np.float64),
            "outcomes": y,
            "counts": counts,
            "edges": edges,
            "feature_mean": mean,
            "feature_scale": scale,
        }

    def _left_out_loss(
        self, phi: NDArray, index: NDArray, y: NDArray, counts: NDArray, prior: NDArray, gamma: float
    ) -> float:
        total = 0.0
        for b in np.unique(index):
            rows = index == b
            kernel = np.exp(-cdist(phi[rows], phi[rows]) / gamma) * counts[rows]
            np.fill_diagonal(kernel, 0.0)
            p = (kernel @ y[rows] + self.prior_count * prior[rows]) / (kernel.sum(axis=1) + self.prior_count)
            p = np.clip(p, 1e-12, 1 - 1e-12)
            total -= float(counts[rows] @ (y[rows] * np.log(p) + (1 - y[rows]) * np.log1p(-p)))
        return total

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        self._check_feature_count(inputs, len(parameters["feature_mean"]))
        assert inputs.features is not None
        phi = standardized(inputs.features, parameters["feature_mean"], parameters["feature_scale"])
        index = np.searchsorted(parameters["edges"], expit(log_odds), side="right")
        result = expit(parameters["slope"] * log_odds + parameters["intercept"])
        strength = parameters["prior_count"]
        for b in np.unique(index):
            neighbors = parameters["bins"] == b
            for rows in np.array_split(np.flatnonzero(index == b), max(1, (index == b).sum() // _CHUNK)):
                kernel = np.exp(-cdist(phi[rows], parameters["features"][neighbors]) / parameters["gamma"])
                kernel *= parameters["counts"][neighbors]
                right = (kernel * parameters["outcomes"][neighbors]).sum(axis=1)
                result[rows] = (right + strength * result[rows]) / (kernel.sum(axis=1) + strength)
        return np.clip(result, 0.0, 1.0)

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        outcomes = reader.array("outcomes", (None,), 0.0, 1.0)
        features = reader.array("features", (len(outcomes), None), -10.0, 10.0)
        bins = reader.array("bins", (len(outcomes),), 0.0, 1e6)
        return {
            "slope": reader.number("slope", 0.0, 1e100),
            "intercept": reader.number("intercept", -1e100, 1e100),
            "gamma": reader.number("gamma", 1e-300),
            "prior_count": reader.number("prior_count", 1e-15, 1e15),
            "features": features,
            "bins": bins,
            "outcomes": outcomes,
            "counts": reader.array("counts", (len(outcomes),), 0.0, 1e15),
            "edges": reader.increasing("edges", 0.0, 1.0, may_be_empty=True),
            **read_standardization(reader, features.shape[1]),
        }


def _median_distance(phi: NDArray[np.float64]) -> float:
    """Return the median distance between at most 1,000 of the questions; 1 if they are all equal."""
    few = phi[:: max(1, len(phi) // 1000)]
    distance = float(np.median(cdist(few, few)[np.triu_indices(len(few), 1)])) if len(few) > 1 else 0.0
    return distance if distance > 0 else 1.0
