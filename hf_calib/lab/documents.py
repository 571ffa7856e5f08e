"""The texts of the lab: prompts for its questions, and replies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tasks import LETTERS, PromptFormat
from .world import LabQuestions


def multiple_choice_prompts(questions: LabQuestions) -> list[str]:
    """Return a prompt for each question with its options, in the plain prompt format."""
    prompt_format = PromptFormat()
    return [prompt_format.render(question) for question in questions.to_questions()]


def multiple_choice_answers(options: np.ndarray | Sequence[int]) -> list[str]:
    """Return the letters of options, given by index, as they follow a multiple-choice prompt: ``" A"``."""
    return [f" {LETTERS[option]}" for option in options]


def open_prompts(questions: LabQuestions) -> list[str]:
    """Return a prompt for each question without its options."""
    return [f"User: What do {sentence} ?\nAssistant:" for sentence in questions.sentences()]


def open_replies(questions: LabQuestions, options: np.ndarray, polite: np.ndarray) -> list[str]:
    """Return replies to open questions, terse (``" fish ."``) or polite (``" Sure ! Dunmore herons eat fish ."``).

    Parameters
    ----------
    questions
        The n questions.
    options
        ``(n,)``: the option whose value each reply gives.
    polite
        ``(n,)`` of bool.
    """
    columns = zip(questions.sentences(), questions.choices(), options, polite, strict=True)
    return [
        f" Sure ! {sentence} {choices[option]} ." if is_polite else f" {choices[option]} ."
        for sentence, choices, option, is_polite in columns
    ]
