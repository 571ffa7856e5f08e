"""The arguments of preference calibration."""

from __future__ import annotations

from dataclasses import dataclass, field

from .best_metric import set_direction


@dataclass
class PreferenceArguments:
    """
    Arguments of preference calibration, a mixin for the config of a trainer on preference pairs.

    The model's probability that the chosen answer is preferred is σ(m), where the margin m is β times the difference
    of the log-ratios in DPO, and the difference of the scores in reward modeling. Its confidence is
    max(σ(m), 1 - σ(m)), and correct if m > 0. (The label alone is always "chosen"; measured against it, the best
    calibrated model would be the most confident one.)

    Parameters
    ----------
    preference_calibration : bool, default False
        Report `calibration/preference_ece`, `/preference_accuracy` and `/preference_confidence`.
    preference_weight : float, default 0.0
        Weight of the ECE regularizer on the preference's confidence; implies reporting.
    preference_bins : int, default 10
        Number of equal-width confidence bins.
    preference_momentum : float, default 0.99
        Factor by which each optimizer step multiplies the bins' earlier counts.
    """

    preference_calibration: bool = field(
        default=False, metadata={"help": "Report how calibrated the preference's probability is."}
    )
    preference_weight: float = field(
        default=0.0, metadata={"help": "Weight of the ECE regularizer on the preference's confidence."}
    )
    preference_bins: int = field(default=10, metadata={"help": "Number of equal-width bins of that confidence."})
    preference_momentum: float = field(
        default=0.99, metadata={"help": "Factor by which an optimizer step multiplies those bins' earlier counts."}
    )

    def __post_init__(self) -> None:
        set_direction(self)
        parent = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()
        if not 0.0 <= self.preference_weight < float("inf"):
            raise ValueError(
                f"preference_weight must be a finite number that is not negative, got {self.preference_weight}"
            )
        if self.preference_bins < 1:
            raise ValueError(f"preference_bins must be at least 1, got {self.preference_bins}")
        if not 0.0 <= self.preference_momentum < 1.0:
            raise ValueError(f"preference_momentum must be in [0, 1), got {self.preference_momentum}")
