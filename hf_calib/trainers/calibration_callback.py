"""Measure calibration at every evaluation of any transformers trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from transformers import Trainer, TrainerCallback

from ..confidence.forward import evaluating
from ..reports import ReliabilityDisplay
from ..tasks import PromptFormat
from .best_metric import EVALUATION_PREFIX, correct_direction
from .calibration_arguments import CalibrationArguments, check_confidence
from .evaluator import CalibrationEvaluator, model_to_ask
from .questions import QuestionPreparation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..measures import CalibrationReport


class CalibrationCallback(TrainerCallback):
    """Asks the model a set of multiple-choice questions whenever its trainer evaluates.

    All measures are logged as `{prefix}/{measure}` together with the evaluation's own metrics, and can be used as
    `metric_for_best_model`. For a measure whose lower values are better, the callback changes transformers' default
    `greater_is_better=True` to False, and logs this. The reliability diagram is logged to TensorBoard, Weights &
    Biases and trackio, if the run reports to them. Training itself is unchanged.

    Parameters
    ----------
    trainer : transformers.Trainer
        Any trainer of a causal language model.
    questions : dataset, list of rows, str or Path
        Answered questions, in any layout of `hf_calib.tasks.as_questions`.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        By default the trainer's.
    prompt_format : PromptFormat, optional
        How the questions are formatted.
    confidence : str, default "letters"
        What confidence is read off, as `calibration_confidence` of a calibration-aware trainer.
    prefix : str, default "eval_calibration"
        Prefix of the logged names; use a different one for each of several callbacks.
    batch_size : int, optional
        Questions per device; by default the trainer's `per_device_eval_batch_size`.

    Attributes
    ----------
    reports : dict from str to CalibrationReport
        "before", of the model before a run's first step, and "after", the latest report.
    history : list of dict
        All measures of every evaluation, with its `step`.

    Raises
    ------
    QuestionError
        If a question has no answer or cannot be formatted.
    ValueError
        If there is no tokenizer.

    Examples
    --------
    >>> trainer.add_callback(CalibrationCallback(trainer, "held_out.jsonl"))  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        questions: Any,
        *,
        tokenizer: Any = None,
        prompt_format: PromptFormat | None = None,
        confidence: str = "letters",
        prefix: str = EVALUATION_PREFIX,
        batch_size: int | None = None,
    ) -> None:
        self.trainer = cast(Any, trainer)
        tokenizer = tokenizer if tokenizer is not None else trainer.processing_class
        if tokenizer is None:
            raise ValueError("tokenizer: the trainer has no processing_class; pass `tokenizer=` to the callback")
        check_confidence(confidence, "confidence")
        preparation = QuestionPreparation(
            tokenizer,
            self.trainer.model.config,
            CalibrationArguments(calibration_confidence=confidence),
            prompt_format=prompt_format,
        )
        # The config of a calibration-aware trainer has set the direction of its own measures.
        if prefix != EVALUATION_PREFIX or not isinstance(trainer.args, CalibrationArguments):
            correct_direction(trainer.args, prefix)
        self.prefix = prefix
        self.reports: dict[str, CalibrationReport] = {}
        self.history: list[dict[str, float]] = []
        self._evaluator = CalibrationEvaluator(
            preparation.for_evaluation(questions),
            preparation,
            partial(model_to_ask, trainer),
            trainer.accelerator,
            batch_size or trainer.args.per_device_eval_batch_size,
        )

    def measure(self) -> CalibrationReport:
        """Ask the model the questions now, on every process, and return all measures."""
        return self._evaluator.predictions().report()

    def on_train_begin(self, args, state, control, **kwargs):
        """Measure the model before the first step."""
        if state.global_step == 0:
            self.reports["before"] = self.measure()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Measure the model, log all measures and the diagram, and add the measures to the evaluation's metrics."""
        if metrics is not None and any(name.startswith(f"{self.prefix}/") for name in metrics):
            return  # for another evaluation set, or by the trainer under the same names
        report = self.measure()
        self.reports["after"] = report
        found = {f"{self.prefix}/{name}": float(measure.value) for name, measure in report.measures.items()}
        if metrics is not None:
            metrics.update(found)
        if self.history and self.history[-1]["step"] == state.global_step:
            return  # the same weights again, for another evaluation set
        self.history.append({"step": state.global_step, **found})
        with evaluating(self.trainer.model):  # keeps a trainer's own training metrics out of these
            self.trainer.log(dict(found))
        if state.is_world_process_zero:
            self._log_diagram(report, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        """Measure the final model."""
        self.reports["after"] = self.measure()

    def _log_diagram(self, report: CalibrationReport, step: int) -> None:
        writers = [(callback, _DIAGRAM_WRITERS.get(type(callback).__name__)) for callback in self._reporters()]
        if not any(write for _, write in writers):
            return
        display = ReliabilityDisplay.from_statistics(report, name=f"step {step}")
        assert display.figure_ is not None
        for callback, write in writers:
            if write is not None:
                write(callback, f"{self.prefix}/reliability", display.figure_, step)

    def _reporters(self) -> list[TrainerCallback]:
        return self.trainer.callback_handler.callbacks


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


# By the name of transformers' reporting callback.
_DIAGRAM_WRITERS: dict[str, Callable[..., None]] = {
    "TensorBoardCallback": _to_tensorboard,
    "WandbCallback": _to_wandb,
    "TrackioCallback": _to_trackio,
}
