"""The tokens that stand for the options at the position after a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .chat import answer_stem
from .prompts import PromptFormat
from .questions import LETTERS, Question, QuestionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        if prompt_format.chat and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"a chat prompt was asked for, but the tokenizer {tokenizer.name_or_path!r} has no chat template; use "
                "the plain prompt (chat=False), or set tokenizer.chat_template"
            )
        self.tokenizer = tokenizer
        self.format = prompt_format
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
            stems = [self._stem(question) for question in chunk]
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
                    raise QuestionError(f"row {start + offset}, counted from 0: {error}") from None
                yield tuple(prompt), self._known[key]

    def _stem(self, question: Question) -> str:
        """Return the text up to the letter."""
        if self.format.chat:
            return answer_stem(self.tokenizer, self.format.messages(question))
        return self.format.render(question) + self.format.answer_prefix

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        # A chat template adds the special tokens itself. The caller checks lengths.
        options = {"add_special_tokens": not self.format.chat, "truncation": False, "verbose": False}
        return self.tokenizer(texts, **options)["input_ids"]

    def _split(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """Return the tokens before and after the option's, given the prompt with A and with B after it."""
        n = _common_prefix(first, second)
        # Tokens that some tokenizers append.
        n_tail = _common_prefix(first[n:][::-1], second[n:][::-1])
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


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length
