"""DPO that keeps the model calibrated."""

from __future__ import annotations

from typing import Any

import torch
from trl import DPOTrainer

from .mixin import CalibrationMixin
from .preference_margins import log_ratio_margins
from .preference_mixin import PreferenceMixin
from .trl_compatibility import tag_names


class CalibrationAwareTrainer(PreferenceMixin, CalibrationMixin, DPOTrainer):  # type: ignore[misc]  # TRL's is untyped
    """`trl.DPOTrainer` with the calibration terms of `CalibrationMixin`.

    Direct preference optimization makes models overconfident on multiple-choice questions. With a
    `calibration_dataset` the aligned model stays as calibrated as its reference; the questions need no answers. `args`
    may be a `CalibrationAwareConfig` or a plain `DPOConfig`, which gets the calibration arguments' defaults. Without
    questions, the implicit preference's own probability can be reported and regularized, see `PreferenceArguments`.
    """

    _tag_names = tag_names(DPOTrainer)
    _alignment = "DPO"
    _plain_method = "DPO without calibration terms"
    _starting_stage = "base"

    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        return self.beta * log_ratio_margins(outputs, inputs)
