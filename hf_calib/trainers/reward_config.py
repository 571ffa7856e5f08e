"""The config of `CalibrationAwareRewardTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import RewardConfig

from .preference_arguments import PreferenceArguments


@dataclass
class CalibrationAwareRewardConfig(PreferenceArguments, RewardConfig):
    """`trl.RewardConfig` with the arguments of preference calibration, `PreferenceArguments`.

    Parameters
    ----------
    preference_weight : float, default 1.0
        Other than in DPO, the preference's probability is what the trainer makes: it is regularized.
    """

    preference_weight: float = field(
        default=1.0, metadata={"help": "Weight of the ECE regularizer on the preference's confidence."}
    )
