"""Lists of questions that know where they come from, and random samples of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

# A `Question` or a `FreeFormQuestion`.
Q = TypeVar("Q", bound=Any)


@dataclass(frozen=True)
class Draw:
    """How a sample of a dataset's questions was drawn.

    Parameters
    ----------
    rows : tuple of int
        Positions of the drawn questions among all readable ones, in increasing order.
    of : int
        Number of readable questions.
    subjects : int
        Number of their subjects.
    seed : int
    """

    rows: tuple[int, ...]
    of: int
    subjects: int
    seed: int


class QuestionList(list[Q]):
    """Questions that were read from a dataset.

    Parameters
    ----------
    questions : iterable of Question
    source : str, optional
        The path or Hub name that they were read from; `None` for questions in memory.
    skipped : sequence of str
        The rows that were left out, each with its place and the reason.
    draw : Draw, optional
        How they were drawn; `None` if these are all questions.

    Attributes
    ----------
    origin : str or None
        How they came about, for cards, if they were made rather than read.
    name_in_memory : str
        What cards call them if they have no source.
    """

    origin: str | None = None
    name_in_memory: ClassVar[str] = "in-memory-questions"

    def __init__(
        self,
        questions: Iterable[Q] = (),
        *,
        source: str | None = None,
        skipped: Sequence[str] = (),
        draw: Draw | None = None,
    ) -> None:
        super().__init__(questions)
        self.source = source
        self.skipped = tuple(skipped)
        self.draw = draw


def questions_digest(questions: Iterable[Any]) -> str:
    """Return the SHA-256 of all questions with their options and answers."""
    content = [asdict(question) for question in questions]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def row_in_source(questions: Sequence[Any], row: int) -> int:
    """Return the position that messages name a question by: among all readable ones if `questions` are a sample."""
    draw = getattr(questions, "draw", None)
    return row if draw is None else draw.rows[row]


def check_limit(limit: int | None) -> None:
    """Raise a ValueError if a number of questions to read is below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is the number of questions to read, at least 1; got {limit!r}")


def drawn_rows(n: int, limit: int, seed: int) -> list[int]:
    """Return `limit` of the numbers 0 .. n - 1, drawn at random without replacement, in increasing order.

    With the same seed, a smaller sample is part of a larger one.
    """
    return sorted(np.random.default_rng(seed).permutation(n)[:limit].tolist())


def sample(questions: QuestionList[Q], limit: int | None, seed: int) -> QuestionList[Q]:
    """Return at most `limit` of the questions, drawn as by `drawn_rows`.

    Raises
    ------
    ValueError
        If the limit is below 1.
    """
    check_limit(limit)
    if limit is None or limit >= len(questions):
        return questions
    rows = tuple(drawn_rows(len(questions), limit, seed))
    subjects = len({question.subject for question in questions})
    return QuestionList(
        [questions[row] for row in rows],
        source=questions.source,
        skipped=questions.skipped,
        draw=Draw(rows, len(questions), subjects, seed),
    )
