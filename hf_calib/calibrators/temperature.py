"""Temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .inputs import Inputs, Sample, UninformativeFitWarning, softmax, warn
from .protocol import Calibrator
from .storage import ParameterReader

# Beyond these, predictions are uniform or one-hot for any realistic logits.
LOWEST, HIGHEST = 1e-3, 1e3


class TemperatureScaling(Calibrator):
    """Divide all logits by one number, the temperature, chosen to minimize the log-loss.

    It keeps every argmax, so the accuracy, and treats all questions the same: the baseline that other methods have to
    beat.

    Attributes
    ----------
    temperature : float or None
        In [0.001, 1000]; above 1 it lowers confidence. `None` before `fit`.

    Warns
    -----
    UninformativeFitWarning
        In `fit`, if the best temperature is at an end of its range: all answers right, or worse than chance.

    Notes
    -----
    Not wrapped: scikit-learn's is private; probmetrics' takes no weights and needs the same number of options for all
    questions; netcal's takes no weights and is only precise to five digits. The tests compare with all three.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017.
    """

    name: ClassVar[str] = "temperature"
    keeps_argmax: bool = True
    monotonic: bool = True

    @property
    def temperature(self) -> float | None:
        """The divisor of the logits."""
        return None if self._parameters is None else self._parameters["temperature"]

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        rows = np.arange(len(sample))
        targets = sample.weights @ sample.logits[rows, sample.labels]
        return {"temperature": best_temperature(sample.logits, float(targets), sample.weights)}

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        return softmax(scaled(inputs.logits, self.parameters()["temperature"]))

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        return {"temperature": reader.number("temperature", LOWEST, HIGHEST)}


def scaled(logits: NDArray[np.float64], temperature: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits of `Inputs` divided by temperatures; values that overflow have probability 0 in any case."""
    with np.errstate(over="ignore"):
        return logits / temperature


def best_temperature(logits: NDArray[np.float64], target: float, weights: NDArray[np.float64]) -> float:
    """Return the temperature that minimizes a cross-entropy, in [0.001, 1000].

    Parameters
    ----------
    logits : ndarray, shape (n, K)
        Logits of `Inputs`.
    target : float
        The weighted mean of the right option's logit, or of the logit expected under a target distribution.
    weights : ndarray, shape (n,)
        Weights that sum to one.
    """
    # Options with probability 0 at every temperature of interest are left out; contiguous options are summed faster.
    columns = np.ascontiguousarray(logits.T)
    finite = np.where(np.isneginf(columns), 0.0, columns)

    def moments(log_scale: float) -> tuple[float, float]:
        # The log-loss is convex in the inverse temperature s. These are its first derivative, which increases, and its
        # second.
        with np.errstate(over="ignore"):
            probabilities = np.exp(math.exp(log_scale) * columns)
        probabilities /= probabilities.sum(axis=0)
        probabilities *= finite
        mean = probabilities.sum(axis=0)
        probabilities *= finite
        variance = probabilities.sum(axis=0) - mean**2
        return float(weights @ mean) - target, float(weights @ variance) * math.exp(log_scale)

    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    if moments(low)[0] >= 0:
        _warn(HIGHEST, "the predictions are no better than chance")
        return HIGHEST
    if moments(high)[0] <= 0:
        _warn(LOWEST, "every answer is right, so more confidence is always better; fit on more questions")
        return LOWEST
    return math.exp(-_increasing_root(moments, low, high, 0.0))


def _increasing_root(function: Callable[[float], tuple[float, float]], low: float, high: float, start: float) -> float:
    """Return the root of an increasing function that also returns its derivative (Newton's method, guarded)."""
    x = start
    for _ in range(200):
        value, slope = function(x)
        if value > 0:
            high = x
        else:
            low = x
        step = -value / slope if slope > 0 else math.inf
        following = x + step
        if not low <= following <= high:
            following = (low + high) / 2
        if abs(following - x) < 1e-13 * max(1.0, abs(x)):
            return following
        x = following
    return x


def _warn(temperature: float, why: str) -> None:
    message = f"the best temperature is outside the allowed range; using {temperature:g}: {why}"
    warn(message, UninformativeFitWarning)
