"""A temperature for each question."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from .inputs import Inputs, Sample, softmax
from .protocol import Calibrator
from .storage import ParameterReader
from .temperature import HIGHEST, LOWEST, scaled

# Below this share of the largest entropy, all predictions count as equally certain.
LEAST_ENTROPY = 1e-6


class AdaptiveTemperatureScaling(Calibrator):
    """Divide each question's logits by its own temperature, exp(a + b · log(H/log K) + w · features).

    H is the entropy of the prediction over its K options. With b = w = 0 it is temperature scaling; it helps if
    confident answers are overconfident to a different degree than uncertain ones. It keeps every argmax. Outside the
    range of entropies in the sample, the temperature is constant.

    Parameters
    ----------
    prior_precision : float, default 1.0
        Precision of a normal prior around 0 on b and w, in the log-likelihood's units.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE. The tests compare with a general minimizer.

    References
    ----------
    Balanya, Maroñas and Ramos, Adaptive Temperature Scaling for Robust Calibration of Deep Neural Networks, 2022
    (the entropy-based form, there with a softplus; the features are added here).
    """

    name: ClassVar[str] = "adaptive_temperature"
    keeps_argmax: bool = True

    def __init__(self, prior_precision: float = 1.0) -> None:
        super().__init__()
        if not prior_precision >= 0:
            raise ValueError(f"prior_precision must be at least 0, got {prior_precision}")
        self.prior_precision = prior_precision

    def temperatures(self, inputs: Inputs) -> NDArray[np.float64]:
        """Return each question's temperature, in [0.001, 1000], shape (n,)."""
        parameters = self.parameters()
        self._check_feature_count(inputs, len(parameters["feature_mean"]))
        design = _design(inputs, parameters["feature_mean"], parameters["feature_scale"])
        # Outside the range of entropies in the sample, the temperature is constant.
        design[:, 1] = np.clip(design[:, 1], parameters["lowest"], parameters["highest"])
        exponent = (design * parameters["coefficients"]).sum(axis=1)
        return np.exp(np.clip(exponent, np.log(LOWEST), np.log(HIGHEST)))

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        features = np.zeros((len(sample), 0)) if sample.features is None else sample.features
        mean, scale = standardization(features)
        design = _design(sample, mean, scale)
        rows, n = np.arange(len(sample)), len(sample)
        finite = np.where(np.isneginf(sample.logits), 0.0, sample.logits)
        right = sample.logits[rows, sample.labels]
        penalty = np.full(design.shape[1], self.prior_precision / n)
        penalty[0] = 1e-9

        def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            exponent = np.clip(design @ theta, np.log(LOWEST), np.log(HIGHEST))
            inverse = np.exp(-exponent)
            z = scaled(sample.logits, 1 / inverse[:, None])
            p = softmax(z)
            value = sample.weights @ (np.log(np.exp(z).sum(axis=1)) - inverse * right)
            slope = sample.weights * -inverse * ((p * finite).sum(axis=1) - right)
            return float(value + 0.5 * penalty @ theta**2), design.T @ slope + penalty * theta

        result = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-9})
        seen = design[sample.weights > 0, 1]
        return {
            "coefficients": result.x,
            "lowest": float(seen.min()),
            "highest": float(seen.max()),
            "feature_mean": mean,
            "feature_scale": scale,
        }

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        return softmax(scaled(inputs.logits, self.temperatures(inputs)[:, None]))

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        coefficients = reader.array("coefficients", (None,), -1e100, 1e100)
        if len(coefficients) < 2:
            raise ValueError(f"{self.name!r} has two coefficients and one for each feature, got {len(coefficients)}")
        lowest = reader.number("lowest", -100.0, 0.0)
        return {
            "coefficients": coefficients,
            "lowest": lowest,
            "highest": reader.number("highest", lowest, 0.0),
            **read_standardization(reader, len(coefficients) - 2),
        }


def _design(inputs: Inputs, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = [np.ones((len(inputs), 1)), np.log(np.maximum(relative_entropy(inputs), LEAST_ENTROPY))[:, None]]
    if inputs.features is not None:
        columns.append(standardized(inputs.features, mean, scale))
    return np.hstack(columns)


def relative_entropy(inputs: Inputs) -> NDArray[np.float64]:
    """Return each prediction's entropy relative to a uniform one over its options, in [0, 1], shape (n,)."""
    p = softmax(inputs.logits)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    options = np.maximum((~np.isneginf(inputs.logits)).sum(axis=1), 2)
    return np.clip(entropy / np.log(options), 0.0, 1.0)


def standardization(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each feature, shape (d,); a deviation of 0 is replaced by 1."""
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > 1e-12, scale, 1.0)


def standardized(
    features: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return features in standard deviations from the mean, limited to 10, so that no outlier dominates."""
    return np.clip((features - mean) / scale, -10.0, 10.0)


def read_standardization(reader: ParameterReader, d: int) -> dict[str, Any]:
    """Read the means and deviations of d features."""
    return {
        "feature_mean": reader.array("feature_mean", (d,)),
        "feature_scale": reader.array("feature_scale", (d,), 1e-300),
    }
