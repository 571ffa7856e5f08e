"""GRPO that keeps the model calibrated."""

from __future__ import annotations

from trl import GRPOTrainer

from .mixin import CalibrationMixin
from .trl_compatibility import tag_names


class CalibrationAwareGRPOTrainer(CalibrationMixin, GRPOTrainer):  # type: ignore[misc]  # TRL's base class is untyped
    """`trl.GRPOTrainer`, group-relative policy optimization, with the calibration terms of `CalibrationMixin`.

    The anchor keeps to the trainer's own reference where its `beta` is not zero or there is an adapter, else to the
    weights that training starts from. The questions are no prompts: nothing is generated for them.
    """

    _tag_names = tag_names(GRPOTrainer)
    _alignment = "GRPO"
    _plain_method = "GRPO without calibration terms"
    _starting_stage = "base"
