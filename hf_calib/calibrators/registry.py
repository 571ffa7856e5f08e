"""Calibrators by name, and from a file."""

from __future__ import annotations

import importlib
import os
from typing import Any

from .._suggestions import did_you_mean
from . import storage
from .fitted_on import FittedOn
from .protocol import Calibrator

# The modules, which are only imported when needed.
_HOME: dict[str, tuple[str, str]] = {
    "adaptive_ensemble": ("adaptive_ensemble", "AdaptiveCalibratorEnsemble"),
    "adaptive_temperature": ("adaptive_temperature", "AdaptiveTemperatureScaling"),
    "auto": ("automatic", "AutoCalibration"),
    "beta": ("parametric_maps", "BetaCalibration"),
    "dirichlet": ("linear", "DirichletCalibration"),
    "ensemble": ("ensemble", "EnsembleCalibration"),
    "grouped_temperature": ("grouped_temperature", "GroupedTemperature"),
    "histogram": ("binned", "HistogramBinning"),
    "importance_weighted": ("importance_weighted", "ImportanceWeightedCalibration"),
    "isotonic": ("isotonic", "IsotonicCalibration"),
    "isotonic_multiclass": ("isotonic", "ClasswiseIsotonicCalibration"),
    "localized": ("localized", "LocalizedCalibration"),
    "matrix": ("linear", "MatrixScaling"),
    "meta_calibration": ("meta_calibration", "MetaCalibration"),
    "modular_conformal": ("modular_conformal", "ModularConformal"),
    "monotonic_network": ("monotonic_network", "MonotonicNetwork"),
    "platt": ("parametric_maps", "PlattScaling"),
    "reference_agreement": ("reference_agreement", "ReferenceAgreementScaling"),
    "sample_consistency": ("sample_consistency", "SampleConsistency"),
    "scaling_binning": ("binned", "ScalingBinning"),
    "selective_scaling": ("selective_scaling", "SelectiveScaling"),
    "simplex_etf": ("simplex_etf", "SimplexETFCalibration"),
    "spline": ("spline", "SplineCalibration"),
    "temperature": ("temperature", "TemperatureScaling"),
    "vector": ("linear", "VectorScaling"),
}


def names() -> tuple[str, ...]:
    """Return the sorted names for `by_name`."""
    return tuple(sorted(_HOME))


def calibrator_class(name: str) -> Any:
    """Return a calibrator's class.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those there are.
    """
    if name not in _HOME:
        raise ValueError(
            f"there is no calibrator {name!r}; there are {', '.join(names())}.{did_you_mean(name, names())}"
        )
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f".{module}", __package__), attribute)


def by_name(name: str, **options: Any) -> Any:
    """Return a new calibrator, not yet fitted.

    Parameters
    ----------
    name : str
        One of `names()`.
    **options
        Options of its class.

    Raises
    ------
    ValueError
        If no calibrator has that name (the message lists the names), or an option is out of range.
    TypeError
        If the calibrator does not have one of the options.
    """
    return calibrator_class(name)(**options)


def base_of(wrapper: str, calibrator: Any) -> Any:
    """Return a base for another calibrator, or raise a ValueError if it cannot be one."""
    if not getattr(calibrator, "wrappable", False):
        raise ValueError(
            f"{wrapper!r} cannot be built around {calibrator.name!r}: the base must be fitted on predictions and "
            "labels alone"
        )
    return calibrator


def load_calibrator(path: str | os.PathLike[str]) -> Any:
    """Read a calibrator from the file that `Calibrator.save` wrote, or from the `calibrator.json` of a folder.

    No code in the file is run; every value is checked.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If the file does not hold exactly what `save` writes.
    """
    method, parameters, fitted_on = storage.read(path)
    try:
        calibrator = from_parameters(method, parameters)
        calibrator.fitted_on = None if fitted_on is None else FittedOn.from_dict(fitted_on)
    except RecursionError:
        raise ValueError("the calibrator's file is nested too deeply") from None
    return calibrator


def from_parameters(method: str, parameters: dict[str, Any]) -> Any:
    """Return the calibrator with a name and parameters from `Calibrator.parameters`."""
    return by_name(method).set_parameters(parameters)


def nested(calibrator: Calibrator) -> dict[str, Any]:
    """Return a fitted calibrator as a parameter of another one."""
    return {"method": calibrator.name, "parameters": calibrator.parameters()}


def from_nested(content: dict[str, Any]) -> Any:
    """Return a calibrator from the value of `nested`."""
    if set(content) != {"method", "parameters"} or not isinstance(content["method"], str):
        raise ValueError(f"a calibrator inside another must have method and parameters, got {content!r:.100}")
    return from_parameters(content["method"], content["parameters"])
