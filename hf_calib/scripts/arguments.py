"""The arguments of a training script, beside those of its trainer and model."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ScriptArguments

from ..tasks.free_form import MATCHERS

_QUESTIONS = "A JSON(L), CSV, TSV or Parquet file, a folder of them, or a Hub dataset as name[:config[:split]]."


@dataclass
class QuestionArguments:
    """The questions of a calibration-aware trainer, and the model to keep to.

    Parameters
    ----------
    calibration_dataset : str, optional
        Multiple-choice questions to calibrate on, as `hf_calib.load_questions` takes them, or "self": the reference
        writes them before training. Without it, training is the TRL trainer's own.
    eval_calibration_dataset : str, optional
        Answered questions that calibration is measured on, before, after, and whenever the trainer evaluates.
    em_dataset : str, optional
        Answered questions for the E-step, instead of a share of the calibration questions.
    calibration_columns : str, optional
        The columns of `calibration_dataset`, `em_dataset` and of questions in `dataset_name`, where no known layout
        fits: `question=stem,choices=A+B+C,answer=gold,context=passage`, as `hf_calib.tasks.parse_columns` reads it.
    calibration_answer_base : int, optional
        The number of the first option in their answers, 0 or 1. By default the layout or the whole column tells.
    calibration_on_bad_row : str, default "error"
        Whether rows of any question set that cannot be read stop the run, or are skipped and counted: "error", "skip".
    eval_calibration_columns, eval_calibration_answer_base : optional
        The same for `eval_calibration_dataset`; those of `calibration_dataset` by default.
    calibration_reference_model : str, optional
        A model's folder or Hub id for the anchor to keep to, instead of the trainer's own reference; or a
        .safetensors file of `hf_calib.reference_distributions`.
    """

    calibration_dataset: str | None = field(
        default=None,
        metadata={"help": f"Multiple-choice questions to calibrate on. {_QUESTIONS} self: the reference writes them."},
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
    calibration_columns: str | None = field(
        default=None,
        metadata={
            "help": "Columns of the questions where no known layout fits, such as "
            "question=stem,choices=A+B+C,answer=gold,context=passage."
        },
    )
    calibration_answer_base: int | None = field(
        default=None,
        metadata={"help": "Number of the first option in the answers, 0 or 1. By default the whole column tells."},
    )
    calibration_on_bad_row: str = field(
        default="error",
        metadata={
            "help": "Stop at questions that cannot be read, or skip and count them.",
            "choices": ["error", "skip"],
        },
    )
    eval_calibration_columns: str | None = field(
        default=None, metadata={"help": "The same as calibration_columns, its default, for eval_calibration_dataset."}
    )
    eval_calibration_answer_base: int | None = field(
        default=None,
        metadata={"help": "The same as calibration_answer_base, its default, for eval_calibration_dataset."},
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
        Names of the rewards of `hf_calib.rewards` and of TRL's, or `package.module.function`. `brier_reward` and
        `log_score_reward` grade answers by TRL's `accuracy_reward` or `reasoning_accuracy_reward` if it is named too,
        otherwise by the `reward_matcher`.
    reward_matcher : {"exact", "contains", "numeric"}, default "exact"
        How `answer_reward`, `brier_reward` and `log_score_reward` compare answers.
    reward_model_name_or_path : str, optional
        Folder or Hub id of a reward model.
    """

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rewards: brier_reward and others of hf_calib.rewards, accuracy_reward and others of trl.rewards, "
            "or package.module.function."
        },
    )
    reward_matcher: str = field(
        default="exact",
        metadata={
            "help": "How answer_reward, brier_reward and log_score_reward compare answers.",
            "choices": list(MATCHERS),
        },
    )
    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a reward model."}
    )
