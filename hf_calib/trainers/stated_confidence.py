"""Train the confidence that a model states, without reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..confidence.stated_levels import LEVELS, StatedLevels, answered_question, find_levels
from ..evaluation import SelfEvaluationQuestions
from ..hub import dataset_reference
from ..tasks import PromptFormat, Question
from ..tasks.drawing import QuestionList
from .questions import use_chat_template
from .recalibration import RecalibrationConfig, RecalibrationTrainer


@dataclass
class StatedConfidenceConfig(RecalibrationConfig):
    """`RecalibrationConfig` with the defaults of `StatedConfidenceTrainer`.

    Parameters
    ----------
    supervised_weight : float, default 1.0
        Weight of the expected Brier score of the stated level.
    anchor_weight : float, default 0.0
        Weight of the divergence from the reference's next-token distribution where the level is stated.
    scale : {"auto", "percent", "digits", "words"}, default "auto"
        The levels: 0 to 100 in steps of 5, 0 to 9, or ten words. "auto" is the first of these whose levels are one
        token each.
    """

    supervised_weight: float = field(
        default=1.0, metadata={"help": "Weight of the expected Brier score of the stated level."}
    )
    anchor_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the anchor: KL to the reference's distribution where the level is stated."},
    )
    scale: str = field(
        default="auto",
        metadata={"help": "Levels of confidence; auto takes the first that are tokens.", "choices": ["auto", *LEVELS]},
    )

    trainable_confidence = (StatedLevels.name,)

    def __post_init__(self) -> None:
        self.calibration_confidence = StatedLevels.name
        for name in ("em_weight", "dece_weight"):
            if getattr(self, name) != 0:
                raise ValueError(
                    f"{name}: this term acts on a question's options, not on levels of confidence; set it to 0"
                )
        super().__post_init__()


class StatedConfidenceTrainer(RecalibrationTrainer):
    """Trains the confidence that a model states after its own answers, without reinforcement learning (ConfTuner).

    After each answer the model has a distribution over the levels of confidence; the loss is the expected Brier score
    of the level that it states, plus, with an `anchor_weight`, the anchor. Nothing else is trained: neither the
    answers nor how they are found. `hf-calib measure --free-form ... --confidence stated-levels` asks with the same
    prompt.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        The model that gave the answers.
    args : StatedConfidenceConfig
    answers : SelfEvaluationQuestions
        The model's graded answers; its prompt format is used.
    processing_class : transformers.PreTrainedTokenizerBase
    reference : PreTrainedModel, str or Path, optional
        What the anchor keeps to; by default the model as it is before training.
    **kwargs
        Passed to `RecalibrationTrainer`. An `eval_calibration_dataset` holds graded answers too.

    Raises
    ------
    TypeError
        If the answers are something else.
    QuestionError
        If the tokenizer splits the levels, or a prompt is too long.

    References
    ----------
    Li et al., *ConfTuner*, NeurIPS 2025 (arXiv 2508.18847).
    """

    _method_name = _method_without_terms = "stated-confidence training"

    def __init__(
        self,
        model: Any,
        args: StatedConfidenceConfig,
        answers: SelfEvaluationQuestions,
        processing_class: Any,
        reference: Any = None,
        **kwargs: Any,
    ) -> None:
        use_chat_template(processing_class, args.chat_template_path)
        questions = _checked(answers, "answers")
        prompt_format = kwargs.pop("prompt_format", None)
        if prompt_format is None:
            prompt_format = PromptFormat.from_dict(answers.provenance["prompt_format"])
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        self.levels = find_levels(tokenizer, prompt_format, args.scale)
        if kwargs.get("eval_calibration_dataset") is not None:
            held_out = _checked(kwargs["eval_calibration_dataset"], "eval_calibration_dataset")
            kwargs["eval_calibration_dataset"] = level_questions(held_out, self.levels)
        super().__init__(
            model,
            args,
            level_questions(questions, self.levels),
            reference,
            processing_class,
            prompt_format=prompt_format,
            **kwargs,
        )
        self.calibration_run.calibration_source = dataset_reference(answers, len(answers))

    def replace_calibration_questions(self, questions: Any) -> None:
        """Train on other graded answers from the next step on."""
        super().replace_calibration_questions(level_questions(_checked(questions, "questions"), self.levels))


def level_questions(answers: SelfEvaluationQuestions, levels: tuple[str, ...]) -> QuestionList[Question]:
    """Return the questions how confident a model is in its graded answers."""
    return QuestionList(
        [answered_question(answer.question, answer.text, answer.right, levels) for answer in answers.answers],
        source=answers.source,
    )


def _checked(answers: Any, argument: str) -> SelfEvaluationQuestions:
    if not isinstance(answers, SelfEvaluationQuestions):
        raise TypeError(
            f"{argument}: expected SelfEvaluationQuestions, got {type(answers).__name__}; make them with "
            "self_evaluation_questions, or read them with SelfEvaluationQuestions.load"
        )
    return answers
