"""Checking that a calibrator is applied to what it was fitted on."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calibrators.fitted_on import FittedOn
from ..tasks import prompt_format_of

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator
    from ..confidence import ConfidenceMethod
    from ..reports import Measurement
    from .models import ModelSource
    from .settings import AskSettings

_ASKING = ("confidence", "prompt_format", "permute_options", "n_orders")


class CalibratorMismatchWarning(UserWarning):
    """A calibrator is applied to a model or a way of asking that it was not fitted on."""


def own_calibrator(
    source: ModelSource, method: str | ConfidenceMethod | None, settings: AskSettings
) -> BaseCalibrator | None:
    """Return the calibrator that came with a model, if the model is asked as it was for fitting it.

    Warns
    -----
    CalibratorMismatchWarning
        If it is asked in another way.
    """
    if source.calibrator is None:
        return None
    differing = {
        "method": method not in (None, source.read_by),
        **{name: bool(getattr(settings, name)) for name in ("few_shot", "wordings", "free_form")},
    }
    prompt = source.prompt_format if settings.prompt is None else settings.prompt
    if prompt_format_of(prompt, chat_template=settings.chat_template) != source.prompt_format:
        differing |= {name: bool(getattr(settings, name)) for name in ("prompt", "chat_template")}
    found = [name for name, differs in differing.items() if differs]
    if not found:
        return source.calibrator
    warnings.warn(
        f"{', '.join(found)}: the calibrator of {source.name} is not applied, since it was fitted for the method and "
        "prompt that the model was calibrated with; leave these out to apply it",
        CalibratorMismatchWarning,
        stacklevel=3,
    )
    return None


def fitted_on(run: Mapping[str, Any], n: int = 1) -> FittedOn:
    """Return a run's model, way of asking and questions, without local folders."""
    from ..hub.escaping import public_name

    asked = run.get("adapter") or run.get("model_name") or run.get("model")
    datasets: dict[str, str | None] = {}
    for name, own in run.get("datasets", {}).items():
        shown = public_name(name)
        # Files of one name in two folders are numbered.
        names = itertools.chain([shown], (f"{shown} ({number})" for number in itertools.count(2)))
        datasets[next(free for free in names if free not in datasets)] = own.get("sha256")
    return FittedOn(
        n=n,
        datasets=datasets,
        model=None if asked is None else _named(str(asked)),
        revision=run.get("revision"),
        weights=run.get("weights"),
        asking={name: run[name] for name in _ASKING if name in run},
        base_weights=run.get("base_weights"),
        base_revision=run.get("base_revision"),
    )


def _named(model: str) -> str:
    from ..hub.escaping import public_name

    return Path(model).name if Path(model).is_dir() else public_name(model)


def fitted_on_measurement(measurement: Measurement) -> FittedOn:
    """Return what a calibrator is fitted on, given the measurement."""
    return fitted_on(measurement.run, len(measurement.predictions))


def check_fits(calibrator: BaseCalibrator, run: Mapping[str, Any], *, force: bool = False) -> None:
    """Reject a calibrator that was fitted on another model, or with another prompt or way of reading confidence.

    Unknown properties of the calibrator or of the run are ignored.

    Raises
    ------
    ValueError
        Names every difference; not raised with `force`.

    Warns
    -----
    CalibratorMismatchWarning
        With `force`, instead of the error.
    """
    differing = [] if calibrator.fitted_on is None else calibrator.fitted_on.mismatches(fitted_on(run))
    if "calibrator" in run:
        differing.append(f"the predictions are calibrated already, by {run['calibrator'].get('method')}")
    if not differing:
        return
    message = f"calibrator: it was not fitted on what it is applied to: {'; '.join(differing)}"
    if not force:
        raise ValueError(
            f"{message}. Fit one with hf-calib calibrate, or pass --force (force=True) to apply it anyway"
        )
    warnings.warn(message, CalibratorMismatchWarning, stacklevel=3)


def fitted_on_same_questions(calibrator: BaseCalibrator, run: Mapping[str, Any]) -> list[str]:
    """Return the names of the datasets whose questions the calibrator was fitted on."""
    known = set() if calibrator.fitted_on is None else set(calibrator.fitted_on.datasets.values()) - {None}
    return [name for name, own in run.get("datasets", {}).items() if own.get("sha256") in known]
