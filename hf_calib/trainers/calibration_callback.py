"""Measure calibration at every evaluation of any transformers trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from transformers import Trainer, TrainerCallback

from ..confidence.option_logits import evaluating, padding_token
from ..reports import ReliabilityDisplay
from ..tasks import (
    PromptFormat,
    as_questions,
    encode_questions,
    handle_identical_choices,
    maximum_length,
    require_answers,
)
from ..tasks.collator import QuestionCollator
from .best_metric import EVALUATION_PREFIX, correct_direction
from .calibration_arguments import CalibrationArguments
from .evaluator import CalibrationEvaluator
from .sharding import register_output_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..measures import CalibrationReport


class CalibrationCallback(TrainerCallback):
    """Asks the model a set of multiple-choice questions whenever its trainer evaluates.

    All measures are logged as `{prefix}/{measure}`, beside the evaluation's own metrics, among which they can be named
    as `metric_for_best_model`: of a measure whose lower values are better, the callback turns transformers' default
    `greater_is_better=True` into False, and logs that. The reliability diagram goes to TensorBoard, Weights & Biases
    and trackio, where the run reports to them. Training itself is left as it is.

    Parameters
    ----------
    trainer : transformers.Trainer
        Any that trains a causal language model.
    questions : dataset, list of rows, str or Path
        Answered questions, in any layout of `hf_calib.tasks.as_questions`.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        By default the trainer's.
    prompt_format : PromptFormat, optional
        How the questions are put.
    prefix : str, default "eval_calibration"
        Begins the names that are logged; another one for each of several callbacks.
    batch_size : int, optional
        Questions a device; by default the trainer's `per_device_eval_batch_size`.

    Attributes
    ----------
    reports : dict from str to CalibrationReport
        "before", of the model before a run's first step, and "after", the latest one.
    history : list of dict
        All measures of every evaluation, with its `step`.

    Raises
    ------
    QuestionError
        If a question has no answer or cannot be put.
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
        prefix: str = EVALUATION_PREFIX,
        batch_size: int | None = None,
    ) -> None:
        self.trainer = cast(Any, trainer)
        tokenizer = tokenizer if tokenizer is not None else trainer.processing_class
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if tokenizer is None:
            raise ValueError("the trainer has no processing_class; pass `tokenizer=` to the callback")
        asked = as_questions(questions)
        require_answers(asked, "evaluating calibration")
        handle_identical_choices(asked, "warn")
        encoded = encode_questions(
            asked, tokenizer, prompt_format, max_length=maximum_length(self.trainer.model.config, tokenizer)
        )
        # The config of a calibration-aware trainer has set the direction of its own measures.
        if prefix != EVALUATION_PREFIX or not isinstance(trainer.args, CalibrationArguments):
            correct_direction(trainer.args, prefix)
        self.prefix = prefix
        self.reports: dict[str, CalibrationReport] = {}
        self.history: list[dict[str, float]] = []
        self._evaluator = CalibrationEvaluator(
            asked,
            encoded.items,
            QuestionCollator(padding_token(tokenizer)),
            trainer.accelerator,
            batch_size or trainer.args.per_device_eval_batch_size,
        )

    def measure(self) -> CalibrationReport:
        """Ask the model the questions now, on every process, and return all measures."""
        trainer = self.trainer
        if trainer.model_wrapped is trainer.model:
            trainer.model.to(trainer.accelerator.device)
        register_output_layer(trainer.model, trainer.accelerator)
        return self._evaluator.report(trainer.model_wrapped)

    def on_train_begin(self, args, state, control, **kwargs):
        """Measure the model before the first step."""
        if state.global_step == 0:
            self.reports["before"] = self.measure()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Measure the model, log all measures and the diagram, and add the measures to the evaluation's metrics."""
        if metrics is not None and any(name.startswith(f"{self.prefix}/") for name in metrics):
            return  # of several evaluation sets, or logged by the trainer under the same names
        report = self.measure()
        self.reports["after"] = report
        found = {f"{self.prefix}/{name}": float(measure.value) for name, measure in report.measures.items()}
        if metrics is not None:
            metrics.update(found)
        if self.history and self.history[-1]["step"] == state.global_step:
            return  # the same weights again, for another evaluation set
        self.history.append({"step": state.global_step, **found})
        with evaluating(self.trainer.model):  # a trainer's own training metrics are not to be logged with these
            self.trainer.log(dict(found))
        if state.is_world_process_zero:
            self._log_diagram(report, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        """Measure the model that training leaves."""
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


# By transformers' callbacks for what a run reports to.
_DIAGRAM_WRITERS: dict[str, Callable[..., None]] = {
    "TensorBoardCallback": _to_tensorboard,
    "WandbCallback": _to_wandb,
    "TrackioCallback": _to_trackio,
}
