"""Make any trainer calibration-aware."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import Trainer, TrainingArguments

from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin
from .preference_arguments import PreferenceArguments
from .trl_compatibility import TaggedTrainer, has_ppo, ppo_classes, trainer_name


def calibration_aware(trainer_class: type[Trainer]) -> type[CalibrationMixin]:
    """Return a trainer with the calibration terms of `CalibrationMixin` added to its loss.

    Parameters
    ----------
    trainer_class : subclass of transformers.Trainer
        Any trainer of a causal language model that computes its loss in `compute_loss`, from TRL or your own.

    Returns
    -------
    type
        For a trainer that this package extends, such as `trl.DPOTrainer`, its own subclass; for one that is already
        calibration-aware, `trainer_class` itself; otherwise a subclass of `CalibrationMixin` and `trainer_class`,
        created once. Its `args` may be a config of `trainer_class`, which gets the defaults of the calibration
        arguments, or one of `calibration_aware_config(...)`.

    Raises
    ------
    TypeError
        If `trainer_class` is not a trainer, or is TRL's `PPOTrainer`, which never calls `compute_loss`. With
        calibration terms, any other trainer that does not call it stops with a RuntimeError after its first step.

    Examples
    --------
    >>> from trl import DPOTrainer
    >>> calibration_aware(DPOTrainer).__name__
    'CalibrationAwareTrainer'
    >>> class MyTrainer(DPOTrainer):
    ...     pass
    >>> calibration_aware(MyTrainer).__name__
    'CalibrationAwareMyTrainer'
    """
    if not (isinstance(trainer_class, type) and issubclass(trainer_class, Trainer)):
        raise TypeError(f"trainer_class: expected a subclass of transformers.Trainer, got {trainer_class!r}")
    if issubclass(trainer_class, TaggedTrainer):
        return trainer_class  # type: ignore[return-value]  # of this package already, such as the reward trainer
    return _shipped(trainer_class) or _derived_trainer(trainer_class)  # type: ignore[arg-type]  # a class is hashable


def calibration_aware_config(config_class: type[TrainingArguments]) -> type[CalibrationArguments]:
    """Return a config with the arguments of `CalibrationArguments` added, for a trainer of `calibration_aware`.

    Parameters
    ----------
    config_class : subclass of transformers.TrainingArguments

    Raises
    ------
    TypeError
        If `config_class` is not a config.
    """
    if not (isinstance(config_class, type) and issubclass(config_class, TrainingArguments)):
        raise TypeError(f"config_class: expected a subclass of transformers.TrainingArguments, got {config_class!r}")
    if issubclass(config_class, CalibrationArguments | PreferenceArguments):
        return config_class  # type: ignore[return-value]  # of this package already, such as the reward config
    return _shipped(config_class) or _derived_config(config_class)  # type: ignore[arg-type]  # a class is hashable


def _shipped(extended: type) -> type | None:
    """Return this package's subclass of a TRL class, which has the same name with a prefix."""
    package = importlib.import_module(__package__ or "")
    found = getattr(package, f"CalibrationAware{extended.__name__}", None)
    # A class of the same name from another module is a different one.
    return found if isinstance(found, type) and extended in found.__bases__ else None


@cache
def _derived_trainer(trainer_class: Any) -> type[CalibrationMixin]:
    if has_ppo() and issubclass(trainer_class, ppo_classes()[0]):
        raise TypeError(
            f"trainer_class: {trainer_class.__name__} runs a loop of its own that never calls compute_loss; derive "
            "it from hf_calib.CalibrationAwarePPOTrainer"
        )
    namespace = {
        "__doc__": f"`{trainer_class.__module__}.{trainer_class.__qualname__}` with the terms of `CalibrationMixin`.",
        "__module__": trainer_class.__module__,
        "_method_name": trainer_name(trainer_class),
    }
    return type(f"CalibrationAware{trainer_class.__name__}", (CalibrationMixin, trainer_class), namespace)


@cache
def _derived_config(config_class: Any) -> type[CalibrationArguments]:
    namespace = {
        "__doc__": f"`{config_class.__qualname__}` with the arguments of `CalibrationArguments`.",
        "__module__": config_class.__module__,
    }
    name = f"CalibrationAware{config_class.__name__}"
    return dataclass(type(name, (CalibrationArguments, config_class), namespace))
