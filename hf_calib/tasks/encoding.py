"""From questions to token ids, and which token stands for which option."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .chat import answer_stem
from .drawing import row_in_source
from .prompts import PromptFormat
from .questions import LETTERS, DecisionQuestion, Question, QuestionError
from .special_tokens import PromptTokenizer

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
        Index of the right option; -1 if unknown.
    row : int
        Position of the question in the encoded sequence.
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
    if not questions:
        raise QuestionError("questions: no question to encode; give a dataset with at least one row")
    finder = OptionFinder(tokenizer, prompt_format or PromptFormat())
    encoded = list(finder.encode_all(questions))
    lengths = {row: len(input_ids) + 1 for row, (input_ids, _) in enumerate(encoded)}
    kept = rows_that_fit(lengths, max_length, on_too_long, questions=questions)
    items = []
    for row in kept:
        question = questions[row]
        answer = -1 if question.answer is None else question.answer
        items.append(EncodedQuestion(*encoded[row], answer, row, target_of(question)))
    return EncodedQuestions(tuple(items), tuple(sorted(set(lengths) - set(kept))))


class OptionFinder:
    """Encodes prompts with one format and one tokenizer, and finds the options' tokens.

    A letter after a space is a different token than after a newline, and some tokenizers merge the letter with the
    preceding text, so nothing is assumed: each prompt is tokenized *with* an option's letter after it. The tokens that
    all options share are the prompt, and the one in which they differ stands for the option.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt_format : PromptFormat

    Raises
    ------
    ValueError
        If a chat prompt is requested and the tokenizer has no chat template.
    """

    # Questions per call of the tokenizer: enough for its threads, few enough for memory.
    CHUNK = 512

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> None:
        if prompt_format.chat:
            require_chat_template(tokenizer)
        self.tokenizer = tokenizer
        self.tokens = PromptTokenizer(tokenizer)
        self.format = self.tokens.marked_format(prompt_format)
        self._known: dict[tuple[int, ...], tuple[int, ...]] = {}

    def encode_all(self, questions: Sequence[Question]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield (input_ids, option_ids) for each question.

        Raises
        ------
        QuestionError
            If a letter is not one token, two letters share one, or one is unknown to the tokenizer.
        """
        for start in range(0, len(questions), self.CHUNK):
            chunk = questions[start : start + self.CHUNK]
            rows = [row_in_source(questions, start + offset) for offset in range(len(chunk))]
            stems = [self._stem(row, question) for row, question in zip(rows, chunk, strict=True)]
            # Two letters are enough to find where the prompt ends and the option begins.
            first = self._tokenize([stem + LETTERS[0] for stem in stems])
            second = self._tokenize([stem + LETTERS[1] for stem in stems])
            for offset, question in enumerate(chunk):
                try:
                    prompt, tail = self._split(first[offset], second[offset])
                    n = len(prompt)
                    # The other letters are looked up once per prompt ending and number of options.
                    key = (*prompt[-2:], first[offset][n], second[offset][n], len(question.choices))
                    if key not in self._known:
                        self._known[key] = self._options(stems[offset], prompt, tail, question.letters)
                except QuestionError as error:
                    raise QuestionError(f"row {rows[offset]}, counted from 0: {error}") from None
                yield tuple(prompt), self._known[key]

    def _stem(self, row: int, question: Question) -> str:
        """Return the text up to the letter."""
        try:
            question = self.tokens.marked(question)
        except QuestionError as error:
            raise QuestionError(f"row {row}, counted from 0: {error}") from None
        if self.format.chat:
            return answer_stem(self.tokenizer, self.format.messages(question))
        return self.format.render(question) + self.format.answer_prefix

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        # A chat template adds the special tokens itself.
        return self.tokens.tokenize(texts, add_special_tokens=not self.format.chat)

    def _split(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """Return the tokens before and after the option's, given the prompt with A and with B after it."""
        n = common_prefix(first, second)
        # Tokens that some tokenizers append.
        n_tail = common_prefix(first[n:][::-1], second[n:][::-1])
        pieces = [ids[n : len(ids) - n_tail] for ids in (first, second)]
        if not any(pieces):
            raise QuestionError(
                "the options 'A' and 'B' are the same tokens for this tokenizer, so the model cannot tell them apart; "
                "use a tokenizer that knows the letters"
            )
        for letter, piece in zip(LETTERS, pieces, strict=False):
            self._check_single(letter, piece)
        if n == 0:
            raise QuestionError("no token precedes the option, so the model has nothing to condition on")
        return first[:n], first[n + 1 :]

    def _options(self, stem: str, prompt: list[int], tail: list[int], letters: str) -> tuple[int, ...]:
        options: list[int] = []
        for letter, ids in zip(letters, self._tokenize([stem + letter for letter in letters]), strict=True):
            n, end = len(prompt), len(ids) - len(tail)
            if ids[:n] != prompt or ids[end:] != tail:
                raise QuestionError(
                    f"the option letter {letter!r} changes how the tokenizer splits the prompt before it, so the "
                    "options have no position in common; use another prompt format"
                )
            self._check_single(letter, ids[n:end])
            token = ids[n]
            name = self.tokenizer.convert_ids_to_tokens(token)
            if token == self.tokenizer.unk_token_id:
                raise QuestionError(
                    f"the tokenizer does not know the option letter {letter!r} (it becomes {name!r}); use a tokenizer "
                    "with the letters, or another prompt format"
                )
            if token in options:
                raise QuestionError(
                    f"the options {letters[options.index(token)]!r} and {letter!r} are both the token {name!r}; the "
                    "model cannot tell them apart, so use another prompt format"
                )
            options.append(token)
        return tuple(options)

    def _check_single(self, letter: str, ids: list[int]) -> None:
        if not ids:
            raise QuestionError(
                f"the tokenizer leaves out the option letter {letter!r}; use a tokenizer that knows the letters"
            )
        if len(ids) > 1:
            raise QuestionError(
                f"the option letter {letter!r} is more than one token for this tokenizer "
                f"({self.tokenizer.convert_ids_to_tokens(ids)}), or is merged with what precedes it unlike the other "
                "letters; options must be one token each, so use fewer options or another prompt format"
            )


def rows_that_fit(
    lengths: Mapping[int, int],
    max_length: int | None,
    on_too_long: str,
    *,
    what: str = "prompts",
    fix: str = "raise the maximum length, leave them out, or ask for them to be dropped",
    questions: Sequence[Question] = (),
) -> list[int]:
    """Return the rows whose prompts are not too long, with a warning about others.

    Parameters
    ----------
    lengths : mapping of int to int
        The number of tokens of each row's prompt with its answer.
    max_length : int or None
    on_too_long : {"error", "drop"}
    what : str, default "prompts"
        What is too long, for messages.
    fix : str, optional
        What to do about it, for the error's message.
    questions : sequence of Question, optional
        The rows' questions; if they are a sample of a dataset, messages name the dataset's row.

    Raises
    ------
    QuestionError
        If a prompt is too long with "error", or all are.
    ValueError
        If `on_too_long` is neither of the two.
    """
    if on_too_long not in ("error", "drop"):
        raise ValueError(f"on_too_long is 'error' or 'drop', got {on_too_long!r}")
    kept = [row for row, length in lengths.items() if max_length is None or length <= max_length]
    if len(kept) == len(lengths):
        return kept
    longest = max(lengths, key=lambda row: lengths[row])
    found = (
        f"{len(lengths) - len(kept)} of {len(lengths)} {what} are longer than {max_length} tokens (the longest is row "
        f"{row_in_source(questions, longest)}, counted from 0, with {lengths[longest]})"
    )
    if on_too_long == "error":
        raise QuestionError(f"{found}; {fix}")
    if not kept:
        raise QuestionError(f"{found}, and dropping them leaves no question; raise the maximum length")
    warnings.warn(f"{found}; they are dropped", stacklevel=3)
    return kept


def require_chat_template(tokenizer: Any) -> None:
    """Raise a ValueError if a tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"a chat prompt was asked for, but the tokenizer {tokenizer.name_or_path!r} has no chat template; use the "
            "plain prompt (chat=False), or set tokenizer.chat_template"
        )


def common_prefix(first: Sequence[Any], second: Sequence[Any], limit: int | None = None) -> int:
    """Return the number of first tokens that two sequences share, at most `limit`."""
    high = min(len(first), len(second), len(first) if limit is None else limit)
    low = 0
    while low < high:  # slices compare much faster than a loop over tokens
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def target_of(question: Question) -> tuple[float, ...] | None:
    """Return the distribution that a question has in place of one right answer, None for other questions."""
    return question.target if isinstance(question, DecisionQuestion) else None


def maximum_length(model_config, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the longest input that the model and its tokenizer allow, in tokens; `None` if neither has a limit."""
    config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    if tokenizer.model_max_length < int(1e9):  # transformers sets 1e30 if the tokenizer has no limit
        limits.append(tokenizer.model_max_length)
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(known) if known else None
