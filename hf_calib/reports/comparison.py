"""The comparison of two or more models on the same questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..confidence.predictions import Predictions
from ..measures import CATALOG, Finding, shown_in
from .paired import Difference, Sharpening, differences, plain, sharpening

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
    differences : mapping
        From (model, task, method) to the differences from the base.
    sharpenings : mapping
        From (model, task, method) to the sharpening, where it is defined.
    warnings : mapping
        From (model, task, method), the base's included, to what speaks against trusting the reading.
    skipped_rows : mapping
        From the tasks to how many rows could not be read and were left out, where any were.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    differences: Mapping[tuple[str, str, str], Sequence[Difference]]
    sharpenings: Mapping[tuple[str, str, str], Sharpening]
    warnings: Mapping[tuple[str, str, str], Sequence[Finding]] = field(default_factory=dict)
    skipped_rows: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, predictions: Mapping[tuple[str, str, str], Predictions], **options: Any) -> Comparison:
        """Compare predictions.

        Parameters
        ----------
        predictions : mapping
            From (model, task, method) to predictions; the first model is the base.
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
        found, slopes = {}, {}
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
                try:
                    found[key] = differences(base, predictions[key], **options)
                except ValueError as error:
                    raise ValueError(f"{models[0]} and {model} on {task}: {error}") from None
                try:
                    slopes[key] = sharpening(base, predictions[key])
                except ValueError:  # sampled answers may leave options without probability
                    continue
        return cls(models, tasks, methods, found, slopes)

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
        """Write comparison.json and comparison.html into a folder."""
        from .page import render_comparison

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.html").write_text(render_comparison(self), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / "comparison.json").write_text(text, encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        cells = []
        for key, own in self.differences.items():
            cell: dict[str, Any] = {"model": key[0], "task": key[1], "confidence": key[2]}
            cell["differences"] = {difference.measure: difference.to_dict() for difference in own}
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
