"""Isotonic regression of the confidence or of every option; wraps SciPy's, which takes weights."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit

from .confidence_maps import FittedConfidenceMap, laplace_bounds
from .inputs import Inputs, Sample, log_softmax, softmax
from .protocol import Calibrator
from .storage import ParameterReader

# Limit for a file; no vocabulary has more tokens.
MAX_OPTIONS = 1_000_000


def isotonic_knots(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the knots of the best-fitting nondecreasing function: increasing x, and values.

    It is linear between knots and constant beyond them. Values are limited to the range that n observations can show,
    [1/(n+2), (n+1)/(n+2)], so that the log-loss stays finite.
    """
    used = weights > 0
    distinct, inverse = np.unique(x[used], return_inverse=True)
    mass = np.bincount(inverse, weights[used])
    means = np.bincount(inverse, weights[used] * y[used]) / mass
    fitted = isotonic_regression(means, weights=mass).x
    # Only the ends of each constant piece are needed.
    inner = np.ones(len(fitted), dtype=bool)
    inner[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return distinct[inner], np.clip(fitted[inner], *laplace_bounds(float(used.sum())))


class IsotonicCalibration(FittedConfidenceMap):
    """The nondecreasing function of the confidence with the least squared error.

    It makes no assumption about the map's form, so it needs a few thousand questions. It is linear between the
    confidences in the sample, constant beyond them, and limited to the range that n questions can show, [1/(n+2),
    (n+1)/(n+2)].

    Notes
    -----
    Wraps `scipy.optimize.isotonic_regression`. scikit-learn and netcal give the same result, as the tests show.

    References
    ----------
    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    name: ClassVar[str] = "isotonic"

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        x, values = isotonic_knots(expit(log_odds), outcomes, weights)
        return {"x": x, "values": values}

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        return np.interp(expit(log_odds), parameters["x"], parameters["values"])

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        return read_knots(reader)


class ClasswiseIsotonicCalibration(Calibrator):
    """An isotonic regression of each option's probability against "this option is right"; rows are then normalized.

    The multi-class extension that scikit-learn uses, with values in [1/(n+2), (n+1)/(n+2)] before they are normalized.
    The options' positions matter: it can correct a bias toward one letter, and the argmax may change.

    Notes
    -----
    Wraps `scipy.optimize.isotonic_regression`, once for each option.

    References
    ----------
    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    name: ClassVar[str] = "isotonic_multiclass"
    positional: bool = True

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        probabilities = softmax(sample.logits)
        options = []
        for k in range(sample.n_options):
            there = ~np.isneginf(sample.logits[:, k]) & (sample.weights > 0)
            if there.any():
                x, values = isotonic_knots(
                    probabilities[there, k], (sample.labels[there] == k).astype(np.float64), sample.weights[there]
                )
            else:
                # An option that no question had is not changed.
                x, values = np.array([0.0, 1.0]), np.array([0.0, 1.0])
            options.append({"x": x, "values": values})
        return {"options": options}

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        options = self.parameters()["options"]
        self._check_option_count(inputs, len(options))
        probabilities = np.exp(log_softmax(inputs.logits))
        there = ~np.isneginf(inputs.logits)
        result = np.zeros_like(probabilities)
        for k in range(inputs.n_options):
            mapped = np.interp(probabilities[:, k], options[k]["x"], options[k]["values"])
            result[:, k] = np.where(there[:, k], mapped, 0.0)
        total = result.sum(axis=1, keepdims=True)
        even = there / there.sum(axis=1, keepdims=True)
        return np.where(total > 0, result / np.where(total > 0, total, 1.0), even)

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        options = []
        for content in reader.mappings("options", MAX_OPTIONS):
            inner = ParameterReader(content, self.name)
            options.append(read_knots(inner))
            inner.done()
        return {"options": options}


def read_knots(reader: ParameterReader) -> dict[str, Any]:
    """Read the knots of a nondecreasing function on [0, 1]."""
    x = reader.increasing("x", 0.0, 1.0)
    values = reader.array("values", (len(x),), 0.0, 1.0)
    if not (np.diff(values) >= 0).all():
        raise ValueError("the values of an isotonic function must not decrease")
    return {"x": x, "values": values}
