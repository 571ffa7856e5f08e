"""The arguments of a training script, in addition to those of its trainer and model."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ScriptArguments

from ..tasks.free_form import MATCHERS

_QUESTIONS = "A JSON(L), CSV, TSV or Parquet file, a folder of them, or a Hub dataset as name[:config[:split]]."


@dataclass
class QuestionArguments:
    """The questions and the reference model of a calibration-aware trainer.

    Parameters
    ----------
    calibration_dataset : str, optional
        Multiple-choice questions to calibrate on, as `hf_calib.load_questions` takes them; "self" to let the reference
        write them before training; or, for DPO only, "pairs" to anchor tokens of the pairs' own chosen replies.
        Without it, training is the TRL trainer's own.
    eval_calibration_dataset : str, optional
        Answered questions to measure calibration on, before and after training and whenever the trainer evaluates.
    em_dataset : str, optional
        Answered questions for the E-step, instead of a share of the calibration questions.
    calibration_columns : str, optional
        The columns of `calibration_dataset`, `em_dataset` and of questions in `dataset_name`, if they fit no known
        layout: `question=stem,choices=A+B+C,answer=gold,context=passage`, as `hf_calib.tasks.parse_columns` reads it.
    calibration_answer_base : int, optional
        The number of the first option in their answers, 0 or 1. By default it follows from the layout or the column.
    calibration_on_bad_row : str, default "error"
        Whether unreadable rows of any question set stop the run ("error"), or are skipped and counted ("skip").
    eval_calibration_columns, eval_calibration_answer_base : optional
        The same for `eval_calibration_dataset`; by default those of `calibration_dataset`.
    calibration_reference_model : str, optional
        Folder or Hub id of the anchor's reference model, instead of the trainer's own; or a .safetensors file that
        `hf_calib.reference_distributions` wrote.
    """

    calibration_dataset: str | None = field(
        default=None,
        metadata={
            "help": f"Multiple-choice questions to calibrate on. {_QUESTIONS} self: the reference writes them. "
            "pairs (DPO only): anchor tokens of the chosen replies instead."
        },
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
            "help": "Columns of the questions if they fit no known layout, such as "
            "question=stem,choices=A+B+C,answer=gold,context=passage."
        },
    )
    calibration_answer_base: int | None = field(
        default=None,
        metadata={"help": "Number of the first option in the answers, 0 or 1. By default it follows from the column."},
    )
    calibration_on_bad_row: str = field(
        default="error",
        metadata={
            "help": "Stop at questions that cannot be read (error), or skip and count them (skip).",
            "choices": ["error", "skip"],
        },
    )
    eval_calibration_columns: str | None = field(
        default=None,
        metadata={"help": "Columns of eval_calibration_dataset; by default as in calibration_columns."},
    )
    eval_calibration_answer_base: int | None = field(
        default=None,
        metadata={"help": "The same for eval_calibration_dataset; by default as in calibration_answer_base."},
    )
    calibration_reference_model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the anchor's reference model, or a .safetensors file of its precomputed "
            "answers. By default the trainer's own reference."
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
        Names of rewards of `hf_calib.rewards` or of TRL, or `package.module.function`. `brier_reward` and
        `log_score_reward` grade answers by TRL's `accuracy_reward` or `reasoning_accuracy_reward` if one of them is
        named too, otherwise by `reward_matcher`.
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
