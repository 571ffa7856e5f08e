"""The config of `CalibrationAwareSFTTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig

from .calibration_arguments import CalibrationArguments


@dataclass
class SFTCalibrationArguments(CalibrationArguments):
    """`CalibrationArguments` with the defaults of plain CFT: the supervised term alone.

    Parameters
    ----------
    anchor_weight : float, default 0.0
        Off: unlike alignment, fine-tuning starts from a miscalibrated model.
    supervised_on : {"answer", "question_and_answer"}, default "answer"
        Tokens of the supervised loss where `train_dataset` holds questions.
    method : {"cft", "rcft", "auto"}, optional
        How to fine-tune on questions. "cft": without the ECE regularizer. "rcft": with it, and an `em_weight` of 1, as
        in the paper, unless another is given. "auto": without it at first; as soon as the interval of the
        generalization gap, which every E-step measures, is above zero, the log says so and the regularizer is turned
        on with that weight. With `load_best_model_at_end`, "auto" keeps the step with the lowest log-loss on held-out
        questions unless `metric_for_best_model` is given. By default `em_weight` alone decides.
    """

    method: str | None = field(
        default=None,
        metadata={
            "help": "cft: plain fine-tuning on questions; rcft: with the ECE regularizer; auto: the former until the "
            "generalization gap opens, then the latter. By default em_weight decides.",
            "choices": ["cft", "rcft", "auto"],
        },
    )
    supervised_on: str = field(
        default="answer",
        metadata={"help": "Tokens of the supervised loss on questions.", "choices": ["answer", "question_and_answer"]},
    )
    anchor_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the anchor: KL to the reference's next-token distribution. Needs no answers."},
    )

    def __post_init__(self) -> None:
        if self.method not in (None, "cft", "rcft", "auto"):
            raise ValueError(f"method must be one of cft, rcft, auto; got {self.method!r}")
        if self.supervised_on not in ("answer", "question_and_answer"):
            raise ValueError(f"supervised_on must be one of answer, question_and_answer; got {self.supervised_on!r}")
        if self.method == "cft":
            if self.em_weight > 0:
                raise ValueError(f'method="cft" has no regularizer, but em_weight is {self.em_weight}; use "rcft"')
        elif self.method is not None and self.em_weight == 0:
            self.em_weight = 1.0
        super().__post_init__()


@dataclass
class CalibrationAwareSFTConfig(SFTCalibrationArguments, SFTConfig):
    """`trl.SFTConfig` with the arguments of the calibration terms, `SFTCalibrationArguments`."""

    def __post_init__(self) -> None:
        if self.method == "auto" and self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "eval_calibration/nll", False
        super().__post_init__()
