"""Compare models on the same questions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast

from ..confidence import ConfidenceMethod
from ..confidence.registry import SETTINGS, way_named
from ..reports import Comparison, Measurement
from .asking import ask
from .datasets import Datasets, read_datasets
from .keeping import interruptible, save_result
from .models import model_source, this_process
from .settings import AskOptions, AskSettings

if TYPE_CHECKING:
    from ..confidence.predictions import Predictions
    from .models import Model

Compared: TypeAlias = "Model | Measurement"
"""A model, a measurement, or the folder that it was saved into."""

_Cells: TypeAlias = "dict[tuple[str, str, str], Predictions]"


def compare(
    models: Sequence[Compared] | Mapping[str, Compared],
    dataset: Datasets | None = None,
    *,
    method: str | ConfidenceMethod | Sequence[str | ConfidenceMethod] = "letters",
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> Comparison:
    """Compare models with a base on the same questions, with paired intervals.

    Parameters
    ----------
    models : sequence or mapping
        The base first, then one or more others: models as `hf_calib.measure` takes them, or measurements and the
        folders that they were saved into. A mapping gives them names.
    dataset : optional
        As in `hf_calib.measure`; left out where all were measured already.
    method : str, ConfidenceMethod or sequence of these, default "letters"
        What the confidence is read off, in one way or in several.
    out : path, optional
        A folder for comparison.json and comparison.html. A run that was stopped goes on when it is started again with
        the same folder.
    seed : int, default 0
        Of random orders, of samples and of the intervals' resampling.
    **options
        As in `hf_calib.measure`, for all models; a setting goes to the methods that have it.

    Returns
    -------
    Comparison
        Of each model with the base, on each dataset and by each method.

    Raises
    ------
    ValueError
        If there are fewer than two models, one is given twice, some are measured and others not, or questions are
        missing or needless.

    Examples
    --------
    >>> import hf_calib
    >>> compared = hf_calib.compare(["your/base", "your/aligned"], "held_out.jsonl")  # doctest: +SKIP
    >>> compared.save("comparison")  # doctest: +SKIP
    """
    if isinstance(models, str | os.PathLike) or len(models) < 2:
        raise ValueError("models: a comparison needs a base and at least one other model")
    by_name = _by_name(models, AskSettings(**options))
    skipped: dict[str, int] = {}
    measured = [isinstance(model, Measurement) or _was_measured(model) for model in by_name.values()]
    if all(measured):
        given = {"dataset": dataset is not None, "method": method != "letters"}
        needless = [name for name in (*given, *options) if given.get(name, name != "progress")]
        if needless:
            raise ValueError(f"{', '.join(needless)}: these models were measured already; leave it out")
        predictions = _read(by_name)
    elif any(measured):
        raise ValueError("models: give either models or measurements, not both")
    elif dataset is None:
        raise ValueError("dataset: models need at least one --dataset to be compared on")
    else:
        methods = [method] if isinstance(method, str | ConfidenceMethod) else list(method)
        with interruptible(out):
            predictions, skipped = _ask(by_name, dataset, methods, out, seed, options)
    comparison = replace(Comparison.of(predictions, seed=seed), skipped_rows=skipped)
    save_result(comparison, out, options.get("device"))
    return comparison


def _by_name(models: Sequence[Compared] | Mapping[str, Compared], settings: AskSettings) -> dict[str, Compared]:
    """Return the models by name, by default the last parts of their names where those tell them apart."""
    if isinstance(models, Mapping):
        return dict(models)
    short, long = [], []
    for model in models:
        if isinstance(model, str | os.PathLike):
            short.append(Path(model).name)
            long.append(str(model))
        else:
            own = model if isinstance(model, Measurement) else model_source(model, settings, this_process())
            short.append(own.name)
            long.append(own.name)
    names = short if len(set(short)) == len(short) else long
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"models: {name!r} is given twice; give a mapping of names where they are two")
    return dict(zip(names, models, strict=True))


def _was_measured(model: Compared) -> bool:
    return isinstance(model, str | os.PathLike) and Measurement.is_saved(model)


def _read(models: Mapping[str, Any]) -> _Cells:
    measurements = {
        name: model if isinstance(model, Measurement) else Measurement.load(model) for name, model in models.items()
    }
    # How predictions from elsewhere were read is not known; they go with the others' if those were read in one way.
    known = {own.method for own in measurements.values()} - {None}
    unknown = known.pop() if len(known) == 1 else "recorded"
    return {
        (name, task, own.method or unknown or "recorded"): recorded.predictions
        for name, own in measurements.items()
        for task, recorded in own.datasets.items()
    }


def _ask(
    models: Mapping[str, Any],
    dataset: Datasets,
    methods: Sequence[str | ConfidenceMethod],
    out: str | os.PathLike[str] | None,
    seed: int,
    options: AskOptions,
) -> tuple[_Cells, dict[str, int]]:
    settings = AskSettings(**options)
    by_method = _settings_by_method(methods, settings)
    questions = read_datasets(dataset, settings)
    where = this_process(settings.device)
    cells: _Cells = {}
    skipped: dict[str, int] = {}
    for number, (name, model) in enumerate(models.items()):
        source = model_source(model, settings, where)
        for method, (way, own) in by_method.items():
            how: AskOptions = {**options, **own}
            measurement = ask(
                source,
                questions,
                method=way,
                seed=seed,
                out=out,
                part=f"{number}-{method}",
                **how,
            )
            for task, recorded in measurement.datasets.items():
                cells[name, task, method] = recorded.predictions
            skipped = measurement.skipped_rows
    return cells, skipped


def _settings_by_method(
    methods: Sequence[str | ConfidenceMethod], settings: AskSettings
) -> dict[str, tuple[str | ConfidenceMethod, AskOptions]]:
    """Return the methods by name, each with the settings that it takes.

    Raises
    ------
    ValueError
        If there is no method, or none that takes a setting.
    """
    given = {name for name in SETTINGS if getattr(settings, name) is not None}
    taken = {own: set(way_named(own).settings) if isinstance(own, str) else set() for own in methods}
    for name in sorted(given):
        if not any(name in own for own in taken.values()):
            raise ValueError(f"{name}: none of these methods has such a setting")
    if not taken:
        raise ValueError("method: there is none; give at least one")
    return {
        own if isinstance(own, str) else own.name: (own, cast(AskOptions, dict.fromkeys(given - settings_of)))
        for own, settings_of in taken.items()
    }
