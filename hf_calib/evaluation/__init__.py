"""Measure, compare, calibrate and diagnose models; the command line and the cards call these functions.

Each asks what it is told to ask (`asking`), and returns a result that knows its numbers, its JSON and its files.
Nothing here imports torch before a model is asked.
"""

import importlib
from typing import TYPE_CHECKING

# Where each public name lives; imported when it is first used.
_MODULES = {
    "calibrating": ("Calibration", "calibrate"),
    "cards": ("measure_and_write_card",),
    "comparing": ("compare",),
    "diagnosing": ("Diagnosis", "diagnose"),
    "models": ("this_process",),
    "measuring": ("measure", "measure_recorded"),
    "settings": ("AskOptions",),
    "thresholds": ("Threshold",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AskOptions",
    "Calibration",
    "Diagnosis",
    "Threshold",
    "calibrate",
    "compare",
    "diagnose",
    "measure",
    "measure_and_write_card",
    "measure_recorded",
    "this_process",
]

if TYPE_CHECKING:
    from .calibrating import Calibration, calibrate
    from .cards import measure_and_write_card
    from .comparing import compare
    from .diagnosing import Diagnosis, diagnose
    from .measuring import measure, measure_recorded
    from .models import this_process
    from .settings import AskOptions
    from .thresholds import Threshold


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
