"""Calibration-aware fine-tuning (CFT) and its regularized form (RCFT)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from ..confidence.methods import OptionTexts
from ..evaluation.graded_answers import prompt_format_of_answers
from ..hub import dataset_reference
from ..tasks import Question, as_questions, require_answers
from ..tasks.questions import DecisionQuestion
from .answer_loss import AnswerLossMixin, OptionRowCollator, has_options
from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin
from .pair_positions import is_pairs, no_pairs
from .questions import QuestionPreparation, are_questions, chosen_format, tokenizer_of, use_chat_template
from .self_made import is_self, self_made_questions


@dataclass
class SFTCalibrationArguments(CalibrationArguments):
    """`CalibrationArguments` with the defaults of plain CFT: the supervised term alone.

    Parameters
    ----------
    anchor_weight : float, default 0.0
        Off by default: unlike alignment, fine-tuning starts from a miscalibrated model.
    supervised_on : {"answer", "question_and_answer"}, default "answer"
        Tokens of the supervised loss where `train_dataset` holds questions.
    method : {"cft", "rcft", "auto"}, optional
        How to fine-tune on questions. "cft": without the ECE regularizer. "rcft": with it, and an `em_weight` of 1, as
        in the paper, unless another is given. "auto": without it at first; as soon as the interval of the
        generalization gap, which every E-step measures, is above zero, the log says so and the regularizer is turned
        on with that weight. With `load_best_model_at_end`, "auto" keeps the step with the lowest log-loss on held-out
        questions unless `metric_for_best_model` is given. By default "rcft" if `em_weight` is above 0, else "cft".
    """

    method: str | None = field(
        default=None,
        metadata={
            "help": "cft: plain fine-tuning on questions; rcft: with the ECE regularizer; auto: cft until the "
            "generalization gap opens, then rcft. By default cft, or rcft if em_weight is above 0.",
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


class CalibrationAwareSFTTrainer(CalibrationMixin, AnswerLossMixin, SFTTrainer):  # type: ignore[misc]  # TRL's is untyped
    """`trl.SFTTrainer` with the calibration terms of `CalibrationMixin`.

    Its `train_dataset` may be multiple-choice questions with answers, in any layout of `hf_calib.tasks.as_questions`.
    Then the trainer's own loss is the supervised one (CFT): on the right option's token or, with option texts
    (`calibration_confidence="text-tokens"`), the cross-entropy over the options. The other terms that have a weight
    use the same questions (RCFT, with `em_weight`). A `calibration_dataset` adds prompts for the anchor, whose
    answers, if any, are not used; with "self", the reference writes them. Otherwise `train_dataset` is any SFT
    dataset, and the terms use the `calibration_dataset`.

    If the pre-trained model is available, `anchor_weight=0.5` with it as `calibration_reference_model`, prompts as
    `calibration_dataset` and `average_weights=0.6` gave the best results: accuracy 2.4 points above equally long plain
    fine-tuning, at an eighth of its ECE (`examples/lab/report.md`: rcft, five seeds, 20,000 questions).

    References
    ----------
    Xiao et al., Restoring Calibration for Aligned Large Language Models, ICML 2025.
    """

    calibration_arguments_class = SFTCalibrationArguments
    _aligns = False

    def __init__(
        self,
        model: Any,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self._asked = are_questions(train_dataset)
        if self._asked:
            settings = args if isinstance(args, CalibrationArguments) else self.calibration_arguments_class()
            self._writes_prompts = is_self(kwargs.get("calibration_dataset"))
            if is_pairs(kwargs.get("calibration_dataset")):
                raise no_pairs(self)
            prompts = [] if self._writes_prompts else _prompts(kwargs.get("calibration_dataset"), settings)
            _check_packing(args)
            self._supervised_questions = questions = as_questions(train_dataset)
            require_answers(questions, "supervised training on questions")
            if settings.supervised_weight != 1.0:
                raise ValueError(
                    f"supervised_weight={settings.supervised_weight:g}: on questions, the trainer's own loss is the "
                    "supervised term, and its weight is 1; change the other terms' weights relative to it, or use "
                    "RecalibrationTrainer, which can train without answers"
                )
            kwargs["prompt_format"] = chosen_format(
                kwargs.get("prompt_format"), prompt_format_of_answers(train_dataset), settings
            )
            self._questions = _preparation(model, args, settings, processing_class, kwargs["prompt_format"])
            prepared = self._questions.for_training(questions, kwargs.get("em_dataset"), prompts=prompts)
            n_prompts = len(prepared.trained) - len(prepared.answered)
            source = dataset_reference(train_dataset, prepared.n_used(kwargs.get("em_dataset")) - n_prompts)
            train_dataset = self._questions.supervised_rows(prepared.answered)
            eval_dataset = self._questions.supervised_evaluation(eval_dataset)
            processing_class = processing_class or self._questions.tokenizer
            kwargs["calibration_dataset"] = prepared
            # The best step is selected on held-out questions.
            auto = getattr(settings, "method", None) == "auto" and getattr(args, "eval_strategy", "no") != "no"
            if evaluates_on_em := auto and kwargs.get("eval_calibration_dataset") is None:
                own = prepared.of(prepared.held_out) if kwargs.get("em_dataset") is None else kwargs["em_dataset"]
                kwargs["eval_calibration_dataset"] = own
            if isinstance(self._questions.method, OptionTexts):
                _check_text_options(settings)
            if has_options(train_dataset):
                self._option_items = prepared.answered
            if args is not None and (has_options(train_dataset) or has_options(eval_dataset)):
                args.remove_unused_columns = False  # a row's options are not an input of the model
            self._supervised_by_trainer = True
            self._answers_only = self._questions.answers_only
            self._method_without_terms = "Calibration-aware fine-tuning (CFT)"
        elif getattr(args, "supervised_on", "answer") != "answer":
            raise ValueError(
                f"supervised_on={args.supervised_on!r} needs questions as train_dataset; on other data leave it at "
                '"answer"'
            )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if self._asked:
            if has_options(train_dataset) or has_options(eval_dataset):
                self._collate_options()
            run = self.calibration_run
            run.calibration_source = source
            run.trained_on = prepared.of(prepared.answered)
            if evaluates_on_em:
                assert run.evaluation_source is not None
                held_out = "held out from the calibration data; " if kwargs.get("em_dataset") is None else ""
                run.evaluation_source = replace(run.evaluation_source, origin=f"{held_out}also used by the E-step")

    def _set_up_term(self, source: Any, em_dataset: Any, reference_model: Any) -> None:
        if self._asked and self._writes_prompts:
            made = self_made_questions(self, reference_model)
            prompts = [made[item.row] for item in self._questions.encode(made, drop_too_long=True)]
            source = self._questions.for_training(self._supervised_questions, em_dataset, prompts=prompts)
        super()._set_up_term(source, em_dataset, reference_model)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate; if the trainer trains on questions, `eval_dataset` may be questions too."""
        if self._asked and not isinstance(eval_dataset, str):
            eval_dataset = self._questions.supervised_evaluation(eval_dataset)
            if has_options(eval_dataset):
                self._collate_options()
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _collate_options(self) -> None:
        """Pass the options of rows that have them to the loss."""
        if not self._is_plain():
            raise ValueError(
                "calibration_confidence: with option texts, with distributions as answers, and with more than 26 "
                "options, the loss is a cross-entropy over the options; it cannot be combined with another "
                "loss_type or compute_loss_func, label smoothing, a router loss, Liger kernels, "
                "parallelism_config, or several GPUs in one process"
            )
        self.args.remove_unused_columns = False
        if not isinstance(self.data_collator, OptionRowCollator):
            self.data_collator: Any = OptionRowCollator(self.data_collator)


def _prompts(source: Any, settings: CalibrationArguments) -> list[Question]:
    """Return the anchor's prompts, given in addition to answered questions."""
    if source is None:
        return []
    if settings.anchor_weight == 0:
        raise ValueError(
            "calibration_dataset: in addition to questions as train_dataset it holds prompts for the anchor, but "
            "anchor_weight is 0; raise it, or pass all questions with answers as train_dataset"
        )
    return [_without_answer(question) for question in as_questions(source)]


def _without_answer(question: Question) -> Question:
    if isinstance(question, DecisionQuestion):  # whose answer would be restored from its target
        return replace(question, answer=None, target=None)
    return replace(question, answer=None)


def _check_packing(args: Any) -> None:
    """Raise a ValueError if questions would be packed."""
    if getattr(args, "packing", False):
        raise ValueError(
            "packing: it would put several questions into one sequence, where each sees the ones before it; set "
            "packing=False, which costs little since questions are padded to the longest of their batch"
        )


def _check_text_options(settings: CalibrationArguments) -> None:
    """Raise a ValueError if the supervised loss is requested on tokens other than the options'."""
    if getattr(settings, "supervised_on", "answer") != "answer":
        raise ValueError(
            f'supervised_on="question_and_answer" needs calibration_confidence="letters", got '
            f"{settings.calibration_confidence!r}: with option texts the loss is the cross-entropy over the options"
        )


def _preparation(
    model: Any, args: Any, settings: CalibrationArguments, processing_class: Any, prompt_format: Any
) -> QuestionPreparation:
    """Prepare questions with the tokenizer and limits of the trainer, before the trainer is constructed."""
    options = {"trust_remote_code": getattr(args, "trust_remote_code", False)}
    revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
    if revision is not None and isinstance(model, str):
        options["revision"] = revision
    if processing_class is None:
        if isinstance(model, str):
            processing_class = AutoTokenizer.from_pretrained(model, **options)
        else:
            processing_class = tokenizer_of(model, "processing_class", **options)
    use_chat_template(
        getattr(processing_class, "tokenizer", processing_class), getattr(args, "chat_template_path", None)
    )
    return QuestionPreparation(
        processing_class,
        AutoConfig.from_pretrained(model, **options) if isinstance(model, str) else model.config,
        settings,
        seed=args.seed if args is not None else SFTConfig.seed,
        prompt_format=prompt_format,
        max_length=getattr(args, "max_length", SFTConfig.max_length),  # plain TrainingArguments have none
    )
