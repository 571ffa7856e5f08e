"""An option head for hidden states: a learned classifier and a fixed simplex classifier, balanced during training."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from .simplex_etf import balance, simplex_etf_head

# Range of the simplex classifier's scale: from nearly uniform to nearly one-hot probabilities.
LOWEST_SCALE, HIGHEST_SCALE = 1e-2, 1e3


class BalancedOptionHead(nn.Module):
    """Two classifiers of a hidden state, whose probabilities are averaged.

    The learned one, a linear layer, becomes overconfident in long training. The fixed one, the vertices of a simplex
    equiangular tight frame after a learned projection, has a scale β that changes its confidence but not its answers.
    `rebalance` sets β so that the mean confidence of both together equals their accuracy on held-out questions; if no
    β achieves this, the share of the learned one is changed too.

    Parameters
    ----------
    hidden_size, n_options : int
        d and K.
    scale : float, default 4.0
        Initial β.

    Attributes
    ----------
    scale : tensor, scalar
        β, in [0.01, 1000].
    share : tensor, scalar
        Share of the learned classifier in the mean, in [0, 1]; initially 1/2.

    References
    ----------
    Ni, Zhao, Gao, Guo and Zha, Balancing Two Classifiers via a Simplex ETF Structure for Model Calibration (BalCAL),
    CVPR 2025: the two classifiers, the mean of their probabilities and the scale that is adjusted while they are
    trained. There the scale follows the training accuracy; here it follows held-out questions, since a language model
    memorizes its training questions.
    """

    scale: torch.Tensor
    share: torch.Tensor

    def __init__(self, hidden_size: int, n_options: int, *, scale: float = 4.0) -> None:
        super().__init__()
        if hidden_size < 1 or n_options < 2:
            raise ValueError(f"a head needs hidden states and two options or more, got {hidden_size} and {n_options}")
        if not LOWEST_SCALE <= scale <= HIGHEST_SCALE:
            raise ValueError(f"scale must be in [{LOWEST_SCALE}, {HIGHEST_SCALE}], got {scale}")
        self.hidden_size, self.n_options = hidden_size, n_options
        self.learned = nn.Linear(hidden_size, n_options)
        self.fixed = simplex_etf_head(hidden_size, n_options, scale=1.0)
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("share", torch.tensor(0.5))

    def classifiers(self, hidden: torch.Tensor, option_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of both classifiers, each (B, K); -inf for missing options.

        Parameters
        ----------
        hidden : tensor, shape (B, d)
        option_mask : tensor of bool, shape (B, k), k <= K

        Raises
        ------
        ValueError
            If a question has more options than the head has.
        """
        k = option_mask.shape[1]
        if k > self.n_options:
            raise ValueError(f"the head has {self.n_options} options, and a question has {k}")
        hidden = hidden.to(self.learned.weight.dtype)
        both = self.learned(hidden)[:, :k], self.scale * self.fixed(hidden)[:, :k]
        return both[0].masked_fill(~option_mask, -torch.inf), both[1].masked_fill(~option_mask, -torch.inf)

    def forward(self, hidden: torch.Tensor, option_mask: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the options' probabilities, shape (B, k)."""
        learned, fixed = (logits.softmax(dim=-1) for logits in self.classifiers(hidden, option_mask))
        return (self.share * learned + (1 - self.share) * fixed).log()

    def loss(self, hidden: torch.Tensor, answers: torch.Tensor, option_mask: torch.Tensor) -> torch.Tensor:
        """Return the mean of both classifiers' log-losses, a scalar, so that each learns to answer by itself."""
        learned, fixed = self.classifiers(hidden, option_mask)
        return (F.cross_entropy(learned, answers) + F.cross_entropy(fixed, answers)) / 2

    @torch.no_grad()
    def rebalance(self, hidden: torch.Tensor, option_mask: torch.Tensor, answers: torch.Tensor) -> None:
        """Set the scale, and if necessary the share, on held-out questions with answers."""
        learned, fixed = self.classifiers(hidden, option_mask)
        first = learned.double().softmax(dim=-1).cpu().numpy()
        unscaled = (fixed.double() / self.scale.double()).cpu()
        scale, share = balanced_scale(first, unscaled, answers.cpu().numpy())
        self.scale.fill_(scale)
        self.share.fill_(share)


def balanced_scale(first: NDArray[np.float64], unscaled: torch.Tensor, answers: NDArray) -> tuple[float, float]:
    """Return the scale and the share at which the mean confidence equals the accuracy.

    Parameters
    ----------
    first : ndarray, shape (n, K)
        The learned classifier's probabilities.
    unscaled : tensor, shape (n, K)
        The fixed classifier's logits at the scale 1.
    answers : ndarray of int, shape (n,)

    Returns
    -------
    scale : float
        The scale at which, with the share 1/2, the mean confidence equals the accuracy; an end of its range if there
        is none.
    share : float
        Share of the first, in [0, 1]: 1/2, or from `balance` if the scale is at an end.
    """

    def second(log_scale: float) -> NDArray[np.float64]:
        return (math.exp(log_scale) * unscaled).softmax(dim=-1).numpy()

    def gap(log_scale: float) -> float:
        p = (first + second(log_scale)) / 2
        return float(np.mean(p.max(axis=1) - (p.argmax(axis=1) == answers)))

    low, high = math.log(LOWEST_SCALE), math.log(HIGHEST_SCALE)
    at_low, at_high = gap(low), gap(high)
    if at_low < 0 < at_high:
        return math.exp(brentq(gap, low, high, xtol=1e-6)), 0.5
    end = low if at_low >= 0 else high
    return math.exp(end), balance(first, second(end), answers)
