"""GRPO that keeps the model calibrated."""

from __future__ import annotations

from dataclasses import dataclass

from trl import GRPOConfig, GRPOTrainer

from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin


@dataclass
class CalibrationAwareGRPOConfig(CalibrationArguments, GRPOConfig):
    """`trl.GRPOConfig` with the arguments of the calibration terms, `CalibrationArguments`."""


class CalibrationAwareGRPOTrainer(CalibrationMixin, GRPOTrainer):  # type: ignore[misc]  # TRL's base class is untyped
    """`trl.GRPOTrainer`, group-relative policy optimization, with the terms of `CalibrationMixin`.

    The anchor's reference is the trainer's own if its `beta` is not zero or there is an adapter; otherwise the weights
    that training starts from. The questions are not prompts: nothing is generated for them.
    """
