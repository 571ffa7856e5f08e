"""Vector, matrix and Dirichlet scaling: multinomial logistic regressions on the logits or log-probabilities."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from .inputs import LOWEST_LOG_PROBABILITY, Inputs, Sample, log_softmax, shifted, softmax, warn
from .protocol import Calibrator
from .storage import ParameterReader


class LinearScaling(Calibrator):
    """Base: softmax(W x + b) of the logits or log-probabilities x.

    The options' positions matter: it can correct a bias toward one letter, and the argmax may change.

    Parameters
    ----------
    prior_precision : float, default 1.0
        Precision of a normal prior on the deviations of W from the identity and of b from 0, in the log-likelihood's
        units. It keeps the fit finite on separable data, and matters less the more questions there are; 0 is plain
        maximum likelihood.
    """

    positional: bool = True

    def __init__(self, prior_precision: float = 1.0) -> None:
        super().__init__()
        if not prior_precision >= 0:
            raise ValueError(f"prior_precision must be at least 0, got {prior_precision}")
        self.prior_precision = prior_precision

    @property
    def weights(self) -> NDArray[np.float64]:
        """W, shape (K, K), or (K,) if it is diagonal."""
        return self.parameters()["weights"]

    @property
    def intercepts(self) -> NDArray[np.float64]:
        """b, shape (K,)."""
        return self.parameters()["intercepts"]

    @abstractmethod
    def _design(self, inputs: Inputs) -> NDArray[np.float64]:
        """Return x, shape (n, K), 0 for absent options."""

    def _start(self, k: int) -> NDArray[np.float64]:
        return np.eye(k)

    @staticmethod
    def _product(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ weights.T

    @staticmethod
    def _weights_gradient(residual: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return residual.T @ x

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        return self._estimate_to(sample, np.eye(sample.n_options)[sample.labels])

    def _estimate_to(self, sample: Sample, targets: NDArray[np.float64]) -> dict[str, Any]:
        """Fit to a target distribution for each question, shape (n, K)."""
        k = sample.n_options
        x, there = self._design(sample), ~np.isneginf(sample.logits)
        identity = self._start(k)
        size = identity.size
        n = len(sample)

        def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            z = np.where(there, self._product(x, theta[:size].reshape(identity.shape)) + theta[size:], -np.inf)
            log_p = log_softmax(shifted(z))
            residual = (np.exp(log_p) - targets) * sample.weights[:, None]
            deviation = theta.copy()
            deviation[:size] -= identity.ravel()
            gradient = np.concatenate([self._weights_gradient(residual, x).ravel(), residual.sum(axis=0)])
            value = -(sample.weights @ (targets * np.where(there, log_p, 0.0)).sum(axis=1))
            penalty = self.prior_precision / n
            return float(value + 0.5 * penalty * deviation @ deviation), gradient + penalty * deviation

        start = np.concatenate([identity.ravel(), np.zeros(k)])
        options = {"gtol": 1e-9, "ftol": 1e-15, "maxiter": 2000, "maxfun": 5000}
        result = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        if result.nit >= options["maxiter"]:
            warn(
                f"the fit of {self.name!r} has no finite optimum or needs more than {result.nit} steps; a positive "
                "prior_precision keeps it finite"
            )
        return {"weights": result.x[:size].reshape(identity.shape), "intercepts": result.x[size:]}

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        self._check_option_count(inputs, len(self.intercepts))
        k = inputs.n_options
        weights = self.weights[:k, :k] if self.weights.ndim == 2 else self.weights[:k]
        z = self._product(self._design(inputs), weights) + self.intercepts[:k]
        return softmax(shifted(np.where(np.isneginf(inputs.logits), -np.inf, z)))

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        intercepts = reader.array("intercepts", (None,), -1e100, 1e100)
        shape = self._start(len(intercepts)).shape
        return {"weights": reader.array("weights", shape, -1e100, 1e100), "intercepts": intercepts}


def centred_logits(inputs: Inputs) -> NDArray[np.float64]:
    """Return logits shifted so that the mean of a question's options is 0, which removes any added constant.

    Differences to the largest are limited to 1,000, where the probability is 0 in double precision.
    """
    there = ~np.isneginf(inputs.logits)
    clipped = np.where(there, np.maximum(inputs.logits, LOWEST_LOG_PROBABILITY), 0.0)
    mean = clipped.sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True)
    return np.where(there, clipped - mean, 0.0)


class MatrixScaling(LinearScaling):
    """softmax(W z + b) of the centered logits z.

    Notes
    -----
    Not wrapped: the logistic regressions of scikit-learn and probmetrics cannot have a prior centered on the identity,
    and require all questions to have the same number of options. Without a prior, the results are the same, as the
    tests show.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017; the prior after Kull et al.,
    NeurIPS 2019.
    """

    name: ClassVar[str] = "matrix"

    def _design(self, inputs: Inputs) -> NDArray[np.float64]:
        return centred_logits(inputs)


class VectorScaling(LinearScaling):
    """softmax(w ∘ z + b) of the centered logits z: matrix scaling with a diagonal matrix.

    Notes
    -----
    Not wrapped, like `MatrixScaling`; the tests compare with probmetrics and with a general minimizer.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017.
    """

    name: ClassVar[str] = "vector"

    def _design(self, inputs: Inputs) -> NDArray[np.float64]:
        return centred_logits(inputs)

    def _start(self, k: int) -> NDArray[np.float64]:
        return np.ones(k)

    @staticmethod
    def _product(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return x * weights

    @staticmethod
    def _weights_gradient(residual: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (residual * x).sum(axis=0)


class DirichletCalibration(LinearScaling):
    """softmax(W log p + b) of the log-probabilities: exact if each class's probabilities are Dirichlet-distributed.

    Notes
    -----
    Not wrapped, like `MatrixScaling`; probmetrics uses dirichletcal, which takes no weights. Without a prior it is
    scikit-learn's logistic regression on the log-probabilities.

    References
    ----------
    Kull, Perello-Nieto, Kängsepp, Silva Filho, Song and Flach, Beyond temperature scaling: obtaining well-calibrated
    multi-class probabilities with Dirichlet calibration, NeurIPS 2019.
    """

    name: ClassVar[str] = "dirichlet"

    def _design(self, inputs: Inputs) -> NDArray[np.float64]:
        log_p = np.maximum(log_softmax(inputs.logits), LOWEST_LOG_PROBABILITY)
        return np.where(np.isneginf(inputs.logits), 0.0, log_p)
