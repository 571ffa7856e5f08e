"""The mixin that makes a TRL trainer calibration-aware."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..confidence.forward import evaluating
from ..evaluation.graded_answers import prompt_format_of_answers
from ..hub import DatasetReference, dataset_reference
from ..hub.card_data import PREFERENCE_PAIRS
from ..measures import CalibrationReport
from ..tasks import PromptFormat, as_questions
from ..tasks.drawing import questions_digest
from .best_metric import check_logged, correct_direction
from .calibration_arguments import CalibrationArguments
from .calibration_term import CalibrationTerm
from .callbacks import CalibrationRunCallback, CalibrationStateCallback
from .dataset_layouts import check_layouts
from .distributed import needs_separate_backward, separate_backward
from .evaluator import CalibrationEvaluator, logged_measures, model_to_ask
from .interruption import InterruptionMixin
from .pair_positions import is_pairs, positions_in_pairs
from .publishing import PublishingMixin
from .questions import PreparedQuestions, QuestionPreparation, chosen_format
from .reference import Reference, check_base_weights
from .reference_distributions import matched_distributions, read_distributions
from .run import CalibrationRun
from .self_made import is_self, self_made_questions
from .stated_evaluator import evaluator_of
from .trl_compatibility import TaggedTrainer, dataset_kind, trainer_name
from .weight_averaging import WeightAveragingCallback, check_averaging, resumed_folder

logger = logging.getLogger(__name__)


class CalibrationMixin(PublishingMixin, InterruptionMixin, TaggedTrainer):
    """Adds the calibration terms to any trainer that computes its loss in `compute_loss`.

    Place it before the trainer's class: `class MyTrainer(CalibrationMixin, DPOTrainer)`. Without a
    `calibration_dataset`, or with all weights at zero, training is bit-identical to the extended trainer's.

    Parameters
    ----------
    calibration_dataset : dataset, list of rows, str or Path, optional
        Multiple-choice questions in any layout of `hf_calib.tasks.as_questions`. Questions without answers are
        anchored to the reference model; those with answers also get the supervised and the EM term. With "self", the
        reference model writes the questions before training, `self_made_questions` of them, into `questions.jsonl` in
        the output folder, where a resumed run finds them; see `hf_calib.synthesize_questions`. With "pairs", which
        only DPO trainers take, the anchor acts on one random token of each chosen reply, never the first, in at most
        10,000 of the trainer's own pairs.
    eval_calibration_dataset : dataset, list of rows, str or Path, optional
        Answered questions on which `evaluate()` reports accuracy, calibration error and more. Free-form questions, or
        prompts as a trainer that generates gets them, are answered greedily, and the confidence stated in the answers
        is measured; the trainer's own `hf_calib.rewards`, if it has any, grade them.
    em_dataset : dataset, list of rows, str or Path, optional
        Answered questions for the E-step. By default, if the EM term has a weight, a share of the answered
        calibration questions is held out for it.
    calibration_reference_model : PreTrainedModel, str, Path or ReferenceDistributions, optional
        The anchor's reference model, instead of the trainer's own; or its answers, computed beforehand by
        `reference_distributions`, or the file they were saved to.
    prompt_format : PromptFormat, optional
        How the questions are formatted. By default, self-evaluation questions have their own format, and
        `calibration_prompt` selects the format of all others.

    Attributes
    ----------
    calibration_run : CalibrationRun
        What the run was given and what it produced.
    """

    calibration_arguments_class: type[CalibrationArguments] = CalibrationArguments
    # Whether the trainer's own loss is the supervised one on the same questions.
    _supervised_by_trainer = False
    # Whether the extended trainer's loss runs a forward with gradient.
    _takes_own_forward = True
    # Whether the extended trainer can evaluate its loss on a dataset.
    _evaluates_datasets = True
    # For the model card: whether the trainer aligns a base model, and the method's name with and without terms.
    _aligns = True
    # Whether the trainer takes a reference even if no term needs it.
    _always_has_reference = False
    _method_name: str | None = None
    _method_without_terms: str | None = None
    # How to apply the chat template to the questions, for warnings.
    _chat_option = "calibration_prompt='chat'"

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
        self._em_dataset = em_dataset
        self._separate_backward = False
        self._evaluator: CalibrationEvaluator | None = None
        self._evaluation_prefix: str | None = None
        self._averaging: WeightAveragingCallback | None = None
        check_layouts(dataset_kind(self), args, kwargs)
        with _evaluation_allowed(self, args, kwargs, eval_calibration_dataset is not None):
            super().__init__(*args, **kwargs)
        if not isinstance(self.args, CalibrationArguments):
            correct_direction(self.args)
        settings = self.args if isinstance(self.args, CalibrationArguments) else self.calibration_arguments_class()
        self.calibration_arguments = settings
        self.prompt_format = chosen_format(prompt_format, prompt_format_of_answers(calibration_dataset), settings)
        name = self._method_name or trainer_name(type(self))
        self.calibration_run = run = CalibrationRun(
            trainer=name,
            method_without_terms=self._method_without_terms,
            alignment=name if self._aligns else None,
            starting_stage="base" if self._aligns else "before",
            prompt_format=self.prompt_format,
            confidence=settings.calibration_confidence,
            calibrator=settings.eval_calibrator,
        )
        if isinstance(calibration_reference_model, Path):
            calibration_reference_model = str(calibration_reference_model)
        if calibration_dataset is None and calibration_reference_model is not None:
            raise ValueError(
                "calibration_reference_model: has no effect without calibration questions; pass them as "
                "calibration_dataset, or leave it out"
            )
        if calibration_reference_model is not None and settings.anchor_weight == 0 and not self._always_has_reference:
            raise ValueError(
                "calibration_reference_model: has no effect with anchor_weight=0; set anchor_weight above 0, or leave "
                "the reference model out"
            )
        if em_dataset is not None and (calibration_dataset is None or settings.em_weight == 0):
            missing = ["a calibration_dataset"] * (calibration_dataset is None)
            missing += ["an em_weight above 0"] * (settings.em_weight == 0)
            raise ValueError(
                f"em_dataset: needs {' and '.join(missing)}; set what is missing, or leave em_dataset out"
            )
        if settings.eval_calibrator is not None and eval_calibration_dataset is None:
            raise ValueError(
                "eval_calibrator: has no effect without questions to evaluate on; pass them as "
                "eval_calibration_dataset, or leave it out"
            )
        if calibration_dataset is not None:
            self._set_up_term(calibration_dataset, em_dataset, calibration_reference_model)
        if eval_calibration_dataset is not None:
            self._evaluator = self._evaluator_of(eval_calibration_dataset)
            n = len(self._evaluator.questions)
            run.evaluation_source = dataset_reference(eval_calibration_dataset, n)
            if not self._evaluator.asks_options:
                run.confidence, run.free_form = self._evaluator.confidence, True
            elif run.evaluation_source.sample_of is None:  # all questions of the set are known
                digest = questions_digest(self._evaluator.questions)
                run.evaluation_source = replace(run.evaluation_source, sha256=digest)
        check_logged(self, self._evaluator)
        if settings.average_weights > 0:
            check_averaging(self.accelerator, self.args)
            self._averaging = WeightAveragingCallback(settings.average_weights)
            # First, so that all callbacks that measure the final model measure the averaged one.
            self.callback_handler.callbacks.insert(0, self._averaging)
        if self._calibration_term is not None or self._evaluator is not None:
            self._add_calibration_callbacks()

    @property
    def calibration_reports(self) -> dict[str, CalibrationReport]:
        """The reports "before" and "after" training, and "calibrated" with an `eval_calibrator`."""
        return self.calibration_run.reports

    @property
    def has_precomputed_reference(self) -> bool:
        """Whether the reference's distributions were computed before training, for its questions only."""
        return self._calibration_term is not None and self._calibration_term.reference_distributions is not None

    @property
    def calibration_history(self) -> list[dict[str, float]]:
        """The logged measures of each evaluation, with its "step"."""
        return self.calibration_run.history

    @property
    def calibrated_model(self) -> Any:
        """The language model that is trained, unwrapped."""
        return self.model

    # Set-up

    def _add_calibration_callbacks(self) -> None:
        settings = self.calibration_arguments
        names = [own.name for own in fields(self.calibration_arguments_class)]
        self.add_callback(
            CalibrationRunCallback(
                self.calibration_run,
                self._evaluator,
                self._calibration_term,
                lambda: self.callback_handler.callbacks,
                {name: getattr(settings, name) for name in names if hasattr(settings, name)},
            )
        )
        self.add_callback(CalibrationStateCallback())

    @cached_property
    def _questions(self) -> QuestionPreparation:
        if self.processing_class is None:
            raise ValueError("processing_class: questions need a tokenizer; pass one to the trainer")
        return QuestionPreparation(
            self.processing_class,
            self.calibrated_model.config,
            self.calibration_arguments,
            seed=self.args.seed,
            prompt_format=self.prompt_format,
            max_length=getattr(self.args, "max_length", None),
        )

    def _evaluator_of(self, source: Any) -> CalibrationEvaluator:
        return evaluator_of(
            self,
            source,
            self._questions,
            self.model_to_ask,
            self.args.per_device_eval_batch_size,
            calibrator=self.calibration_arguments.eval_calibrator,
            chat_option=self._chat_option,
        )

    def _set_up_term(self, source: Any, em_dataset: Any, reference_model: Any) -> None:
        run, settings = self.calibration_run, copy.copy(self.calibration_arguments)
        if self_made := is_self(source):
            if settings.em_weight > 0:
                raise ValueError(
                    "em_weight: the ECE regularizer needs answers, and questions that a model writes have none; set "
                    "em_weight=0, or pass questions with answers as calibration_dataset"
                )
            source = self_made_questions(self, reference_model)
        if is_pairs(source):
            source = PreparedQuestions([], positions_in_pairs(self, self._questions.max_length, reference_model), [])
            run.calibration_source = DatasetReference(
                PREFERENCE_PAIRS, size=len(source.trained), origin="one token of each chosen reply"
            )
        if isinstance(source, PreparedQuestions):
            run.questions = source.questions
        else:
            run.questions = as_questions(source)
            run.calibration_source = dataset_reference(source, len(run.questions))
        if self._supervised_by_trainer:
            settings.supervised_weight = 0.0
            run.terms = ("supervised",)
        weights = {
            name: getattr(settings, f"{name}_weight") for name in ("anchor", "supervised", "brier", "em", "dece")
        }
        if max(weights.values()) == 0:
            run.terms = ()
            return
        self._separate_backward = self._takes_separate_backward()
        if settings.calibration_batch_size is None:
            own = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
            settings.calibration_batch_size = max(1, own // 2)
        if settings.em_batch_size is None:
            settings.em_batch_size = 2 * settings.calibration_batch_size
        if isinstance(source, PreparedQuestions):
            prepared = source
        else:
            prepared = self._questions.for_training(run.questions, em_dataset, drop_too_long=self_made)
            assert run.calibration_source is not None
            run.calibration_source = replace(run.calibration_source, size=prepared.n_used(em_dataset))
        active = [name for name, weight in weights.items() if weight > 0 and (name == "anchor" or prepared.answered)]
        run.terms = (*run.terms, *active)
        run.settings = {f"{name}_weight": weights[name] for name in active}
        run.settings["calibration_batch_size"] = settings.calibration_batch_size
        if max(weight for name, weight in weights.items() if name != "anchor") > 0:
            run.trained_on = prepared.of(prepared.answered)
            if prepared.questions and not prepared.answered and self.accelerator.is_main_process:
                _report_unanswered(len(prepared.trained), settings)
        distributions = read_distributions(reference_model)
        if distributions is not None and settings.permute_options:
            raise ValueError(
                "permute_options: reference distributions hold the options in the order they were computed with; pass "
                "the reference model itself as calibration_reference_model, or set permute_options=False"
            )
        if distributions is None and settings.anchor_weight > 0 and prepared.questions:
            questions = prepared.of(prepared.trained)
            distributions = matched_distributions(
                self, reference_model, questions, self._questions.tokenizer, settings.calibration_confidence
            )
        reference = None
        if distributions is not None:
            check_base_weights(self, False)
            distributions.require(prepared.trained)
        elif settings.anchor_weight > 0:
            reference = Reference(self, reference_model)
            reference.check_tokens(prepared.trained)
            some: Any = prepared.trained[:8]
            reference.check_start(self._questions.collator_of(some)(some).to(self.accelerator.device))
        self._calibration_term = CalibrationTerm(
            prepared.trained,
            prepared.held_out,
            settings,
            self.args.seed,
            self._questions.collator_of,
            self.accelerator,
            reference.answer_scores if reference is not None else None,
            distributions,
            reference.model if reference is not None else None,
        )

    def _takes_separate_backward(self) -> bool:
        """Return whether the terms run their own backward, before the extended trainer's forward."""
        return self._takes_own_forward and (
            self.calibration_arguments.separate_backward or needs_separate_backward(self.accelerator, self.args)
        )

    # Training

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the extended trainer does; `calibration_reports` then has "before" and "after"."""
        resume = args[0] if args else kwargs.get("resume_from_checkpoint")
        self.calibration_run.resumed_from = resumed_folder(resume, self.args.output_dir)
        if self._averaging is not None:
            self._averaging.resumed_from = self.calibration_run.resumed_from
        start = time.perf_counter()
        output = super().train(*args, **kwargs)
        self.calibration_run.seconds = time.perf_counter() - start
        return output

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the extended trainer's loss, plus the calibration terms while training."""
        training = self._calibration_term is not None and self.model.training
        term = None
        if training and self._separate_backward:
            term = separate_backward(self.accelerator, model, lambda: self._next_term(model))
        result = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if training and not self._separate_backward:
            term = self._next_term(model)
        if term is None:
            return result
        # Trainer divides by the number of accumulation steps unless the loss is scaled already; the term's shares
        # already sum to its mean over the step, so they are multiplied first.
        if not self._loss_is_scaled(num_items_in_batch):
            term = term * self.current_gradient_accumulation_steps
        if return_outputs:
            return result[0] + term, result[1]
        return result + term

    def _next_term(self, model: Any) -> Any:
        assert self._calibration_term is not None
        return self._calibration_term.next_loss(
            model, self.state.global_step, self.current_gradient_accumulation_steps
        )

    def _loss_is_scaled(self, num_items_in_batch: Any) -> bool:
        """Return whether `training_step` leaves the loss undivided by the accumulation steps."""
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

    def replace_calibration_questions(self, questions: Any) -> None:
        """Train on other calibration questions from the next step on.

        Parameters
        ----------
        questions : dataset, list of rows, str or Path
            As `calibration_dataset`. Without an `em_dataset`, a share of them is held out for the E-step again.

        Raises
        ------
        ValueError
            If no term acts on calibration questions, or the reference's distributions were computed beforehand for
            others.
        QuestionError
            If the questions cannot be used.
        """
        if self._calibration_term is None or self._supervised_by_trainer:
            raise ValueError(
                "calibration_dataset: there are no calibration questions to replace; pass them as calibration_dataset "
                "and give a term a weight, for example in a RecalibrationTrainer with supervised_weight=1"
            )
        run = self.calibration_run
        prepared = self._questions.for_training(as_questions(questions), self._em_dataset)
        self._calibration_term.replace_questions(prepared.trained, prepared.held_out)
        run.questions = prepared.questions
        if run.trained_on:
            run.trained_on = prepared.of(prepared.answered)

    # Evaluation

    def model_to_ask(self) -> nn.Module:
        """Return the model as its forward must be called to ask it questions, on the trainer's device."""
        return model_to_ask(self)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as the extended trainer does, and on the calibration questions.

        Returns
        -------
        dict
            The extended trainer's metrics. With an `eval_calibration_dataset` also `{prefix}_calibration/accuracy`,
            `/confidence`, `/ece`, `/ece_if_calibrated` (what a perfectly calibrated model would score), `/cw_ece`,
            `/smooth_ece`, `/nll`, `/brier` and `/option_mass`; with an `eval_calibrator` also
            `{prefix}_calibration/calibrated_ece` and so on. On free-form questions also `/missing_confidence`, the
            share of answers without a confidence that could be read.

        Raises
        ------
        ValueError
            If the trainer can only evaluate on calibration questions, and there are none or another dataset is given.
        """
        kind = dataset_kind(self)
        check_layouts(None if kind == "text" else kind, (), {"eval_dataset": eval_dataset})
        own = self.eval_dataset if eval_dataset is None else eval_dataset
        if not self._evaluates_datasets:
            if eval_dataset is not None:
                raise self._no_loss_on("eval_dataset")
            self._require_evaluator()
            own = None
        # With several evaluation sets, this is called again for each, with its own prefix.
        outermost = self._evaluator is not None and self._evaluation_prefix is None
        if not outermost:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._evaluation_prefix = metric_key_prefix
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix) if own is not None else {}
            if f"{metric_key_prefix}_calibration/ece" not in metrics:
                calibration = self._evaluate_calibration(metric_key_prefix)
                # Keep the trainer's own training metrics since its last log out of these.
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
        # Here rather than after `evaluate`, so that the log and callbacks such as early stopping see them together.
        if self._evaluator is not None and metric_key_prefix == self._evaluation_prefix:
            output.metrics.update(self._evaluate_calibration(metric_key_prefix))
        return output

    def evaluate_calibration(self) -> CalibrationReport:
        """Ask the model the evaluation questions and return all measures, the same on every process.

        Raises
        ------
        ValueError
            If there is no `eval_calibration_dataset`.
        """
        evaluator = self._require_evaluator()
        # Without the run's seed, so that the same answers have the same intervals wherever they are measured.
        return evaluator.report(evaluator.predictions())

    def _require_evaluator(self) -> CalibrationEvaluator:
        if self._evaluator is None:
            raise ValueError("eval_calibration_dataset: there are no questions to evaluate on; pass it to the trainer")
        return self._evaluator

    def _no_loss_on(self, argument: str) -> ValueError:
        return ValueError(
            f"{argument}: {type(self).__name__} has no loss to evaluate on a dataset; leave it out, and pass answered "
            "questions to evaluate on as eval_calibration_dataset when the trainer is constructed"
        )

    def _evaluate_calibration(self, prefix: str) -> dict[str, float]:
        assert self._evaluator is not None
        run, predictions = self.calibration_run, self._evaluator.predictions()
        report = self._evaluator.report(predictions)
        run.reports["after" if self.state.global_step else "before"] = report
        metrics = logged_measures(report, f"{prefix}_calibration/")
        metrics.update(self._evaluator.extra_measures(f"{prefix}_calibration"))
        if self._evaluator.calibrator is not None:
            calibrated = self._evaluator.calibrated_report(predictions)
            metrics.update(logged_measures(calibrated, f"{prefix}_calibration/calibrated_"))
            if self.state.global_step:
                run.reports["calibrated"] = calibrated
        run.history.append({"step": self.state.global_step, **metrics})
        return metrics


def _report_unanswered(n_questions: int, settings: CalibrationArguments) -> None:
    """Log that the terms that need answers do not act."""
    # supervised_weight has a weight by default, which is fine if the questions have no answers.
    weights = {name: getattr(settings, name) for name in ("brier_weight", "dece_weight")}
    given = [f"{name}={weight:g}" for name, weight in weights.items() if weight > 0]
    logger.warning(
        "None of the %d calibration questions has an answer: only the anchor acts%s",
        n_questions,
        f"; {' and '.join(given)} {'has' if len(given) == 1 else 'have'} no effect" if given else "",
    )


@contextmanager
def _evaluation_allowed(
    trainer: Any, args: Sequence[Any], kwargs: dict[str, Any], has_questions: bool
) -> Iterator[None]:
    """Let a trainer evaluate at intervals on calibration questions and on no dataset of its own.

    transformers refuses an evaluation strategy without an `eval_dataset`, but only while a trainer is constructed, so
    the strategy is "no" during that time, and no best model is asked for, which would need one.
    """
    arguments = next((value for value in (*args, *kwargs.values()) if isinstance(value, TrainingArguments)), None)
    if arguments is None or not has_questions or kwargs.get("eval_dataset") is not None:
        yield
        return
    given = {name: getattr(arguments, name) for name in ("eval_strategy", "load_best_model_at_end")}
    arguments.eval_strategy, arguments.load_best_model_at_end = IntervalStrategy.NO, False
    try:
        yield
    finally:
        # TRL's SFT trainer makes a config of its own from plain training arguments.
        for own in (arguments, getattr(trainer, "args", arguments)):
            for name, value in given.items():
                setattr(own, name, value)
