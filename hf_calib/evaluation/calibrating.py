"""Fit a calibrator on a model's answers to held-out questions."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..calibrators import CALIBRATOR_FILE, by_name
from ..calibrators.cross_validation import fit_with_target, held_out_predictions, random_folds
from ..calibrators.grouped_temperature import GroupedTemperature
from ..calibrators.inputs import UninformativeFitWarning
from ..calibrators.protocol import BaseCalibrator
from ..calibrators.storage import described
from ..measures import CalibrationReport, Finding
from ..reports import Measurement
from ..reports.checks import calibrator_findings, says_nothing, sorted_findings
from ..reports.measurement import BEFORE_FOLDER, common_method, datasets_of, pool, predictions_of
from .asking import Datasets, ask
from .fitted import fitted_on_measurement
from .grouping import groups_of
from .keeping import interruptible, save_result
from .settings import AskOptions

if TYPE_CHECKING:
    from ..confidence import ConfidenceMethod
    from ..confidence.predictions import Predictions
    from ..confidence.recorded import Recorded
    from ..reports.measurement import Recording
    from ..tasks import Question
    from .models import Model

REPORT_FILE = "calibration.json"
MEASUREMENT_FOLDER = "measurement"


class UninformativeFitError(ValueError):
    """A fit does not generalize, so it was not saved; it is in `calibration`."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(
            f"calibrator: {calibration.name} was not saved, since the fit does not generalize. {calibration.problem} "
            "Fit on other or more questions, or pass --force (force=True) to save it anyway"
        )
        self.calibration = calibration


@dataclass(frozen=True)
class Calibration:
    """A fitted calibrator with its cross-validated results.

    Attributes
    ----------
    calibrator : BaseCalibrator
        Fitted on all questions.
    reports : mapping of str to CalibrationReport
        Cross-validated results by calibrator; "none" is without a calibrator.
    refused : mapping of str to str
        Calibrators that cannot be fitted here, and why.
    n, folds, seed : int
        Questions and folds of the cross-validation, and the seed of these.
    warnings : tuple of Finding
        Warnings about the predictions that it was fitted on, or about the calibrator; the most serious first.
    skipped_rows : mapping of str to int
        Number of unreadable rows that were left out, for each dataset with any.
    problem : str or None
        Why the fit does not generalize, such as a temperature at the end of its range.
    """

    calibrator: BaseCalibrator
    reports: Mapping[str, CalibrationReport]
    refused: Mapping[str, str]
    n: int
    folds: int
    seed: int
    warnings: tuple[Finding, ...] = ()
    skipped_rows: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None

    @property
    def name(self) -> str:
        """The calibrator's name."""
        return self.calibrator.name

    @property
    def report(self) -> CalibrationReport:
        """The calibrator's cross-validated report."""
        return self.reports[self.name]

    @property
    def choice(self) -> dict[str, str]:
        """What "auto" chose and why; empty for other calibrators."""
        chosen: Any = self.calibrator
        return {"chosen": chosen.chosen, "reason": chosen.reason} if self.name == "auto" else {}

    def values(self) -> dict[str, float]:
        """Return the cross-validated measures with the calibrator by name."""
        return {name: measure.value for name, measure in self.report.measures.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "method": self.name,
            **self.choice,
            "parameters": described(self.calibrator.parameters()),
            "n": self.n,
            "folds": self.folds,
            "seed": self.seed,
            "refused": dict(self.refused),
            "warnings": [finding.to_dict() for finding in self.warnings],
            **({"skipped_rows": dict(self.skipped_rows)} if self.skipped_rows else {}),
            **({"problem": self.problem} if self.problem else {}),
            "cross_validated": {name: report.to_dict() for name, report in self.reports.items()},
        }

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write calibrator.json, which `hf_calib.measure` takes, and calibration.json into a folder.

        Raises
        ------
        UninformativeFitError
            If the fit does not generalize and `force` is false; nothing is written.
        """
        if self.problem and not force:
            raise UninformativeFitError(self)
        folder = Path(folder)
        self.calibrator.save(folder / CALIBRATOR_FILE)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")


def calibrate(
    model: Model | Measurement,
    dataset: Datasets | None = None,
    *,
    calibrators: str | Sequence[str] = "temperature",
    by: str | None = None,
    target_predictions: Recording | None = None,
    reference_predictions: Recording | None = None,
    folds: int = 5,
    method: str | ConfidenceMethod | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> Calibration:
    """Fit a calibrator on a model's answers to held-out questions, and cross-validate it.

    Parameters
    ----------
    model : as in `hf_calib.measure`, or Measurement or path
        A model; or a measurement, the folder that it was saved into, or a file of predictions.
    dataset : optional
        Questions that the model was not trained on, as in `hf_calib.measure`; left out with a measurement.
    calibrators : str or sequence of str, default "temperature"
        Names from `hf_calib.calibrators.names()`; of several, the one with the lowest cross-validated log-loss is
        chosen. "auto" chooses by the available data.
    by : {"subject", "type", "n_options", "dataset"}, optional
        Fit a temperature for each group of questions, shrunk toward that of all questions where a group is small; see
        `hf_calib.calibrators.GroupedTemperature`. The reports include one temperature for comparison.
    target_predictions : Measurement, Predictions or path, optional
        The model's predictions for new questions, whose answers are not used.
    reference_predictions : Measurement, Predictions or path, optional
        The pre-trained model's predictions for the same questions, used instead of answers.
    folds : int, default 5
        Of the cross-validation.
    method : str or ConfidenceMethod, optional
        What the confidence is read off, as in `hf_calib.measure`.
    out : path, optional
        A folder for calibrator.json, calibration.json and, in measurement/, the answers that it was fitted on. Started
        again with the same folder, a stopped run resumes, and answers that are there are not asked for again.
    force : bool, default False
        Also save a fit that does not generalize.
    seed : int, default 0
        Seed of the folds, random orders, samples and the intervals' resampling.
    **options
        As in `hf_calib.measure`.

    Returns
    -------
    Calibration
        With `.calibrator`, `.report` and `.save(folder)`.

    Raises
    ------
    UninformativeFitError
        If the fit does not generalize and is to be saved without `force`.
    ValueError
        If there is no such calibrator, none can be fitted here, questions are missing or not needed, or confidence was
        read in different ways for the model and for the target.

    Warns
    -----
    UninformativeFitWarning
        If the fit does not generalize and is not to be saved.

    Examples
    --------
    >>> import hf_calib
    >>> fitted = hf_calib.calibrate("your/model", "held_out.jsonl", calibrators="auto")  # doctest: +SKIP
    >>> fitted.save("calibrator")  # doctest: +SKIP
    >>> hf_calib.measure("your/model", "new.jsonl", calibrator="calibrator").verdict  # doctest: +SKIP
    """
    names = tuple(dict.fromkeys([calibrators] if isinstance(calibrators, str) else calibrators))
    # Read first, so that a missing file is reported before the model is asked.
    target = None if target_predictions is None else predictions_of(target_predictions)
    reference = None if reference_predictions is None else datasets_of(reference_predictions)
    if target is not None and reference is not None:
        raise ValueError(
            "reference_predictions: they are taken in the answers' place, without target_predictions; give only one "
            "of them"
        )
    if by is not None and (names != ("temperature",) or target is not None or reference is not None):
        raise ValueError(
            "by: groups get temperatures fitted on answers; leave out calibrators, target_predictions and "
            "reference_predictions"
        )
    refused = {name: reason for name in names if (reason := _unsuited(name, target, reference))}
    if len(refused) == len(names):
        raise ValueError("; ".join(refused.values()))
    with_features = any(getattr(by_name(name), "needs_features", False) for name in names)
    if isinstance(model, Measurement) or Measurement.is_saved(model):
        if dataset is not None or set(options) - {"progress"}:
            raise ValueError("dataset: predictions that exist already need none, and no options; leave them out")
        measurement = model if isinstance(model, Measurement) else Measurement.load(model, seed=seed)  # type: ignore[arg-type]
    elif dataset is None:
        raise ValueError("dataset: a model needs questions to fit on")
    else:
        with interruptible(out):
            kept_in = None if out is None else Path(out) / MEASUREMENT_FOLDER
            measurement = ask(
                model, dataset, method=method, seed=seed, out=kept_in, hidden_states=with_features, **options
            )
    if "calibrator" in measurement.run:
        raise ValueError(
            f"the predictions of {measurement.name!r} are already calibrated, by "
            f"{measurement.run['calibrator'].get('method')}; a calibrator is fitted on uncalibrated ones. Give the "
            f"subfolder {BEFORE_FOLDER}/ of the folder that hf-calib measure wrote (in Python, measurement.before)"
        )
    if target is not None:
        # A reference replaces the answers, so its method may differ; a target's may not.
        common_method({"the model": measurement, "the target": target_predictions}, "target_predictions")
    predictions = measurement.predictions
    given = _given(measurement, target, reference, None if by is None else (by, groups_of(measurement, by)))
    names += () if by is None else (GroupedTemperature.name,)
    reports = {"none": predictions.report(seed=seed)}
    for name in names:
        if name in refused:
            continue
        try:
            reports[name] = given.cross_validated(name, folds, seed)
        except ValueError as error:
            if len(names) == 1:
                raise
            refused[name] = str(error)
    candidates = [name for name in reports if name != "none"]
    if not candidates:
        raise ValueError(f"calibrators: none can be fitted here: {'; '.join(dict.fromkeys(refused.values()))}")
    best = min(candidates, key=lambda name: reports[name].measures["nll"].value)
    best = best if by is None else GroupedTemperature.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UninformativeFitWarning)  # the findings say so
        fitted = given.fitted(best)
    parameters = described(fitted.parameters())
    fitted.fitted_on = fitted_on_measurement(measurement)
    before, after = (reports[name].measures["nll"].value for name in ("none", best))
    # On the questions it was fitted on, a calibrator for a target's questions may well be worse.
    found = calibrator_findings(parameters, before, after if target is None else before)
    calibration = Calibration(
        fitted,
        reports,
        refused,
        len(predictions),
        folds,
        seed,
        sorted_findings([*measurement.warnings, *found]),
        measurement.skipped_rows,
        says_nothing(parameters),
    )
    if out is None and calibration.problem:
        warnings.warn(calibration.problem, UninformativeFitWarning, stacklevel=2)
    save_result(calibration, out, options.get("device"), **({"force": True} if force else {}))
    return calibration


def _unsuited(name: str, target: Predictions | None, reference: Mapping[str, Recorded] | None) -> str | None:
    """Return why a calibrator cannot be fitted with or without a target's or a reference's predictions, or None."""
    if target is not None and not getattr(by_name(name), "takes_unlabeled", False):
        return (
            f"target_predictions: the calibrator {name!r} does not use a target's questions; leave them out, or "
            "choose 'adaptive_ensemble', 'importance_weighted' or 'auto'"
        )
    if target is None and name == "importance_weighted":
        return (
            f"target_predictions: the calibrator {name!r} needs the model's predictions for new questions; pass them "
            "here"
        )
    if reference is not None and name not in ("auto", "reference_agreement"):
        return (
            f"reference_predictions: the calibrator {name!r} does not use a reference's predictions; leave them out, "
            "or choose 'reference_agreement' or 'auto'"
        )
    if reference is None and name == "reference_agreement":
        return (
            f"reference_predictions: the calibrator {name!r} needs the pre-trained model's predictions for the same "
            "questions; pass them here"
        )
    return None


@dataclass(frozen=True)
class _Given:
    """The data to fit on: answers or a reference's predictions, and optionally a target's predictions."""

    predictions: Predictions
    labels: np.ndarray
    target: np.ndarray | None
    groups: tuple[str, np.ndarray] | None = None

    def cross_validated(self, name: str, folds: int, seed: int) -> CalibrationReport:
        """Return the cross-validated report."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UninformativeFitWarning)  # the fit on all questions says so
            if name == GroupedTemperature.name and self.groups is not None:
                return self._grouped_cross_validation(*self.groups, folds, seed)
            options: dict[str, Any] = {"unlabeled": self.target, "n_folds": folds, "seed": seed}
            held_out = held_out_predictions(self.predictions, partial(self._new, name), self.labels, **options)
        return held_out.report(seed=seed)

    def _grouped_cross_validation(self, by: str, names: np.ndarray, n_folds: int, seed: int) -> CalibrationReport:
        logits, probabilities = self.predictions.logits, np.zeros(self.predictions.logits.shape)
        folds = random_folds(len(names), n_folds, seed)
        for fold in range(n_folds):
            out = folds == fold
            fitted = GroupedTemperature(by).fit(logits[~out], self.labels[~out], groups=names[~out])
            probabilities[out] = fitted.transform(logits[out], groups=names[out])
        return self.predictions.with_probabilities(probabilities).report(seed=seed)

    def fitted(self, name: str) -> BaseCalibrator:
        """Return a calibrator fitted on all data."""
        if name == GroupedTemperature.name and self.groups is not None:
            by, names = self.groups
            return GroupedTemperature(by).fit(self.predictions.logits, self.labels, groups=names)
        calibrator = self._new(name)
        features = self.predictions.hidden_states if calibrator.needs_features else None
        if self.labels.ndim == 1 and self.predictions.are_events_for(calibrator):
            right = self.predictions.predicted == self.labels
            return calibrator.fit(self.predictions.confidences, right, kind="probabilities", features=features)
        predictions = self.predictions.logits
        if self.target is not None:
            return fit_with_target(calibrator, predictions, self.labels, self.target)
        return calibrator.fit(predictions, self.labels, features=features)

    def _new(self, name: str) -> BaseCalibrator:
        """Return a new calibrator, or raise a ValueError if the data are not enough for it."""
        calibrator = by_name(name)
        if not isinstance(calibrator, BaseCalibrator):
            raise ValueError(f"the calibrator {name!r} is for numbers, not for options; use it in Python")
        if calibrator.needs_features and self.predictions.hidden_states is None:
            raise ValueError(
                f"the calibrator {name!r} needs features, the hidden states, which files of predictions don't hold; "
                "give a model and a dataset"
            )
        return calibrator


def _given(
    measurement: Measurement,
    target: Predictions | None,
    reference: Mapping[str, Recorded] | None,
    groups: tuple[str, np.ndarray] | None,
) -> _Given:
    predictions = measurement.predictions
    labels: np.ndarray = predictions.answers
    if reference is not None:
        labels = _logits_of_same_questions(reference, measurement)
    unlabeled = None if target is None else target.logits
    return _Given(predictions, labels, unlabeled, groups)


def _logits_of_same_questions(reference: Mapping[str, Recorded], measurement: Measurement) -> np.ndarray:
    """Return the reference's logits, after checking that it was asked the same questions as far as they are known."""
    theirs, ours = pool(reference), measurement.predictions
    if len(theirs) != len(ours):
        raise ValueError(
            f"reference_predictions: the reference was asked {len(theirs)} questions and the model {len(ours)}; both "
            "must be asked the same ones"
        )
    differing = (theirs.rows != ours.rows) | (theirs.n_choices != ours.n_choices)
    if differing.any():
        first = int(np.argmax(differing))
        raise ValueError(
            f"reference_predictions: question {first + 1} is from row {theirs.rows[first]} with "
            f"{theirs.n_choices[first]} options, but the model's is from row {ours.rows[first]} with "
            f"{ours.n_choices[first]}; both must be asked the same questions in the same order"
        )
    pairs = zip(_questions(reference), _questions(measurement.datasets), strict=True)
    for number, (their, our) in enumerate(pairs, start=1):
        if their and our and (their.question, their.choices) != (our.question, our.choices):
            raise ValueError(
                f"reference_predictions: the reference's question {number} is {their.question!r:.100} (options "
                f"{', '.join(their.choices):.100}), but the model's is {our.question!r:.100} (options "
                f"{', '.join(our.choices):.100}); both must be asked the same questions, with the options in the same "
                "order"
            )
    return theirs.logits


def _questions(datasets: Mapping[str, Recorded]) -> list[Question | None]:
    return [question for recorded in datasets.values() for question in recorded.questions]
