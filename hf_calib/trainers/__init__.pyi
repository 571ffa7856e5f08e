from .calibration_arguments import (
    CalibrationArguments as CalibrationArguments,
)
from .calibration_aware import (
    calibration_aware as calibration_aware,
    calibration_aware_config as calibration_aware_config,
)
from .calibration_callback import (
    CalibrationCallback as CalibrationCallback,
)
from .dpo_config import (
    CalibrationAwareConfig as CalibrationAwareConfig,
)
from .dpo_trainer import (
    CalibrationAwareTrainer as CalibrationAwareTrainer,
)
from .grpo_config import (
    CalibrationAwareGRPOConfig as CalibrationAwareGRPOConfig,
)
from .grpo_trainer import (
    CalibrationAwareGRPOTrainer as CalibrationAwareGRPOTrainer,
)
from .kto_config import (
    CalibrationAwareKTOConfig as CalibrationAwareKTOConfig,
)
from .kto_trainer import (
    CalibrationAwareKTOTrainer as CalibrationAwareKTOTrainer,
)
from .mixin import (
    CalibrationMixin as CalibrationMixin,
)
from .option_head import (
    OptionHeadModel as OptionHeadModel,
    train_option_head as train_option_head,
)
from .ppo_config import (
    CalibrationAwarePPOConfig as CalibrationAwarePPOConfig,
)
from .ppo_trainer import (
    CalibrationAwarePPOTrainer as CalibrationAwarePPOTrainer,
)
from .preference_arguments import (
    PreferenceArguments as PreferenceArguments,
)
from .preference_mixin import (
    PreferenceMixin as PreferenceMixin,
)
from .recalibration import (
    RecalibrationTrainer as RecalibrationTrainer,
    recalibrate as recalibrate,
)
from .recalibration_config import (
    RecalibrationConfig as RecalibrationConfig,
)
from .reference_distributions import (
    ReferenceDistributions as ReferenceDistributions,
    reference_distributions as reference_distributions,
)
from .reward_config import (
    CalibrationAwareRewardConfig as CalibrationAwareRewardConfig,
)
from .reward_trainer import (
    CalibrationAwareRewardTrainer as CalibrationAwareRewardTrainer,
)
from .rloo_config import (
    CalibrationAwareRLOOConfig as CalibrationAwareRLOOConfig,
)
from .rloo_trainer import (
    CalibrationAwareRLOOTrainer as CalibrationAwareRLOOTrainer,
)
from .script_arguments import (
    CalibrationScriptArguments as CalibrationScriptArguments,
)
from .sft_config import (
    CalibrationAwareSFTConfig as CalibrationAwareSFTConfig,
)
from .sft_trainer import (
    CalibrationAwareSFTTrainer as CalibrationAwareSFTTrainer,
)
