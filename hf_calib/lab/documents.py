"""The texts of the lab: prompts for its questions, and replies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..confidence.elicited import self_evaluation_format, true_question
from ..confidence.stated_levels import LEVELS, AnsweredQuestion, LevelFormat
from ..tasks import LETTERS, PromptFormat
from .world import LabQuestions

CONFIDENCE_LEVELS = LEVELS["percent"]
"""The levels of confidence that the lab's texts state."""

FREE_FORM = PromptFormat()
"""How free-form questions are asked."""

STATED = PromptFormat(cue="Answer and confidence:")
"""How they are asked for a confidence along with the answer."""


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


def free_form_prompts(questions: LabQuestions) -> list[str]:
    """Ask each question without its options, as `hf-calib measure --free-form` does; a value follows (``" fish"``)."""
    return [FREE_FORM.render(question, options=False) for question in questions.to_questions()]


def self_evaluation_prompts(questions: LabQuestions, options: np.ndarray) -> list[str]:
    """Ask whether values, given by index, are right answers, as P(True) is read: ``" A"`` for True, ``" B"``."""
    prompt_format = self_evaluation_format(FREE_FORM)
    rows = zip(questions.to_questions(), options, strict=True)
    return [
        prompt_format.render(true_question(question.question, question.choices[option])) for question, option in rows
    ]


def level_prompts(questions: LabQuestions, options: np.ndarray) -> list[str]:
    """Ask for the confidence in values, given by index, as the method "levels" does; a level follows (``" 80"``)."""
    prompt_format = LevelFormat.of(FREE_FORM)
    rows = zip(questions.to_questions(), options, strict=True)
    return [
        prompt_format.render(AnsweredQuestion(question.question, CONFIDENCE_LEVELS, given=question.choices[option]))
        for question, option in rows
    ]


def stated_prompts(questions: LabQuestions) -> list[str]:
    """Ask each question without its options, and for a confidence along with the answer; see `stated_replies`."""
    return [STATED.render(question, options=False) for question in questions.to_questions()]


def stated_replies(questions: LabQuestions, options: np.ndarray, levels: np.ndarray) -> list[str]:
    """Reply with values and levels, given by index, in the form that `hf_calib.rewards` reads."""
    columns = zip(questions.choices(), options, levels, strict=True)
    return [_stated_reply(choices[option], CONFIDENCE_LEVELS[level]) for choices, option, level in columns]


def _stated_reply(value: str, level: str) -> str:
    return f" <answer> {value} </answer> <confidence> {level} </confidence>"


def free_form_words() -> list[str]:
    """Return the words of free-form questions and of their replies, apart from the world's own."""
    prompts = (
        self_evaluation_format(FREE_FORM).render(true_question("?", "?")),
        LevelFormat.of(FREE_FORM).render(AnsweredQuestion("?", CONFIDENCE_LEVELS, given="?")),
    )
    return [*" ".join([*prompts, STATED.cue, _stated_reply("?", "0")]).split(), *CONFIDENCE_LEVELS]
