"""Compare models on the same questions."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast

import numpy as np

from ..confidence import ConfidenceMethod
from ..confidence.registry import DEFAULT_WAY, SETTINGS, name_of, way_named
from ..reports import Comparison, Measurement
from ..reports.comparison import MEASUREMENTS_FOLDER, measurement_folders
from ..reports.measurement import common_method
from .asking import Datasets, ask, read_datasets
from .keeping import interruptible, save_result
from .models import model_source, this_process
from .settings import AskOptions, AskSettings

if TYPE_CHECKING:
    from ..confidence.predictions import Predictions
    from ..confidence.recorded import Recorded
    from ..measures import Finding
    from .models import Model

Compared: TypeAlias = "Model | Measurement"
"""A model, a measurement, or the folder that it was saved into."""

_Cells: TypeAlias = "dict[tuple[str, str, str], tuple[Predictions, tuple[Finding, ...]]]"
_Measurements: TypeAlias = "dict[tuple[str, str], Measurement]"


def compare(
    models: Sequence[Compared] | Mapping[str, Compared],
    dataset: Datasets | None = None,
    *,
    method: str | ConfidenceMethod | Sequence[str | ConfidenceMethod] | None = None,
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
        As in `hf_calib.measure`; left out if all were measured already.
    method : str, ConfidenceMethod or sequence of these, optional
        What confidence is read off, in one way or in several; the same for all models, as is the prompt. By default
        what the calibrated models among them were calibrated with, or the options' letters and the plain prompt.
    out : path, optional
        A folder for comparison.json, comparison.html and, in measurements/, what `hf_calib.measure` saves of each
        model. Started again with the same folder, a stopped run resumes, and a finished one asks nothing.
    seed : int, default 0
        Seed of the questions drawn for `limit`, random orders, samples and the intervals' resampling.
    **options
        As in `hf_calib.measure`, for all models; a setting is used by the methods that have it.

    Returns
    -------
    Comparison
        Each model vs. the base, on each dataset and with each method.

    Raises
    ------
    ValueError
        If there are fewer than two models, one is given twice, only some are measured already, or by different
        methods, questions are missing or not needed, two methods have the same name, or models were calibrated with
        different prompts or methods and none is given.

    Examples
    --------
    >>> import hf_calib
    >>> compared = hf_calib.compare(["your/base", "your/aligned"], "held_out.jsonl")  # doctest: +SKIP
    >>> compared.save("comparison")  # doctest: +SKIP
    """
    if isinstance(models, str | os.PathLike) or len(models) < 2:
        raise ValueError("models: a comparison needs a base and at least one other model")
    by_name = _by_name(models, AskSettings.of(options))
    skipped: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    measured = [isinstance(model, Measurement) or _was_measured(model) for model in by_name.values()]
    if all(measured):
        given = {"dataset": dataset is not None, "method": method is not None}
        needless = [name for name in (*given, *options) if given.get(name, name != "progress")]
        if needless:
            raise ValueError(f"{', '.join(needless)}: these models were measured already; leave it out")
        cells, measurements, notes = _read(by_name)
    elif any(measured):
        problems = [_not_measured(*own) for own, known in zip(by_name.items(), measured, strict=True) if not known]
        one = next(name for name, known in zip(by_name, measured, strict=True) if known)
        raise ValueError(
            f"models: {'; '.join(problems)}, but {one!r} was measured; give either only measurements or only models"
        )
    elif dataset is None:
        raise ValueError("dataset: models need at least one --dataset to be compared on")
    else:
        measurements = {}
        with interruptible(out, measurements):
            cells = _ask(by_name, dataset, method, out, seed, options, measurements)
        skipped = next(iter(measurements.values())).skipped_rows
    comparison = replace(
        Comparison.of({key: own for key, (own, _) in cells.items()}, seed=seed),
        warnings={key: found for key, (_, found) in cells.items() if found},
        skipped_rows=skipped,
        notes=notes,
        measurements=measurements,
    )
    save_result(comparison, out, options.get("device"))
    return comparison


def _by_name(models: Sequence[Compared] | Mapping[str, Compared], settings: AskSettings) -> dict[str, Compared]:
    """Return the models by name, by default the last parts of their names if these differ."""
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
            raise ValueError(f"models: {name!r} is given twice; remove one, or give a mapping from names to models")
    return dict(zip(names, models, strict=True))


def _was_measured(model: Compared) -> bool:
    return isinstance(model, str | os.PathLike) and Measurement.is_saved(model)


def _not_measured(name: str, model: Compared) -> str:
    """Return why a model is not a measurement."""
    if not isinstance(model, str | os.PathLike):
        return f"{name!r} is a model"
    if not Path(model).exists():
        return f"there is no file or folder {str(model)!r}"
    return f"{str(model)!r} holds no predictions"


def _read(models: Mapping[str, Any]) -> tuple[_Cells, _Measurements, tuple[str, ...]]:
    """Return existing measurements, with equal row numbers for equal questions, and notes on what is left out."""
    measurements = {
        name: model if isinstance(model, Measurement) else Measurement.load(model) for name, model in models.items()
    }
    method = common_method(measurements, "models") or "recorded"
    base = next(iter(measurements))
    common = [
        task for task in measurements[base].datasets if all(task in own.datasets for own in measurements.values())
    ]
    notes = [
        f"{name} was asked with {' and '.join(differing)} than {base}."
        for name, own in measurements.items()
        if (differing := [text for key, text in _ASKED_WITH.items() if _differ(key, own, measurements[base])])
    ]
    if not common and all(len(own.datasets) == 1 for own in measurements.values()):
        # With one set each, the questions decide whether they are the same, not the files' names.
        sets = {name: next(iter(own.datasets)) for name, own in measurements.items()}
        tasks = {sets[base]: sets}
        notes += [f"{name} was measured on {own!r}." for name, own in sets.items()]
    else:
        tasks = {task: dict.fromkeys(measurements, task) for task in common}
        for name, own in measurements.items():
            notes += [
                f"{task!r} ({len(recorded.predictions):,} questions of {name}) was left out: not every model was "
                "measured on it."
                for task, recorded in own.datasets.items()
                if task not in common
            ]
    if not tasks:
        raise ValueError(f"models: they were measured on different datasets; {' '.join(notes)}")
    cells = {
        (name, task, method): (
            _with_rows_of(measurements[base].datasets[names[base]], measurements[name].datasets[own]),
            measurements[name].reports[own].warnings,
        )
        for task, names in tasks.items()
        for name, own in names.items()
    }
    return cells, {(name, method): own for name, own in measurements.items()}, tuple(notes)


# Settings that each run records and that change the answers.
_ASKED_WITH = {"prompt_format": "a different prompt", "permute_options": "a different order of the options"}


def _differ(key: str, one: Measurement, other: Measurement) -> bool:
    return key in one.run and key in other.run and one.run[key] != other.run[key]


def _with_rows_of(base: Recorded, other: Recorded) -> Predictions:
    """Return predictions with the base's row numbers for the same questions, and new ones for other questions.

    If the questions of one of the two are unknown, row numbers are assumed to mean the same in both.
    """
    if other is base or None in base.questions or None in other.questions:
        return other.predictions
    row_of = dict(zip(_contents(base), base.predictions.rows.tolist(), strict=True))
    following = itertools.count(max(row_of.values()) + 1)
    rows = np.array([row_of[own] if own in row_of else next(following) for own in _contents(other)])
    order = np.argsort(rows)
    return replace(other.predictions.subset(order), rows=rows[order])


def _contents(recorded: Recorded) -> list[tuple[Any, ...]]:
    """Return the content of each question, with a number that distinguishes repeated ones."""
    seen: Counter[tuple[Any, ...]] = Counter()
    contents = []
    for question in recorded.questions:
        assert question is not None  # checked before
        said = (question.context, question.question, tuple(question.choices))
        seen[said] += 1
        contents.append((*said, seen[said]))
    return contents


def _ask(
    models: Mapping[str, Any],
    dataset: Datasets,
    method: str | ConfidenceMethod | Sequence[str | ConfidenceMethod] | None,
    out: str | os.PathLike[str] | None,
    seed: int,
    options: AskOptions,
    measurements: _Measurements,
) -> _Cells:
    """Ask all models; add each measurement to `measurements`, and save it, as soon as it is finished."""
    settings = AskSettings.of(options)
    where = this_process(settings.device)
    sources = {name: replace(model_source(model, settings, where), name=name) for name, model in models.items()}
    if method is None:
        method = _of_all("method", {name: own.read_by for name, own in sources.items()}) or DEFAULT_WAY
    if settings.prompt is None:
        options = {**options, "prompt": _of_all("prompt", {name: own.prompt_format for name, own in sources.items()})}
    methods = [method] if isinstance(method, str | ConfidenceMethod) else list(method)
    by_method = _settings_by_method(methods, settings)
    questions = read_datasets(dataset, settings, seed)
    cells: _Cells = {}
    folders = measurement_folders((name, own) for name in models for own in by_method)
    for name, source in sources.items():
        for own, (way, of_method) in by_method.items():
            how: AskOptions = {**options, **of_method}
            kept_in = None if out is None else Path(out) / MEASUREMENTS_FOLDER / folders[name, own]
            measurement = ask(source, questions, method=way, seed=seed, out=kept_in, **how)
            for task, recorded in measurement.datasets.items():
                cells[name, task, own] = recorded.predictions, measurement.reports[task].warnings
            measurements[name, own] = measurement
    return cells


def _of_all(argument: str, own: Mapping[str, Any]) -> Any:
    """Return what the calibrated models were calibrated with, in order to ask all in the same way; None if none was.

    Raises
    ------
    ValueError
        If they differ.
    """
    known = {name: value for name, value in own.items() if value is not None}
    (first, value), *others = known.items() or [("", None)]
    for name, other in others:
        if other != value:
            raise ValueError(
                f"{argument}: {first} was calibrated with {value!r}, and {name} with {other!r}; give the one to ask "
                "all models with"
            )
    return value


def _settings_by_method(
    methods: Sequence[str | ConfidenceMethod], settings: AskSettings
) -> dict[str, tuple[str | ConfidenceMethod, AskOptions]]:
    """Return the methods by name, each with its settings.

    Raises
    ------
    ValueError
        If there is no method, or none has one of the settings.
    """
    given = {name for name in SETTINGS if getattr(settings, name) is not None}
    free_form = settings.free_form is not None
    taken = {own: set(way_named(own).takes(free_form)) if isinstance(own, str) else set() for own in methods}
    for name in sorted(given):
        if not any(name in own for own in taken.values()):
            raise ValueError(f"{name}: none of these methods has such a setting")
    if not taken:
        raise ValueError("method: there is none; give at least one")
    by_name: dict[str, tuple[str | ConfidenceMethod, AskOptions]] = {}
    for own, settings_of in taken.items():
        name = own if isinstance(own, str) else name_of(own.to_dict())
        if name in by_name:
            raise ValueError(f"method: two entries read confidence by {name!r}; compare them in separate calls")
        by_name[name] = own, cast(AskOptions, dict.fromkeys(given - settings_of))
    return by_name
