"""Confidence as the distribution over the levels that a model may state after its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..tasks import PromptFormat, Question, QuestionError
from ..tasks.encoding import EncodedQuestion, common_prefix
from ..tasks.free_form import FreeFormQuestion
from .asking import Asking
from .backend import Backend
from .elicited import in_words
from .encoded import PromptEncoder
from .methods import ConfidenceMethod, OptionLetters
from .predictions import Predictions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEVELS = {
    "percent": tuple(str(percent) for percent in range(0, 101, 5)),
    "digits": tuple("0123456789"),
    "words": (
        "impossible", "doubtful", "unlikely", "uncertain", "possible", "maybe", "plausible", "likely", "probable",
        "certain",
    ),
}  # fmt: skip
"""The levels that a model may state, from a confidence of 0 to 1 in equal steps."""


@dataclass(frozen=True, slots=True)
class AnsweredQuestion(Question):
    """A question with a model's answer, whose choices are the levels of confidence in that answer.

    Parameters
    ----------
    question, choices, answer, subject, context
        As in `Question`. The right choice is the last for a right answer and the first for a wrong one.
    given : str
        The answer.
    """

    given: str = ""


@dataclass(frozen=True)
class LevelFormat(PromptFormat):
    """Shows a question, its answer, and the request for a level; in a chat, each as its own message.

    Parameters
    ----------
    base : PromptFormat
        How the question was formatted.
    """

    base: PromptFormat = field(default_factory=PromptFormat)

    @classmethod
    def of(cls, base: PromptFormat) -> LevelFormat:
        """Return the format that continues a prompt in the format `base`."""
        return cls(chat=base.chat, answer_prefix=base.answer_prefix, base=base)

    def render(self, question: Question, *, options: bool = True) -> str:
        """Return the text of the prompt, after which the level follows."""
        assert isinstance(question, AnsweredQuestion)
        asked = self.base.render(question, options=False)
        return f"{asked}{self.answer_prefix}{question.given.strip()}\nConfidence ({_range(question.choices)}):"

    def messages(self, question: Question, *, options: bool = True) -> list[dict[str, str]]:
        """Return the conversation, after which the level follows."""
        assert isinstance(question, AnsweredQuestion)
        request = f"How confident are you that this is right? Answer with one of: {_range(question.choices)}."
        return [
            *self.base.messages(question, options=False),
            {"role": "assistant", "content": question.given.strip()},
            {"role": "user", "content": request},
        ]


def _range(levels: Sequence[str]) -> str:
    return f"{levels[0]} to {levels[-1]}" if levels[0].isdigit() else ", ".join(levels)


def find_levels(
    tokenizer: PreTrainedTokenizerBase | None, prompt_format: PromptFormat, scale: str = "auto"
) -> tuple[str, ...]:
    """Return levels of confidence, each of which is a different single token after the prompt.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase or None
        None for a served model, whose tokens are unknown; "auto" then means "digits".
    prompt_format : PromptFormat
        How the questions are formatted.
    scale : {"auto", "percent", "digits", "words"}, default "auto"
        0 to 100 in steps of 5, 0 to 9, or ten words; "auto" chooses the first whose levels are single tokens.

    Raises
    ------
    ValueError
        If there is no such scale.
    QuestionError
        If the levels are not single tokens; the message names the first that the tokenizer splits or does not know.
    """
    if scale not in ("auto", *LEVELS):
        raise ValueError(f"scale: {scale!r} is not one of auto, {', '.join(LEVELS)}")
    if tokenizer is None:
        return LEVELS["digits" if scale == "auto" else scale]
    found = []
    for name in LEVELS if scale == "auto" else (scale,):
        probe = AnsweredQuestion("?", LEVELS[name], given="it")
        try:
            encode_levels([probe], tokenizer, prompt_format)
        except QuestionError as error:
            found.append(f"{name}: {error}")
        else:
            return LEVELS[name]
    raise QuestionError(
        f"scale: this tokenizer does not have these levels as single tokens; {'; '.join(found)}. "
        + (
            "Train P(True) on the answers with a RecalibrationTrainer, or use a model with another tokenizer"
            if scale == "auto"
            else "Use scale='auto', which tries the other scales too"
        )
    )


def encode_levels(
    questions: Sequence[Question],
    tokenizer: Any,
    prompt_format: PromptFormat,
    *,
    max_length: int | None = None,
    on_too_long: str = "error",
) -> list[EncodedQuestion]:
    """Tokenize answered questions, and find the tokens of their levels.

    Parameters
    ----------
    questions : sequence of AnsweredQuestion
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt_format : PromptFormat
        How the questions are formatted; the answer and the request for a level are added.
    max_length, on_too_long
        As in `hf_calib.tasks.encode_questions`.

    Raises
    ------
    QuestionError
        If a question has no answer from the model, a level is not a single, unique token, or a prompt is too long.
    """
    for row, question in enumerate(questions):
        if not isinstance(question, AnsweredQuestion):
            raise QuestionError(
                f"row {row}, counted from 0: levels of confidence follow an answer of the model's, and the question "
                "has none; pass SelfEvaluationQuestions to StatedConfidenceTrainer"
            )
    encoder = PromptEncoder(tokenizer, max_length, on_too_long)
    encoded = []
    for item in encoder.texts(questions, LevelFormat.of(prompt_format), list_options=False):
        question = questions[item.row]
        # All levels may begin with the same token, such as a space before a digit.
        n = min(common_prefix(item.options[0], own) for own in item.options)
        rest = [own[n:] for own in item.options]
        for level, own in zip(question.choices, rest, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(list(own))
            if not own:
                raise QuestionError(f"the level {level!r} has no token that distinguishes it from the other levels")
            if len(own) != 1:
                raise QuestionError(f"the level {level!r} is {len(own)} tokens for this tokenizer, {tokens}")
            if own[0] == tokenizer.unk_token_id or rest.count(own) > 1:
                raise QuestionError(f"the level {level!r} is the token {tokens[0]!r}, which is not only its own")
        answer = -1 if question.answer is None else question.answer
        ids = (*item.input_ids, *item.options[0][:n])
        encoded.append(EncodedQuestion(ids, tuple(own[0] for own in rest), answer, item.row))
    return encoded


@dataclass(frozen=True)
class StatedLevels(ConfidenceMethod):
    """The mean level of confidence that a model would state after its answer.

    After the answer, the model is asked for a level. The confidence is the mean of the levels' values, from 0 to 1 in
    equal steps, weighted by their probabilities at that position. The options' mass is the total of all levels.

    Parameters
    ----------
    scale : {"auto", "percent", "digits", "words"}, default "auto"
        See `find_levels`.

    References
    ----------
    Li et al., *ConfTuner: Training Large Language Models to Express Their Confidence Verbally*, NeurIPS 2025
    (arXiv 2508.18847).
    """

    name: ClassVar[str] = "stated-levels"
    scale: str = "auto"

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`. An `AnsweredQuestion` already has its answer."""
        if all(isinstance(question, AnsweredQuestion) for question in questions):
            return level_predictions(backend, questions, prompt_format, asking)
        letters = OptionLetters().predict(backend, questions, prompt_format, asking)
        plain = PromptFormat(chat=prompt_format.chat, system=prompt_format.system)
        levels = find_levels(getattr(backend, "tokenizer", None), plain, self.scale)
        asked = []
        for row, option in zip(letters.rows, letters.predicted, strict=True):
            question = questions[row]
            text, given = in_words(question, int(option))
            asked.append(AnsweredQuestion(text, levels, None, question.subject, question.context, given=given))
        found = level_predictions(backend, asked, plain, asking.for_part("level_"))
        kept = letters.subset(found.rows)
        return Predictions.from_answers(
            kept.predicted, found.probabilities[:, 0], kept.n_choices, kept.answers, kept.subjects, kept.rows
        )


def level_predictions(
    backend: Backend, questions: Sequence[Question], prompt_format: PromptFormat, asking: Asking
) -> Predictions:
    """Ask for the confidence in given answers.

    Returns
    -------
    Predictions
        With two options: that the answer is right, which is the chosen one, and that it is wrong.
    """
    scores = backend.score_texts("levels", questions, LevelFormat.of(prompt_format), asking, list_options=False)
    rows = np.array([row for row, score in enumerate(scores) if score is not None], dtype=np.int64)
    values, answers = np.empty((len(rows), 2)), []
    for place, row in enumerate(rows):
        score, question = scores[row], questions[row]
        assert score is not None
        p = np.exp(np.array(score.log_probabilities))
        mean = float(p @ np.linspace(0, 1, len(p)))
        values[place] = mean, p.sum() - mean
        answers.append(-1 if question.answer is None else 0 if question.answer == len(p) - 1 else 1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.clip(values, 0.0, None))
    subjects = tuple(questions[row].subject for row in rows)
    counts, chosen = np.full(len(rows), 2), np.zeros(len(rows), dtype=np.int64)
    return Predictions(logs, np.array(answers, dtype=np.int64), subjects, rows, counts, chosen=chosen)


def answered_question(
    question: FreeFormQuestion, given: str, right: bool | None, levels: Sequence[str]
) -> AnsweredQuestion:
    """Return a question that asks how confident a model is in its answer."""
    answer = None if right is None else len(levels) - 1 if right else 0
    return AnsweredQuestion(
        question.question.strip(), tuple(levels), answer, question.subject, question.context, given=given
    )
