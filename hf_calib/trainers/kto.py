"""KTO that keeps the model calibrated."""

from __future__ import annotations

from dataclasses import dataclass

from trl import KTOConfig, KTOTrainer

from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin


@dataclass
class CalibrationAwareKTOConfig(CalibrationArguments, KTOConfig):
    """`trl.KTOConfig` with the arguments of the calibration terms, `CalibrationArguments`."""


class CalibrationAwareKTOTrainer(CalibrationMixin, KTOTrainer):  # type: ignore[misc]  # TRL's base class is untyped
    """`trl.KTOTrainer`, unpaired preference optimization, with the calibration terms of `CalibrationMixin`.

    The anchor's reference is the trainer's own. KTO's own loss depends on how a batch is divided over devices and
    accumulation steps, through its estimate of the divergence; the calibration terms do not.
    """
