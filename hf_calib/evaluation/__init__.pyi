from .calibrating import (
    Calibration as Calibration,
    UninformativeFitError as UninformativeFitError,
    calibrate as calibrate,
)
from .cards import (
    measure_and_write_card as measure_and_write_card,
)
from .comparing import (
    compare as compare,
)
from .decisions import (
    fit_temperatures as fit_temperatures,
    measure_decisions as measure_decisions,
)
from .diagnosing import (
    Diagnosis as Diagnosis,
    diagnose as diagnose,
)
from .fitted import (
    CalibratorMismatchWarning as CalibratorMismatchWarning,
)
from .graded_answers import (
    GradedAnswer as GradedAnswer,
    SelfEvaluationQuestions as SelfEvaluationQuestions,
)
from .measuring import (
    measure as measure,
    measure_recorded as measure_recorded,
)
from .models import (
    this_process as this_process,
)
from .self_evaluation import (
    self_evaluation_questions as self_evaluation_questions,
)
from .settings import (
    AskOptions as AskOptions,
)
from .synthesis import (
    SynthesizedQuestions as SynthesizedQuestions,
    synthesize_questions as synthesize_questions,
)
from .thresholding import (
    ConfidenceThreshold as ConfidenceThreshold,
    find_threshold as find_threshold,
)
from .thresholds import (
    Threshold as Threshold,
)
