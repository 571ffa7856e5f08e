"""Calibrators: maps fitted on held-out predictions and applied to new ones."""

from .grouped_temperature import GroupedTemperature
from .protocol import Calibrator, NotFittedError
from .registry import by_name, calibrator_class, load_calibrator, names
from .storage import CALIBRATOR_FILE
from .temperature import TemperatureScaling

__all__ = [
    "CALIBRATOR_FILE",
    "Calibrator",
    "GroupedTemperature",
    "NotFittedError",
    "TemperatureScaling",
    "by_name",
    "calibrator_class",
    "load_calibrator",
    "names",
]
