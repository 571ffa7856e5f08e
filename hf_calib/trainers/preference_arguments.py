"""The arguments of preference calibration, added to those of a trainer on preference pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

from .best_metric import set_direction
from .calibration_arguments import check_weight


@dataclass
class PreferenceArguments:
    """
    Arguments of preference calibration, a mixin for the config of a trainer on preference pairs.

    The model's probability that the chosen answer is preferred is σ(m), where the margin m is β times the difference
    of the log-ratios in DPO, and the difference of the scores in reward modeling. Its confidence is
    max(σ(m), 1 - σ(m)), and correct if m > 0. (Compared with the label alone, which is always "chosen", the most
    confident model would count as calibrated.)

    Parameters
    ----------
    preference_calibration : bool, default False
        Report `calibration/preference_ece`, `/preference_accuracy` and `/preference_confidence`.
    preference_weight : float, default 0.0
        Weight of the ECE regularizer on the preference's confidence; implies reporting.
    """

    preference_calibration: bool = field(
        default=False, metadata={"help": "Report how calibrated the preference's probability is."}
    )
    preference_weight: float = field(
        default=0.0, metadata={"help": "Weight of the ECE regularizer on the preference's confidence."}
    )

    def __post_init__(self) -> None:
        set_direction(self)
        parent = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()
        check_weight("preference_weight", self.preference_weight)
