"""Watch during training whether a model has begun to memorize."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from ..measures.sampling import wilson_interval

# Of a 95% interval.
_CRITICAL = NormalDist().inv_cdf(0.975)


class RegimeWatch:
    """The generalization gap with its 95% interval, and whether it has ever been significantly positive.

    Both accuracies are exponential averages over the E-steps; the interval is Newcombe's, with the averages' effective
    numbers of questions. Once the whole interval has been above zero, the watch stays on, since the regularizer that
    it turns on closes the gap again.

    Parameters
    ----------
    momentum : float
        Weight of the earlier counts at each E-step, in [0, 1).
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.memorizing = False
        # Weight, squared weight and weighted number of right answers, on training questions and on held-out ones.
        self._sums = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

    def update(self, trained: torch.Tensor, held_out: torch.Tensor) -> bool:
        """Add whether questions of both kinds were answered correctly; return whether the watch has just turned on.

        Parameters
        ----------
        trained, held_out : torch.Tensor, shape (n,) and (m,)
            Booleans, or 0 and 1.
        """
        for sums, right in zip(self._sums, (trained, held_out), strict=True):
            n = float(len(right))
            sums[0] = self.momentum * sums[0] + n
            sums[1] = self.momentum**2 * sums[1] + n
            sums[2] = self.momentum * sums[2] + float(right.double().sum())
        if self.memorizing or self.gap()[1] <= 0:
            return False
        self.memorizing = True
        return True

    def gap(self) -> tuple[float, float, float]:
        """Return the accuracy on training questions minus that on held-out ones, with its interval."""
        if min(sums[0] for sums in self._sums) == 0:
            return 0.0, -1.0, 1.0
        accuracies = [right / weight for weight, _, right in self._sums]
        effective = [weight**2 / squared for weight, squared, _ in self._sums]
        (low, high), (low_new, high_new) = (
            wilson_interval(accuracy, n, _CRITICAL) for accuracy, n in zip(accuracies, effective, strict=True)
        )
        difference = accuracies[0] - accuracies[1]
        below = math.hypot(accuracies[0] - low, high_new - accuracies[1])
        above = math.hypot(high - accuracies[0], accuracies[1] - low_new)
        return difference, difference - below, difference + above

    def state_dict(self) -> dict:
        """Return plain numbers."""
        return {"memorizing": self.memorizing, "sums": [list(sums) for sums in self._sums]}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.memorizing = state["memorizing"]
        self._sums = [list(sums) for sums in state["sums"]]
