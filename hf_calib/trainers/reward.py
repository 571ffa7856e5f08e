"""Reward modeling with a calibrated probability of the preference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from trl import RewardConfig, RewardTrainer

from .best_metric import check_logged
from .dataset_layouts import check_layouts
from .interruption import InterruptionMixin
from .preference_arguments import PreferenceArguments
from .preference_mixin import PreferenceMixin
from .trl_compatibility import dataset_kind


@dataclass
class CalibrationAwareRewardConfig(PreferenceArguments, RewardConfig):
    """`trl.RewardConfig` with the arguments of preference calibration, `PreferenceArguments`.

    Parameters
    ----------
    preference_weight : float, default 1.0
        Unlike in DPO, the probability of the preference is the trainer's product, so it is regularized by default.
    """

    preference_weight: float = field(
        default=1.0, metadata={"help": "Weight of the ECE regularizer on the preference's confidence."}
    )


class CalibrationAwareRewardTrainer(PreferenceMixin, InterruptionMixin, RewardTrainer):  # type: ignore[misc]  # TRL's is untyped
    """`trl.RewardTrainer` that reports and regularizes how calibrated σ(score difference) is.

    Its confidence is max(σ, 1 - σ) of the margin, and correct if the margin is positive; see `PreferenceArguments`.
    With a plain `RewardConfig` as `args`, it trains like the extended trainer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_layouts(dataset_kind(self), args, kwargs)
        super().__init__(*args, **kwargs)
        check_logged(self, None, asks_questions=False)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the extended trainer does."""
        check_layouts(dataset_kind(self), (), {"eval_dataset": eval_dataset})
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        # Of one forward, in which the chosen answers are the first half.
        chosen, rejected = outputs[0].logits.float().squeeze(-1).chunk(2)
        return chosen - rejected
