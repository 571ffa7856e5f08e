"""The ECE regularizer of RCFT by expectation maximization: bins with targets, and the term that pulls to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..measures.binning import bin_edges
from .targets import target_distribution


@dataclass
class BinTargets:
    """The E-step: the accuracy of each confidence bin, smoothed over refreshes.

    Bins have equal width and are closed on the left; the last one is closed on both sides. Every refresh multiplies
    the older counts by `momentum` and adds a batch of questions, so a target is an exponential average. The questions
    must *not* be trained on: training questions would inflate the accuracies, and the regularizer would do nothing.

    Parameters
    ----------
    n_bins : int, default 10
    momentum : float, default 0.9
        Factor applied to the older counts at each refresh, in [0, 1).
    prior_count : float, default 2.0
        A bin with n questions pulls a confidence c toward (correct answers + prior_count · c) / (n + prior_count): an
        empty bin has no pull, a rarely visited one a weak pull.

    Attributes
    ----------
    counts, correct : torch.Tensor of float64, shape (n_bins,)
        Number of questions in each bin, and how many of them were answered correctly, both discounted by `momentum`.

    References
    ----------
    Xiao et al., 2025, section on RCFT; the code published with it bins the training set once, before training.
    """

    n_bins: int = 10
    momentum: float = 0.9
    prior_count: float = 2.0
    counts: torch.Tensor = field(init=False)
    correct: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        # The measures' edges, so that the accuracy reported for a bin is the one it pulls to.
        self._inner_edges = torch.from_numpy(bin_edges(self.n_bins)[1:-1])
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"the momentum must be in [0, 1), got {self.momentum}")
        if self.prior_count < 0:
            raise ValueError(f"prior_count must not be negative, got {self.prior_count}")
        # On the CPU in float64: a few numbers, identical on every process and saved exactly.
        self.counts = torch.zeros(self.n_bins, dtype=torch.float64)
        self.correct = torch.zeros(self.n_bins, dtype=torch.float64)

    def bin_of(self, confidences: torch.Tensor) -> torch.Tensor:
        """Return the index of each confidence's bin, shape (B,), on the CPU."""
        return torch.bucketize(confidences.detach().cpu().double(), self._inner_edges, right=True)

    def update(self, confidences: torch.Tensor, correct: torch.Tensor) -> None:
        """Refresh with a batch of questions.

        Parameters
        ----------
        confidences : torch.Tensor, shape (B,)
            In [0, 1].
        correct : torch.Tensor, shape (B,)
            Whether each answer is correct, as booleans or 0 and 1.

        Raises
        ------
        ValueError
            If a confidence is outside [0, 1] or NaN.
        """
        _check_confidences(confidences)
        bins = self.bin_of(confidences)
        n_seen = torch.bincount(bins, minlength=self.n_bins)
        n_right = torch.bincount(bins, weights=correct.cpu().double(), minlength=self.n_bins)
        self.counts = self.momentum * self.counts + n_seen
        self.correct = self.momentum * self.correct + n_right

    def target_confidence(self, confidences: torch.Tensor) -> torch.Tensor:
        """Return the confidence that each one is pulled toward, shape (B,), in [0, 1]."""
        bins = self.bin_of(confidences)
        own = confidences.detach().cpu().double()
        seen = self.counts[bins] + self.prior_count
        target = (self.correct[bins] + self.prior_count * own) / seen
        return torch.where(seen > 0, target, own).to(confidences.device, torch.float32)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the counts as plain numbers."""
        return {"counts": self.counts.tolist(), "correct": self.correct.tolist()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If it has another number of bins.
        """
        for name in ("counts", "correct"):
            if len(state[name]) != self.n_bins:
                raise ValueError(f"the saved state has {len(state[name])} bins, this run has {self.n_bins}")
        self.counts = torch.tensor(state["counts"], dtype=torch.float64)
        self.correct = torch.tensor(state["correct"], dtype=torch.float64)


def _check_confidences(confidences: torch.Tensor) -> None:
    # A float32 softmax may exceed one by rounding.
    if not bool(((confidences >= 0) & (confidences <= 1 + 1e-6)).all()):
        raise ValueError("the E-step's confidences must be in [0, 1]; the model's logits may not be finite")


def em_loss(
    probabilities: torch.Tensor, option_mask: torch.Tensor, targets: BinTargets, rule: str = "proportional"
) -> torch.Tensor:
    """Return the M-step's loss: the squared distance of each option distribution to its bin's target.

    Parameters
    ----------
    probabilities : torch.Tensor, shape (B, K)
        Softmax over the options only, with gradient.
    option_mask : torch.Tensor of bool, shape (B, K)
    targets : BinTargets
    rule : str, default "proportional"
        How the options below the top share the remaining mass, see `target_distribution`.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
        In [0, 2]. The gradient does not pass through the targets.
    """
    p = probabilities.float()
    top = targets.target_confidence(p.detach().max(dim=1).values)
    target = target_distribution(p, top, option_mask, rule)
    return ((p - target) ** 2).masked_fill(~option_mask, 0.0).sum(dim=1)
