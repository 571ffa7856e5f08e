"""Two or more models on the same questions: what their differences come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..confidence.predictions import Predictions
from .paired import HEADINGS, Difference, Sharpening, differences, plain, sharpening


@dataclass(frozen=True)
class Comparison:
    """Models × tasks × ways to read confidence × measures, against the first model.

    Attributes
    ----------
    models : tuple of str
        The base first.
    tasks, methods : tuple of str
    differences : mapping
        From (model, task, method) to the differences from the base.
    sharpenings : mapping
        From (model, task, method) to the sharpening, where it has a value.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    differences: Mapping[tuple[str, str, str], Sequence[Difference]]
    sharpenings: Mapping[tuple[str, str, str], Sharpening]

    @classmethod
    def of(cls, predictions: Mapping[tuple[str, str, str], Predictions], **options: Any) -> Comparison:
        """Compare predictions.

        Parameters
        ----------
        predictions : mapping
            From (model, task, method) to predictions; the first model is the base.
        **options
            Of `differences`.

        Raises
        ------
        ValueError
            If there are fewer than two models, or one lacks a task or method that another has.
        """
        models, tasks, methods = (tuple(dict.fromkeys(key[place] for key in predictions)) for place in range(3))
        if len(models) < 2:
            raise ValueError("a comparison needs at least two models")
        found, slopes = {}, {}
        for task, method in dict.fromkeys(key[1:] for key in predictions):
            for model in models:
                if (model, task, method) not in predictions:
                    raise ValueError(f"{model} was not measured on {task} by {method}, as another model was")
            base = predictions[models[0], task, method]
            for model in models[1:]:
                key = (model, task, method)
                try:
                    found[key] = differences(base, predictions[key], **options)
                except ValueError as error:
                    raise ValueError(f"{models[0]} and {model} on {task}: {error}") from None
                try:
                    slopes[key] = sharpening(base, predictions[key])
                except ValueError:  # sampled answers leave options without probability
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
        return [*(measure + part for measure in HEADINGS for part in parts), "sharpening"]

    def save(self, folder: str | Path) -> None:
        """Write comparison.json and comparison.html into a folder."""
        from .page import render_comparison

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.html").write_text(render_comparison(self), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / "comparison.json").write_text(text, encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        cells = []
        for key, own in self.differences.items():
            cell: dict[str, Any] = {"model": key[0], "task": key[1], "confidence": key[2]}
            cell["differences"] = {difference.measure: difference.to_dict() for difference in own}
            if key in self.sharpenings:
                slope = self.sharpenings[key]
                cell["sharpening"] = plain({**asdict(slope.slope), "r_squared": slope.r_squared})
            cells.append(cell)
        return {
            "base": self.models[0],
            "models": list(self.models),
            "tasks": list(self.tasks),
            "confidence": list(self.methods),
            "comparisons": cells,
        }


def summary(model: str, base: str, own: Sequence[Difference]) -> str:
    """Return in a sentence what two models' differences in calibration and accuracy come to."""
    said = {difference.measure: difference for difference in own}
    calibration = _clause(said["ece"], "calibrated", "calibration")
    return f"Beside {base}, {model} is {calibration}, and {_clause(said['accuracy'], 'accurate', 'accuracy')}."


def _clause(difference: Difference, adjective: str, noun: str) -> str:
    values = f"{HEADINGS[difference.measure]} {difference.base:.3f} to {difference.other:.3f}"
    low, high = difference.difference.low, difference.difference.high
    if low is None or high is None or difference.verdict not in ("better", "worse"):
        return f"not shown to differ in {noun} ({values})"
    degree = (
        {"better": "better", "worse": "worse"} if adjective == "calibrated" else {"better": "more", "worse": "less"}
    )
    return f"{degree[difference.verdict]} {adjective} ({values}, a difference of {low:+.3f} to {high:+.3f})"
