"""Measure a model's calibration while it is being trained."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..calibrators import by_name
from ..calibrators.cross_validation import check_fits_on_answers, held_out_predictions
from ..confidence import Asking, LocalModel, Predictions
from ..confidence.stated_levels import AnsweredQuestion
from ..measures import CalibrationReport, shown_in
from ..measures.verdict import convention_note
from ..reports.checks import checked
from ..reports.table import Cell, render_table
from ..tasks import Question
from .distributed import register_output_layer
from .questions import QuestionPreparation

logger = logging.getLogger(__name__)

_FOLDS = 5


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
    chat_option : str, default "calibration_prompt='chat'"
        How to apply the chat template to the questions, for warnings.

    Raises
    ------
    ValueError
        If there is no calibrator of that name, it needs more than predictions and answers, or there are too few
        questions to cross-validate it.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        preparation: QuestionPreparation,
        model: Callable[[], nn.Module],
        accelerator: Accelerator,
        batch_size: int,
        calibrator: str | None = None,
        chat_option: str = "calibration_prompt='chat'",
    ) -> None:
        if calibrator is not None:
            check_fits_on_answers(calibrator)
            if len(questions) < _FOLDS:
                raise ValueError(
                    f"eval_calibrator: cross-validation needs at least {_FOLDS} questions, got {len(questions)}; pass "
                    "more as eval_calibration_dataset, or leave eval_calibrator out"
                )
        self.calibrator = calibrator
        self.questions = questions
        self.preparation = preparation
        self._check()
        self.model = model
        self.accelerator = accelerator
        self.batch_size = batch_size
        self._run = {
            **self._described(),
            "has_chat_template": getattr(preparation.tokenizer, "chat_template", None) is not None,
            "in_trainer": chat_option,
        }
        self._logged: set[str] = set()

    def _check(self) -> None:
        """Refuse what can't be asked before anything is trained."""
        self.preparation.encode(self.questions)

    @property
    def asks_options(self) -> bool:
        """Whether the questions have options."""
        return not any(isinstance(question, AnsweredQuestion) for question in self.questions)

    @property
    def confidence(self) -> str:
        """What confidence is read off: a name in `hf_calib.confidence.ways()`."""
        return self._run["confidence"]["name"]

    def _described(self) -> dict[str, Any]:
        """Return how the questions are asked, for the report's warnings."""
        confidence = self.preparation.method.to_dict()
        if not self.asks_options:
            confidence["matcher"] = None  # the answers are already graded
        return {"confidence": confidence, "prompt_format": self.preparation.prompt_format.to_dict()}

    def report(self, predictions: Predictions) -> CalibrationReport:
        """Return all measures with their warnings, and log the warnings that were not logged before."""
        report = checked(predictions, predictions.report(), self._run, self.questions)
        for finding in report.warnings:
            if finding.code not in self._logged and self.accelerator.is_main_process:
                logger.warning("Calibration questions: %s", finding)
            self._logged.add(finding.code)
        return report

    def calibrated_report(self, predictions: Predictions) -> CalibrationReport:
        """Return all measures after calibration, cross-validated in five folds."""
        assert self.calibrator is not None
        calibrated = held_out_predictions(predictions, partial(by_name, self.calibrator), n_folds=_FOLDS)
        run = {**self._run, "calibrator": {"method": self.calibrator}}
        return checked(calibrated, calibrated.report(), run, self.questions)

    def predictions(self, questions: Sequence[Question] | None = None) -> Predictions:
        """Return the model's answers, the same on every process.

        Parameters
        ----------
        questions : sequence of Question, optional
            By default the evaluator's own.
        """
        accelerator, preparation = self.accelerator, self.preparation
        source = LocalModel(
            self.model(),
            preparation.tokenizer,
            max_length=preparation.max_length,
            on_too_long=preparation.settings.calibration_on_too_long,
            device=accelerator.device,
            in_step=accelerator.num_processes > 1,
        )
        asking = Asking(
            self.batch_size, process_index=accelerator.process_index, num_processes=accelerator.num_processes
        )
        with accelerator.autocast():
            return self._ask(source, self.questions if questions is None else questions, asking)

    def _ask(self, source: LocalModel, questions: Sequence[Question], asking: Asking) -> Predictions:
        return self.preparation.method.predict(source, questions, self.preparation.prompt_format, asking)

    def extra_measures(self, prefix: str) -> dict[str, float]:
        """Return what is logged in addition to the measures, by name."""
        return {}


def model_to_ask(trainer: Any) -> nn.Module:
    """Return a trainer's model as its forward must be called, on the trainer's device."""
    if trainer.model_wrapped is trainer.model:
        trainer.model.to(trainer.accelerator.device)
    register_output_layer(trainer.model, trainer.accelerator)
    return trainer.model_wrapped


def logged_measures(report: CalibrationReport, prefix: str) -> dict[str, float]:
    """Return the measures that `evaluate()` reports, by names that begin with a prefix such as "eval_calibration/".

    `ece_if_calibrated` is the ECE that a perfectly calibrated model would have on average.
    """
    found = {info.key: report.measures[info.key].value for info in shown_in("log") if info.key in report.measures}
    if report.test is not None:
        found["ece_if_calibrated"] = report.test.expected_error
    return {f"{prefix}{key}": float(value) for key, value in found.items()}


def calibration_table(reports: Mapping[str, CalibrationReport], digits: int = 4) -> str:
    """Return what `evaluate()` reports as a table, one line per report, with intervals for accuracy and ECE.

    A sentence below the table says what the ECE is.

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
    note = convention_note({name: report.ece_convention for name, report in reports.items()})
    return f"{render_table(rows, digits=digits)}\n{textwrap.fill(note, 80)}"
