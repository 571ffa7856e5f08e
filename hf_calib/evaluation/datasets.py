"""Reading the named sets of questions to ask, and checking that all answers are known."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..tasks import Question, as_questions, handle_identical_choices, load_questions, require_answers
from ..tasks.drawing import QuestionList, sample
from ..tasks.free_form import FreeFormQuestion, load_free_form_questions
from .settings import AskSettings

if TYPE_CHECKING:
    from datasets import Dataset

Questions: TypeAlias = "str | os.PathLike[str] | Dataset | Iterable[Question] | Iterable[Mapping[str, Any]]"
"""What `hf_calib.tasks.as_questions` takes."""

Datasets: TypeAlias = "Questions | Sequence[str | os.PathLike[str]] | Mapping[str, Questions]"
"""One set of questions, several by their names or paths, or several by names of your own."""


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
        raise ValueError(f"{name}: {len(unanswered)} questions have no answer (the first is row {unanswered[0]})")
    return questions
