"""Selective scaling: separate temperatures for probable mistakes and for other answers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .adaptive_temperature import (
    read_standardization,
    relative_entropy,
    standardization,
    standardized,
)
from .confidence_maps import log_odds_of
from .inputs import Inputs, Sample, softmax
from .logistic import fit_logistic
from .protocol import Calibrator
from .storage import ParameterReader
from .temperature import HIGHEST, LOWEST, best_temperature, scaled


class SelectiveScaling(Calibrator):
    """Scale probable mistakes and other answers with separate temperatures.

    A logistic regression on the confidence's log-odds (limited to ±50), the entropy and any features estimates the
    probability of a mistake. The most suspicious questions, as many as there are mistakes in the sample, get one
    temperature, all others another. It keeps every argmax.

    For arrays of another shape, such as images' pixels or sequences' tokens, see
    `hf_calib.calibrators.arrays.fit_array`.

    Parameters
    ----------
    prior_precision : float, default 1.0
        Precision of a normal prior around 0 on the regression's coefficients, in the log-likelihood's units.

    Attributes
    ----------
    temperatures : tuple of float
        For answers that look right, and for probable mistakes.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Wang, Li, Liang et al., On Calibrating Semantic Segmentation Models: Analyses and An Algorithm, CVPR 2023; the
    selector there is a small network on the logits.
    """

    name: ClassVar[str] = "selective_scaling"
    keeps_argmax: bool = True

    def __init__(self, prior_precision: float = 1.0) -> None:
        super().__init__()
        if not prior_precision > 0:
            raise ValueError(f"prior_precision must be positive, got {prior_precision}")
        self.prior_precision = prior_precision

    @property
    def temperatures(self) -> tuple[float, float]:
        """The temperatures for answers that look right, and for probable mistakes."""
        parameters = self.parameters()
        return parameters["temperature"], parameters["mistake_temperature"]

    def suspicious(self, inputs: Inputs) -> NDArray[np.bool_]:
        """Return which answers look like mistakes, shape (n,)."""
        parameters = self.parameters()
        self._check_feature_count(inputs, len(parameters["feature_mean"]) - 2)
        return self._scores(_columns(inputs), parameters) > parameters["threshold"]

    @staticmethod
    def _scores(columns: NDArray[np.float64], parameters: dict[str, Any]) -> NDArray[np.float64]:
        design = standardized(columns, parameters["feature_mean"], parameters["feature_scale"])
        # The same product and sum for each row, whatever the number of rows.
        return (design * parameters["coefficients"]).sum(axis=1)

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        columns = _columns(sample)
        used = sample.weights > 0
        mean, scale = standardization(columns[used])
        design = np.column_stack([standardized(columns, mean, scale), np.ones(len(columns))])
        wrong = ~sample.correct
        precision = np.append(np.full(len(mean), self.prior_precision), 1e-3)
        beta = fit_logistic(design, wrong.astype(np.float64), sample.weights * used.sum(), precision=precision)
        parameters: dict[str, Any] = {"coefficients": beta[:-1], "feature_mean": mean, "feature_scale": scale}
        scores = self._scores(columns, parameters)
        order = np.argsort(scores, kind="stable")
        order = order[used[order]]
        share_right = float(sample.weights @ sample.correct)
        cut = np.searchsorted(np.cumsum(sample.weights[order]), share_right * (1 - 1e-12))
        parameters["threshold"] = float(scores[order[min(int(cut), len(order) - 1)]])
        suspicious = scores > parameters["threshold"]
        parameters["temperature"] = _temperature(sample, used & ~suspicious)
        parameters["mistake_temperature"] = _temperature(sample, used & suspicious)
        return parameters

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        right, wrong = self.temperatures
        return softmax(scaled(inputs.logits, np.where(self.suspicious(inputs), wrong, right)[:, None]))

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        coefficients = reader.array("coefficients", (None,), -1e100, 1e100)
        return {
            "coefficients": coefficients,
            "threshold": reader.number("threshold"),
            "temperature": reader.number("temperature", LOWEST, HIGHEST),
            "mistake_temperature": reader.number("mistake_temperature", LOWEST, HIGHEST),
            **read_standardization(reader, len(coefficients)),
        }


def _columns(inputs: Inputs) -> NDArray[np.float64]:
    columns = [np.clip(log_odds_of(inputs), -50, 50)[:, None], relative_entropy(inputs)[:, None]]
    if inputs.features is not None:
        columns.append(inputs.features)
    return np.hstack(columns)


def _temperature(sample: Sample, chosen: NDArray[np.bool_]) -> float:
    """Return the best temperature for a part of the sample, or for all of it if the part is empty."""
    part = sample[chosen] if chosen.any() else sample
    return best_temperature(
        part.logits, float(part.weights @ part.logits[np.arange(len(part)), part.labels]), part.weights
    )
