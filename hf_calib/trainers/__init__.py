"""TRL trainers that keep the model calibrated, or calibrate it again."""

from .calibration_arguments import CalibrationArguments
from .calibration_aware import calibration_aware, calibration_aware_config
from .calibration_callback import CalibrationCallback
from .dataset_layouts import as_trl_dataset
from .dpo_config import CalibrationAwareConfig
from .dpo_trainer import CalibrationAwareTrainer
from .grpo_config import CalibrationAwareGRPOConfig
from .grpo_trainer import CalibrationAwareGRPOTrainer
from .kto_config import CalibrationAwareKTOConfig
from .kto_trainer import CalibrationAwareKTOTrainer
from .mixin import CalibrationMixin
from .option_head import OptionHeadModel, train_option_head
from .ppo_config import CalibrationAwarePPOConfig
from .ppo_trainer import CalibrationAwarePPOTrainer
from .preference_arguments import PreferenceArguments
from .preference_mixin import PreferenceMixin
from .recalibration import RecalibrationTrainer, recalibrate
from .recalibration_config import RecalibrationConfig
from .reference_distributions import ReferenceDistributions, reference_distributions
from .reward_config import CalibrationAwareRewardConfig
from .reward_trainer import CalibrationAwareRewardTrainer
from .rloo_config import CalibrationAwareRLOOConfig
from .rloo_trainer import CalibrationAwareRLOOTrainer
from .script_arguments import CalibrationScriptArguments
from .sft_config import CalibrationAwareSFTConfig
from .sft_trainer import CalibrationAwareSFTTrainer

__all__ = [
    "CalibrationArguments",
    "CalibrationAwareConfig",
    "CalibrationAwareGRPOConfig",
    "CalibrationAwareGRPOTrainer",
    "CalibrationAwareKTOConfig",
    "CalibrationAwareKTOTrainer",
    "CalibrationAwarePPOConfig",
    "CalibrationAwarePPOTrainer",
    "CalibrationAwareRLOOConfig",
    "CalibrationAwareRLOOTrainer",
    "CalibrationAwareRewardConfig",
    "CalibrationAwareRewardTrainer",
    "CalibrationAwareSFTConfig",
    "CalibrationAwareSFTTrainer",
    "CalibrationAwareTrainer",
    "CalibrationCallback",
    "CalibrationMixin",
    "CalibrationScriptArguments",
    "OptionHeadModel",
    "PreferenceArguments",
    "PreferenceMixin",
    "RecalibrationConfig",
    "RecalibrationTrainer",
    "ReferenceDistributions",
    "as_trl_dataset",
    "calibration_aware",
    "calibration_aware_config",
    "recalibrate",
    "reference_distributions",
    "train_option_head",
]
