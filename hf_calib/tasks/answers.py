"""Which choice an answer means (an index, a letter, a label or a text), and whether a column counts from 0 or 1."""

from __future__ import annotations

import numbers
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .questions import LETTERS, QuestionError

# Pandas writes integers as 2.0 in a column with gaps. The length is bounded since int() rejects very long texts.
_INTEGER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")


# "B", "(B)", "[b]", "B)", "B." and "B:".
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\].:]?")

WITHHELD = -1
"""How datasets on the Hub mark the test questions whose answers are not published."""


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, an empty or blank text, or NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, numbers.Real) and value != value)


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer as it is in the dataset, with the choices.

    Parameters
    ----------
    value : object
    choices : tuple of str
    labels : tuple of str, optional
        The choices' own labels; if given, the value is one of them.
    """

    value: Any
    choices: tuple[str, ...]
    labels: tuple[str, ...] | None = None

    @property
    def by_text(self) -> int | None:
        """The index of the choice whose text is the value; `None` unless there is exactly one."""
        text = str(self.value).strip()
        places = [place for place, choice in enumerate(self.choices) if choice.strip() == text]
        return places[0] if len(places) == 1 else None

    @property
    def number(self) -> int | str | None:
        """The value as an integer or as an upper-case letter; `None` if it is neither."""
        try:
            return _number(self.value, len(self.choices))
        except QuestionError:
            return None

    def at(self, base: int) -> int | None:
        """Return the index that the value means if the first choice has the number `base`; `None` if there is none."""
        number = self.number
        if number is None:
            return None
        index = LETTERS.index(number) if isinstance(number, str) else number - base
        return index if 0 <= index < len(self.choices) else None

    def index(self, base: int | str = 0) -> int | None:
        """Return the right choice's index, as `answer_index` does."""
        return answer_index(self.value, len(self.choices), self.labels, base=base, choices=self.choices)


def answer_base_of(
    answers: Iterable[GivenAnswer], where: str, *, declared: int | None = None
) -> tuple[int | str, str | None]:
    """Decide how a column encodes its answers.

    Parameters
    ----------
    answers : iterable of GivenAnswer
        The whole column, since a part may suggest another base.
    where : str
        The column and the dataset, for messages.
    declared : {0, 1}, optional
        The base according to the dataset's layout.

    Returns
    -------
    base : {0, 1, "text"}
        The number of the first choice, or "text" if the answers are the choices' texts.
    doubt : str or None
        A warning, if nothing in the column shows its base.

    Raises
    ------
    QuestionError
        If the column contradicts the layout or itself, or can be read in two ways; the message names `answer_base`.
    """
    given = [
        answer
        for answer in answers
        if answer.labels is None and not is_missing(answer.value) and answer.number != WITHHELD
    ]
    numbers = [(answer.number, answer) for answer in given if isinstance(answer.number, int)]
    if declared is None:
        # An answer like "20" can be the text of an option, as in "10" and "20", and then counts like a word.
        worded = sum(answer.by_text is not None and answer.at(0) is None and answer.at(1) is None for answer in given)
        if worded > sum(answer.number is not None and answer.by_text is None for answer in given):
            return "text", None
        if given and all(answer.number is not None and answer.by_text is not None for answer in given):
            _check_one_reading(given, where)
    if not numbers:
        return declared or 0, None
    values = [number for number, _ in numbers]
    run = f"answers run from {min(values)} to {max(values)} in {where}"
    has_zero, has_last = 0 in values, any(number == len(answer.choices) for number, answer in numbers)
    if has_zero and has_last:
        if declared is None:
            raise QuestionError(f"answer_base: {run}, which fits neither 0 nor 1; pass --answer-base 0 or 1")
        return declared, None
    found = 0 if has_zero else 1 if has_last else declared
    if found is None:
        doubt = f"answer_base: {run}, and none is 0 or the last choice's number; they are taken to count from 0"
        return 0, f"{doubt}. Pass --answer-base 0 or 1 (answer_base= in Python)"
    if declared is not None and found != declared:
        raise QuestionError(
            f"answer_base: {run}, but this layout counts from {declared}; pass --answer-base {found}, or "
            f"--answer-base {declared} if the rows outside are wrong"
        )
    return found, None


def _check_one_reading(answers: Sequence[GivenAnswer], where: str) -> None:
    """Raise if all answers are texts of options but would mean other options as numbers or letters."""
    by_text = [answer.by_text for answer in answers]
    for base in (0, 1):
        indices = [answer.at(base) for answer in answers]
        if None not in indices and indices != by_text:
            raise QuestionError(
                f"answer_base: every answer in {where} is both the text of an option and the number or letter of "
                "another; pass --answer-base 0 or 1 if they are numbers or letters, or write the letter of the right "
                "option in place of its text"
            )


def answer_index(
    answer: Any,
    n_choices: int,
    labels: Sequence[Any] | None = None,
    *,
    base: int | str | None = None,
    choices: Sequence[str] | None = None,
) -> int | None:
    """Return the index of the right choice, counted from 0, or `None` if unknown.

    Parameters
    ----------
    answer : object
        As it is in the dataset. Empty cells, NaN and -1 (which datasets on the Hub use for withheld answers) mean
        unknown. A list of one answer counts as that answer.
    n_choices : int
    labels : sequence, optional
        The choices' labels; if given, the answer is one of them.
    base : {0, 1, "text"}, optional
        The number of the first choice if there are no labels, or "text" if the answer is a choice's text. None means
        0, for sources without an `answer_base`, so errors do not suggest one.
    choices : sequence of str, optional
        The choices, for answers that are the text of exactly one of them rather than a letter or an index.

    Raises
    ------
    QuestionError
        If it does not mean one of the choices.
    """
    answer = single(answer)
    if is_missing(answer):
        return None
    by_text = GivenAnswer(answer, tuple(choices or ())).by_text
    if base == "text":
        if by_text is None and _number_or_none(answer) != WITHHELD:
            raise QuestionError(f"the answer {_shown(answer)} is not the text of exactly one choice")
        return by_text
    if labels is not None:
        known = [_label(label) for label in labels]
        if _label(answer) not in known and by_text is not None:
            return by_text
        return _index_of_label(answer, known)
    try:
        number = _number(answer, n_choices)
    except QuestionError:
        if by_text is None:
            raise
        return by_text
    if isinstance(number, str):
        return _index_of_letter(number, answer, n_choices, choices or ())
    if number == WITHHELD:
        return None
    first = base or 0
    assert isinstance(first, int)
    index = number - first
    if 0 <= index < n_choices:
        return index
    hint = ""
    if base == 0 and index == n_choices:
        hint = "; if this dataset counts its answers from 1, pass --answer-base 1 (answer_base=1)"
    elif base == 1 and number == 0:
        hint = "; if this dataset counts its answers from 0, pass --answer-base 0 (answer_base=0)"
    raise QuestionError(
        f"the answer {number} is outside the {n_choices} choices, which are counted {first} to "
        f"{n_choices - 1 + first}{hint}"
    )


def single(answer: Any) -> Any:
    """Return the only element of a list of one answer, and anything else unchanged.

    Raises
    ------
    QuestionError
        If there are several answers.
    """
    if hasattr(answer, "tolist"):  # an array
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        return answer
    if len(answer) > 1:
        raise QuestionError(f"found {len(answer)} answers, {_shown(list(answer))}; a question has one right choice")
    return answer[0] if answer else None


def _number_or_none(answer: Any) -> int | str | None:
    try:
        return _number(answer, len(LETTERS))
    except QuestionError:
        return None


def _number(answer: Any, n_choices: int) -> int | str:
    """Return an answer as an integer or an upper-case letter."""
    if isinstance(answer, str):
        text = answer.strip()
        letter = _LETTER.fullmatch(text)
        if letter is not None:
            return letter[1].upper()
        match = _INTEGER.fullmatch(text)
        if match is None:
            raise QuestionError(
                f"the answer {_shown(answer)} is neither a letter (A to {LETTERS[n_choices - 1]}), nor an index, nor "
                "the text of exactly one choice"
            )
        return int(match[1])
    if hasattr(answer, "is_integer") and answer.is_integer():
        answer = int(answer)
    try:
        if isinstance(answer, bool):
            raise TypeError
        return operator.index(answer)
    except TypeError:
        raise QuestionError(
            f"the answer is {_shown(answer)}; expected an index, a letter, or nothing where it is not known"
        ) from None


def _index_of_letter(letter: str, answer: str, n_choices: int, choices: Sequence[str]) -> int:
    index = LETTERS.index(letter)
    if index >= n_choices:
        same = [choice.strip() for choice in choices].count(answer.strip())
        if same > 1:
            raise QuestionError(f"the answer {answer!r} is the text of {same} choices; give the letter of one of them")
        raise QuestionError(
            f"the answer {answer!r} is outside the {n_choices} choices, which are A to {LETTERS[n_choices - 1]}"
        )
    return index


def _index_of_label(answer: Any, labels: list[str]) -> int | None:
    label = _label(answer)
    if label == "-1" and label not in labels:
        return None
    if labels.count(label) != 1:
        how = "none" if label not in labels else "several"
        raise QuestionError(f"the answer {label!r} is the label of {how} of the choices, whose labels are {labels}")
    return labels.index(label)


def _label(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
