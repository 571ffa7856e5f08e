"""Reward modelling with a calibrated probability of the preference."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer

from .dataset_layouts import check_layouts
from .interruption import InterruptionMixin
from .preference_margins import reward_margins
from .preference_mixin import PreferenceMixin
from .trl_compatibility import dataset_kind, tag_names


class CalibrationAwareRewardTrainer(PreferenceMixin, InterruptionMixin, RewardTrainer):  # type: ignore[misc]  # TRL's is untyped
    """`trl.RewardTrainer` that reports and regularises how calibrated σ(score difference) is.

    Its confidence is max(σ, 1 - σ) of the margin, right when the margin is positive; see `PreferenceArguments`. A
    plain `RewardConfig` as `args` trains as the extended trainer.
    """

    _tag_names = tag_names(RewardTrainer)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_layouts(dataset_kind(self), args, kwargs)
        super().__init__(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the extended trainer does."""
        check_layouts(dataset_kind(self), (), {"eval_dataset": eval_dataset})
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        return reward_margins(outputs, inputs)
