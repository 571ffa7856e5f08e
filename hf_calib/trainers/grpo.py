"""GRPO that keeps the model calibrated."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from ..rewards import ScoreReward
from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin

logger = logging.getLogger(__name__)

# The values with which TRL leaves rewards undivided.
_UNSCALED = {"scale_rewards": "none", "multi_objective_aggregation": "sum_then_normalize"}


@dataclass
class CalibrationAwareGRPOConfig(CalibrationArguments, GRPOConfig):
    """`trl.GRPOConfig` with the arguments of the calibration terms, `CalibrationArguments`."""


class CalibrationAwareGRPOTrainer(CalibrationMixin, GRPOTrainer):  # type: ignore[misc]  # TRL's base class is untyped
    """`trl.GRPOTrainer`, group-relative policy optimization, with the terms of `CalibrationMixin`.

    The anchor's reference is the trainer's own if its `beta` is not zero or there is an adapter; otherwise the weights
    that training starts from. The questions are not prompts: nothing is generated for them.

    Rewards of stated confidence, such as `hf_calib.rewards.brier_reward`, need ``scale_rewards="none"`` and TRL's
    default ``multi_objective_aggregation="sum_then_normalize"``; other values cause a warning.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.args, GRPOConfig)
        scored = [own.__name__ for own in self.reward_funcs if isinstance(own, ScoreReward)]
        for name, unscaled in _UNSCALED.items():
            given = getattr(self.args, name)
            if scored and given != unscaled:
                logger.warning(
                    "%s: %r divides rewards by their standard deviation, which pushes the confidence trained with %s "
                    'to extremes (arXiv 2508.11800); pass %s="%s"',
                    name, given, " and ".join(scored), name, unscaled,
                )  # fmt: skip
