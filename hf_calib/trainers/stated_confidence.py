"""Train the confidence that a model states, without reinforcement learning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from ..confidence.encoded import EncodedOptions, PromptEncoder
from ..confidence.stated_levels import LEVELS, AnsweredQuestion, StatedLevels, answered_question, find_levels
from ..evaluation import SelfEvaluationQuestions
from ..hub import dataset_reference
from ..tasks import PromptFormat, Question, QuestionError
from ..tasks.drawing import QuestionList
from .calibration_arguments import CalibrationArguments, check_weight
from .questions import chosen_format, use_chat_template
from .recalibration import RecalibrationConfig, RecalibrationTrainer, check_config


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
        The levels: 0 to 100 in steps of 5, 0 to 9, or ten words. "auto" chooses the first of these whose levels
        are single tokens.
    answer_weight : float, default 0.0
        Weight of the log-loss of the right answers' texts, averaged over the tokens of each answer and then over the
        answers. At 0 the answers are not trained.
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
        metadata={
            "help": "Levels of confidence; auto takes the first scale of single tokens.",
            "choices": ["auto", *LEVELS],
        },
    )

    answer_weight: float = field(
        default=0.0, metadata={"help": "Weight of the log-loss of the right answers' texts; 0 leaves them untrained."}
    )

    trainable_confidence = (StatedLevels.name,)

    def __post_init__(self) -> None:
        check_weight("answer_weight", self.answer_weight)
        for name in ("em_weight", "dece_weight", "brier_weight"):
            if getattr(self, name) != 0:
                raise ValueError(
                    f"{name}: this term acts on a question's options, not on levels of confidence; set it to 0"
                )
        if self.permute_options:
            raise ValueError("permute_options: levels of confidence cannot be permuted; leave it out")
        if self.calibration_confidence not in (CalibrationArguments.calibration_confidence, StatedLevels.name):
            raise ValueError(
                f"calibration_confidence: {self.calibration_confidence!r} does not apply to levels of confidence; "
                "leave it out"
            )
        self.calibration_confidence = StatedLevels.name
        super().__post_init__()


class StatedConfidenceTrainer(RecalibrationTrainer):
    """Trains the confidence that a model states after its own answers, without reinforcement learning (ConfTuner).

    After each answer the model has a distribution over the levels of confidence; the loss is the expected Brier score
    of the level that it states, plus the anchor if `anchor_weight` is above 0. The answers' texts are trained only if
    `answer_weight` is above 0. `hf-calib measure --free-form ... --confidence stated-levels` uses the same prompt and
    the levels of `scale="auto"`.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        The model that gave the answers.
    args : StatedConfidenceConfig
    answers : SelfEvaluationQuestions
        The model's graded answers; its prompt format is used.
    processing_class : transformers.PreTrainedTokenizerBase
    reference : PreTrainedModel, str or Path, optional
        Reference of the anchor; by default the model before training.
    **kwargs
        Passed to `RecalibrationTrainer`. An `eval_calibration_dataset` must also hold graded answers.

    Raises
    ------
    TypeError
        If `args` are not a `StatedConfidenceConfig`, or the answers not `SelfEvaluationQuestions`.
    ValueError
        If there is a `reference` but no anchor, or `calibration_prompt` does not fit the answers' prompt format.
    QuestionError
        If the levels are not single tokens, or a prompt is too long.

    Warns
    -----
    UserWarning
        If `hf-calib measure` would ask for levels other than those of `scale`.

    References
    ----------
    Li et al., *ConfTuner*, NeurIPS 2025 (arXiv 2508.18847).
    """

    _method_name = _method_without_terms = "stated-confidence training"
    _chat_option = "answers that were generated with prompt_format=PromptFormat(chat=True)"

    def __init__(
        self,
        model: Any,
        args: StatedConfidenceConfig,
        answers: SelfEvaluationQuestions,
        processing_class: Any,
        reference: Any = None,
        **kwargs: Any,
    ) -> None:
        check_config(args, StatedConfidenceConfig)
        use_chat_template(processing_class, args.chat_template_path)
        questions = _checked(answers, "answers")
        if reference is not None and args.anchor_weight == 0:
            raise ValueError("reference: has no effect without the anchor; set anchor_weight above 0, or leave it out")
        of_answers = PromptFormat.from_dict(questions.provenance["prompt_format"])
        prompt_format = chosen_format(kwargs.pop("prompt_format", None), of_answers, args)
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        self.levels = find_levels(tokenizer, prompt_format, args.scale)
        if self.levels != (measured := find_levels(tokenizer, prompt_format)):
            warnings.warn(
                f"scale: {args.scale!r} trains levels from {self.levels[0]} to {self.levels[-1]}, but hf-calib "
                f"measure asks this model for levels from {measured[0]} to {measured[-1]}; evaluate it with this "
                "trainer, or set scale='auto'",
                stacklevel=2,
            )
        if kwargs.get("eval_calibration_dataset") is not None:
            held_out = _checked(kwargs["eval_calibration_dataset"], "eval_calibration_dataset")
            kwargs["eval_calibration_dataset"] = level_questions(held_out, self.levels)
        own = level_questions(questions, self.levels)
        self._answer_weight = args.answer_weight
        self._takes_own_forward = args.answer_weight > 0
        super().__init__(
            model,
            args,
            own,
            reference,
            processing_class,
            prompt_format=prompt_format,
            **kwargs,
        )
        run = self.calibration_run
        assert run.calibration_source is not None
        run.calibration_source = dataset_reference(answers, run.calibration_source.size)
        run.free_form = True
        self._right_answers = self._encoded_answers(own)

    def replace_calibration_questions(self, questions: Any) -> None:
        """Train on other graded answers from the next step on."""
        own = level_questions(_checked(questions, "questions"), self.levels)
        super().replace_calibration_questions(own)
        self._right_answers = self._encoded_answers(own)

    def _encoded_answers(self, questions: Sequence[Question]) -> list[EncodedOptions]:
        """Return the tokenized right answers with their prompts, if they are to be trained."""
        if not self._takes_own_forward:
            return []
        top = len(self.levels) - 1
        # The answer is the first of two choices, since a question needs at least two.
        right = [
            Question(own.question, (own.given, "?"), 0, own.subject, own.context)
            for own in questions
            if isinstance(own, AnsweredQuestion) and own.answer == top
        ]
        if not right:
            raise QuestionError("answer_weight: no answer is right, so there is none to train on; set it to 0")
        preparation = self._questions
        encoder = PromptEncoder(
            preparation.tokenizer, preparation.max_length, preparation.settings.calibration_on_too_long
        )
        return encoder.texts(right, preparation.prompt_format, list_options=False)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the calibration terms plus, if `answer_weight` is above 0, the log-loss of right answers."""
        loss = super().compute_loss(model, inputs, False, num_items_in_batch)
        if not self._right_answers:
            return loss
        rows = inputs["row"].tolist()
        chosen = [self._right_answers[row % len(self._right_answers)] for row in rows]
        device = self.accelerator.device
        sequences = [torch.tensor([*item.input_ids, *item.options[0]]) for item in chosen]
        ids = pad_sequence(sequences, batch_first=True, padding_value=0).to(device)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        starts = torch.tensor([len(item.input_ids) for item in chosen])
        places = torch.arange(ids.shape[1])
        mask = (places < lengths[:, None]).to(device)
        labels = ids.masked_fill(~(mask & (places >= starts[:, None]).to(device)), -100)[:, 1:]
        logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
        losses = cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
        # The mean over answers, not over all tokens, so that gradient accumulation does not change the update.
        return loss + self._answer_weight * (losses.sum(dim=1) / (labels >= 0).sum(dim=1)).mean()


def level_questions(answers: SelfEvaluationQuestions, levels: tuple[str, ...]) -> QuestionList[Question]:
    """Return questions that ask how confident a model is in its graded answers."""
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
