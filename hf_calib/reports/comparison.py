"""The comparison of two or more models on the same questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..confidence.predictions import Predictions
from ..measures import shown_in
from .page import render_comparison
from .paired import Difference, Sharpening, differences, plain, sharpening


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
    skipped_rows : mapping
        From the tasks to how many rows could not be read and were left out, where any were.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    differences: Mapping[tuple[str, str, str], Sequence[Difference]]
    sharpenings: Mapping[tuple[str, str, str], Sharpening]
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
            cells.append(cell)
        return {
            "base": self.models[0],
            "models": list(self.models),
            "tasks": list(self.tasks),
            "confidence": list(self.methods),
            "comparisons": cells,
            **({"skipped_rows": dict(self.skipped_rows)} if self.skipped_rows else {}),
        }
