"""Calibration for a shifted target without labels, weighted by an estimated density ratio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .adaptive_temperature import relative_entropy, standardization, standardized
from .confidence_maps import log_odds_of
from .inputs import UNLABELED, Inputs, Sample
from .logistic import fit_logistic
from .protocol import Calibrator
from .registry import base_of, by_name, from_nested, nested
from .storage import ParameterReader


class WrappingCalibrator(Calibrator):
    """Base of calibrators that wrap another one, given by name, and inherit its properties."""

    def __init__(self, base: str = "temperature", **base_options: Any) -> None:
        super().__init__()
        self._set_base(by_name(base, **base_options))

    def _set_base(self, base: Calibrator) -> None:
        self.base = base_of(self.name, base)
        for promise in ("keeps_argmax", "monotonic", "needs_features", "positional", "takes_events", "approximate"):
            setattr(self, promise, getattr(base, promise))

    @staticmethod
    def _fitted_base(base: Calibrator, sample: Sample) -> dict[str, Any]:
        """Fit a new calibrator of the base's kind on a checked sample, and return it as a parameter."""
        return nested(base._fit_sample(sample))


class ImportanceWeightedCalibration(WrappingCalibrator):
    """Fit a calibrator on labeled questions that are weighted to resemble the unlabeled ones.

    Questions labeled -1 are a sample of the target. A logistic regression distinguishes target from source by the
    features, the confidence's log-odds (limited to ±20) and the entropy; its odds are the density ratio, which weights
    the labeled questions. It helps if the target has the same kinds of questions in different proportions (covariate
    shift), but not if the same questions have different answers, or if the source lacks the target's kind of
    questions.

    Parameters
    ----------
    base : str, default "temperature"
        The calibrator to fit.
    max_weight : float, default 20.0
        Largest weight, in multiples of the mean; without a limit, the fit could depend on a few questions.
    prior_precision : float, default 1.0
        Precision of the prior on the regression's coefficients, in the log-likelihood's units.
    **base_options
        Options of the base.

    Attributes
    ----------
    effective_sample_size : float
        (Σw)² / Σw² over the labeled questions, the equivalent number of equally weighted ones. If it is small, the fit
        is uncertain.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Pampari and Ermon, Unsupervised Calibration under Covariate Shift, 2020.
    """

    name: ClassVar[str] = "importance_weighted"
    keeps_argmax: bool = True
    monotonic: bool = True
    takes_unlabeled: ClassVar[bool] = True
    wrappable: ClassVar[bool] = False

    def __init__(
        self, base: str = "temperature", max_weight: float = 20.0, prior_precision: float = 1.0, **base_options: Any
    ) -> None:
        super().__init__(base, **base_options)
        if not max_weight >= 1:
            raise ValueError(f"max_weight must be at least 1, got {max_weight}")
        if not prior_precision > 0:
            raise ValueError(f"prior_precision must be positive, got {prior_precision}")
        self.max_weight, self.prior_precision = max_weight, prior_precision

    @property
    def effective_sample_size(self) -> float:
        """The equivalent number of equally weighted questions."""
        return self.parameters()["effective_sample_size"]

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        target = sample.labels == UNLABELED
        if not target.any():
            raise ValueError("'importance_weighted' needs questions of the target: give some with the label -1")
        ratio = density_ratio(_covariates(sample), target, self.prior_precision)[~target]
        ratio = np.minimum(ratio, self.max_weight * ratio.mean())
        source = sample[~target]
        weights = source.weights * ratio
        weights /= weights.sum()
        return {
            "base": self._fitted_base(self.base, replace(source, weights=weights)),
            "effective_sample_size": float(1 / (weights @ weights)),
        }

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        return self.base._apply(inputs)

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        base = from_nested(reader.mapping("base"))
        self._set_base(base)
        return {"base": nested(base), "effective_sample_size": reader.number("effective_sample_size", 0.0)}


def density_ratio(
    covariates: NDArray[np.float64], target: NDArray[np.bool_], prior_precision: float = 1.0
) -> NDArray[np.float64]:
    """Return p_target(x) / p_source(x), estimated by logistic regression, shape (n,).

    Parameters
    ----------
    covariates : ndarray, shape (n, d)
    target : ndarray of bool, shape (n,)
        Whether each row belongs to the target; both kinds must be present.
    prior_precision : float, default 1.0
        Of a normal prior around 0 on the coefficients of standardized covariates.

    Returns
    -------
    ndarray of float64, shape (n,)
        In [exp(-50), exp(50)] times the ratio of the two groups' sizes.
    """
    mean, scale = standardization(covariates)
    design = np.column_stack([standardized(covariates, mean, scale), np.ones(len(covariates))])
    precision = np.append(np.full(len(mean), prior_precision), 0.0)
    beta = fit_logistic(design, target.astype(np.float64), np.ones(len(target)), precision=precision)
    return np.exp(np.clip(design @ beta, -50, 50)) * (~target).sum() / target.sum()


def _covariates(sample: Sample) -> NDArray[np.float64]:
    columns = [np.clip(log_odds_of(sample), -20, 20)[:, None], relative_entropy(sample)[:, None]]
    if sample.features is not None:
        columns.append(sample.features)
    return np.hstack(columns)
