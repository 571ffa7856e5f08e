"""DPO that keeps the model calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin
from .preference_arguments import PreferenceArguments
from .preference_mixin import PreferenceMixin, sequence_log_probabilities


@dataclass
class CalibrationAwareConfig(PreferenceArguments, CalibrationArguments, DPOConfig):
    """`trl.DPOConfig` with the arguments of the calibration terms and of preference calibration.

    See `CalibrationArguments` and `PreferenceArguments`.
    """


class CalibrationAwareTrainer(CalibrationMixin, PreferenceMixin, DPOTrainer):  # type: ignore[misc]  # TRL's is untyped
    """`trl.DPOTrainer` with the calibration terms of `CalibrationMixin`.

    Direct preference optimization makes models overconfident on multiple-choice questions. With a
    `calibration_dataset` the aligned model stays as calibrated as its reference; the questions need no answers. `args`
    may be a `CalibrationAwareConfig` or a plain `DPOConfig`, which gets the calibration arguments' defaults. The
    probability of the implicit preference can be reported and regularized too, also without questions, see
    `PreferenceArguments`.
    """

    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        policy = sequence_log_probabilities(outputs[0], inputs)
        if "ref_chosen_logps" in inputs:
            reference = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]).to(policy.device)
        else:
            reference = sequence_log_probabilities(outputs[1], inputs).detach()
        chosen, rejected = (policy - reference).chunk(2)
        return self.beta * (chosen - rejected)


# Aliases in the pattern of the other trainers' names.
CalibrationAwareDPOConfig = CalibrationAwareConfig
CalibrationAwareDPOTrainer = CalibrationAwareTrainer
