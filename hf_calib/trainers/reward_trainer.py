"""Reward modelling with a calibrated probability of the preference."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer

from .interruption import InterruptionMixin
from .preference_margins import reward_margins
from .preference_mixin import PreferenceMixin
from .trl_compatibility import tag_names


class CalibrationAwareRewardTrainer(PreferenceMixin, InterruptionMixin, RewardTrainer):  # type: ignore[misc]  # TRL's is untyped
    """`trl.RewardTrainer` that reports and regularizes how calibrated σ(score difference) is.

    Its confidence is max(σ, 1 - σ) of the margin, right when the margin is positive; see `PreferenceArguments`. A
    plain `RewardConfig` as `args` trains as the extended trainer.
    """

    _tag_names = tag_names(RewardTrainer)

    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        return reward_margins(outputs, inputs)
