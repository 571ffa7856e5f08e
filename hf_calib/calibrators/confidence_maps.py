"""Calibrators of the confidence only: a function of one number, from which the other options' probabilities follow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .inputs import Inputs, Sample, row_max
from .protocol import Calibrator
from .storage import ParameterReader

SCOPES = ("answer", "event")
HIGHEST_LOG_ODDS = 1000.0


class ConfidenceCalibrator(Calibrator):
    """Base of the calibrators that map the confidence c of a question's answer to the probability that it is right.

    If the confidence is lowered, the other options share the rest as at the temperature that gives the answer this
    probability, so an overconfident model's second and third options are corrected too; if it is raised, they keep
    their proportions. The answer does not change: no map lowers it below a uniform share. A row with probability 0 for
    all options but one is unchanged, since it does not show which other options exist.

    Events (one-dimensional predictions) are mapped by their own probability.
    """

    keeps_argmax: bool = True
    monotonic: bool = True

    @abstractmethod
    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        """Read the map's parameters."""

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        return {"scope": reader.choice("scope", SCOPES), **self._read_map(reader)}

    def _check_scope(self, inputs: Inputs) -> None:
        scope = self.parameters()["scope"]
        if scope != SCOPES[inputs.event]:
            shapes = {"answer": "(questions, options)", "event": "(events,)"}
            raise ValueError(
                f"the calibrator {self.name!r} was fitted on predictions of the shape {shapes[scope]}, "
                f"and was given {shapes[SCOPES[inputs.event]]}"
            )


class ConfidenceMap(ConfidenceCalibrator):
    """Base of maps of the confidence's log-odds and, optionally, a question's features."""

    maps_confidence: bool = True

    @abstractmethod
    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        """Return the probabilities, in [0, 1], for log-odds of shape (n,)."""

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        self._check_scope(inputs)
        mapped = self._map(log_odds_of(inputs), inputs)
        if inputs.event:
            return np.column_stack([1 - mapped, mapped])
        return with_confidence(inputs.logits, mapped)


class FittedConfidenceMap(ConfidenceMap):
    """Base of maps that are fitted on the log-odds and the correctness of answers."""

    @abstractmethod
    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Return the map's parameters; log-odds and outcomes (0 or 1) have the shape (n,)."""

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        outcomes = sample.labels == 1 if sample.event else sample.correct
        log_odds = log_odds_of(sample)
        parameters = self._estimate_map(log_odds, outcomes.astype(np.float64), sample.weights)
        return {"scope": SCOPES[sample.event], **parameters}


def log_odds_of(inputs: Inputs) -> NDArray[np.float64]:
    """Return log(c / (1 - c)) of each confidence, or of each event's probability, in [-1000, 1000], shape (n,)."""
    if inputs.event:
        with np.errstate(over="ignore"):
            return np.clip(inputs.logits[:, 1] - inputs.logits[:, 0], -HIGHEST_LOG_ODDS, HIGHEST_LOG_ODDS)
    others = inputs.logits.copy()
    others[np.arange(len(others)), others.argmax(axis=1)] = -np.inf
    best = row_max(others)
    base = np.where(np.isneginf(best), 0.0, best)
    with np.errstate(divide="ignore", over="ignore"):
        rest = base + np.log(np.exp(others - base[:, None]).sum(axis=1))
    return np.clip(-rest, -HIGHEST_LOG_ODDS, HIGHEST_LOG_ODDS)


def with_confidence(logits: NDArray[np.float64], confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities whose first maximum has a given value, (n,), or the nearest that keeps it the maximum.

    If the maximum is lowered, the others have the proportions of the temperature at which it has that value; if it is
    raised, they keep their proportions.
    """
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    others = logits.copy()
    others[rows, top] = -np.inf
    alone = np.isneginf(row_max(others))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        tempered = others * _scales(others, confidence, alone)[:, None]
        tempered[np.isnan(tempered)] = -np.inf
        best = row_max(tempered)
        shares = np.exp(tempered - np.where(np.isneginf(best), 0.0, best)[:, None])
    total = np.where(alone, 1.0, shares.sum(axis=1))
    # All others underflowed, so the nearest one gets the rest.
    lost = (total == 0) & ~alone
    shares[lost, others[lost].argmax(axis=1)] = 1.0
    total[lost] = 1.0
    shares /= total[:, None]
    second = np.where(alone, 0.0, shares.max(axis=1))
    confidence = np.where(alone, 1.0, np.maximum(confidence, second / (1 + second)))
    result = (1 - confidence)[:, None] * shares
    result[rows, top] = confidence
    return result


def _scales(
    others: NDArray[np.float64], confidence: NDArray[np.float64], alone: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the inverse temperatures, (n,) in [0, 1], at which the maximum, of logit 0, has a given probability.

    At most 1, since a sharper softmax would leave nothing to all but the two nearest options. log Σ exp(s z) over the
    other options is convex in s and decreases from the logarithm of their number, so Newton's method from 0 approaches
    the solution from below.
    """
    target = np.clip(confidence, 1e-16, 1 - 1e-16)
    wanted = np.log1p(-target) - np.log(target)
    there = ~np.isneginf(others)
    finite = np.where(there, others, 0.0)
    scale = np.zeros(len(others))
    open_rows = np.flatnonzero(~alone & (np.log(np.maximum(there.sum(axis=1), 1)) > wanted))
    for _ in range(60):
        z = np.where(there[open_rows], scale[open_rows, None] * finite[open_rows], -np.inf)
        best = z.max(axis=1, keepdims=True, initial=-1e308)
        weights = np.exp(z - best)
        total = weights.sum(axis=1)
        value = best[:, 0] + np.log(total)
        slope = (weights * finite[open_rows]).sum(axis=1) / total
        gap = value - wanted[open_rows]
        step = np.where(slope < 0, gap / -np.where(slope < 0, slope, 1.0), 0.0)
        scale[open_rows] = np.minimum(scale[open_rows] + np.maximum(step, 0.0), 1.0)
        open_rows = open_rows[(gap > 1e-9) & (scale[open_rows] < 1.0)]
        if not len(open_rows):
            break
    return scale


def log_probability_pair(log_odds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log(c) and log(1 - c), accurate at both ends."""
    return -np.logaddexp(0.0, -log_odds), -np.logaddexp(0.0, log_odds)


def laplace_bounds(counts: Any) -> tuple[Any, Any]:
    """Return the lowest and highest probability that n observations can show, by the rule of succession."""
    return 1 / (np.asarray(counts) + 2), (np.asarray(counts) + 1) / (np.asarray(counts) + 2)
