"""Measure a model on typed decisions, and fit its temperatures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from ..calibrators.grouped_temperature import GroupedTemperature
from ..calibrators.storage import described
from ..confidence import Asking
from ..confidence.decisions import DecisionBackend, LocalDecisions
from ..confidence.served_decisions import CONTRACTS, ServedDecisions
from ..reports.decisions import DecisionMeasurement, arrays_of
from ..tasks import Case, Decision, QuestionError, TypedDecisions, prompt_format_of
from ..tasks.drawing import drawn_rows
from .fitted import check_fits, fitted_on, own_calibrator
from .keeping import interruptible, is_same_run, journal, save_result, say_finished
from .measuring import as_calibrator
from .models import SERVED, ModelSource, model_source, this_process
from .provenance import record, versions_of
from .settings import AskOptions, AskSettings

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator
    from ..confidence import LocalModel
    from .models import Model

# The options of `measure` that typed decisions have too.
_LOADING = ("tokenizer", "adapter", "dtype", "trust_remote_code", "device", "max_length", "prompt", "chat_template")
_SERVED = ("model_name", "concurrency")
_SHARED = ("n_orders", "limit", "progress")

# Of the temperatures toward that of all decisions, in questions; there are few types, and they can differ much.
_SHRINKAGE = 5.0


def measure_decisions(
    model: Model | DecisionBackend,
    dataset: TypedDecisions | str | os.PathLike[str] | Iterable[Any],
    *,
    calibrator: BaseCalibrator | str | os.PathLike[str] | None = None,
    force: bool = False,
    prior_from: TypedDecisions | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> DecisionMeasurement:
    """Measure a model on typed decisions, with the figures of the benchmark `LocalLLaMA/typed-decisions`.

    Parameters
    ----------
    model : str, path, module, pair, CalibratedModel, LocalDecisions or ServedDecisions
        As in `hf_calib.measure`, asked with the prompt that it was calibrated with unless another is given; or a
        server of typed decisions: `systemone:http://host:port` (vLLM), `decisions:http://host:port` (SGLang, OpenAI)
        or `openrouter:https://openrouter.ai/api/alpha`.
    dataset : TypedDecisions, path, Hub name, or iterable of rows
        As in `TypedDecisions` and `TypedDecisions.load`; every question needs a gold answer.
    calibrator : BaseCalibrator or path, optional
        A fitted calibrator, such as the temperatures that `fit_temperatures` returns, or the file or folder that it
        was saved in. By default the one that comes with the adapter or model, if there is one.
    force : bool, default False
        Apply a calibrator that was fitted on another model or prompt, with a warning.
    prior_from : TypedDecisions or path, optional
        Training cases, whose mean answers are shown as a reference.
    out : path, optional
        A folder for decisions.json, decisions.jsonl and report.html; a stopped run resumes when it is started again,
        and a finished one is not repeated.
    seed : int, default 0
        Seed of the cases drawn for `limit` and of the intervals' resampling.
    **options
        As in `hf_calib.measure`: adapter, dtype, trust_remote_code, device, max_length, prompt, chat_template,
        n_orders and tokenizer for local models; model_name and concurrency for servers; limit (of cases) and progress
        for both.

    Returns
    -------
    DecisionMeasurement

    Raises
    ------
    QuestionError
        If the cases cannot be read, lack gold answers, or a prompt is too long.
    ServerError
        If a server can't be reached, refuses a request, or violates its contract.
    ValueError
        If an option does not apply, or the calibrator was fitted on something else.

    Warns
    -----
    CalibratorMismatchWarning
        If the model comes with a calibrator that is not applied, since another prompt is given.
    """
    settings = AskSettings.of(options)
    cases = _cases(dataset, settings.limit, seed)
    DecisionMeasurement("", cases, [()] * len(cases.decisions), [None] * len(cases.decisions))  # all have labels
    prior = None if prior_from is None else prior_answers(_cases(prior_from, None, seed), cases)
    where = this_process(settings.device)
    name, backend, run = decision_backend(model, calibrator=calibrator, force=force, **options)
    content = json.dumps([[case.state, [own.to_dict() for own in case.decisions]] for case in cases])
    digest = hashlib.sha256(content.encode()).hexdigest()
    run |= {"dataset": cases.source, "sha256": digest, "cases": len(cases), "limit": settings.limit, "seed": seed}
    run["versions"] = versions_of()
    known = _finished(out, backend, name, cases, run, prior, settings)
    if known is not None:
        save_result(known, out, settings.device)
        return known
    with interruptible(out):
        asking = Asking(1, settings.progress, journal(out, run, where, settings), where.index, where.count)
        answers = [own for case in backend.decide(cases, asking) for own in case]
        given = [own for own in answers if own is not None]
        assert len(given) == len(answers)  # prompts that are too long are refused
        run |= _noted(backend, cases)
        measurement = DecisionMeasurement(
            name,
            cases,
            [own.probabilities for own in given],
            [own.mass for own in given],
            run,
            seed,
            max(own.rounding for own in given),
            prior,
        )
        save_result(measurement, out, settings.device)
    return measurement


def _finished(
    folder: str | os.PathLike[str] | None,
    backend: DecisionBackend,
    name: str,
    cases: TypedDecisions,
    run: dict[str, Any],
    prior: list[tuple[float, ...]] | None,
    settings: AskSettings,
) -> DecisionMeasurement | None:
    """Return a folder's measurement of the same run."""
    # For other backends, the run does not record everything that the answers depend on.
    if folder is None or not isinstance(backend, LocalDecisions | ServedDecisions):
        return None
    try:
        saved = DecisionMeasurement.load(Path(folder), cases, run["seed"], prior)
    except (OSError, ValueError):  # damaged, or of something else; replaced at the end of this run
        return None
    if not is_same_run(saved.run, run):
        return None
    say_finished(folder, settings)
    return replace(saved, name=name)


def decision_backend(
    model: Model | DecisionBackend,
    *,
    calibrator: BaseCalibrator | str | os.PathLike[str] | None = None,
    force: bool = False,
    **options: Unpack[AskOptions],
) -> tuple[str, DecisionBackend, dict[str, Any]]:
    """Return a model's name, the backend that answers with it, and how it is asked, as JSON values.

    Parameters and errors are those of `measure_decisions`.
    """
    settings = AskSettings.of(options)
    if not isinstance(model, ModelSource) and hasattr(model, "decide"):
        _refuse(settings, ("limit", "progress"), "a source of decisions")
        if calibrator is not None:
            raise ValueError("calibrator: does not apply to a source of decisions; give it to LocalDecisions")
        own = cast(DecisionBackend, model)
        return type(model).__name__, own, _identity_of(own)
    if isinstance(model, str) and model.partition(":")[0] in CONTRACTS:
        _refuse(settings, (*_SERVED, "limit", "progress"), "a server of typed decisions")
        if calibrator is not None:
            raise ValueError("calibrator: does not apply to a server, which applies its own; leave it out")
        served = ServedDecisions(model, settings.model_name, concurrency=settings.concurrency)
        return settings.model_name or model, served, {"model": model, "model_name": settings.model_name}
    wrong_server = (
        f"model: {model!r} is not a server of typed decisions; write systemone:http://host:port, or give a model to "
        "load"
    )
    if isinstance(model, str) and model.startswith(SERVED):
        raise ValueError(wrong_server)
    _refuse(settings, (*_LOADING, *_SHARED), "typed decisions of a local model")
    source = model_source(model, settings, this_process(settings.device))  # type: ignore[arg-type]
    if not source.is_local:
        raise ValueError(wrong_server)
    prompt = source.prompt_format if settings.prompt is None else settings.prompt
    prompt_format = prompt_format_of(prompt, chat_template=settings.chat_template)
    n_orders = 1 if settings.n_orders is None else settings.n_orders
    how = {"prompt_format": prompt_format.to_dict(), "n_orders": n_orders}
    given = None if calibrator is None else as_calibrator(calibrator)
    fitted = given or own_calibrator(source, "letters", settings)
    if fitted is not None:
        check_fits(fitted, how if given is None else {**source.identity, **how}, force=force)
    settings.say(f"Loading {source.name}")
    local: LocalModel = source.opened(prompt_format.chat)  # type: ignore[assignment]
    backend = LocalDecisions(local, prompt_format, calibrator=fitted, n_orders=n_orders)
    loading = {"max_length": settings.max_length, "dtype": settings.dtype}
    return source.name, backend, {**source.identity, **_settings_of(backend), **loading}


def _identity_of(backend: DecisionBackend) -> dict[str, Any]:
    """Return what a run with a source of decisions depends on, as JSON values."""
    if isinstance(backend, LocalDecisions):
        source = model_source(backend.source, AskSettings(), this_process(None))
        return {**source.identity, **_settings_of(backend)}
    if isinstance(backend, ServedDecisions):
        return {"model": backend.address, "model_name": backend.model}
    return {"model": type(backend).__name__}


def _settings_of(backend: LocalDecisions) -> dict[str, Any]:
    """Return how a local model is asked, as JSON values."""
    found: dict[str, Any] = {"prompt_format": backend.prompt_format.to_dict(), "n_orders": backend.n_orders}
    if (fitted := backend.calibrator) is not None:
        found["calibrator"] = {"method": fitted.name, **described(fitted.parameters())}
    return found


def _noted(backend: DecisionBackend, cases: TypedDecisions) -> dict[str, Any]:
    """Return the command, the date, the device, and the first prompt of a local model, as JSON values."""
    if not isinstance(backend, LocalDecisions):
        return record(backend)
    source = backend.source
    (first,) = source.encoder.labels(cases[0].questions()[:1], backend.prompt_format)
    return record(source) | {"prompt": source.tokenizer.decode(first.input_ids)}


def fit_temperatures(measurement: DecisionMeasurement) -> GroupedTemperature:
    """Return one temperature per question type, which minimizes the log-loss of the labels on held-out cases.

    They are shrunk slightly toward that of all decisions, so that a type with few questions gets a reasonable one; see
    `hf_calib.calibrators.GroupedTemperature`. No argmax changes, so the accuracy stays the same.

    Parameters
    ----------
    measurement : DecisionMeasurement
        Measured without a calibrator, on cases that the model was not trained on. If options tie in the gold
        distribution, the predicted one counts as right.

    Raises
    ------
    ValueError
        If the measurement has a calibrator already.

    Warns
    -----
    UninformativeFitWarning
        If a temperature is at the end of its range.
    """
    if "calibrator" in measurement.run:
        raise ValueError("measurement: a calibrator was already applied; measure without one")
    decisions = measurement.cases.decisions
    p, labels, _ = arrays_of(decisions, measurement.probabilities)
    types = [own.type for own in decisions]
    fitted = GroupedTemperature("type", _SHRINKAGE).fit(p, labels, kind="probabilities", groups=types)
    fitted.fitted_on = fitted_on(measurement.run, len(decisions))
    return fitted


def prior_answers(training: TypedDecisions, cases: TypedDecisions) -> list[tuple[float, ...]]:
    """Return the mean gold answer to each question in training cases, for every decision of other cases.

    Questions are the same if their workflow, name and options are.

    Raises
    ------
    QuestionError
        If a question does not occur in the training cases, or has no gold answer there.
    """
    seen: dict[Any, list[np.ndarray]] = {}
    for case in training:
        for decision in case.decisions:
            if decision.label is None:
                continue
            one_hot = np.eye(len(decision.options))[decision.label]
            gold = one_hot if decision.gold is None else np.array(decision.gold)
            key, order = _question_of(case, decision)
            seen.setdefault(key, []).append(gold[order])
    answers = []
    for number, case in enumerate(cases):
        for decision in case.decisions:
            key, order = _question_of(case, decision)
            if key not in seen:
                raise QuestionError(
                    f"case {number}, counted from 0: no training case has the question {decision.name!r} with the "
                    "same options and a gold answer, so it has no prior"
                )
            own = np.empty(len(order))
            own[order] = np.mean(seen[key], axis=0)
            answers.append(tuple((own / own.sum()).tolist()))
    return answers


def _question_of(case: Case, decision: Decision) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return what makes questions the same, and the order of the options in it."""
    order = np.argsort(decision.options)
    return (case.workflow, decision.name, *np.array(decision.options)[order].tolist()), order


def _cases(dataset: Any, limit: int | None, seed: int) -> TypedDecisions:
    if isinstance(dataset, str | os.PathLike):
        return TypedDecisions.load(os.fspath(dataset), limit=limit, seed=seed)
    cases = dataset if isinstance(dataset, TypedDecisions) else TypedDecisions(dataset)
    if limit is None or limit >= len(cases):
        return cases
    return cases.at(drawn_rows(len(cases), limit, seed))


def _refuse(settings: AskSettings, allowed: Sequence[str], what: str) -> None:
    given = [
        own.name for own in fields(settings) if own.name not in allowed and getattr(settings, own.name) != own.default
    ]
    if given:
        raise ValueError(f"{', '.join(given)}: does not apply to {what}; leave it out")
