"""KTO that keeps the model calibrated."""

from __future__ import annotations

from trl import KTOTrainer

from .mixin import CalibrationMixin
from .trl_compatibility import tag_names


class CalibrationAwareKTOTrainer(CalibrationMixin, KTOTrainer):  # type: ignore[misc]  # TRL's base class is untyped
    """`trl.KTOTrainer`, unpaired preference optimization, with the calibration terms of `CalibrationMixin`.

    The anchor keeps to the trainer's own reference. KTO's own loss depends on how a batch is divided over the devices
    and the steps of accumulation, through its estimate of the divergence; the terms do not.
    """

    _tag_names = tag_names(KTOTrainer)
    _alignment = "KTO"
    _plain_method = "KTO without calibration terms"
    _starting_stage = "base"
