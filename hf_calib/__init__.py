"""Calibrated confidence for aligned language models: measure it, keep it while aligning, restore it afterwards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._version import __version__

# Where each public name lives. They are imported when they are first used, so that `import hf_calib` and the command
# line start without torch.
_ROOMS = {
    "regimes": ("Diagnosis", "diagnose"),
    "measures": ("BinStatistics", "CalibrationReport", "expected_calibration_error"),
    "tasks": ("PromptFormat", "Question", "load_questions"),
    "confidence": ("Predictions", "predict"),
    "hub": ("ensemble", "load"),
    "reports": ("ReliabilityDisplay",),
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
        "as_trl_dataset",
        "calibration_aware",
        "calibration_aware_config",
        "recalibrate",
        "reference_distributions",
    ),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "BinStatistics",
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
    "Diagnosis",
    "Predictions",
    "PromptFormat",
    "Question",
    "RecalibrationConfig",
    "RecalibrationTrainer",
    "ReferenceDistributions",
    "ReliabilityDisplay",
    "__version__",
    "as_trl_dataset",
    "calibration_aware",
    "calibration_aware_config",
    "diagnose",
    "ensemble",
    "expected_calibration_error",
    "load",
    "load_questions",
    "predict",
    "recalibrate",
    "reference_distributions",
]

if TYPE_CHECKING:
    from .confidence import Predictions, predict
    from .hub import ensemble, load
    from .measures import BinStatistics, CalibrationReport, expected_calibration_error
    from .regimes import (
        Diagnosis,
        diagnose,
    )
    from .reports import ReliabilityDisplay
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
        as_trl_dataset,
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
