"""Reading sets of questions and asking a model, which gives a measurement."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import numpy as np

from ..confidence import Asking, ConfidenceMethod, confidence_method
from ..confidence.recorded import Recorded
from ..confidence.registry import DEFAULT_WAY, SETTINGS, free_form_settings
from ..reports import Measurement
from ..tasks import (
    PromptFormat,
    Question,
    as_questions,
    handle_identical_choices,
    load_questions,
    other_orders,
    permute_options,
    prompt_format_of,
    random_orders,
    require_answers,
    wordings_of,
)
from ..tasks.drawing import QuestionList, questions_digest, row_in_source, sample
from ..tasks.free_form import MATCHERS, FreeFormQuestion, load_free_form_questions
from .keeping import finished, journal, remove_journal
from .models import ModelSource, base_source, model_source, this_process
from .provenance import record, versions_of
from .settings import AskOptions, AskSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from ..confidence import Predictions
    from ..confidence.backend import Backend
    from .models import Model

Questions: TypeAlias = "str | os.PathLike[str] | Dataset | Iterable[Question] | Iterable[Mapping[str, Any]]"
"""What `hf_calib.tasks.as_questions` takes."""

Datasets: TypeAlias = "Questions | Sequence[str | os.PathLike[str]] | Mapping[str, Questions]"
"""One set of questions, several by their names or paths, or several by names of your own."""


def ask(
    model: Model | ModelSource,
    dataset: Datasets | ReadDatasets,
    *,
    method: str | ConfidenceMethod | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    hidden_states: bool = False,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    finish: Callable[[Measurement], Measurement] | None = None,
    **options: Unpack[AskOptions],
) -> Measurement:
    """Ask a model questions and return what it answered; `hf_calib.measure` without a calibrator.

    Parameters
    ----------
    model, dataset, method, seed, **options
        As in `hf_calib.measure`.
    out : path, optional
        The folder that the measurement is saved into. Answers are kept there as they come, so that a run that was
        stopped can be resumed; a measurement of the same run that is there already is not made again.
    hidden_states : bool, default False
        Return the hidden states at the answers' positions too, for calibrators that take features. They are not
        saved, so a run with them cannot be resumed.
    check : callable, optional
        Called with the run's settings before anything is asked; may raise to stop the run.
    finish : callable, optional
        Called with the measurement; what it returns is saved and returned.

    Raises
    ------
    ValueError
        If an option does not fit the model or the method, hidden states are not available, or the folder holds the
        beginning of another run.
    """
    settings = AskSettings.of(options)
    where = this_process(settings.device)
    source = model if isinstance(model, ModelSource) else model_source(model, settings, where)
    method = (source.read_by or DEFAULT_WAY) if method is None else method
    shots = {
        "chat_template": settings.chat_template,
        "few_shot": settings.few_shot,
        "few_shot_dataset": settings.few_shot_dataset,
        "reading": settings.reading,
    }
    prompt_format = prompt_format_of(settings.prompt if settings.prompt is not None else source.prompt_format, **shots)
    wordings = wordings_of(settings.wordings, **shots)
    if settings.free_form is not None:
        plan = _free_form(method, wordings, dataset, settings, seed)
    else:
        plan = _with_options(method, wordings, dataset, settings, seed)
    if hidden_states:
        _check_gives_hidden_states(method, settings, source)
    _warn_about_shown_answers(plan, prompt_format)
    settled = {
        **source.identity,
        "datasets": {
            name: {"n": len(own), "sha256": questions_digest(own), "skipped_rows": _skipped(own), **_drawn(own)}
            for name, own in plan.questions.items()
        },
        "prompt_format": prompt_format.to_dict(),
        "confidence": plan.method,
        "permute_options": settings.permute_options,
        **({} if settings.check_order is None else {"check_order": settings.check_order}),
        "max_length": settings.max_length,
        "drop_too_long": settings.drop_too_long,
        "dtype": settings.dtype,
        "trust_remote_code": settings.trust_remote_code,
        "seed": seed,
        "versions": versions_of(),
    }
    if check is not None:
        check(settled)
    kept_in = None if hidden_states else out
    measurement = finished(kept_in, source.name, settled, seed, settings)
    if measurement is None:
        answers = journal(kept_in, settled, where, settings)
        asking = Asking(
            settings.batch_size, settings.progress, answers, where.index, where.count, hidden_states=hidden_states
        )
        settings.say(f"Loading {source.name}")
        backend = source.opened(any(own.chat for own in (prompt_format, *wordings)))
        measurement = Measurement(
            source.name, *_ask(backend, plan, prompt_format, asking, settled), report_options={"seed": seed}
        )
    if finish is not None:
        measurement = finish(measurement)
    if out is not None and where.is_first:
        measurement.save(Path(out))
        remove_journal(out)
    return measurement


def _warn_about_shown_answers(plan: _Plan, prompt_format: PromptFormat) -> None:
    """Warn if questions are among the solved examples that are shown before each question."""

    def content(question: Any) -> tuple[Any, ...]:
        return question.context, question.question, frozenset(getattr(question, "choices", ()))

    shown = {content(example) for example in getattr(prompt_format, "examples", ())}
    for name, questions in plan.questions.items():
        known = [row for row, question in enumerate(questions) if content(question) in shown]
        if known:
            warnings.warn(
                f"few_shot_dataset: {len(known)} of {len(questions)} questions of {name} (the first is row "
                f"{row_in_source(questions, known[0])}, counted from 0) are also solved examples in the prompt, which "
                "show their answers; remove them from the questions or from the examples",
                stacklevel=4,
            )


def _ask(
    backend: Backend, plan: _Plan, prompt_format: PromptFormat, asking: Asking, settled: Mapping[str, Any]
) -> tuple[dict[str, Recorded], dict[str, Any]]:
    """Return the answers to each set of questions, and the run's record."""
    answered = {
        name: plan.ask(backend, own, prompt_format, asking.for_part(f"set{number}_"))
        for number, (name, own) in enumerate(plan.questions.items())
    }
    first = next(iter(plan.questions.values()))[0]
    # A source of answers that is not ours may not note what it is asked.
    noted = asking.asked_first or [(first, prompt_format, isinstance(first, Question))]
    run = {**settled, **record(backend, noted[0])}
    missing = {name: own for name, recorded in answered.items() if (own := _missing(recorded))}
    if missing:
        run["options_not_returned"] = missing
    cut_off = {name: recorded.cut_off for name, recorded in answered.items() if recorded.cut_off}
    if cut_off:
        run["cut_off"] = cut_off
    tokenizer = getattr(backend, "tokenizer", None)
    if tokenizer is not None:
        run["has_chat_template"] = getattr(tokenizer, "chat_template", None) is not None
    return {name: _placed(recorded, plan.questions[name]) for name, recorded in answered.items()}, run


@dataclass(frozen=True)
class _Plan:
    """The questions, and how to ask those of one dataset."""

    questions: Mapping[str, list[Any]]
    method: dict[str, Any]
    ask: Callable[[Backend, list[Any], PromptFormat, Asking], Recorded]


def _with_options(
    method: str | ConfidenceMethod,
    wordings: tuple[PromptFormat, ...],
    dataset: Datasets | ReadDatasets,
    settings: AskSettings,
    seed: int,
) -> _Plan:
    """Plan multiple-choice questions, with their options in random order if requested."""
    way = _method(method, wordings, settings, seed)

    def ask_one(backend: Backend, questions: list[Question], prompt_format: PromptFormat, asking: Asking) -> Recorded:
        asked: Sequence[Question] = questions
        if settings.permute_options:
            orders = random_orders(questions, seed)
            asked = QuestionList(
                (permute_options(question, order) for question, order in zip(questions, orders, strict=True)),
                draw=getattr(questions, "draw", None),
            )
        predictions = way.predict(backend, asked, prompt_format, asking)
        if settings.check_order is not None:
            predictions = replace(
                predictions,
                flips=_flips(way, backend, asked, predictions, settings.check_order, seed, prompt_format, asking),
            )
        if settings.permute_options:
            predictions = predictions.with_options_back(orders)
        return Recorded(predictions, tuple(questions[row] for row in predictions.rows), _skipped(questions))

    return _Plan(read_datasets(dataset, settings, seed), way.to_dict(), ask_one)


def _flips(
    way: ConfidenceMethod,
    backend: Backend,
    questions: Sequence[Question],
    predictions: Predictions,
    n_orders: int,
    seed: int,
    prompt_format: PromptFormat,
    asking: Asking,
) -> np.ndarray:
    """Return for each prediction the share of other orders of the options in which another option is answered."""
    asked = [questions[row] for row in predictions.rows]
    orders = other_orders(asked, n_orders, seed)
    changed, times = np.zeros(len(asked)), np.zeros(len(asked))
    for turn in range(n_orders):
        rows = [row for row, own in enumerate(orders) if turn < len(own)]
        if not rows:
            break
        turned = [permute_options(asked[row], orders[row][turn]) for row in rows]
        part = way.predict(backend, turned, prompt_format, asking.for_part(f"other_order{turn}_"))
        back = part.with_options_back([orders[row][turn] for row in rows])
        kept = np.array(rows)[part.rows]
        changed[kept] += back.predicted != predictions.predicted[kept]
        times[kept] += 1
    if not times.all():
        raise ValueError(
            "check_order: a question fits in one order of its options, and is longer than the model allows in every "
            "other; raise max_length"
        )
    return changed / times


def _method(
    method: str | ConfidenceMethod, wordings: tuple[PromptFormat, ...], settings: AskSettings, seed: int
) -> ConfidenceMethod:
    if isinstance(method, str):
        return confidence_method(method, wordings=wordings, **settings.of_method(seed))
    given = [name for name in SETTINGS if getattr(settings, name) is not None]
    if wordings:
        given.append("wordings")
    if given:
        raise ValueError(f"{', '.join(given)}: the method is an object; set it there, or give the method by name")
    return method


def _free_form(
    method: str | ConfidenceMethod,
    wordings: tuple[PromptFormat, ...],
    dataset: Datasets | ReadDatasets,
    settings: AskSettings,
    seed: int,
) -> _Plan:
    """Plan questions without options. In the result, the first option is the given answer, the second a right one."""
    matcher = settings.free_form
    if matcher not in MATCHERS:
        raise ValueError(f"free_form: {matcher!r} is not a way to match answers; choose from {', '.join(MATCHERS)}")
    if not isinstance(method, str):
        raise ValueError("free_form: give the method by name")
    if wordings:
        raise ValueError("wordings: averaging needs a probability of each option, and free_form has no options")
    if settings.reading != AskSettings().reading:
        raise ValueError(
            "columns, answer_base, on_bad_row: these read questions with options, and --free-form has none"
        )
    if settings.permute_options or settings.check_order is not None:
        raise ValueError("permute_options, check_order: free_form has no options to put in another order")
    arguments = free_form_settings(method, **settings.of_method(seed))
    base = base_source(arguments.pop("base_model", None), settings)
    recorded = {**arguments, **({} if base is None else {"base_model": base.published})}

    def ask_one(
        backend: Backend, questions: list[FreeFormQuestion], prompt_format: PromptFormat, asking: Asking
    ) -> Recorded:
        from ..confidence.free_form import predict_free_form

        opened = None if base is None else base.opened()
        found = predict_free_form(
            backend, questions, prompt_format, asking, matcher=MATCHERS[matcher], base=opened, **arguments
        )
        shown = [
            Question(
                questions[row].question,
                (text or "(nothing)", " or ".join(questions[row].answers)),
                context=questions[row].context,
            )
            for row, text in zip(found.predictions.rows, found.texts, strict=True)
        ]
        return Recorded(found.predictions, tuple(shown), cut_off=found.cut_off)

    return _Plan(read_datasets(dataset, settings, seed), {"name": method, "matcher": matcher, **recorded}, ask_one)


def _skipped(questions: Sequence[Any]) -> int:
    return len(getattr(questions, "skipped", ()))


def _drawn(questions: Sequence[Any]) -> dict[str, Any]:
    """Return how a dataset's questions were drawn; empty if all are asked."""
    draw = getattr(questions, "draw", None)
    return {} if draw is None else {"drawn": {"of": draw.of, "subjects": draw.subjects, "seed": draw.seed}}


def _placed(recorded: Recorded, questions: Sequence[Any]) -> Recorded:
    """Return predictions whose rows refer to all questions instead of a drawn sample."""
    draw = getattr(questions, "draw", None)
    if draw is None:
        return recorded
    rows = np.asarray(draw.rows)[recorded.predictions.rows]
    return replace(recorded, predictions=replace(recorded.predictions, rows=rows))


def _missing(recorded: Recorded) -> dict[str, Any] | None:
    """Return what is unknown because a server returned only the most probable tokens."""
    predictions = recorded.predictions
    if predictions.missing_bounds is None:
        return None
    low, high = predictions.confidence_bounds
    return {
        "questions": int((predictions.missing_bounds > 0).sum()),
        "largest_bound_of_an_option": float(predictions.missing_bounds.max()),
        "mean_confidence_at_least": float(low.mean()),
        "mean_confidence_at_most": float(high.mean()),
    }


def _check_gives_hidden_states(method: str | ConfidenceMethod, settings: AskSettings, source: ModelSource) -> None:
    """Raise a ValueError if the way of asking gives no hidden states."""
    name = method if isinstance(method, str) else method.name
    hindered = {
        f"confidence read by {name}": name != "letters",
        "free_form": settings.free_form is not None,
        "wordings": settings.wordings is not None,
        "permute_options": settings.permute_options,
        "a served model": not source.is_local,
    }
    found = [what for what, there in hindered.items() if there]
    if found:
        raise ValueError(
            "a calibrator on features takes the hidden states of a local model at the letters' position; they are "
            f"not available with {', '.join(found)}"
        )


def named(dataset: Datasets) -> dict[str, Any]:
    """Return sets of questions by name.

    Raises
    ------
    ValueError
        If there is no dataset, or one is given twice.
    """
    if isinstance(dataset, str | os.PathLike):
        return {str(dataset): dataset}
    if isinstance(dataset, Mapping):
        sets = {str(name): source for name, source in dataset.items()}
    elif isinstance(dataset, Sequence) and all(isinstance(source, str | os.PathLike) for source in dataset):
        sets = {}
        for source in dataset:
            if str(source) in sets:
                raise ValueError(f"the dataset {str(source)!r} is given twice")
            sets[str(source)] = source
    else:
        return {"questions": dataset}
    if not sets:
        raise ValueError("dataset: there is none; give at least one")
    return sets


def read_datasets(dataset: Datasets | ReadDatasets, settings: AskSettings, seed: int) -> ReadDatasets:
    """Read each set of questions and check that all answers are known; `seed` is for samples with a limit.

    Returns
    -------
    ReadDatasets
        Lists of `Question` or, with `free_form`, of `FreeFormQuestion`.

    Raises
    ------
    QuestionError
        If questions cannot be read, or an answer is not known.
    ValueError
        If there is no dataset, one is given twice, or the limit is below 1.
    """
    if isinstance(dataset, ReadDatasets):
        return dataset
    read = _read if settings.free_form is None else _read_free_form
    return ReadDatasets((name, read(name, source, settings, seed)) for name, source in named(dataset).items())


class ReadDatasets(dict[str, list[Any]]):
    """Sets of questions that `read_datasets` has read and checked already."""


def _read(name: str, source: Any, settings: AskSettings, seed: int) -> list[Question]:
    settings.say(f"Reading {name}")
    if isinstance(source, str | os.PathLike):
        path = source if isinstance(source, str) else Path(source)
        questions = load_questions(path, limit=settings.limit, seed=seed, **settings.reading)
    else:
        questions = as_questions(source, limit=settings.limit, seed=seed, **settings.reading)
    require_answers(questions, f"measuring calibration on {name}")
    handle_identical_choices(questions, "warn")
    return questions


def _read_free_form(name: str, source: Any, settings: AskSettings, seed: int) -> list[FreeFormQuestion]:
    if isinstance(source, str | os.PathLike):
        questions = load_free_form_questions(Path(source), limit=settings.limit, seed=seed)
    else:
        questions = QuestionList(source)
        if not questions or not all(isinstance(question, FreeFormQuestion) for question in questions):
            raise TypeError(f"{name}: questions without options are a file, or a list of FreeFormQuestion")
        questions = sample(questions, settings.limit, seed)
    unanswered = [row for row, question in enumerate(questions) if not question.answers]
    if unanswered:
        raise ValueError(
            f"{name}: {len(unanswered)} questions are unanswered, the first in row "
            f"{row_in_source(questions, unanswered[0])}, counted from 0; add the answers"
        )
    return questions
