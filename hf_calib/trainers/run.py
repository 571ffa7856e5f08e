"""What a run of a calibration-aware trainer was given and what it produced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hub import DatasetReference
from ..measures import CalibrationReport
from ..tasks import PromptFormat, Question
from ..tasks.encoding import target_of


@dataclass
class CalibrationRun:
    """The record of one run, which the model card and the callbacks read.

    Parameters
    ----------
    trainer : str
        Name of the extended trainer's method, such as "DPO".
    method_without_terms : str, optional
        Name of the calibration method when no calibration term has a weight; None if the trainer has none then.
    alignment : str, optional
        Name of the alignment method, if the trainer aligns a model.
    starting_stage : {"base", "before"}, default "before"
        What the model is before training: a base model, or an aligned one.
    prompt_format : PromptFormat
        How the questions are formatted.
    confidence : str, default "letters"
        What confidence is read off, a name of `hf_calib.confidence.ways()`.
    free_form : bool, default False
        Whether the evaluation questions have no options.
    calibrator : str, optional
        Name of the calibrator that evaluation also reports with.

    Attributes
    ----------
    terms : tuple of str
        The terms that have a weight and questions to act on: "anchor", "supervised", "brier", "em",
        "dece".
    settings : dict from str to Any
        The values in effect for the terms: their weights and `calibration_batch_size`.
    questions : sequence of Question
        The calibration questions.
    trained_on : sequence of Question
        The questions whose answers the weights are trained on.
    calibration_source, evaluation_source : DatasetReference or None
        Where the calibration and the evaluation questions come from.
    reports : dict from str to CalibrationReport
        "before" and "after" training, and "calibrated" with the calibrator.
    history : list of dict from str to float
        The logged measures of each evaluation, with its "step".
    regime : str or None
        The diagnosis of the trained model, as the card states it.
    seconds : float or None
        Duration of the training.
    resumed_from : Path or None
        The checkpoint that training was resumed from.
    """

    trainer: str
    method_without_terms: str | None = None
    alignment: str | None = None
    starting_stage: str = "before"
    prompt_format: PromptFormat = field(default_factory=PromptFormat)
    confidence: str = "letters"
    free_form: bool = False
    calibrator: str | None = None
    terms: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    questions: Sequence[Question] = ()
    trained_on: Sequence[Question] = ()
    calibration_source: DatasetReference | None = None
    evaluation_source: DatasetReference | None = None
    reports: dict[str, CalibrationReport] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    regime: str | None = None
    seconds: float | None = None
    resumed_from: Path | None = None

    @property
    def method(self) -> str | None:
        """Name of the calibration method in the card; None for a run without calibration."""
        if not self.terms:
            return self.method_without_terms
        soft = any(target_of(question) is not None for question in self.trained_on)
        names = {
            "anchor": "anchored to its reference",
            "supervised": f"supervised by the {'gold distributions' if soft else 'right answers'}",
            "brier": "with the Brier score",
            "em": "with the ECE regularizer found by EM",
            "dece": "with the differentiable ECE",
        }
        return f"calibration-aware {self.trainer}, {', '.join(names[term] for term in self.terms)}"
