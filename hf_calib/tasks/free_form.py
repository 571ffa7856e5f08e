"""Questions without options, and how answers to them are compared."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._suggestions import did_you_mean
from .answers import is_missing
from .drawing import QuestionList, sample
from .files import file_rows
from .questions import QuestionError

Matcher = Callable[[str, str], bool]
"""Whether an answer, the first, is the same as another, or as a right one."""


@dataclass(frozen=True, slots=True)
class FreeFormQuestion:
    """A question without options.

    Parameters
    ----------
    question : str
        Not empty.
    answers : tuple of str
        All right answers; empty if unknown.
    subject : str or None, default None
    context : str or None, default None
        The text that the question is about; prompts show it before the question.

    Raises
    ------
    QuestionError
        If the question, an answer or the context is empty.
    """

    question: str
    answers: tuple[str, ...] = ()
    subject: str | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise QuestionError(f"the question is {self.question!r}; it must be a text that is not empty", "question")
        for answer in self.answers:
            if not isinstance(answer, str) or not answer.strip():
                raise QuestionError(f"the answer is {answer!r}; it must be a text that is not empty", "answer")
        if self.context is not None and (not isinstance(self.context, str) or not self.context.strip()):
            raise QuestionError(
                f"the context is {self.context!r}; it must be a text that is not empty, or None", "context"
            )


def normalized(answer: str) -> str:
    """Return an answer in lower case, without punctuation, articles and extra white space.

    As in SQuAD's evaluation (Rajpurkar et al., EMNLP 2016).
    """
    plain = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(answer: str, other: str) -> bool:
    """Whether two answers are the same after normalization."""
    return normalized(answer) == normalized(other)


def contains(answer: str, other: str) -> bool:
    """Whether the other answer's words occur in this one consecutively."""
    return f" {normalized(other)} " in f" {normalized(answer)} "


def numeric_match(answer: str, other: str) -> bool:
    """Whether the last numbers in two answers are equal, to a relative 1e-6."""
    numbers = [re.findall(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+", text) for text in (answer, other)]
    if not all(numbers):
        return False
    first, second = (float(own[-1].replace(",", "")) for own in numbers)
    return abs(first - second) <= 1e-6 * max(1.0, abs(second))


MATCHERS: dict[str, Matcher] = {"exact": exact_match, "contains": contains, "numeric": numeric_match}


def load_free_form_questions(
    path: str | Path, *, limit: int | None = None, seed: int = 0
) -> QuestionList[FreeFormQuestion]:
    """Load questions from the columns `question`, `answer` (a text or a list of right ones), `subject` and `context`.

    The last two may be absent or empty.

    Parameters
    ----------
    path : path
        A JSON, JSON Lines, CSV, TSV or Parquet file.
    limit, seed
        As in `hf_calib.load_questions`.

    Raises
    ------
    QuestionError
        If a column is missing, a row is wrong (with the file and the row), or the file has no rows.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} to read questions from")
    questions: QuestionList[FreeFormQuestion] = QuestionList(source=str(path))
    for place, row in file_rows(path):
        missing = [name for name in ("question", "answer") if name not in row]
        if missing:
            raise QuestionError(
                f"{place}: there is no column {missing[0]!r} among {', '.join(map(repr, row))}."
                + did_you_mean(missing[0], row)
            )
        try:
            subject, context = row.get("subject"), row.get("context")
            questions.append(
                FreeFormQuestion(
                    row["question"],
                    _answers(row["answer"]),
                    None if is_missing(subject) else str(subject),
                    None if is_missing(context) else context,
                )
            )
        except QuestionError as error:
            raise QuestionError(f"{place}: {error}") from None
    if not questions:
        raise QuestionError(f"{path} holds no question; give a file with at least one row")
    return sample(questions, limit, seed)


def _answers(value: Any) -> tuple[str, ...]:
    if is_missing(value):
        return ()
    if isinstance(value, list | tuple):
        return tuple(str(own) if isinstance(own, int | float) else own for own in value)
    return (str(value),)
