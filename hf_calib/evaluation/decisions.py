"""Measure a model on typed decisions, and fit its temperatures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from ..confidence import Asking
from ..confidence.decisions import (
    DecisionBackend,
    LocalDecisions,
    check_temperatures,
    read_temperatures,
)
from ..confidence.served_decisions import CONTRACTS, ServedDecisions
from ..reports.decisions import DecisionMeasurement
from ..tasks import QuestionError, TypedDecisions, prompt_format_of
from ..tasks.decisions import TEMPERATURES_FILE, TYPES
from .keeping import interruptible, journal, save_result
from .models import ModelSource, model_source, this_process
from .settings import AskOptions, AskSettings

if TYPE_CHECKING:
    from ..confidence import LocalModel
    from .models import Model

# The options of `measure` that typed decisions have too.
_LOADING = ("tokenizer", "adapter", "dtype", "trust_remote_code", "device", "max_length", "prompt", "chat_template")
_SERVED = ("model_name", "concurrency")
_SHARED = ("n_orders", "limit", "progress")


def measure_decisions(
    model: Model | DecisionBackend,
    dataset: TypedDecisions | str | os.PathLike[str] | Iterable[Any],
    *,
    temperatures: Mapping[str, float] | str | os.PathLike[str] | None = None,
    prior_from: TypedDecisions | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> DecisionMeasurement:
    """Measure a model on typed decisions, with the figures of the benchmark `LocalLLaMA/typed-decisions`.

    Parameters
    ----------
    model : str, path, module, pair, LocalDecisions or ServedDecisions
        As in `hf_calib.measure`; or a server of typed decisions: `systemone:http://host:port` (vLLM),
        `decisions:http://host:port` (SGLang, OpenAI) or `openrouter:https://openrouter.ai/api/alpha`.
    dataset : TypedDecisions, path, Hub name, or iterable of rows
        As in `TypedDecisions` and `TypedDecisions.load`; every question needs a gold answer.
    temperatures : mapping or path, optional
        One per question type, as returned by `fit_temperatures`; or the file or folder that they were saved in. By
        default, those in the folder of the adapter or model, if there are any.
    prior_from : TypedDecisions or path, optional
        Training cases, whose mean answers are shown as a reference.
    out : path, optional
        A folder for decisions.json and decisions.jsonl; a stopped run resumes when it is started again.
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
        If an option does not apply.
    """
    settings = AskSettings(**options)
    cases = _cases(dataset, settings.limit, seed)
    DecisionMeasurement("", cases, [()] * len(cases.decisions), [None] * len(cases.decisions))  # all have labels
    prior = None if prior_from is None else prior_answers(_cases(prior_from, None, seed), cases)
    where = this_process(settings.device)
    name, backend, run = decision_backend(model, temperatures=temperatures, **options)
    content = json.dumps([[case.state, [own.to_dict() for own in case.decisions]] for case in cases])
    digest = hashlib.sha256(content.encode()).hexdigest()
    run |= {"dataset": cases.source, "sha256": digest, "cases": len(cases), "limit": settings.limit, "seed": seed}
    with interruptible(out):
        asking = Asking(1, settings.progress, journal(out, run, where, settings), where.index, where.count)
        answers = [own for case in backend.decide(cases, asking) for own in case]
        given = [own for own in answers if own is not None]
        assert len(given) == len(answers)  # prompts that are too long are refused
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


def decision_backend(
    model: Model | DecisionBackend,
    *,
    temperatures: Mapping[str, float] | str | os.PathLike[str] | None = None,
    **options: Unpack[AskOptions],
) -> tuple[str, DecisionBackend, dict[str, Any]]:
    """Return a model's name, the backend that answers with it, and how it is asked, as JSON values.

    Parameters and errors are those of `measure_decisions`.
    """
    settings = AskSettings(**options)
    if not isinstance(model, ModelSource) and hasattr(model, "decide"):
        _refuse(settings, ("limit", "progress"), "a source of decisions")
        return type(model).__name__, cast(DecisionBackend, model), {"model": type(model).__name__}
    if isinstance(model, str) and model.partition(":")[0] in CONTRACTS:
        _refuse(settings, (*_SERVED, "limit", "progress"), "a server of typed decisions")
        if temperatures is not None:
            raise ValueError("temperatures: a server applies its own; leave them out")
        served = ServedDecisions(model, settings.model_name, concurrency=settings.concurrency)
        return settings.model_name or model, served, {"model": model, "model_name": settings.model_name}
    _refuse(settings, (*_LOADING, *_SHARED), "typed decisions of a local model")
    source = model_source(model, settings, this_process(settings.device))  # type: ignore[arg-type]
    if not source.is_local:
        raise ValueError(
            f"model: {model!r} is not a server of typed decisions; write systemone:http://host:port, or give a model "
            "to load"
        )
    found = _temperatures(temperatures, settings.adapter, model)
    prompt_format = prompt_format_of(settings.prompt, chat_template=settings.chat_template)
    settings.say(f"Loading {source.name}")
    local: LocalModel = source.opened(prompt_format.chat)  # type: ignore[assignment]
    n_orders = 1 if settings.n_orders is None else settings.n_orders
    backend = LocalDecisions(local, prompt_format, temperatures=found, n_orders=n_orders)
    run = {
        **source.identity,
        "prompt_format": prompt_format.to_dict(),
        "n_orders": n_orders,
        "temperatures": found,
        "max_length": settings.max_length,
        "dtype": settings.dtype,
    }
    return source.name, backend, run


def fit_temperatures(measurement: DecisionMeasurement) -> dict[str, float]:
    """Return one temperature per question type, each minimizing the log-loss of the labels on held-out cases.

    Temperatures change no argmax, so the accuracy stays the same.

    Parameters
    ----------
    measurement : DecisionMeasurement
        Measured without temperatures, on cases that the model was not trained on. If options tie in the gold
        distribution, the predicted one counts as right.

    Raises
    ------
    ValueError
        If the measurement has temperatures already.
    """
    from ..calibrators import TemperatureScaling
    from ..measures import labels_with_ties

    if measurement.run.get("temperatures"):
        raise ValueError("temperatures: the measurement already has temperatures; fit them on one without")
    found = {}
    decisions = measurement.cases.decisions
    for kind in TYPES:
        places = [place for place, decision in enumerate(decisions) if decision.type == kind]
        if not places:
            continue
        width = max(len(decisions[place].options) for place in places)
        p = np.zeros((len(places), width))
        gold = np.zeros_like(p)
        for row, place in enumerate(places):
            p[row, : len(measurement.probabilities[place])] = measurement.probabilities[place]
            own = decisions[place].gold
            gold[row, : 0 if own is None else len(own)] = () if own is None else own
        labels = np.array([decisions[place].label for place in places])
        if all(decisions[place].gold is not None for place in places):
            labels = labels_with_ties(p, labels, gold)
        fitted = TemperatureScaling().fit(p, labels, kind="probabilities")
        assert fitted.temperature is not None
        found[kind] = fitted.temperature
    return found


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
            order = np.argsort(decision.options)
            key = (case.workflow, decision.name, tuple(np.array(decision.options)[order].tolist()))
            seen.setdefault(key, []).append(gold[order])
    answers = []
    for number, case in enumerate(cases):
        for decision in case.decisions:
            order = np.argsort(decision.options)
            key = (case.workflow, decision.name, tuple(np.array(decision.options)[order].tolist()))
            if key not in seen:
                raise QuestionError(
                    f"case {number}, counted from 0: no training case has the question {decision.name!r} with the "
                    "same options and a gold answer, so it has no prior"
                )
            own = np.empty(len(order))
            own[order] = np.mean(seen[key], axis=0)
            answers.append(tuple((own / own.sum()).tolist()))
    return answers


def _cases(dataset: Any, limit: int | None, seed: int) -> TypedDecisions:
    if isinstance(dataset, str | os.PathLike):
        return TypedDecisions.load(os.fspath(dataset), limit=limit, seed=seed)
    cases = dataset if isinstance(dataset, TypedDecisions) else TypedDecisions(dataset)
    if limit is None or limit >= len(cases):
        return cases
    return cases.at(sorted(np.random.default_rng(seed).permutation(len(cases))[:limit].tolist()))


def _temperatures(given: Any, adapter: Any, model: Any) -> dict[str, float]:
    if isinstance(given, str | os.PathLike):
        return read_temperatures(given)
    if given is not None:
        return check_temperatures(given)
    for folder in (adapter, model):
        if isinstance(folder, str | os.PathLike) and (Path(folder) / TEMPERATURES_FILE).is_file():
            return read_temperatures(folder)
    return {}


def _refuse(settings: AskSettings, allowed: Sequence[str], what: str) -> None:
    given = [
        own.name for own in fields(settings) if own.name not in allowed and getattr(settings, own.name) != own.default
    ]
    if given:
        raise ValueError(f"{', '.join(given)}: does not apply to {what}; leave it out")
