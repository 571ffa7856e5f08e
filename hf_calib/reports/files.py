"""The files that a measurement leaves in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from ..confidence.recorded import write_predictions
from .measurement import Measurement
from .page import render_page
from .reliability import ReliabilityDisplay


def save_measurement(measurement: Measurement, folder: str | Path) -> None:
    """Write report.json, predictions.parquet, reliability_diagram.png and report.html into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.parquet", measurement.datasets)
    ReliabilityDisplay.from_statistics(measurement.report, name=measurement.name).save(
        folder / "reliability_diagram.png"
    )
    (folder / "report.html").write_text(render_page(measurement), encoding="utf-8")
    text = json.dumps(measurement.to_dict(), indent=2, allow_nan=False) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
