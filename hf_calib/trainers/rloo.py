"""RLOO that keeps the model calibrated."""

from __future__ import annotations

from dataclasses import dataclass

from trl import RLOOConfig, RLOOTrainer

from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin


@dataclass
class CalibrationAwareRLOOConfig(CalibrationArguments, RLOOConfig):
    """`trl.RLOOConfig` with the arguments of the calibration terms, `CalibrationArguments`."""


class CalibrationAwareRLOOTrainer(CalibrationMixin, RLOOTrainer):  # type: ignore[misc]  # TRL's base class is untyped
    """`trl.RLOOTrainer`, REINFORCE with a leave-one-out baseline, with the terms of `CalibrationMixin`.

    The anchor's reference is the trainer's own if its `beta` is not zero or there is an adapter; otherwise the weights
    that training starts from. The questions are not prompts: nothing is generated for them.
    """
