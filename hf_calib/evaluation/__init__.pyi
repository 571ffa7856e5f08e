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
from .measuring import (
    measure as measure,
    measure_recorded as measure_recorded,
)
from .models import (
    this_process as this_process,
)
from .settings import (
    AskOptions as AskOptions,
)
from .thresholds import (
    Threshold as Threshold,
)
