from . import (
    calibrators as calibrators,
    confidence as confidence,
    evaluation as evaluation,
    hub as hub,
    measures as measures,
    reports as reports,
    rewards as rewards,
    tasks as tasks,
    trainers as trainers,
)
from ._version import (
    __version__ as __version__,
)
from .confidence import (
    Predictions as Predictions,
    predict as predict,
)
from .evaluation import (
    Calibration as Calibration,
    ConfidenceThreshold as ConfidenceThreshold,
    Diagnosis as Diagnosis,
    SelfEvaluationQuestions as SelfEvaluationQuestions,
    SynthesizedQuestions as SynthesizedQuestions,
    calibrate as calibrate,
    compare as compare,
    diagnose as diagnose,
    find_threshold as find_threshold,
    measure as measure,
    measure_decisions as measure_decisions,
    self_evaluation_questions as self_evaluation_questions,
    synthesize_questions as synthesize_questions,
)
from .hub import (
    ensemble as ensemble,
    load as load,
    metric_path as metric_path,
)
from .measures import (
    BinStatistics as BinStatistics,
    CalibrationReport as CalibrationReport,
    expected_calibration_error as expected_calibration_error,
)
from .reports import (
    Comparison as Comparison,
    Measurement as Measurement,
    ReliabilityDisplay as ReliabilityDisplay,
)
from .tasks import (
    PromptFormat as PromptFormat,
    Question as Question,
    TypedDecisions as TypedDecisions,
    load_questions as load_questions,
)
from .trainers import (
    CalibrationAwareConfig as CalibrationAwareConfig,
    CalibrationAwareDPOConfig as CalibrationAwareDPOConfig,
    CalibrationAwareDPOTrainer as CalibrationAwareDPOTrainer,
    CalibrationAwareGRPOConfig as CalibrationAwareGRPOConfig,
    CalibrationAwareGRPOTrainer as CalibrationAwareGRPOTrainer,
    CalibrationAwareKTOConfig as CalibrationAwareKTOConfig,
    CalibrationAwareKTOTrainer as CalibrationAwareKTOTrainer,
    CalibrationAwarePPOConfig as CalibrationAwarePPOConfig,
    CalibrationAwarePPOTrainer as CalibrationAwarePPOTrainer,
    CalibrationAwareRewardConfig as CalibrationAwareRewardConfig,
    CalibrationAwareRewardTrainer as CalibrationAwareRewardTrainer,
    CalibrationAwareRLOOConfig as CalibrationAwareRLOOConfig,
    CalibrationAwareRLOOTrainer as CalibrationAwareRLOOTrainer,
    CalibrationAwareSFTConfig as CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer as CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer as CalibrationAwareTrainer,
    CalibrationCallback as CalibrationCallback,
    CalibrationMixin as CalibrationMixin,
    CalibrationRun as CalibrationRun,
    RecalibrationConfig as RecalibrationConfig,
    RecalibrationTrainer as RecalibrationTrainer,
    ReferenceDistributions as ReferenceDistributions,
    SelfEvaluationCallback as SelfEvaluationCallback,
    StatedConfidenceConfig as StatedConfidenceConfig,
    StatedConfidenceTrainer as StatedConfidenceTrainer,
    as_trl_dataset as as_trl_dataset,
    calibration_aware as calibration_aware,
    calibration_aware_config as calibration_aware_config,
    recalibrate as recalibrate,
    reference_distributions as reference_distributions,
)
