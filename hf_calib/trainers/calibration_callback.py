"""Measure calibration at every evaluation of any transformers trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import Trainer, TrainerCallback

from ..confidence.forward import evaluating
from ..measures import CalibrationReport
from ..reports import ReliabilityDisplay
from ..tasks import PromptFormat
from .best_metric import EVALUATION_PREFIX, correct_direction
from .calibration_arguments import CalibrationArguments, check_confidence
from .evaluator import CalibrationEvaluator, logged_measures, model_to_ask
from .questions import QuestionPreparation
from .stated_evaluator import evaluator_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CalibrationCallback(TrainerCallback):
    """Asks the model a set of multiple-choice questions whenever its trainer evaluates.

    The measures that `evaluate()` of the calibration-aware trainers reports are logged as `{prefix}/{measure}`
    together with the evaluation's own metrics, and can be used as `metric_for_best_model`. For a measure whose lower
    values are better, the callback changes transformers' default `greater_is_better=True` to False, and logs this. The
    reliability diagram is logged to TensorBoard, Weights & Biases and trackio, if the run reports to them. Training
    itself is unchanged.

    Parameters
    ----------
    questions : dataset, list of rows, str or Path
        Answered questions, in any layout of `hf_calib.tasks.as_questions`. On free-form questions the confidence that
        the model states is measured, as in a calibration-aware trainer's `eval_calibration_dataset`.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        By default the trainer's.
    prompt_format : PromptFormat, optional
        How the questions are formatted.
    confidence : str, default "letters"
        What confidence is read off; see `calibration_confidence` of the calibration-aware trainers.
    prefix : str, default "eval_calibration"
        Prefix of the logged names, a different one for each of several callbacks. transformers looks for a
        `metric_for_best_model` only among names that begin with "eval_".
    batch_size : int, optional
        Questions per device; by default the trainer's `per_device_eval_batch_size`.

    Attributes
    ----------
    reports : dict from str to CalibrationReport
        Full reports: "before", from before a run's first step, and "after", the latest one.
    history : list of dict
        The logged measures of every evaluation, with its `step`. `reports` and `history` are cleared when the callback
        is used in another trainer.

    Raises
    ------
    QuestionError
        When the trainer starts, if a question has no answer or cannot be formatted.
    ValueError
        When the trainer starts, if there is no tokenizer, the model has no language-model head, the prefix is used
        twice, or `metric_for_best_model` has a prefix that transformers does not look for.

    Examples
    --------
    >>> trainer = Trainer(model, args, callbacks=[CalibrationCallback("held_out.jsonl")])  # doctest: +SKIP
    """

    def __init__(
        self,
        questions: Any,
        *,
        tokenizer: Any = None,
        prompt_format: PromptFormat | None = None,
        confidence: str = "letters",
        prefix: str = EVALUATION_PREFIX,
        batch_size: int | None = None,
    ) -> None:
        check_confidence(confidence, "confidence")
        self.questions = questions
        self.tokenizer = tokenizer
        self.prompt_format = prompt_format
        self.confidence = confidence
        self.prefix = prefix
        self.batch_size = batch_size
        self.trainer: Any = None
        self.reports: dict[str, CalibrationReport] = {}
        self.history: list[dict[str, float]] = []
        self._evaluator: CalibrationEvaluator | None = None

    def measure(self) -> CalibrationReport:
        """Ask the model the questions now, on every process, and return all measures.

        Raises
        ------
        ValueError
            If no trainer has called the callback yet.
        """
        if self._evaluator is None:
            raise ValueError("the callback has no trainer yet; pass it in a trainer's callbacks=[...], then train")
        return self._evaluator.report(self._evaluator.predictions())

    def on_init_end(self, args, state, control, **kwargs):
        """Check the questions when the trainer is constructed."""
        self._begin(args)

    def _begin(self, args: Any) -> None:
        """Find the trainer and make the questions ready for it, once."""
        trainer = calling_trainer(self)
        if trainer is self.trainer and self._evaluator is not None:
            return
        self.trainer, self.reports, self.history, self._evaluator = trainer, {}, [], None
        self._check(args)
        tokenizer = self.tokenizer if self.tokenizer is not None else self.trainer.processing_class
        if tokenizer is None:
            raise ValueError("tokenizer: the trainer has no processing_class; pass `tokenizer=` to the callback")
        preparation = QuestionPreparation(
            tokenizer,
            self.trainer.model.config,
            CalibrationArguments(calibration_confidence=self.confidence),
            prompt_format=self.prompt_format,
        )
        # The config of a calibration-aware trainer has set the direction of its own measures.
        if self.prefix != EVALUATION_PREFIX or not isinstance(args, CalibrationArguments):
            correct_direction(args, self.prefix)
        self._evaluator = evaluator_of(
            self.trainer,
            self.questions,
            preparation,
            partial(model_to_ask, self.trainer),
            args.per_device_eval_batch_size if self.batch_size is None else self.batch_size,
            chat_option="prompt_format=PromptFormat(chat=True)",
        )

    def _check(self, args: Any) -> None:
        """Refuse a trainer that the callback cannot measure, or in which its prefix does not work."""
        model, others = self.trainer.model, self.trainer.callback_handler.callbacks
        if not hasattr(self.trainer, "model_wrapped"):  # PPO, with a loop and a model of its own
            raise ValueError(
                f"callbacks: {type(self.trainer).__name__} never evaluates, so CalibrationCallback has nothing to do; "
                "use CalibrationAwarePPOTrainer with these questions as eval_calibration_dataset"
            )
        if _is_classifier(model):
            raise ValueError(
                f"callbacks: {type(model).__name__} has no language-model head, so CalibrationCallback cannot ask it "
                "questions; remove the callback"
            )
        if any(
            isinstance(own, CalibrationCallback) and own is not self and own.prefix == self.prefix for own in others
        ):
            raise ValueError(
                f"prefix: {self.prefix!r} is used by two callbacks of the trainer; give each CalibrationCallback its "
                'own, such as "eval_mmlu"'
            )
        metric = getattr(args, "metric_for_best_model", None) or ""
        if metric.removeprefix("eval_").startswith(f"{self.prefix}/") and not self.prefix.startswith("eval_"):
            raise ValueError(
                f"metric_for_best_model={metric!r}: transformers only looks for names that begin with eval_; pass "
                f"prefix='eval_{self.prefix}' to CalibrationCallback"
            )

    def on_train_begin(self, args, state, control, **kwargs):
        """Measure the model before the first step."""
        self._begin(args)
        run = getattr(self.trainer, "calibration_run", None)
        if self.prefix == EVALUATION_PREFIX and run is not None and run.evaluation_source is not None:
            raise ValueError(
                f"prefix: {self.prefix!r} is already used for the trainer's eval_calibration_dataset; give "
                'CalibrationCallback a different prefix, such as "eval_mmlu"'
            )
        if state.global_step == 0:
            self.reports["before"] = self.measure()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Measure the model, log the measures and the diagram, and add the measures to the evaluation's metrics."""
        if metrics is not None and any(name.startswith(f"{self.prefix}/") for name in metrics):
            return  # logged for another evaluation set, or by the trainer under the same names
        self._begin(args)
        report = self.measure()
        self.reports["after"] = report
        found = logged_measures(report, f"{self.prefix}/")
        assert self._evaluator is not None
        found.update(self._evaluator.extra_measures(self.prefix))
        if metrics is not None:
            metrics.update(found)
        if self.history and self.history[-1]["step"] == state.global_step:
            return  # the same weights, evaluated on another set
        self.history.append({"step": state.global_step, **found})
        with evaluating(self.trainer.model):  # keep the trainer's own training metrics out of these
            self.trainer.log(dict(found))
        if state.is_world_process_zero:
            self._log_diagram(report, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        """Measure the final model."""
        self.reports["after"] = self.measure()

    def _log_diagram(self, report: CalibrationReport, step: int) -> None:
        callbacks = self.trainer.callback_handler.callbacks
        writers = [(callback, _DIAGRAM_WRITERS.get(type(callback).__name__)) for callback in callbacks]
        if not any(write for _, write in writers):
            return
        display = ReliabilityDisplay.from_statistics(report, name=f"step {step}")
        assert display.figure_ is not None
        for callback, write in writers:
            if write is not None:
                write(callback, f"{self.prefix}/reliability", display.figure_, step)


def _is_classifier(model: Any) -> bool:
    """Return whether a transformers model does not predict tokens."""
    generates, head = getattr(model, "can_generate", None), getattr(model, "get_output_embeddings", None)
    return callable(generates) and callable(head) and not generates() and head() is None


def calling_trainer(callback: TrainerCallback) -> Trainer:
    """Return the trainer that is calling a callback; transformers passes callbacks everything but this.

    The model alone is not enough: it has to be called as the trainer calls it, and the measures go to the trainer's
    log.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back
    raise ValueError("the callback was called by no trainer; pass it in a trainer's callbacks=[...]")


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _to_tensorboard(callback: Any, name: str, figure: Figure, step: int) -> None:
    if callback.tb_writer is not None:
        callback.tb_writer.add_image(name, _pixels(figure), step, dataformats="HWC")
        callback.tb_writer.flush()


def _to_wandb(callback: Any, name: str, figure: Figure, step: int) -> None:
    callback._wandb.log({name: callback._wandb.Image(_pixels(figure)), "train/global_step": step})


def _to_trackio(callback: Any, name: str, figure: Figure, step: int) -> None:
    callback._trackio.log({name: callback._trackio.Image(_pixels(figure)), "train/global_step": step})


# By the names of transformers' reporting callbacks.
_DIAGRAM_WRITERS: dict[str, Callable[..., None]] = {
    "TensorBoardCallback": _to_tensorboard,
    "WandbCallback": _to_wandb,
    "TrackioCallback": _to_trackio,
}
