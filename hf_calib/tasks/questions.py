"""The schema of multiple-choice questions."""

from __future__ import annotations

import math
import operator
import string
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .drawing import row_in_source

LETTERS = string.ascii_uppercase
"""The letters that name the options, in order; a question has at most this many."""


class QuestionError(ValueError):
    """A question or dataset cannot be used as it is; the message says which, why, and what to do.

    Parameters
    ----------
    message : str
    part : {"question", "choices", "answer", "subject", "context", "type"}, optional
        The part of the question that is wrong, for callers that know its column.
    """

    def __init__(self, message: str, part: str | None = None) -> None:
        super().__init__(message)
        self.part = part


def check_text(value: object, part: str, *, optional: bool = False) -> None:
    """Raise a `QuestionError` unless a part of a question is a text that is not empty, or None if it is optional."""
    if value is None and optional:
        return
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(
            f"the {part} is {value!r}; it must be a text that is not empty{', or None' if optional else ''}", part
        )
    check_unicode(value, f"the {part}", part)


def check_unicode(text: str, what: str, part: str | None = None) -> str:
    """Return a text; raise a `QuestionError` if it has half of a character, which JSON's escapes can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QuestionError(
            f"{what}: {text[error.start]!r} at position {error.start} is half of a character (an unpaired surrogate); "
            "use valid Unicode",
            part,
        ) from None
    return text


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question.

    Parameters
    ----------
    question : str
        The question's text; not empty.
    choices : tuple of str
        The options' texts in the order shown; 2 to 26, none empty.
    answer : int or None, default None
        Index of the right option, counted from 0; `None` if unknown.
    subject : str or None, default None
        The group that the question belongs to (MMLU's subject), used for results per group.
    context : str or None, default None
        The text that the question is about (RACE's article, SciQ's support); prompts show it before the question.
    type : str or None, default None
        The kind of question, such as "choice" or "score"; calibrators and thresholds can be fitted for each.

    Raises
    ------
    QuestionError
        If one of the above does not hold.
    """

    question: str
    choices: tuple[str, ...]
    answer: int | None = None
    subject: str | None = None
    context: str | None = None
    type: str | None = None

    most_choices: ClassVar[int] = len(LETTERS)

    def __post_init__(self) -> None:
        check_text(self.question, "question")
        if isinstance(self.choices, str) or not isinstance(self.choices, Iterable):
            raise QuestionError(f"the choices are {self.choices!r}; they must be a sequence of texts", "choices")
        object.__setattr__(self, "choices", tuple(self.choices))
        n_choices = len(self.choices)
        if n_choices < 2:
            raise QuestionError(
                f"{n_choices} choice{'s' * (n_choices != 1)} given; a multiple-choice question has at least two",
                "choices",
            )
        if n_choices > self.most_choices:
            limit = (
                f"options are named by the letters A to Z, so at most {len(LETTERS)} are possible"
                if self.most_choices == len(LETTERS)
                else f"at most {self.most_choices} are possible"
            )
            raise QuestionError(f"{n_choices} choices given; {limit}", "choices")
        for number, choice in enumerate(self.choices):
            name = LETTERS[number] if number < len(LETTERS) else f"number {number} (counted from 0)"
            if not isinstance(choice, str) or not choice.strip():
                raise QuestionError(
                    f"choice {name} is {choice!r}; every choice must be a text that is not empty", "choices"
                )
            check_unicode(choice, f"choice {name}", "choices")
        if self.answer is not None:
            object.__setattr__(self, "answer", self._checked_answer())
        for name in ("subject", "type"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise QuestionError(f"the {name} is {value!r}; it must be a text, or None", name)
            check_unicode(value or "", f"the {name}", name)
        check_text(self.context, "context", optional=True)

    def _checked_answer(self) -> int:
        try:
            if isinstance(self.answer, bool):
                raise TypeError
            index = operator.index(self.answer)  # type: ignore[arg-type]  # NumPy's integers become Python's
        except TypeError:
            raise QuestionError(
                f"the answer is {self.answer!r}; it must be the right choice's index, or None", "answer"
            ) from None
        if not 0 <= index < len(self.choices):
            raise QuestionError(
                f"the answer {index} is outside the {len(self.choices)} choices (0 to {len(self.choices) - 1}, "
                "counted from 0)",
                "answer",
            )
        return index

    @property
    def letters(self) -> str:
        """The letters of this question's options, such as "ABCD" for four."""
        return LETTERS[: len(self.choices)]

    @property
    def has_identical_choices(self) -> bool:
        """Whether two options are shown as the same text, as in nine rows of MMLU's test set."""
        return len({choice.strip() for choice in self.choices}) < len(self.choices)


@dataclass(frozen=True, slots=True)
class DecisionQuestion(Question):
    """A question whose answer may be a distribution, with up to 255 options.

    Parameters
    ----------
    target : tuple of float or None, default None
        Probability of each choice, summing to one: what trainers take in place of the one right answer. Where
        `answer` is None, the first of the most probable choices becomes the answer.
    labels : tuple of str or None, default None
        Names of the options in the prompt; by default letters, for up to 26 options. For more options, local models
        get labels that fit their tokenizer, in measuring, training and serving.

    Raises
    ------
    QuestionError
        If the target is not a distribution over the choices, or there is not one label per choice.
    """

    target: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None

    most_choices: ClassVar[int] = 255

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        if self.labels is not None and len(set(self.labels)) != len(self.choices):
            raise QuestionError(f"{len(self.choices)} choices need as many different labels, got {self.labels!r}")
        if self.target is None:
            return
        target = tuple(map(float, self.target))
        check_distribution(target, len(self.choices), "the target")
        object.__setattr__(self, "target", target)
        if self.answer is None:
            object.__setattr__(self, "answer", target.index(max(target)))

    @property
    def letters(self) -> Sequence[str]:  # type: ignore[override]  # labels may have several characters
        """What names this question's options."""
        if self.labels is not None:
            return self.labels
        if len(self.choices) > len(LETTERS):
            raise QuestionError(
                f"choices: {len(self.choices)} choices need labels of more than one letter, which are available only "
                'for local models with the confidence method "letters"; use these, or give at most 26 choices'
            )
        return LETTERS[: len(self.choices)]


def check_distribution(values: Sequence[float], n: int, name: str) -> None:
    """Raise a QuestionError unless `values` are n probabilities that sum to one, as rounding to three decimals can."""
    from ..measures.validation import sum_tolerance

    if len(values) != n:
        raise QuestionError(f"{name} has {len(values)} probabilities for {n} options; give one for each")
    if not all(0 <= value <= 1 for value in values):
        raise QuestionError(f"{name} is {list(values)}; probabilities must be between 0 and 1")
    if abs(math.fsum(values) - 1) > sum_tolerance(n):
        raise QuestionError(f"{name} sums to {math.fsum(values):.6g}; the probabilities of all options must sum to 1")


def require_answers(questions: Sequence[Question], purpose: str) -> None:
    """Raise if a question has no answer.

    Raises
    ------
    QuestionError
        Names the first rows without an answer, and the `purpose` that needs them.
    """
    missing = [row for row, question in enumerate(questions) if question.answer is None]
    if missing:
        raise QuestionError(
            f"{purpose} needs the right answer to every question, but {len(missing)} of {len(questions)} have none "
            f"({_rows(questions, missing)}); leave those out or use a split with answers"
        )


def handle_identical_choices(questions: Sequence[Question], action: str = "warn") -> tuple[list[Question], list[int]]:
    """Deal with the questions in which two options have the same text.

    Real datasets have such rows. In measurements they count like any other, since published scores include them; in
    training, where one of two identical options would be called wrong, they may be left out.

    Parameters
    ----------
    questions : sequence of Question
    action : {"warn", "skip", "error"}, default "warn"
        "warn" keeps them and warns with the rows; "skip" leaves them out, and warns with how many; "error" raises.

    Returns
    -------
    kept : list of Question
    rows : list of int
        The rows that have identical choices, counted from 0.

    Raises
    ------
    QuestionError
        If `action` is "error" and there is such a row, or "skip" and there is no other.
    ValueError
        If `action` is none of the above.
    """
    if action not in ("warn", "skip", "error"):
        raise ValueError(f"identical choices are handled by 'warn', 'skip' or 'error', got {action!r}")
    rows = [row for row, question in enumerate(questions) if question.has_identical_choices]
    if not rows:
        return list(questions), rows
    found = f"{len(rows)} of {len(questions)} questions have two identical choices ({_rows(questions, rows)})"
    if action == "error":
        raise QuestionError(f"{found}; skip them or correct the data")
    if action == "skip":
        if len(rows) == len(questions):
            raise QuestionError(f"{found}, and skipping them leaves no question; correct the data")
        warnings.warn(f"{found}; they are left out", stacklevel=2)
        skipped = set(rows)
        return [question for row, question in enumerate(questions) if row not in skipped], rows
    warnings.warn(f"{found}; they are kept", stacklevel=2)
    return list(questions), rows


def _rows(questions: Sequence[Question], found: Iterable[int], shown: int = 10) -> str:
    rows = [row_in_source(questions, row) for row in found]
    more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:shown]))}{more}, counted from 0"
