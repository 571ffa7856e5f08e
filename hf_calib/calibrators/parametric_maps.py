"""Platt scaling and beta calibration: maps of the confidence with two and three parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .confidence_maps import FittedConfidenceMap, log_probability_pair
from .inputs import Inputs
from .logistic import fit_logistic
from .storage import ParameterReader


def smoothed_outcomes(outcomes: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Platt's targets, (n₊ + 1)/(n₊ + 2) for 1 and 1/(n₋ + 2) for 0, which keep the fit finite."""
    count = len(outcomes) * weights / weights.sum()
    positive, negative = float(count @ outcomes), float(count @ (1 - outcomes))
    return np.where(outcomes > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))


class PlattScaling(FittedConfidenceMap):
    """A logistic function of the confidence's log-odds: σ(a · log(c/(1-c)) + b), a >= 0.

    Attributes
    ----------
    slope, intercept : float
        a and b.

    Notes
    -----
    Fitted to Platt's smoothed targets, so that the fit is finite on separable and one-sided data.

    Not wrapped: scikit-learn's implementation is private and less precise; those of netcal and probmetrics support
    neither Platt's targets nor weights. The tests compare with scikit-learn's.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, 1999.
    """

    name: ClassVar[str] = "platt"

    @property
    def slope(self) -> float:
        """The factor of the log-odds."""
        return self.parameters()["slope"]

    @property
    def intercept(self) -> float:
        """The constant added to them."""
        return self.parameters()["intercept"]

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        design = np.column_stack([log_odds, np.ones(len(log_odds))])
        targets = smoothed_outcomes(outcomes, weights)
        slope, intercept = fit_logistic(
            design, targets, weights * len(weights), precision=1e-12, mean=np.array([1.0, 0.0])
        )
        if slope < 0:
            slope = 0.0
            (intercept,) = fit_logistic(design[:, 1:], targets, weights * len(weights))
        return {"slope": float(slope), "intercept": float(intercept)}

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        return expit(self.slope * log_odds + self.intercept)

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        return {"slope": reader.number("slope", 0.0, 1e100), "intercept": reader.number("intercept", -1e100, 1e100)}


class BetaCalibration(FittedConfidenceMap):
    """σ(a · log c - b · log(1-c) + m) with a, b >= 0: Platt's map with different slopes at both ends.

    Parameters
    ----------
    prior_precision : float, default 1e-3
        Precision of a normal prior around the identity, a = b = 1, m = 0, which keeps the fit finite on separable
        data.

    Attributes
    ----------
    coefficients : tuple of float
        a, b and m.

    Notes
    -----
    Not wrapped: betacal stops early and determines the signs by refitting; netcal and probmetrics take no weights (and
    the latter's signs are free); none has a prior. The tests compare with the first two.

    References
    ----------
    Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017.
    """

    name: ClassVar[str] = "beta"

    def __init__(self, prior_precision: float = 1e-3) -> None:
        super().__init__()
        if not prior_precision >= 0:
            raise ValueError(f"prior_precision must be at least 0, got {prior_precision}")
        self.prior_precision = prior_precision

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """a, b and m."""
        parameters = self.parameters()
        return parameters["a"], parameters["b"], parameters["m"]

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        log_c, log_1mc = log_probability_pair(log_odds)
        design = np.column_stack([log_c, -log_1mc, np.ones(len(log_c))])
        fitted = fit_logistic(
            design,
            outcomes,
            weights * len(weights),
            precision=self.prior_precision,
            mean=np.array([1.0, 1.0, 0.0]),
            nonnegative=(0, 1),
        )
        return dict(zip("abm", map(float, fitted), strict=True))

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        a, b, m = self.coefficients
        log_c, log_1mc = log_probability_pair(log_odds)
        return expit(a * log_c - b * log_1mc + m)

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        return {
            "a": reader.number("a", 0.0, 1e100),
            "b": reader.number("b", 0.0, 1e100),
            "m": reader.number("m", -1e100, 1e100),
        }
