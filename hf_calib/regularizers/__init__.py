"""The calibration terms of a loss."""

from .anchor import anchor_divergence, coarse_anchor_divergence
from .em import BinTargets, em_loss
from .stated import expected_brier_loss
from .supervised import answer_loss, brier_loss
from .targets import SHARING_RULES, target_distribution

__all__ = [
    "SHARING_RULES",
    "BinTargets",
    "anchor_divergence",
    "answer_loss",
    "brier_loss",
    "coarse_anchor_divergence",
    "em_loss",
    "expected_brier_loss",
    "target_distribution",
]
