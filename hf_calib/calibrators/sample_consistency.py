"""Confidence from the agreement of sampled answers, and a calibrator for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ..measures.validation import ROUNDING
from .adaptive_temperature import read_standardization, standardization, standardized
from .confidence_maps import ConfidenceCalibrator, with_confidence
from .inputs import Inputs, Sample, softmax
from .logistic import fit_logistic
from .storage import ParameterReader

MEASURES = ("agreement", "entropy", "first_second_distance")


def vote_shares(samples: Sequence[Sequence[Hashable]]) -> tuple[list[list[Hashable]], NDArray[np.float64]]:
    """Count the distinct answers among each question's samples.

    Parameters
    ----------
    samples : sequence of n sequences
        Each question's sampled answers, at least one; the same answers must compare equal.

    Returns
    -------
    answers : list of lists
        Each question's distinct answers, the most frequent first.
    shares : ndarray of float64, shape (n, K)
        Their shares of the samples, padded with 0 on the right to the largest number of distinct answers, at least 2.

    Raises
    ------
    ValueError
        If a question has no samples.
    """
    counted = [Counter(answers).most_common() for answers in samples]
    for row, counts in enumerate(counted):
        if not counts:
            raise ValueError(f"question {row}, counted from 0, has no samples; give at least one")
    width = max([2, *map(len, counted)])
    shares = np.zeros((len(counted), width))
    for row, counts in enumerate(counted):
        shares[row, : len(counts)] = [count / len(samples[row]) for _, count in counts]
    return [[answer for answer, _ in counts] for counts in counted], shares


def consistency(shares: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return three confidences in [0, 1] of each row of vote shares, shape (n,).

    Parameters
    ----------
    shares : array_like, shape (n, K)
        Each answer's share of a question's samples; rows sum to one.

    Returns
    -------
    dict
        ``agreement``, the share of the most frequent answer; ``entropy``, 1 - H/log(number of distinct answers), 1 if
        there is only one; ``first_second_distance``, the share of the first minus that of the second.

    References
    ----------
    Lyu et al., Calibrating Large Language Models with Sample Consistency, AAAI 2025.
    """
    p = np.asarray(shares, dtype=np.float64)
    ordered = np.sort(p, axis=1)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    distinct = (p > 0).sum(axis=1)
    largest = np.log(np.maximum(distinct, 2))
    return {
        "agreement": ordered[:, -1],
        "entropy": np.clip(1 - entropy / largest, 0.0, 1.0),
        "first_second_distance": ordered[:, -1] - ordered[:, -2],
    }


class SampleConsistency(ConfidenceCalibrator):
    """A logistic regression on agreement, entropy and first-second distance of sampled answers.

    Predictions are the options' shares of a question's samples, from `vote_shares` or by counting, of the kind
    "probabilities". An option that no sample chose has the share 0 and may still be right; if all samples agree, the
    remaining probability is divided evenly among the other columns.

    Parameters
    ----------
    measures : sequence of str, default all three
        Which of "agreement", "entropy" and "first_second_distance" to use.
    prior_precision : float, default 1.0
        Precision of a normal prior around 0 on the coefficients, in the log-likelihood's units.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Lyu et al., Calibrating Large Language Models with Sample Consistency, AAAI 2025.
    """

    name: ClassVar[str] = "sample_consistency"
    monotonic: bool = False
    takes_events: bool = False
    labels_may_be_absent: ClassVar[bool] = True

    def __init__(self, measures: Sequence[str] = MEASURES, prior_precision: float = 1.0) -> None:
        super().__init__()
        unknown = [measure for measure in measures if measure not in MEASURES]
        if unknown or not measures:
            raise ValueError(f"measures must be among {', '.join(MEASURES)}, got {measures!r}")
        if not prior_precision >= 0:
            raise ValueError(f"prior_precision must be at least 0, got {prior_precision}")
        self.measures, self.prior_precision = tuple(measures), prior_precision

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        design = self._measures(sample, self.measures)
        used = sample.weights > 0
        mean, scale = standardization(design[used])
        design = np.column_stack([standardized(design, mean, scale), np.ones(len(design))])
        precision = np.append(np.full(len(mean), self.prior_precision), 0.0)
        # One more right and one more wrong answer keep the intercept finite if all are the same.
        outcomes = np.concatenate([sample.correct.astype(np.float64), [1.0, 0.0]])
        average = np.append(np.zeros(len(mean)), 1.0)
        rows = np.vstack([design, average, average])
        weights = np.concatenate([sample.weights * used.sum(), [0.5, 0.5]])
        coefficients = fit_logistic(rows, outcomes, weights, precision=precision)
        return {
            "scope": "answer",
            "measures": ",".join(self.measures),
            "coefficients": coefficients,
            "feature_mean": mean,
            "feature_scale": scale,
        }

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        self._check_scope(inputs)
        parameters = self.parameters()
        design = self._measures(inputs, parameters["measures"].split(","))
        design = standardized(design, parameters["feature_mean"], parameters["feature_scale"])
        mapped = expit(design @ parameters["coefficients"][:-1] + parameters["coefficients"][-1])
        result = with_confidence(inputs.logits, mapped)
        unanimous = np.flatnonzero(np.isfinite(inputs.logits).sum(axis=1) == 1)
        if len(unanimous):
            confidence = np.maximum(mapped[unanimous], 1 / inputs.n_options)
            result[unanimous] = ((1 - confidence) / (inputs.n_options - 1))[:, None]
            result[unanimous, inputs.logits[unanimous].argmax(axis=1)] = confidence
        return result

    @staticmethod
    def _measures(inputs: Inputs, names: Sequence[str]) -> NDArray[np.float64]:
        shares = softmax(inputs.logits)
        # The value in `Predictions.logits` of options that no sample chose.
        shares[shares <= ROUNDING] = 0.0
        measured = consistency(shares / shares.sum(axis=1, keepdims=True))
        return np.column_stack([measured[name] for name in names])

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        names = [",".join(part) for part in _subsets(MEASURES)]
        measures = reader.choice("measures", names)
        count = measures.count(",") + 1
        return {
            "measures": measures,
            "coefficients": reader.array("coefficients", (count + 1,), -1e100, 1e100),
            **read_standardization(reader, count),
        }


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    from itertools import permutations

    return [part for size in range(1, len(names) + 1) for part in permutations(names, size)]
