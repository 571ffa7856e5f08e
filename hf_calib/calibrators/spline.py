"""Spline calibration: the derivative of a smooth fit to the cumulative accuracy."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import expit

from .confidence_maps import FittedConfidenceMap, laplace_bounds
from .inputs import Inputs
from .storage import ParameterReader

TABLE_SIZE = 200


class SplineCalibration(FittedConfidenceMap):
    """Fit a natural cubic spline to the cumulative number of right answers by confidence; its slope is the accuracy.

    With the questions sorted by confidence, let t_i be the share of questions up to the i-th, and h(t_i) the share of
    all questions that are among these and answered correctly. The slope of a least-squares spline through h at the
    position t(c) of a confidence is the accuracy there, limited to the range that n questions can show, [1/(n+2),
    (n+1)/(n+2)]. Over questions of equal confidence, h rises evenly, and their slopes are averaged. The map needs no
    bins and is smooth, but may not be monotonic.

    Parameters
    ----------
    n_knots : int, default 6
        Knots of the spline, evenly spaced in t; at most one for each question.

    Notes
    -----
    Wraps `scipy.interpolate.CubicSpline`. probmetrics' calibrators are not wrapped: one fits a spline to the
    difference to the confidence, the other to the log-odds, and neither takes weights.

    References
    ----------
    Gupta, Rahimi, Ajanthan, Mensink, Sminchisescu and Hartley, Calibration of Neural Networks using Splines, ICLR
    2021.
    """

    name: ClassVar[str] = "spline"
    monotonic: bool = False

    def __init__(self, n_knots: int = 6) -> None:
        super().__init__()
        if not 2 <= n_knots <= 100:
            raise ValueError(f"n_knots must be from 2 to 100, got {n_knots}")
        self.n_knots = n_knots

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        used = np.flatnonzero(weights > 0)
        used = used[np.argsort(expit(log_odds[used]), kind="stable")]
        c, inverse = np.unique(expit(log_odds[used]), return_inverse=True)
        mass = weights[used]
        total = np.bincount(inverse, mass)
        # Questions of equal confidence cannot be ordered, so each counts as their mean outcome.
        outcome = (np.bincount(inverse, mass * outcomes[used]) / total)[inverse]
        place, height = np.cumsum(mass), np.cumsum(mass * outcome)
        slopes = self._slopes(np.append(0.0, place), np.append(0.0, height), np.append(mass[0], mass), place)
        slopes = np.bincount(inverse, mass * slopes) / total
        # A table keeps the file small.
        rows = np.unique(np.linspace(0, len(c) - 1, min(len(c), TABLE_SIZE)).round().astype(int))
        return {"x": c[rows], "values": np.clip(slopes, *laplace_bounds(float(len(used))))[rows]}

    def _slopes(
        self, t: NDArray[np.float64], height: NDArray[np.float64], mass: NDArray[np.float64], at: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the slope of the least-squares natural spline through (t, height)."""
        # Fewer questions than knots do not determine a spline.
        n_knots = max(2, min(self.n_knots, len(at)))
        knots = np.linspace(0.0, 1.0, n_knots)
        # A natural spline is linear in its values at the knots, so there is one column per knot.
        basis = CubicSpline(knots, np.eye(n_knots), bc_type="natural") if n_knots > 2 else None
        if basis is None:
            return np.full(len(at), (mass @ (t * height)) / (mass @ t**2))
        root = np.sqrt(mass)
        values = np.linalg.lstsq(basis(t) * root[:, None], height * root, rcond=None)[0]
        return basis(at, 1) @ values

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        return np.interp(expit(log_odds), parameters["x"], parameters["values"])

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        x = reader.increasing("x", 0.0, 1.0)
        return {"x": x, "values": reader.array("values", (len(x),), 0.0, 1.0)}
