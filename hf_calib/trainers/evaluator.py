"""Measure a model's calibration while it is being trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..calibrators import by_name
from ..calibrators.cross_validation import check_fits_on_answers, cross_validate
from ..confidence import Asking, LocalModel, Predictions
from ..confidence.option_logits import assemble, evaluating, score
from ..measures import shown_in
from ..reports.table import Cell, render_table
from ..tasks import Question
from ..tasks.collator import QuestionCollator
from .distributed import register_output_layer
from .questions import QuestionPreparation

if TYPE_CHECKING:
    from ..measures import CalibrationReport


class CalibrationEvaluator:
    """Asks a model a fixed set of answered questions, distributed over the processes.

    Parameters
    ----------
    questions : sequence of Question
    preparation : QuestionPreparation
    model : callable
        Returns the model to ask, as its forward must be called.
    accelerator : accelerate.Accelerator
    batch_size : int
        Questions per device and forward pass.
    calibrator : str, optional
        Name of a calibrator that `calibrated_report` fits.

    Raises
    ------
    ValueError
        If there is no calibrator of that name, or it needs more than predictions and answers.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        preparation: QuestionPreparation,
        model: Callable[[], nn.Module],
        accelerator: Accelerator,
        batch_size: int,
        calibrator: str | None = None,
    ) -> None:
        if calibrator is not None:
            check_fits_on_answers(calibrator)
        self.calibrator = calibrator
        self.questions = questions
        self.items = preparation.encode(questions)
        self.preparation = preparation
        self.model = model
        self.accelerator = accelerator
        self.batch_size = batch_size

    def calibrated_report(self, predictions: Predictions) -> CalibrationReport:
        """Return all measures after calibration, cross-validated in five folds."""
        assert self.calibrator is not None
        held_out = cross_validate(
            partial(by_name, self.calibrator),
            predictions.logits,
            predictions.answers,
        )
        return predictions.with_probabilities(held_out.probabilities).report()

    @torch.no_grad()
    def predictions(self, questions: Sequence[Question] | None = None) -> Predictions:
        """Return the model's answers, the same on every process.

        Parameters
        ----------
        questions : sequence of Question, optional
            Other questions than the evaluator's own.
        """
        asked = self.questions if questions is None else questions
        accelerator = self.accelerator
        model = self.model()
        if self.preparation.method.name != "letters":
            return self._read(model, asked)
        items = self.items if questions is None else self.preparation.encode(questions)
        collator = self.preparation.collator
        assert isinstance(collator, QuestionCollator)
        with evaluating(model), accelerator.autocast():
            share = score(
                model,
                items,
                collator,
                self.batch_size,
                device=accelerator.device,
                process_index=accelerator.process_index,
                num_processes=accelerator.num_processes,
            )
        shares = gather_object([share]) if accelerator.num_processes > 1 else [share]
        return assemble(
            items,
            np.concatenate([positions for positions, _ in shares]),
            np.concatenate([scores for _, scores in shares]),
            [question.subject for question in asked],
        )

    def _read(self, model: nn.Module, questions: Sequence[Question]) -> Predictions:
        """Ask in a way other than letters, as `hf_calib.measure` does."""
        preparation, accelerator = self.preparation, self.accelerator
        backend = LocalModel(
            accelerator.unwrap_model(model),
            preparation.tokenizer,
            max_length=preparation.max_length,
            on_too_long=preparation.settings.calibration_on_too_long,
        )
        asking = Asking(self.batch_size)
        # Sharded weights need the same forwards on every process, so there each asks all questions.
        if accelerator.distributed_type.value not in ("DEEPSPEED", "FSDP"):
            asking = replace(asking, process_index=accelerator.process_index, num_processes=accelerator.num_processes)
        with accelerator.autocast():
            return preparation.method.predict(backend, questions, preparation.prompt_format, asking)


def model_to_ask(trainer: Any) -> nn.Module:
    """Return a trainer's model as its forward must be called, on the trainer's device."""
    if trainer.model_wrapped is trainer.model:
        trainer.model.to(trainer.accelerator.device)
    register_output_layer(trainer.model, trainer.accelerator)
    return trainer.model_wrapped


def logged_measures(report: CalibrationReport, prefix: str, of: str = "") -> dict[str, float]:
    """Return the measures that `evaluate()` reports, as `{prefix}_calibration/{of}{measure}`."""
    return {
        f"{prefix}_calibration/{of}{info.key}": float(report.measures[info.key].value)
        for info in shown_in("log")
        if info.key in report.measures
    }


def calibration_table(reports: Mapping[str, CalibrationReport], digits: int = 4) -> str:
    """Return what `evaluate()` reports as a table, one line per report, with intervals for accuracy and ECE.

    Parameters
    ----------
    reports : mapping from str to CalibrationReport
        For example a trainer's `calibration_reports`.
    digits : int, default 4
        Decimals.
    """
    with_interval = ("accuracy", "ece")
    rows = []
    for name, report in reports.items():
        row: dict[str, Cell] = {"calibration": name, "questions": report.n}
        for info in shown_in("log"):
            if info.key in report.measures:
                found = report.measures[info.key]
                row[info.key] = found if info.key in with_interval else float(found.value)
        rows.append(row)
    return render_table(rows, digits=digits)
