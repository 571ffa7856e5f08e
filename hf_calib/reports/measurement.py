"""The measurement of a model: its predictions on one or more datasets and their reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..confidence.predictions import Predictions
from ..confidence.recorded import Recorded
from ..measures import CalibrationReport


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
        """Return the report as plain values, with `run` and each dataset's report under `datasets`."""
        return {
            **self.report.to_dict(),
            "model": self.name,
            "run": dict(self.run),
            "datasets": {name: report.to_dict() for name, report in self.reports.items()},
        }


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
    return Predictions(
        option_log_probabilities=np.concatenate(values),
        answers=np.concatenate([part.answers for part in parts]),
        subjects=tuple(subjects),
        rows=np.arange(len(subjects)),
        option_counts=np.concatenate([part.n_choices for part in parts]),
        has_mass=all(part.has_mass for part in parts),
        hidden_states=np.concatenate(states) if len(states) == len(parts) else None,
    )
