"""The arguments of a training script, beside those of its trainer and model."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ScriptArguments

_QUESTIONS = "A JSON(L), CSV, TSV or Parquet file, a folder of them, or a Hub dataset as name[:config[:split]]."


@dataclass
class QuestionArguments:
    """The questions of a calibration-aware trainer, and the model to keep to.

    Parameters
    ----------
    calibration_dataset : str, optional
        Multiple-choice questions to calibrate on, as `hf_calib.load_questions` takes them. Without it, training is
        the TRL trainer's own.
    eval_calibration_dataset : str, optional
        Answered questions that calibration is measured on, before, after, and whenever the trainer evaluates.
    em_dataset : str, optional
        Answered questions for the E-step, instead of a share of the calibration questions.
    calibration_reference_model : str, optional
        A model's folder or Hub id for the anchor to keep to, instead of the trainer's own reference; or a
        .safetensors file of `hf_calib.reference_distributions`.
    """

    calibration_dataset: str | None = field(
        default=None, metadata={"help": f"Multiple-choice questions to calibrate on. {_QUESTIONS}"}
    )
    eval_calibration_dataset: str | None = field(
        default=None, metadata={"help": f"Answered questions to measure calibration on. {_QUESTIONS}"}
    )
    em_dataset: str | None = field(
        default=None,
        metadata={
            "help": f"Answered questions for the E-step, instead of a share of the calibration questions. {_QUESTIONS}"
        },
    )
    calibration_reference_model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the model to keep to, or a .safetensors file of what it was asked "
            "beforehand. The trainer's own reference by default."
        },
    )


@dataclass
class CalibrationScriptArguments(QuestionArguments, ScriptArguments):
    """`trl.ScriptArguments` with the questions of a calibration-aware trainer, `QuestionArguments`.

    `dataset_name` may be a local file or folder too (see `hf_calib.scripts.data.load_splits`).
    """


@dataclass
class RewardedScriptArguments(CalibrationScriptArguments):
    """`CalibrationScriptArguments` with the rewards of GRPO and RLOO.

    Parameters
    ----------
    reward_funcs : list of str, optional
        Names of TRL's rewards, or `package.module.function`.
    reward_model_name_or_path : str, optional
        Folder or Hub id of a reward model.
    """

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={"help": "Rewards: accuracy_reward and the like of trl.rewards, or package.module.function."},
    )
    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a reward model."}
    )
