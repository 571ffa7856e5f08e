"""The comparison of two or more models on the same questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..confidence.predictions import Predictions
from ..measures import CATALOG, CalibrationReport, Finding, shown_in
from ..measures.verdict import convention_note
from .measurement import Measurement
from .paired import Difference, Sharpening, differences, paired, plain, sharpening

# A factor on the log-odds that explains less than this of their variation says nothing about them.
LEAST_R_SQUARED = 0.5
MEASUREMENTS_FOLDER = "measurements"

Cell = tuple[str, str, str]
"""A model, a task and a way to read confidence."""

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Comparison:
    """Differences of models from the first one, by task, way to read confidence and measure.

    Attributes
    ----------
    models : tuple of str
        The base, then the models compared with it.
    tasks, methods : tuple of str
    pairs : mapping
        From (model, task, method) to the base's and the model's predictions of the questions that both answered.
    left_out : mapping
        From (model, task, method) to how many questions only the base and only the model answered.
    differences : mapping
        From (model, task, method) to the differences from the base.
    sharpenings : mapping
        From (model, task, method) to the sharpening, where it is defined and one factor describes the log-odds.
    warnings : mapping
        From (model, task, method), the base's included, to the reasons to doubt the reading.
    skipped_rows : mapping
        From the tasks to how many rows could not be read and were left out, where any were.
    notes : tuple of str
        What else was left out, a sentence each.
    measurements : mapping
        From (model, method) to what was measured, with the settings of the run; empty if only predictions were given.
    seed : int
        Of the intervals' resampling.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    pairs: Mapping[Cell, tuple[Predictions, Predictions]]
    left_out: Mapping[Cell, tuple[int, int]]
    differences: Mapping[Cell, Sequence[Difference]]
    sharpenings: Mapping[Cell, Sharpening]
    warnings: Mapping[Cell, Sequence[Finding]] = field(default_factory=dict)
    skipped_rows: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    measurements: Mapping[tuple[str, str], Measurement] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def of(cls, predictions: Mapping[Cell, Predictions], *, seed: int = 0, **options: Any) -> Comparison:
        """Compare predictions.

        Parameters
        ----------
        predictions : mapping
            From (model, task, method) to predictions; the first model is the base.
        seed : int, default 0
            Of the intervals' resampling.
        **options
            Passed on to `differences`.

        Raises
        ------
        ValueError
            If there are fewer than two models, or a model lacks a task or method that another one has.
        """
        models, tasks, methods = (tuple(dict.fromkeys(key[place] for key in predictions)) for place in range(3))
        if len(models) < 2:
            raise ValueError(f"predictions: a comparison needs at least two models, got {len(models)}")
        pairs, left_out, found, slopes = {}, {}, {}, {}
        for task, method in dict.fromkeys(key[1:] for key in predictions):
            for model in models:
                if (model, task, method) not in predictions:
                    raise ValueError(
                        f"predictions: {model} was not measured on {task} by {method}, but another model was; "
                        "measure it too"
                    )
            base = predictions[models[0], task, method]
            for model in models[1:]:
                key = (model, task, method)
                other = predictions[key]
                try:
                    pairs[key] = one, two = paired(base, other)
                    found[key] = differences(one, two, seed=seed, **options)
                except ValueError as error:
                    raise ValueError(f"{models[0]} and {model} on {task}: {error}") from None
                left_out[key] = len(base) - len(one), len(other) - len(two)
                try:
                    slope = sharpening(one, two)
                except ValueError:  # sampled answers may leave options without probability
                    continue
                if slope.r_squared >= LEAST_R_SQUARED:
                    slopes[key] = slope
        return cls(models, tasks, methods, pairs, left_out, found, slopes, seed=seed)

    @cached_property
    def reports(self) -> dict[Cell, tuple[CalibrationReport, CalibrationReport]]:
        """The base's and the model's reports on the questions that both answered, with their warnings."""
        known: dict[tuple[Any, ...], CalibrationReport] = {}

        def report(model: str, key: Cell, predictions: Predictions) -> CalibrationReport:
            of = (model, *key[1:], predictions.rows.tobytes())  # the base's, if it is asked the same with all models
            if of not in known:
                found = tuple(self.warnings.get((model, *key[1:]), ()))
                known[of] = replace(predictions.report(seed=self.seed), warnings=found)
            return known[of]

        return {
            key: (report(self.models[0], key, one), report(key[0], key, two)) for key, (one, two) in self.pairs.items()
        }

    def n_text(self, key: Cell) -> str:
        """Return how many questions both models answered, and how many were left out."""
        n, (base, other) = len(self.pairs[key][0]), self.left_out[key]
        if not base and not other:
            return f"n = {n:,}"
        return (
            f"n = {n:,} questions that both answered; left out: {base:,} that only {self.models[0]} answered, "
            f"{other:,} that only {key[0]} answered"
        )

    def ece_note(self, key: Cell) -> str:
        """Return what both models' ECEs are, in a sentence."""
        names = (self.models[0], key[0])
        return convention_note({name: own.ece_convention for name, own in zip(names, self.reports[key], strict=True)})

    def values(self) -> dict[str, dict[str, float]]:
        """Return the numbers of each model, task and method by name: ece, ece.base, ece.change, ece.change.low, ..."""
        found: dict[str, dict[str, float]] = {}
        for (model, task, method), own in self.differences.items():
            values = found.setdefault(f"{model} on {task} ({method})", {})
            for one in own:
                change = {"": one.difference.value, ".low": one.difference.low, ".high": one.difference.high}
                values |= {one.measure: one.other, f"{one.measure}.base": one.base}
                values |= {f"{one.measure}.change{part}": v for part, v in change.items() if v is not None}
            slope = self.sharpenings.get((model, task, method))
            if slope is not None:
                values["sharpening"] = slope.slope.value
        return found

    @staticmethod
    def value_names() -> list[str]:
        """Return the names of all numbers that `values` may have."""
        parts = ("", ".base", ".change", ".change.low", ".change.high")
        return [*(info.key + part for info in shown_in("models") for part in parts), "sharpening"]

    def save(self, folder: str | Path) -> None:
        """Write comparison.json, comparison.html and, in measurements/, each model's measurement into a folder."""
        from .page import render_comparison

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.html").write_text(render_comparison(self), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / "comparison.json").write_text(text, encoding="utf-8")
        for own, name in measurement_folders(self.measurements).items():
            self.measurements[own].save(folder / MEASUREMENTS_FOLDER / name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        cells = []
        for key, own in self.differences.items():
            cell: dict[str, Any] = {"model": key[0], "task": key[1], "confidence": key[2]}
            cell["n"] = len(self.pairs[key][0])
            cell["left_out"] = dict(zip((self.models[0], key[0]), self.left_out[key], strict=True))
            cell["differences"] = {difference.measure: difference.to_dict() for difference in own}
            base, other = self.reports[key]
            cell["base_ece_convention"], cell["ece_convention"] = base.ece_convention, other.ece_convention
            if key in self.sharpenings:
                slope = self.sharpenings[key]
                cell["sharpening"] = plain({**asdict(slope.slope), "r_squared": slope.r_squared})
            for part, model in (("warnings", key[0]), ("base_warnings", self.models[0])):
                found = self.warnings.get((model, *key[1:]), ())
                cell[part] = [finding.to_dict() for finding in found]
            cells.append(cell)
        return {
            "base": self.models[0],
            "models": list(self.models),
            "tasks": list(self.tasks),
            "confidence": list(self.methods),
            "comparisons": cells,
            **({"skipped_rows": dict(self.skipped_rows)} if self.skipped_rows else {}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def __repr__(self) -> str:
        others = ", ".join(self.models[1:])
        return f"Comparison({others} vs. {self.models[0]}, {len(self.tasks)} task(s), {', '.join(self.methods)})"

    def _repr_html_(self) -> str:
        from .page import render_comparison_summary

        return render_comparison_summary(self)

    def to_dataframe(self) -> DataFrame:
        """Return a `pandas.DataFrame` with a row for each model, task, method and measure."""
        import pandas as pd

        return pd.DataFrame(
            {
                "model": model,
                "task": task,
                "method": method,
                "measure": own.measure,
                "base": own.base,
                "other": own.other,
                "difference": own.difference.value,
                "low": own.difference.low,
                "high": own.difference.high,
                "verdict": own.verdict,
            }
            for (model, task, method), found in self.differences.items()
            for own in found
        )


def measurement_folders(measured: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the folder's name of each model and method; the method is left out where there is only one."""
    measured = list(measured)
    several = len({method for _, method in measured}) > 1
    names: dict[tuple[str, str], str] = {}
    for model, method in measured:
        name = plain_name = re.sub(r"[^\w.-]+", "-", f"{model}-{method}" if several else model).strip(".-") or "model"
        number = 2
        while name in names.values():
            name, number = f"{plain_name}-{number}", number + 1
        names[model, method] = name
    return names


def summary(model: str, base: str, own: Sequence[Difference]) -> str:
    """Return a sentence on how a model differs from the base in calibration and accuracy."""
    found = {difference.measure: difference for difference in own}
    calibration = _clause(found["ece"], "better calibrated", "worse calibrated", "calibration")
    accuracy = _clause(found["accuracy"], "more accurate", "less accurate", "accuracy")
    return f"Compared with {base}, {model} {calibration} and {accuracy}."


def _clause(difference: Difference, better: str, worse: str, noun: str) -> str:
    name = CATALOG[difference.measure].short
    values = f"{name} {difference.other:.3f} vs. {difference.base:.3f}"
    low, high = difference.difference.low, difference.difference.high
    if low is None or high is None or difference.verdict not in ("better", "worse"):
        return f"is not significantly different in {noun} ({values})"
    adjective = better if difference.verdict == "better" else worse
    return f"is {adjective} ({values}, difference {low:+.3f} to {high:+.3f})"
