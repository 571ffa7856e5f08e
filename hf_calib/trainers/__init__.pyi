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
from .dataset_layouts import (
    as_trl_dataset as as_trl_dataset,
)
from .dpo import (
    CalibrationAwareConfig as CalibrationAwareConfig,
    CalibrationAwareDPOConfig as CalibrationAwareDPOConfig,
    CalibrationAwareDPOTrainer as CalibrationAwareDPOTrainer,
    CalibrationAwareTrainer as CalibrationAwareTrainer,
)
from .grpo import (
    CalibrationAwareGRPOConfig as CalibrationAwareGRPOConfig,
    CalibrationAwareGRPOTrainer as CalibrationAwareGRPOTrainer,
)
from .kto import (
    CalibrationAwareKTOConfig as CalibrationAwareKTOConfig,
    CalibrationAwareKTOTrainer as CalibrationAwareKTOTrainer,
)
from .mixin import (
    CalibrationMixin as CalibrationMixin,
)
from .option_head import (
    OptionHeadModel as OptionHeadModel,
    train_option_head as train_option_head,
)
from .ppo import (
    CalibrationAwarePPOConfig as CalibrationAwarePPOConfig,
    CalibrationAwarePPOTrainer as CalibrationAwarePPOTrainer,
)
from .preference_arguments import (
    PreferenceArguments as PreferenceArguments,
)
from .preference_mixin import (
    PreferenceMixin as PreferenceMixin,
)
from .recalibration import (
    RecalibrationConfig as RecalibrationConfig,
    RecalibrationTrainer as RecalibrationTrainer,
    recalibrate as recalibrate,
)
from .reference_distributions import (
    ReferenceDistributions as ReferenceDistributions,
    reference_distributions as reference_distributions,
)
from .reward import (
    CalibrationAwareRewardConfig as CalibrationAwareRewardConfig,
    CalibrationAwareRewardTrainer as CalibrationAwareRewardTrainer,
)
from .rloo import (
    CalibrationAwareRLOOConfig as CalibrationAwareRLOOConfig,
    CalibrationAwareRLOOTrainer as CalibrationAwareRLOOTrainer,
)
from .run import (
    CalibrationRun as CalibrationRun,
)
from .self_evaluation import (
    SelfEvaluationCallback as SelfEvaluationCallback,
)
from .sft import (
    CalibrationAwareSFTConfig as CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer as CalibrationAwareSFTTrainer,
)
from .stated_confidence import (
    StatedConfidenceConfig as StatedConfidenceConfig,
    StatedConfidenceTrainer as StatedConfidenceTrainer,
)
