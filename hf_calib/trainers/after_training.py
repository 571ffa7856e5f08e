"""What is measured of the model that training leaves."""

from __future__ import annotations

from typing import Any

from ..hub.regime_text import regime_sample, regime_text
from ..regimes import diagnose


def measure_after(trainer: Any) -> None:
    """Ask the evaluation questions and, where answers were trained on, some of those; on every process.

    Sets the report "after" and, for the card, the regime.

    Parameters
    ----------
    trainer : CalibrationMixin
    """
    asked = trainer._asked()
    trainer.calibration_reports["after"] = asked.report()
    trained_on = trainer._trained_on
    if not trained_on:
        return
    chosen = [trained_on[i] for i in regime_sample(len(trained_on))]
    diagnosis = diagnose(trainer._asked(trainer._evaluator_of(chosen)), asked)
    trainer._regime = regime_text(diagnosis, len(trained_on), trainer._evaluation_source)
