"""Questions without options, and how answers to them are compared."""

from __future__ import annotations

import math
import os
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._suggestions import did_you_mean
from .answers import is_missing
from .choices import listed_texts
from .columns import is_answered, listing
from .drawing import QuestionList, sample
from .files import file_rows
from .layouts import option_columns
from .questions import QuestionError, check_text

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
        If the question, an answer or the context is empty, `answers` is not a sequence of texts, or the subject is not
        a text.
    """

    question: str
    answers: tuple[str, ...] = ()
    subject: str | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        check_text(self.question, "question")
        if isinstance(self.answers, str) or not isinstance(self.answers, Iterable):
            raise QuestionError(
                f"the answers are {self.answers!r}; they must be a sequence of texts, empty if none is known", "answer"
            )
        object.__setattr__(self, "answers", tuple(self.answers))
        for answer in self.answers:
            check_text(answer, "answer")
        if self.subject is not None and not isinstance(self.subject, str):
            raise QuestionError(f"the subject is {self.subject!r}; it must be a text, or None", "subject")
        check_text(self.context, "context", optional=True)


def normalized(answer: str) -> str:
    """Return an answer in lower case, without punctuation, articles and extra white space.

    As in SQuAD's evaluation (Rajpurkar et al., EMNLP 2016).
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", _words(answer)).split())


def _words(answer: str) -> str:
    """Return an answer in lower case, without punctuation and extra white space."""
    return " ".join("".join(character for character in answer.lower() if character not in string.punctuation).split())


def _comparable_forms(answer: str, other: str) -> tuple[str, str]:
    """Normalize two answers in the same way, keeping articles or punctuation if `other` consists of nothing else.

    Without this exception "A", "The The", "+" and "-" would all be the same answer.
    """
    forms = (normalized, _words, lambda text: " ".join(text.lower().split()))
    form = next((form for form in forms if form(other)), normalized)
    return form(answer), form(other)


def exact_match(answer: str, other: str) -> bool:
    """Whether two answers are the same after normalization."""
    answer, other = _comparable_forms(answer, other)
    return answer == other


def contains(answer: str, other: str) -> bool:
    """Whether the other answer's words occur in this one consecutively."""
    answer, other = _comparable_forms(answer, other)
    return f" {other} " in f" {answer} "


def numeric_match(answer: str, other: str) -> bool:
    """Whether the last numbers in two answers are equal, to a relative 1e-6."""
    numbers = [_numbers(text) for text in (answer, other)]
    if not all(numbers):
        return False
    first, second = (float(own[-1].replace(",", "")) for own in numbers)
    return math.isclose(first, second, rel_tol=1e-6)


def _numbers(text: str) -> list[str]:
    # After a digit or a letter, a hyphen marks a range or joins words; it is not a sign.
    return re.findall(r"(?:(?<!\w)-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", text.replace("\N{MINUS SIGN}", "-"))


MATCHERS: dict[str, Matcher] = {"exact": exact_match, "contains": contains, "numeric": numeric_match}


def matcher_named(matcher: str | Matcher) -> Matcher:
    """Return the matcher of a name, or a matcher itself.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if callable(matcher):
        return matcher
    if matcher not in MATCHERS:
        raise ValueError(
            f"matcher: {matcher!r} is not a way to match answers; choose from {', '.join(MATCHERS)}, or pass a "
            "function." + did_you_mean(str(matcher), MATCHERS)
        )
    return MATCHERS[matcher]


def name_of_matcher(matcher: str | Matcher) -> str:
    """Return the name under which a matcher is recorded: its key in `MATCHERS`, or the function's own name.

    If the function's own name is the key of another matcher, its module is added.
    """
    if isinstance(matcher, str):
        return matcher
    own = getattr(matcher, "__qualname__", type(matcher).__name__)
    return next(
        (name for name, known in MATCHERS.items() if known is matcher),
        f"{matcher.__module__}.{own}" if own in MATCHERS else own,
    )


def grade(answer: str, answers: Sequence[str], matcher: Matcher) -> bool:
    """Return whether an answer is one of the right ones.

    Parameters
    ----------
    answer : str
    answers : sequence of str
        The right answers.
    matcher : callable

    Raises
    ------
    ValueError
        If the matcher raises, or returns anything but a bool; with both answers.
    """
    for right in answers:
        given = f"comparing the answer {answer!r} with {right!r}"
        try:
            same = matcher(answer, right)
        except Exception as error:
            raise ValueError(
                f"matcher: {name_of_matcher(matcher)} raised {type(error).__name__}: {error} while {given}; "
                "correct the matcher"
            ) from error
        if not isinstance(same, bool | np.bool_):
            raise ValueError(
                f"matcher: {name_of_matcher(matcher)} returned {same!r} while {given}; return True or False"
            )
        if same:
            return True
    return False


def is_comparable(answer: str, matcher: Matcher) -> bool:
    """Return whether an answer holds what a matcher compares: a number for `numeric_match`, a word for the others.

    Of a matcher that is not in `MATCHERS`, every answer counts as comparable.
    """
    if matcher is numeric_match:
        return bool(_numbers(answer))
    return bool(normalized(answer)) or matcher not in (exact_match, contains)


def load_free_form_questions(
    path: str | Path, *, limit: int | None = None, seed: int = 0
) -> QuestionList[FreeFormQuestion]:
    """Load questions from the columns `question`, `answer` or `answers`, `subject` and `context`.

    An answer is a text or a list of right ones; in CSV and TSV files, a JSON or Python list of texts. The last two
    columns may be absent or empty.

    Parameters
    ----------
    path : path
        A JSON, JSON Lines, CSV, TSV or Parquet file.
    limit, seed
        As in `hf_calib.load_questions`.

    Raises
    ------
    QuestionError
        If a column is missing, a row is wrong or has options (with the file and the row), or the file has no rows.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} to read questions from")
    in_text = path.suffix.lower() in (".csv", ".tsv")
    questions = QuestionList([_question(place, row, in_text) for place, row in file_rows(path)], source=str(path))
    if not questions:
        raise QuestionError(f"{path} holds no question; give a file with at least one row")
    return sample(questions, limit, seed)


def as_free_form_questions(questions: Any) -> QuestionList[FreeFormQuestion]:
    """Return questions without options, read from a file if a path is given.

    Raises
    ------
    QuestionError
        If there are no questions.
    TypeError
        If they are not free-form questions.
    """
    if isinstance(questions, str | os.PathLike):
        return load_free_form_questions(Path(questions))
    asked = questions if isinstance(questions, QuestionList) else QuestionList(questions)
    for row, question in enumerate(asked):
        if not isinstance(question, FreeFormQuestion):
            raise TypeError(
                f"questions: row {row} is a {type(question).__name__}; give FreeFormQuestion objects or a file's path"
            )
    if not asked:
        raise QuestionError("questions: there is none to answer; give at least one")
    return asked


def free_form_questions(rows: Iterable[Mapping[str, Any]]) -> list[FreeFormQuestion]:
    """Return questions from rows with the columns of `load_free_form_questions`.

    Raises
    ------
    QuestionError
        If a row lacks a column, has options or is not a valid question.
    """
    return [_question(f"row {number}, counted from 0", row) for number, row in enumerate(rows)]


def _question(place: str, row: Mapping[str, Any], in_text: bool = False) -> FreeFormQuestion:
    if not isinstance(row, Mapping):
        raise QuestionError(f"{place}: expected a row with a 'question', got a {type(row).__name__}")
    answers = "answers" if "answers" in row and "answer" not in row else "answer"
    if is_answered(row.get("answer")) and is_answered(row.get("answers")):
        raise QuestionError(
            f"{place}: both 'answer' and 'answers' have a value; give all right answers in 'answers' alone"
        )
    missing = [name for name in ("question", answers) if name not in row]
    if missing:
        raise QuestionError(
            f"{place}: no column {missing[0]!r} among {', '.join(map(repr, row))}." + did_you_mean(missing[0], row)
        )
    options = option_columns(name for name, cell in row.items() if is_answered(cell))
    if options:
        raise QuestionError(
            f"{place}: the question has options, in {listing(options)}; leave out --free-form, or remove the options "
            f"and give the right one's text in {answers!r}"
        )
    subject, context = (None if is_missing(row.get(name)) else row[name] for name in ("subject", "context"))
    try:
        given = row[answers]
        if in_text and isinstance(given, str):
            given = listed_texts(given)
        return FreeFormQuestion(
            row["question"], answer_texts(given), None if subject is None else str(subject), context
        )
    except QuestionError as error:
        raise QuestionError(f"{place}: {error}") from None


def answer_texts(value: Any) -> tuple[Any, ...]:
    """Return the right answers in a cell as texts; none if the cell is empty. Empty ones in a list stay as they are.

    Raises
    ------
    QuestionError
        If it is neither a text, nor a number, nor a list of these.
    """
    if hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if is_missing(value):
        return ()
    return tuple(map(_text, value if isinstance(value, list | tuple) else [value]))


def _text(answer: Any) -> Any:
    if isinstance(answer, str) or is_missing(answer):
        return answer
    if not isinstance(answer, int | float):
        raise QuestionError(
            f"the right answer is a {type(answer).__name__}, {answer!r:.80}; give a text, a number, or a list of them"
        )
    # Pandas writes integers as 2.0 in a column with gaps.
    return str(int(answer) if isinstance(answer, float) and answer.is_integer() else answer)
