"""From questions to token ids, and which token stands for which option."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .options import OptionFinder
from .prompts import PromptFormat
from .questions import DecisionQuestion, Question, QuestionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """A question as token ids.

    Parameters
    ----------
    input_ids : tuple of int
        The prompt, up to the last token before the option.
    option_ids : tuple of int
        The token that names each option, at the position after the prompt.
    answer : int
        Index of the right option; -1 where it is not known.
    row : int
        Where the question stands in the sequence that was encoded.
    target : tuple of float or None, default None
        Probability of each option, in place of the one right answer.
    """

    input_ids: tuple[int, ...]
    option_ids: tuple[int, ...]
    answer: int
    row: int
    target: tuple[float, ...] | None = None


@dataclass(frozen=True)
class EncodedQuestions(Sequence[EncodedQuestion]):
    """Encoded questions, and the rows that were dropped because their prompts are too long."""

    items: tuple[EncodedQuestion, ...]
    dropped: tuple[int, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def encode_questions(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat | None = None,
    *,
    max_length: int | None = None,
    on_too_long: str = "error",
) -> EncodedQuestions:
    """Tokenize prompts and find the options' tokens.

    Parameters
    ----------
    questions : sequence of Question
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt_format : PromptFormat, optional
        By default the plain one.
    max_length : int, optional
        The longest prompt in tokens, including the option's token.
    on_too_long : {"error", "drop"}, default "error"
        What to do with longer prompts: raise, or leave them out and count them. They are never truncated, since that
        would change the question.

    Raises
    ------
    QuestionError
        If a letter is not one token, two letters share one, a letter is unknown to the tokenizer, a prompt is too
        long, or no question is left.
    ValueError
        If a chat prompt is requested and the tokenizer has no chat template.
    """
    if on_too_long not in ("error", "drop"):
        raise ValueError(f"on_too_long is 'error' or 'drop', got {on_too_long!r}")
    if not questions:
        raise QuestionError("there is no question to encode; give a dataset with at least one row")
    finder = OptionFinder(tokenizer, prompt_format or PromptFormat())
    items: list[EncodedQuestion] = []
    dropped: list[int] = []
    longest = (0, -1)
    for row, (input_ids, option_ids) in enumerate(finder.encode_all(questions)):
        length = len(input_ids) + 1
        if max_length is not None and length > max_length:
            dropped.append(row)
            longest = max(longest, (length, row))
            continue
        question = questions[row]
        answer = -1 if question.answer is None else question.answer
        items.append(EncodedQuestion(input_ids, option_ids, answer, row, target_of(question)))
    if dropped:
        found = (
            f"{len(dropped)} of {len(questions)} prompts are longer than {max_length} tokens (the longest is row "
            f"{longest[1]}, counted from 0, with {longest[0]})"
        )
        if on_too_long == "error":
            raise QuestionError(f"{found}; raise the maximum length, leave them out, or ask for them to be dropped")
        if not items:
            raise QuestionError(f"{found}, and dropping them leaves no question; raise the maximum length")
        warnings.warn(f"{found}; they are dropped", stacklevel=2)
    return EncodedQuestions(tuple(items), tuple(dropped))


def target_of(question: Question) -> tuple[float, ...] | None:
    """Return the distribution that a question has in place of the one right answer, None for others."""
    return question.target if isinstance(question, DecisionQuestion) else None


def maximum_length(model_config, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the longest input that the model and its tokenizer allow, in tokens; `None` where neither says."""
    config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    if tokenizer.model_max_length < int(1e9):  # transformers sets 1e30 if the tokenizer has no limit
        limits.append(tokenizer.model_max_length)
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(known) if known else None
