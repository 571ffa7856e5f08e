"""Measure a model's calibration while it is being trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..calibrators import by_name
from ..calibrators.cross_validation import check_fits_on_answers, cross_validate
from ..confidence import Predictions
from ..confidence.option_logits import assemble, evaluating, score
from ..measures import shown_in
from ..reports.table import Cell, render_table
from ..tasks import Question
from ..tasks.collator import QuestionCollator
from ..tasks.encoding import EncodedQuestion

if TYPE_CHECKING:
    from ..measures import CalibrationReport


class CalibrationEvaluator:
    """Asks a model a fixed set of answered questions, sharing them among processes.

    Parameters
    ----------
    questions : sequence of Question
    items : sequence of EncodedQuestion
        The same questions as token ids; those that were dropped for their length are absent.
    collator : QuestionCollator
    accelerator : accelerate.Accelerator
    batch_size : int
        Questions a device and forward.
    calibrator : str, optional
        Name of a calibrator that `calibrated_report` fits.

    Raises
    ------
    ValueError
        If there is none of that name, or it needs more than predictions and answers.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        items: Sequence[EncodedQuestion],
        collator: QuestionCollator,
        accelerator: Accelerator,
        batch_size: int,
        calibrator: str | None = None,
    ) -> None:
        if calibrator is not None:
            check_fits_on_answers(calibrator)
        self.calibrator = calibrator
        self.subjects = [question.subject for question in questions]
        self.items = items
        self.collator = collator
        self.accelerator = accelerator
        self.batch_size = batch_size

    def report(self, model: nn.Module) -> CalibrationReport:
        """Return all measures of the model, the same on every process."""
        return self.predictions(model).report()

    def calibrated_report(self, predictions: Predictions) -> CalibrationReport:
        """Return all measures of predictions with the calibrator, each question's fitted without it, in five folds."""
        assert self.calibrator is not None
        held_out = cross_validate(
            partial(by_name, self.calibrator),
            predictions.logits,
            predictions.answers,
        )
        return predictions.with_probabilities(held_out.probabilities).report()

    @torch.no_grad()
    def predictions(self, model: nn.Module) -> Predictions:
        """Return the model's answers to all questions, the same on every process."""
        accelerator = self.accelerator
        with evaluating(model), accelerator.autocast():
            share = score(
                model,
                self.items,
                self.collator,
                self.batch_size,
                device=accelerator.device,
                process_index=accelerator.process_index,
                num_processes=accelerator.num_processes,
            )
        shares = gather_object([share]) if accelerator.num_processes > 1 else [share]
        return assemble(
            self.items,
            np.concatenate([positions for positions, _ in shares]),
            np.concatenate([scores for _, scores in shares]),
            self.subjects,
        )


def logged_measures(report: CalibrationReport, prefix: str, of: str = "") -> dict[str, float]:
    """Return the measures that `evaluate()` reports, as `{prefix}_calibration/{of}{measure}`."""
    return {
        f"{prefix}_calibration/{of}{info.key}": float(report.measures[info.key].value)
        for info in shown_in("log")
        if info.key in report.measures
    }


def calibration_table(reports: Mapping[str, CalibrationReport], digits: int = 4) -> str:
    """Return what `evaluate()` reports as a table, a line for each report, with the intervals of accuracy and ECE.

    Parameters
    ----------
    reports : mapping from name to CalibrationReport
        Such as a trainer's `calibration_reports`.
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
