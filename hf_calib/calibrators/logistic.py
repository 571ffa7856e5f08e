"""Logistic regression with a normal prior, by Newton's method in a trust region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from scipy.special import expit


def fit_logistic(
    design: NDArray[np.float64],
    outcomes: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    precision: NDArray[np.float64] | float = 0.0,
    mean: NDArray[np.float64] | float = 0.0,
    nonnegative: tuple[int, ...] = (),
) -> NDArray[np.float64]:
    """Return the coefficients that minimize the log-loss plus precision/2 · (coefficient - mean)².

    Parameters
    ----------
    design : ndarray, shape (n, d)
        Columns of the regression; add a column of ones for an intercept.
    outcomes : ndarray, shape (n,)
        In [0, 1]: whether the event happened, or its probability.
    weights : ndarray, shape (n,)
        Their sum is the sample size relative to the prior.
    precision, mean : float or ndarray of shape (d,)
        Of the prior.
    nonnegative : tuple of int
        Coefficients that must be at least 0.
    """
    # Scale the columns, whatever their units.
    scale = np.abs(design).max(axis=0, initial=0.0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    x = design / scale
    strength: NDArray[np.float64] = np.broadcast_to(precision, scale.shape) / scale**2
    center: NDArray[np.float64] = np.broadcast_to(mean, scale.shape) * scale
    total = weights.sum()

    def loss(beta: NDArray[np.float64]) -> float:
        eta = x @ beta
        nll = weights @ (np.logaddexp(0.0, eta) - outcomes * eta)
        return float(nll + 0.5 * strength @ (beta - center) ** 2) / total

    def gradient(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x.T @ (weights * (expit(x @ beta) - outcomes)) + strength * (beta - center)) / total

    def hessian(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(x @ beta)
        return ((x * (weights * p * (1 - p))[:, None]).T @ x + np.diag(strength)) / total

    if nonnegative:
        lower = np.full(len(scale), -np.inf)
        lower[list(nonnegative)] = 0.0
        options = {"gtol": 1e-10, "xtol": 1e-14, "maxiter": 500}
        start = np.maximum(center, lower)
        result = minimize(
            loss, start, jac=gradient, method="L-BFGS-B", bounds=Bounds(lower, np.inf),
            options={"gtol": options["gtol"], "ftol": 1e-16, "maxiter": 2000},
        )  # fmt: skip
        free = np.array([index not in nonnegative or result.x[index] > 0 for index in range(len(scale))])
        # For the coefficients that are not at their bounds, Newton's method gives the last digits.
        polished = result.x.copy()
        for _ in range(20):
            step = np.linalg.lstsq(hessian(polished)[np.ix_(free, free)], gradient(polished)[free], rcond=None)[0]
            following = polished.copy()
            following[free] -= step
            if loss(following) >= loss(polished) or (following < lower).any():
                break
            polished = following
        return polished / scale
    result = minimize(
        loss, center.copy(), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10, "maxiter": 500}
    )
    return result.x / scale
