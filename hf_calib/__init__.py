"""Calibrated confidence for aligned language models: measure it, keep it while aligning, restore it afterwards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__

# Where each public name lives. They are imported when they are first used, so that `import hf_calib` and the command
# line start without torch.
_ROOMS = {
    "measures": ("BinStatistics", "CalibrationReport", "expected_calibration_error"),
    "tasks": ("PromptFormat", "Question", "load_questions"),
    "confidence": ("Predictions", "predict"),
    "hub": ("ensemble", "load", "metric_path"),
    "reports": ("Comparison", "Measurement", "ReliabilityDisplay"),
    "evaluation": ("Calibration", "Diagnosis", "calibrate", "compare", "diagnose", "measure"),
    "trainers": (
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
        "RecalibrationConfig",
        "RecalibrationTrainer",
        "ReferenceDistributions",
        "calibration_aware",
        "calibration_aware_config",
        "recalibrate",
        "reference_distributions",
    ),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "BinStatistics",
    "Calibration",
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
    "CalibrationReport",
    "Comparison",
    "Diagnosis",
    "Measurement",
    "Predictions",
    "PromptFormat",
    "Question",
    "RecalibrationConfig",
    "RecalibrationTrainer",
    "ReferenceDistributions",
    "ReliabilityDisplay",
    "__version__",
    "calibrate",
    "calibration_aware",
    "calibration_aware_config",
    "compare",
    "diagnose",
    "ensemble",
    "expected_calibration_error",
    "load",
    "load_questions",
    "measure",
    "metric_path",
    "predict",
    "recalibrate",
    "reference_distributions",
]

if TYPE_CHECKING:
    from .confidence import Predictions, predict
    from .evaluation import Calibration, Diagnosis, calibrate, compare, diagnose, measure
    from .hub import ensemble, load, metric_path
    from .measures import BinStatistics, CalibrationReport, expected_calibration_error
    from .reports import Comparison, Measurement, ReliabilityDisplay
    from .tasks import PromptFormat, Question, load_questions
    from .trainers import (
        CalibrationAwareConfig,
        CalibrationAwareGRPOConfig,
        CalibrationAwareGRPOTrainer,
        CalibrationAwareKTOConfig,
        CalibrationAwareKTOTrainer,
        CalibrationAwarePPOConfig,
        CalibrationAwarePPOTrainer,
        CalibrationAwareRewardConfig,
        CalibrationAwareRewardTrainer,
        CalibrationAwareRLOOConfig,
        CalibrationAwareRLOOTrainer,
        CalibrationAwareSFTConfig,
        CalibrationAwareSFTTrainer,
        CalibrationAwareTrainer,
        CalibrationCallback,
        CalibrationMixin,
        RecalibrationConfig,
        RecalibrationTrainer,
        ReferenceDistributions,
        calibration_aware,
        calibration_aware_config,
        recalibrate,
        reference_distributions,
    )


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
