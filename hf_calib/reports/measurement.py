"""What measuring a model gave: predictions on one or more datasets, their reports, and the files they make.

Pages, JSON, cards, comparisons, calibrators and diagnoses all read a `Measurement`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..confidence.predictions import Predictions
from ..confidence.recorded import PREDICTIONS_FILE, Recorded, read_predictions, write_predictions
from ..measures import CalibrationReport
from ..tasks.files import READERS
from .checks import doubts, missing_options
from .reliability import ReliabilityDisplay
from .verdict import verdict

REPORT_FILE = "report.json"
DIAGRAM_FILE = "reliability_diagram.png"
PAGE_FILE = "report.html"

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
    """

    name: str
    datasets: Mapping[str, Recorded]
    run: Mapping[str, Any] = field(default_factory=dict)
    report_options: Mapping[str, Any] = field(default_factory=dict)

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
        report = path / REPORT_FILE
        saved = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
        name = saved.get("model", path.stem if path.is_file() else path.name)
        run = saved.get("run", {"from_predictions": str(path)})
        for own, facts in run.get("datasets", {}).items():
            if own in datasets:
                datasets[own] = replace(datasets[own], skipped_rows=facts.get("skipped_rows", 0))
        return cls(name, datasets, run, {"seed": seed})

    @staticmethod
    def is_saved(source: Any) -> bool:
        """Tell whether `load` can read something: a data file, or a folder with predictions."""
        if not isinstance(source, str | os.PathLike):
            return False
        path = Path(source)
        return (path.is_file() and path.suffix.lower() in READERS) or (path / PREDICTIONS_FILE).is_file()

    @property
    def method(self) -> str | None:
        """How confidence was read; None for predictions from elsewhere, which don't say."""
        return self.run.get("confidence", {}).get("name")

    @property
    def verdict(self) -> str:
        """Whether the confidence can be believed, in a sentence or two."""
        return verdict(self.report)

    @cached_property
    def checks(self) -> tuple[str, ...]:
        """What speaks against trusting the reading, a sentence each; empty where nothing does."""
        found = missing_options(self.run.get("options_not_returned", {}))
        for name, recorded in self.datasets.items():
            found += doubts(name, recorded.predictions, self.reports[name])
        return tuple(found)

    @property
    def skipped_rows(self) -> dict[str, int]:
        """How many rows could not be read and were left out, of each dataset with any."""
        return {name: own.skipped_rows for name, own in self.datasets.items() if own.skipped_rows}

    def values(self) -> dict[str, float]:
        """Return the measures over all questions by name."""
        return {name: measure.value for name, measure in self.report.measures.items()}

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions on all datasets, concatenated, with new row numbers if there are several."""
        return pool(self.datasets)

    @cached_property
    def report(self) -> CalibrationReport:
        """The report over all questions."""
        return self.predictions.report(**self.report_options)

    @cached_property
    def reports(self) -> dict[str, CalibrationReport]:
        """The report of each dataset."""
        if len(self.datasets) == 1:
            return dict.fromkeys(self.datasets, self.report)
        return {name: recorded.predictions.report(**self.report_options) for name, recorded in self.datasets.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, with `verdict` and `run`; of several datasets, also each one's report."""
        several = {name: report.to_dict() for name, report in self.reports.items()} if len(self.datasets) > 1 else {}
        return {
            "model": self.name,
            "verdict": self.verdict,
            **self.report.to_dict(),
            **({"datasets": several} if several else {}),
            "run": dict(self.run),
        }

    def save(self, folder: str | Path) -> None:
        """Write report.json, predictions.parquet, reliability_diagram.png and report.html into a folder."""
        from .page import render_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / PREDICTIONS_FILE, self.datasets)
        ReliabilityDisplay.from_statistics(self.report, name=self.name).save(folder / DIAGRAM_FILE)
        (folder / PAGE_FILE).write_text(render_page(self), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")


def pool(datasets: Mapping[str, Recorded]) -> Predictions:
    """Return several datasets' predictions as one, with the dataset's name as each question's subject or before it."""
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
    states = [part.hidden_states for part in parts if part.hidden_states is not None]
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
        hidden_states=np.concatenate(states) if len(states) == len(parts) else None,
    )


def predictions_of(source: Recording) -> Predictions:
    """Return predictions that exist already, of all datasets together; answers may be unknown."""
    if isinstance(source, Measurement):
        return source.predictions
    if isinstance(source, str | os.PathLike):
        return pool(read_predictions(Path(source)))
    return source
