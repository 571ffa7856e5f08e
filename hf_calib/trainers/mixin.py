"""The mixin that makes a TRL trainer calibration-aware."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..confidence import Predictions
from ..confidence.option_logits import evaluating, padding_token
from ..hub import dataset_reference
from ..tasks import (
    PromptFormat,
    Question,
    QuestionError,
    as_questions,
    encode_questions,
    handle_identical_choices,
    maximum_length,
    require_answers,
)
from ..tasks.collator import QuestionCollator
from ..tasks.encoding import EncodedQuestions
from .backward import check_checkpointing, check_separate_backward
from .calibration_arguments import CalibrationArguments
from .calibration_term import CalibrationTerm
from .callbacks import CalibrationRunCallback, CalibrationStateCallback, evaluation_allowed
from .evaluator import CalibrationEvaluator, logged_measures
from .interruption import InterruptionMixin
from .publishing import PublishingMixin
from .question_stream import held_out_split
from .reference import Reference
from .reference_distributions import matched_distributions, read_distributions
from .sharding import register_output_layer
from .weight_averaging import WeightAveragingCallback, check_averaging, resumed_folder

if TYPE_CHECKING:
    from ..hub import DatasetReference
    from ..measures import CalibrationReport


class CalibrationMixin(PublishingMixin, InterruptionMixin):
    """Adds the calibration terms to any trainer that computes its loss in `compute_loss`.

    Put before the trainer's class: `class MyTrainer(CalibrationMixin, DPOTrainer)`. Without a `calibration_dataset`,
    or with all weights at zero, training is the extended trainer's to the last bit.

    Parameters
    ----------
    calibration_dataset : dataset, list of rows, str or Path, optional
        Multiple-choice questions in any layout of `hf_calib.tasks.as_questions`. Questions without answers are
        anchored to the reference model; those with answers get the supervised and the EM term too.
    eval_calibration_dataset : the same, optional
        Answered questions on which `evaluate()` reports accuracy, calibration error and more.
    em_dataset : the same, optional
        Answered questions for the E-step. Where it is not given and the EM term has a weight, a share of the
        answered calibration questions is set aside.
    calibration_reference_model : PreTrainedModel, str, Path or ReferenceDistributions, optional
        The model to keep to, instead of the trainer's own reference; or what it was asked beforehand, from
        `reference_distributions` or its file.
    prompt_format : PromptFormat, optional
        How the questions are put.
    """

    calibration_arguments_class: type[CalibrationArguments] = CalibrationArguments
    # Set by a trainer whose own loss is the supervised one on the same questions.
    _supervised_by_trainer = False
    # Whether the extended trainer's loss takes a forward with gradient.
    _takes_own_forward = True
    # For the model card: what the trainer aligns with, how its method is called without terms, and what the model is
    # before training, the base model or one that was aligned before.
    _alignment: str | None = None
    _plain_method: str | None = None
    _starting_stage = "before"

    def __init__(
        self,
        *args: Any,
        calibration_dataset: Any = None,
        eval_calibration_dataset: Any = None,
        em_dataset: Any = None,
        calibration_reference_model: Any = None,
        prompt_format: PromptFormat | None = None,
        **kwargs: Any,
    ) -> None:
        self._calibration_term: CalibrationTerm | None = None
        self._evaluator: CalibrationEvaluator | None = None
        self._accumulation = (-1, 0)
        self._evaluation_prefix: str | None = None
        self._calibration_source: DatasetReference | None = None
        self._evaluation_source: DatasetReference | None = None
        self._calibration_questions: Sequence[Question] = ()
        self._trained_on: Sequence[Question] = ()  # whose answers a term or the trainer's own loss uses
        self._regime: str | None = None
        self._seconds: float | None = None
        self._averaging: WeightAveragingCallback | None = None
        self.calibration_reports: dict[str, CalibrationReport] = {}
        self.calibration_history: list[dict[str, float]] = []
        with evaluation_allowed(args, kwargs, eval_calibration_dataset is not None):
            super().__init__(*args, **kwargs)
        settings = self.args if isinstance(self.args, CalibrationArguments) else self.calibration_arguments_class()
        self.calibration_arguments = settings
        self.prompt_format = prompt_format or PromptFormat(chat=settings.calibration_prompt == "chat")
        if calibration_dataset is not None:
            questions = as_questions(calibration_dataset)
            self._calibration_source = dataset_reference(calibration_dataset, len(questions))
            self._calibration_questions = questions
            self._set_up_term(questions, em_dataset, calibration_reference_model)
        if eval_calibration_dataset is not None:
            questions = as_questions(eval_calibration_dataset)
            self._evaluation_source = dataset_reference(eval_calibration_dataset, len(questions))
            self._evaluator = self._make_evaluator(questions)
        # Before the callback that measures what training leaves.
        if settings.average_weights > 0:
            check_averaging(self.accelerator, self.args)
            self._averaging = WeightAveragingCallback(settings.average_weights)
            self.add_callback(self._averaging)
        if self._calibration_term is not None or self._evaluator is not None:
            self._add_calibration_callbacks()

    # Set-up

    def _add_calibration_callbacks(self) -> None:
        self.add_callback(CalibrationRunCallback(self))
        self.add_callback(CalibrationStateCallback())

    def _set_up_term(self, questions: Sequence[Question], em_dataset: Any, reference_model: Any) -> None:
        settings = copy.copy(self.calibration_arguments)
        if self._supervised_by_trainer:
            settings.supervised_weight = 0.0
        weights = settings.anchor_weight, settings.supervised_weight, settings.em_weight, settings.dece_weight
        if max(weights) == 0:
            return
        check_checkpointing(self.accelerator, self.args, beside_own_forward=self._takes_own_forward)
        self._check_separate_backward()
        if settings.calibration_batch_size is None:
            own = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
            settings.calibration_batch_size = max(1, own // 2)
        if settings.em_batch_size is None:
            settings.em_batch_size = 2 * settings.calibration_batch_size
        questions, _ = handle_identical_choices(questions, settings.calibration_identical_choices)
        encoded = self._encode(questions)
        trained, held_out = self._split(encoded, em_dataset, settings)
        if max(weights[1:]) > 0:
            self._trained_on = [questions[item.row] for item in trained if item.answer >= 0]
        distributions = read_distributions(reference_model)
        if distributions is None and settings.anchor_weight > 0:
            distributions = matched_distributions(self, reference_model, questions)
        reference = None
        if distributions is not None:
            distributions.require([*trained])
        elif settings.anchor_weight > 0:
            reference = Reference(self, reference_model)
        self._calibration_term = CalibrationTerm(
            trained,
            held_out,
            settings,
            self.args.seed,
            QuestionCollator(padding_token(self._question_tokenizer)),
            self.accelerator,
            reference.answer_logits if reference is not None else None,
            distributions,
        )

    def _check_separate_backward(self) -> None:
        check_separate_backward(self.accelerator, self.calibration_arguments.separate_backward)

    def _split(self, encoded: EncodedQuestions, em_dataset: Any, settings: CalibrationArguments):
        """Return the questions to train on and those for the E-step."""
        answered = [i for i, item in enumerate(encoded) if item.answer >= 0]
        if settings.anchor_weight == 0 and not answered:
            raise QuestionError(
                "none of the calibration questions has an answer, so only the anchor can use them, and anchor_weight "
                "is 0; raise it, or give questions with answers"
            )
        if settings.em_weight == 0:
            return list(encoded), []
        if em_dataset is not None:
            held_out = as_questions(em_dataset)
            require_answers(held_out, "the E-step")
            return list(encoded), list(self._encode(held_out))
        if len(answered) < 2:
            raise QuestionError(
                f"the EM term sets aside part of the answered questions for its E-step, but {len(answered)} of "
                f"{len(encoded)} have an answer; give more, or an em_dataset, or set em_weight=0"
            )
        _, aside = held_out_split(len(answered), settings.em_fraction, self.args.seed)
        chosen = {answered[i] for i in aside}
        trained = [item for i, item in enumerate(encoded) if i not in chosen]
        return trained, [encoded[i] for i in sorted(chosen)]

    def _make_evaluator(self, questions: list[Question]) -> CalibrationEvaluator:
        require_answers(questions, "evaluating calibration")
        handle_identical_choices(questions, "warn")
        return self._evaluator_of(questions)

    def _evaluator_of(self, questions: Sequence[Question]) -> CalibrationEvaluator:
        return CalibrationEvaluator(
            questions,
            self._encode(questions).items,
            QuestionCollator(padding_token(self._question_tokenizer)),
            self.accelerator,
            self.args.per_device_eval_batch_size,
            self.calibration_arguments.eval_calibrator,
        )

    @property
    def calibrated_model(self) -> Any:
        """The language model that is trained and calibrated, unwrapped."""
        return self.model

    @property
    def _question_tokenizer(self):
        if self.processing_class is None:
            raise ValueError("questions need a tokenizer; pass `processing_class=` to the trainer")
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    def _encode(self, questions: Sequence[Question]) -> EncodedQuestions:
        limits = [
            self.calibration_arguments.calibration_max_length,
            getattr(self.args, "max_length", None),
            maximum_length(self.calibrated_model.config, self._question_tokenizer),
        ]
        known = [limit for limit in limits if limit is not None]
        return encode_questions(
            questions,
            self._question_tokenizer,
            self.prompt_format,
            max_length=min(known, default=None),
            on_too_long=self.calibration_arguments.calibration_on_too_long,
        )

    # Training

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the extended trainer does; `calibration_reports` then has "before" and "after"."""
        if self._averaging is not None:
            resume = args[0] if args else kwargs.get("resume_from_checkpoint")
            self._averaging.resumed_from = resumed_folder(resume, self.args.output_dir)
        start = time.perf_counter()
        output = super().train(*args, **kwargs)
        self._seconds = time.perf_counter() - start
        return output

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the extended trainer's loss, plus the calibration terms while training."""
        training = self._calibration_term is not None and self.model.training
        term = self._term_taken_back(model) if training and self.calibration_arguments.separate_backward else None
        result = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if training and not self.calibration_arguments.separate_backward:
            term = self._next_term(model)
        if term is None:
            return result
        # Trainer divides by the number of accumulation steps unless the loss is scaled already; the term's shares sum
        # to its mean over the step, so the division is undone where it will happen.
        if not self._loss_is_scaled(num_items_in_batch):
            term = term * self.current_gradient_accumulation_steps
        if return_outputs:
            return result[0] + term, result[1]
        return result + term

    def _term_taken_back(self, model: Any) -> Any:
        """Return the next share of the terms' value, its gradient added to the weights' already."""
        # The processes' gradients are averaged by the trainer's own backward, which comes after.
        with self.accelerator.no_sync(model):
            term = self._next_term(model)
            if term is None:
                return None
            self.accelerator.backward(term)
        return term.detach()

    def _next_term(self, model: Any) -> Any:
        assert self._calibration_term is not None
        step, part = self.state.global_step, 0
        if self._accumulation[0] == step:
            part = self._accumulation[1] + 1
        self._accumulation = (step, part)
        return self._calibration_term.loss(model, step, part, self.current_gradient_accumulation_steps)

    def _loss_is_scaled(self, num_items_in_batch: Any) -> bool:
        """Whether `training_step` will leave the loss undivided by the accumulation steps."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is not None:
            return scaled
        return (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or (
            self.compute_loss_func is not None
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the extended trainer does, with the calibration terms' means since the last log."""
        if self._calibration_term is not None and self.model.training and "loss" in logs:
            logs.update(self._calibration_term.pop_logs())
        super().log(logs, start_time)

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as the extended trainer does, and on the calibration questions.

        Returns
        -------
        dict
            The extended trainer's metrics, and `{prefix}_calibration/accuracy`, `/confidence`, `/ece`, `/cw_ece`,
            `/smooth_ece`, `/nll`, `/brier` and `/option_mass` where an `eval_calibration_dataset` was given; with an
            `eval_calibrator` also `{prefix}_calibration/calibrated_ece` and so on.
        """
        own = self.eval_dataset if eval_dataset is None else eval_dataset
        # Of several evaluation sets, each comes through here again, under a prefix of its own.
        outermost = self._evaluator is not None and self._evaluation_prefix is None
        if not outermost:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._evaluation_prefix = metric_key_prefix
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix) if own is not None else {}
            if f"{metric_key_prefix}_calibration/ece" not in metrics:
                calibration = self._evaluate_calibration(metric_key_prefix)
                # A trainer's own training metrics since its last log are not to be logged with these.
                with evaluating(self.model):
                    self.log(dict(calibration))
                self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, calibration)
                metrics.update(calibration)
        finally:
            self._evaluation_prefix = None
        return metrics

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Run the extended trainer's loop, and add the calibration metrics to those of `evaluate`."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # Here rather than after `evaluate`, so that callbacks (early stopping, say) and the log see them as one.
        if self._evaluator is not None and metric_key_prefix == self._evaluation_prefix:
            output.metrics.update(self._evaluate_calibration(metric_key_prefix))
        return output

    def evaluate_calibration(self) -> CalibrationReport:
        """Ask the model the evaluation questions and report all measures, on every process.

        Raises
        ------
        ValueError
            If there is no `eval_calibration_dataset`.
        """
        # Not with the run's seed: the same answers have the same intervals wherever they are measured.
        return self._asked().report()

    def _asked(self, evaluator: CalibrationEvaluator | None = None) -> Predictions:
        """Return the answers to the evaluation questions, or to others."""
        evaluator = evaluator if evaluator is not None else self._evaluator
        if evaluator is None:
            raise ValueError("there are no questions to evaluate on; pass `eval_calibration_dataset=` to the trainer")
        if self.model_wrapped is self.model:
            self.model.to(self.accelerator.device)
        register_output_layer(self.model, self.accelerator)
        return evaluator.predictions(self.model_wrapped)

    def _evaluate_calibration(self, prefix: str) -> dict[str, float]:
        predictions = self._asked()
        report = predictions.report()
        self.calibration_reports["after" if self.state.global_step else "before"] = report
        metrics = logged_measures(report, prefix)
        assert self._evaluator is not None
        if self._evaluator.calibrator is not None:
            calibrated = self._evaluator.calibrated_report(predictions)
            metrics.update(logged_measures(calibrated, prefix, "calibrated_"))
            if self.state.global_step:
                self.calibration_reports["calibrated"] = calibrated
        self.calibration_history.append({"step": self.state.global_step, **metrics})
        return metrics
