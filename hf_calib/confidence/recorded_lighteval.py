"""Predictions in the details that lighteval saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..tasks import Question
from ..tasks.files import file_rows
from ..tasks.questions import QuestionError
from .recorded import Recorded, RecordedRow, are_labels, recorded_from, result_files, task_of


def read_lighteval(paths: Iterable[str | Path]) -> dict[str, Recorded]:
    """Read `details_*.parquet` files of multiple-choice tasks, as lighteval 0.10 and newer saves them.

    The choices' log-likelihoods become log-probabilities as they are.

    Parameters
    ----------
    paths : iterable of path
        Files, or folders that hold them (searched to any depth).

    Returns
    -------
    dict of str to Recorded
        By task.

    Raises
    ------
    QuestionError
        If a file is of a task that generates text or of an older version, or a row is wrong; with the file and row.
    FileNotFoundError
        If a path does not exist, or a folder holds no such file.
    """
    tasks: dict[str, Recorded] = {}
    for path in result_files(paths, "details_*.parquet"):
        task = task_of(path, "details_")
        if task in tasks:
            raise QuestionError(f"{path}: the task {task!r} occurs in two files; give one run's files")
        rows = []
        for number, (place, details) in enumerate(file_rows(path)):
            try:
                rows.append(_row(details, number, task))
            except QuestionError as error:
                raise QuestionError(f"{place}: {error}") from None
        if not rows:
            raise QuestionError(f"{path} holds no sample")
        tasks[task] = recorded_from(rows)
    return tasks


def _row(details: Mapping[str, Any], number: int, task: str) -> RecordedRow:
    # The columns have underscores around them in some versions.
    doc = details.get("doc", details.get("__doc__"))
    response = details.get("model_response", details.get("__model_response__"))
    if not isinstance(doc, Mapping) or not isinstance(response, Mapping):
        raise QuestionError(
            "there are no columns 'doc' and 'model_response'; expected the details of lighteval 0.10 or newer"
        )
    choices = [str(choice) for choice in doc.get("choices") or ()]
    scores = response.get("logprobs")
    if not isinstance(scores, list) or len(scores) != len(choices):
        raise QuestionError(
            f"{len(choices)} choices have {len(scores or ())} log-probabilities; only multiple-choice tasks that "
            "score every choice have confidences"
        )
    gold = doc.get("gold_index")
    gold = gold if isinstance(gold, list) else [gold]
    if len(gold) != 1 or isinstance(gold[0], bool) or not isinstance(gold[0], int):
        raise QuestionError(f"gold_index is {doc.get('gold_index')!r}; expected the index of exactly one choice")
    try:
        values = [float(score) for score in scores]
    except (TypeError, ValueError):
        raise QuestionError(f"the log-probabilities are {scores!r:.100}, not numbers") from None
    question = _question(doc, choices, gold[0])
    return RecordedRow(values, gold[0], number, subject=task, has_mass=are_labels(choices), question=question)


def _question(doc: Mapping[str, Any], choices: list[str], answer: int) -> Question | None:
    try:
        return Question(str(doc.get("query")), tuple(choice.strip() for choice in choices), answer)
    except QuestionError:  # it is shown in a report only
        return None
