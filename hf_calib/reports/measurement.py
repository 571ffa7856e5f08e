"""Measurements: predictions on one or more datasets, with their reports and files.

Pages, JSON, cards, comparisons, calibrators and diagnoses all read a `Measurement`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..confidence.predictions import Predictions
from ..confidence.recorded import PREDICTIONS_FILE, Recorded, read_predictions, write_predictions
from ..confidence.registry import name_of
from ..measures import CATALOG, CalibrationReport, Convention, Finding, Measure, ece_conventions
from ..measures.battery import LOW_MASS
from ..tasks.files import READERS
from .checks import Reading, findings, sorted_findings
from .reliability import ReliabilityDisplay

if TYPE_CHECKING:
    from pandas import DataFrame

REPORT_FILE = "report.json"
DIAGRAM_FILE = "reliability_diagram.png"
PAGE_FILE = "report.html"
BEFORE_FOLDER = "before"

Recording: TypeAlias = "Predictions | Measurement | str | os.PathLike[str]"
"""Predictions; or a measurement, its folder, or a file that holds them."""


@dataclass(frozen=True)
class Measurement:
    """A model's predictions on one or more datasets.

    Parameters
    ----------
    name : str
        Name of the model.
    datasets : mapping of str to Recorded
        At least one dataset; all right answers are known.
    run : mapping
        The settings of the run, as JSON values.
    report_options : mapping
        Options of `Predictions.report`: seed, n_bins, ...
    before : Measurement, optional
        The same answers without the calibrator, if there is one.
    """

    name: str
    datasets: Mapping[str, Recorded]
    run: Mapping[str, Any] = field(default_factory=dict)
    report_options: Mapping[str, Any] = field(default_factory=dict)
    before: Measurement | None = None

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ValueError("datasets is empty: pass at least one measured dataset")
        for name, recorded in self.datasets.items():
            unknown = np.flatnonzero(recorded.predictions.answers < 0)
            if len(unknown):
                row = int(recorded.predictions.rows[unknown[0]])
                raise ValueError(
                    f"{name}: {len(unknown)} of {len(recorded.predictions)} questions have no right answer (the "
                    f"first is row {row}, counted from 0); add them, or leave these questions out"
                )

    @classmethod
    def load(cls, path: str | Path, *, seed: int = 0) -> Measurement:
        """Read the folder that `save` wrote, or a file of predictions from elsewhere.

        Parameters
        ----------
        path : str or path
        seed : int, default 0
            Of the intervals' resampling.

        Raises
        ------
        FileNotFoundError
            If there are no predictions.
        ValueError
            If they cannot be read, or an answer is not known.
        """
        path = Path(path)
        datasets = read_predictions(path)
        saved = _saved_report(path)
        name = saved.get("model", path.stem if path.is_file() else path.name)
        run = saved.get("run") or recorded_run(datasets, from_predictions=str(path))
        for own, facts in run.get("datasets", {}).items():
            if own in datasets:
                datasets[own] = replace(datasets[own], skipped_rows=facts.get("skipped_rows", 0))
        uncalibrated = path / BEFORE_FOLDER
        before = cls.load(uncalibrated, seed=seed) if "before" in saved and uncalibrated.is_dir() else None
        return cls(name, datasets, run, {"seed": seed}, before)

    @staticmethod
    def is_saved(source: Any) -> bool:
        """Return whether `load` can read something: a data file, or a folder with predictions."""
        if not isinstance(source, str | os.PathLike):
            return False
        path = Path(source)
        return (path.is_file() and path.suffix.lower() in READERS) or (path / PREDICTIONS_FILE).is_file()

    @property
    def method(self) -> str | None:
        """The name of the way that confidence was read; None for predictions from elsewhere."""
        return _method_of(self.run)

    @property
    def verdict(self) -> str:
        """Whether the confidence can be trusted, in a few sentences."""
        return self.report.verdict

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Reasons to doubt the reading, the most serious first."""
        return self.report.warnings

    def __getattr__(self, name: str) -> Measure:
        # The measures over all questions, by their keys.
        if name in CATALOG:
            return getattr(self.report, name)
        raise AttributeError(f"{name!r} is not an attribute of a Measurement")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.report.measures]

    @property
    def skipped_rows(self) -> dict[str, int]:
        """Number of unreadable rows that were left out, for each dataset with any."""
        return {name: own.skipped_rows for name, own in self.datasets.items() if own.skipped_rows}

    @property
    def n_text(self) -> str:
        """How many questions were asked, of how many, and how they were drawn."""
        n = self.report.n
        draws = {name: own["drawn"] for name, own in self.run.get("datasets", {}).items() if "drawn" in own}
        if not draws:
            return f"{n:,} question{'' if n == 1 else 's'}"
        of = sum(draws[name]["of"] if name in draws else len(own.questions) for name, own in self.datasets.items())
        seed = next(iter(draws.values()))["seed"]
        return f"{n:,} of {of:,} questions, drawn at random (seed {seed})"

    def __repr__(self) -> str:
        return f"Measurement({self.name!r}, {', '.join(map(repr, self.datasets))}, {self.report!r})"

    def __str__(self) -> str:
        from .terminal import screen

        return screen(self)

    def _repr_html_(self) -> str:
        from .page import render_summary

        return render_summary(self)

    def plot(self) -> ReliabilityDisplay:
        """Return the reliability diagram, drawn with matplotlib."""
        return ReliabilityDisplay.from_statistics(self.report, name=self.name)

    def to_dataframe(self) -> DataFrame:
        """Return a `pandas.DataFrame` with a row per question: the question and the model's answer."""
        import pandas as pd

        parts = []
        for name, recorded in self.datasets.items():
            part = recorded.predictions.to_dataframe()
            part.insert(0, "dataset", name)
            part["question"] = [None if own is None else own.question for own in recorded.questions]
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def values(self) -> dict[str, float]:
        """Return the measures over all questions by name."""
        return {name: measure.value for name, measure in self.report.measures.items()}

    def conventions(self) -> list[Convention]:
        """Return the calibration error over all questions under the usual conventions.

        Questions are grouped by subject where they have any, and by dataset where there are several. Where the options
        have less than 90% of the probability on average, the error of the raw probabilities is given too.
        """
        predictions = self.predictions
        grouped = any(subject is not None for subject in predictions.subjects)
        low = predictions.has_mass and predictions.option_mass.mean() < LOW_MASS
        return ece_conventions(
            predictions.confidences,
            predictions.correct,
            groups=np.array([str(subject) for subject in predictions.subjects]) if grouped else None,
            option_mass=predictions.option_mass if low else None,
            seed=self.report_options.get("seed", 0),
        )

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions on all datasets, concatenated, with new row numbers if there are several."""
        return pool(self.datasets)

    @cached_property
    def report(self) -> CalibrationReport:
        """The report over all questions, with the warnings of all datasets."""
        if len(self.datasets) == 1:
            return next(iter(self.reports.values()))
        found = [finding.of(name) for name, own in self.reports.items() for finding in own.warnings]
        report = replace(self.predictions.report(**self.report_options), warnings=sorted_findings(found))
        if any(finding.code == "calibrator_in_sample" for finding in found):
            report = replace(report, thresholds=())
        return report

    @cached_property
    def reports(self) -> dict[str, CalibrationReport]:
        """The report of each dataset, with its warnings."""
        return {name: self._checked(name, recorded.predictions) for name, recorded in self.datasets.items()}

    def _checked(self, name: str, predictions: Predictions) -> CalibrationReport:
        report = predictions.report(**self.report_options)
        known = {
            "name": name,
            "skipped_rows": self.datasets[name].skipped_rows,
            **self.run.get("datasets", {}).get(name, {}),
        }
        missing = self.run.get("options_not_returned", {}).get(name)
        reading = Reading(predictions, report, self.run, known, missing, self.datasets[name].questions)
        warnings = findings(reading)
        if any(finding.code == "calibrator_in_sample" for finding in warnings):  # then nothing is guaranteed
            report = replace(report, thresholds=())
        return replace(report, warnings=warnings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, with `run` and, for several datasets, each one's report."""
        several = {name: report.to_dict() for name, report in self.reports.items()} if len(self.datasets) > 1 else {}
        return {
            "model": self.name,
            **self.report.to_dict(),
            **({"datasets": several} if several else {}),
            "run": dict(self.run),
            **({} if self.before is None else {"before": self.before.report.to_dict()}),
        }

    def save(self, folder: str | Path) -> None:
        """Write report.json, predictions.parquet, reliability_diagram.png and report.html into a folder.

        With a calibrator, the measurement without it is saved in the subfolder before/.
        """
        from .page import render_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # The report goes first and comes last, so that an interrupted save leaves no report with others' predictions.
        (folder / REPORT_FILE).unlink(missing_ok=True)
        if self.before is not None:
            self.before.save(folder / BEFORE_FOLDER)
        write_predictions(folder / PREDICTIONS_FILE, self.datasets)
        self.plot().save(folder / DIAGRAM_FILE)
        (folder / PAGE_FILE).write_text(render_page(self), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        unfinished = folder / f"{REPORT_FILE}.part"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / REPORT_FILE)


def recorded_run(datasets: Mapping[str, Recorded], **source: Any) -> dict[str, Any]:
    """Return the run of predictions that were recorded elsewhere: their source, and a digest of each dataset."""
    known = {name: {"n": len(own.predictions), "sha256": own.digest} for name, own in datasets.items()}
    return {**source, "datasets": known}


def pool(datasets: Mapping[str, Recorded]) -> Predictions:
    """Return several datasets' predictions as one; the dataset's name becomes or precedes each question's subject."""
    parts = [recorded.predictions for recorded in datasets.values()]
    if len(parts) == 1:
        return parts[0]
    width = max(part.option_log_probabilities.shape[1] for part in parts)
    values = [
        np.pad(
            part.option_log_probabilities,
            ((0, 0), (0, width - part.option_log_probabilities.shape[1])),
            constant_values=-np.inf,
        )
        for part in parts
    ]
    subjects = [
        name if subject is None else f"{name}: {subject}"
        for name, part in zip(datasets, parts, strict=True)
        for subject in part.subjects
    ]

    def joined(name: str) -> np.ndarray | None:
        """Return an array that all parts have, or None."""
        values = [getattr(part, name) for part in parts]
        return None if any(own is None for own in values) else np.concatenate(values)

    bounds = [np.zeros(len(part)) if part.missing_bounds is None else part.missing_bounds for part in parts]
    return Predictions(
        option_log_probabilities=np.concatenate(values),
        answers=np.concatenate([part.answers for part in parts]),
        subjects=tuple(subjects),
        rows=np.arange(len(subjects)),
        option_counts=np.concatenate([part.n_choices for part in parts]),
        has_mass=all(part.has_mass for part in parts),
        chosen=np.concatenate([part.predicted for part in parts])
        if any(part.chosen is not None for part in parts)
        else None,
        missing_bounds=np.concatenate(bounds) if any(own.any() for own in bounds) else None,
        hidden_states=joined("hidden_states"),
        flips=joined("flips"),
        most_confident_correct=joined("most_confident_correct"),
    )


def _saved_report(path: Path) -> dict[str, Any]:
    report = path / REPORT_FILE
    return json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}


def _method_of(run: Mapping[str, Any]) -> str | None:
    return name_of(run["confidence"]) if "confidence" in run else None


def common_method(sources: Mapping[str, Any], argument: str) -> str | None:
    """Return the way in which the confidence of all sources was read; None if no source records it.

    Predictions from elsewhere do not record it; they are assumed to be read like the others.

    Parameters
    ----------
    sources : mapping of str to Recording
    argument : str
        The argument's name, which starts the error message.

    Raises
    ------
    ValueError
        If the confidence was read in different ways.
    """
    found: dict[str, str] = {}
    for name, source in sources.items():
        saved = isinstance(source, str | os.PathLike)
        run = _saved_report(Path(source)).get("run", {}) if saved else getattr(source, "run", {})
        if (method := _method_of(run)) is not None:
            found[name] = method
    if len(set(found.values())) > 1:
        ways = ", ".join(f"{name} by {method}" for name, method in found.items())
        raise ValueError(f"{argument}: confidence was read in different ways ({ways}); measure them in the same way")
    return next(iter(found.values()), None)


def predictions_of(source: Recording) -> Predictions:
    """Return existing predictions, of all datasets together; answers may be unknown."""
    if isinstance(source, Measurement):
        return source.predictions
    return pool(datasets_of(source)) if isinstance(source, str | os.PathLike) else source


def datasets_of(source: Recording) -> Mapping[str, Recorded]:
    """Return existing predictions by dataset, with their questions as far as they are known."""
    if isinstance(source, Measurement):
        return source.datasets
    if isinstance(source, str | os.PathLike):
        return read_predictions(Path(source))
    return {"": Recorded(source, (None,) * len(source))}
