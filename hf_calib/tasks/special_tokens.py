"""Tokenization of prompts in which special tokens within a question stay plain text."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cached_property
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from .prompts import PromptFormat
from .questions import LETTERS, DecisionQuestion, QuestionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Asked = TypeVar("Asked")

# Put before a special token in a question's text. Unicode assigns no character to this code point.
_MARK = "\ufdd0"

# Names of a typed decision's parts in messages, by the field of its question.
_OF_DECISIONS = {"context": "state", "question": "instructions"}


class PromptTokenizer:
    """Tokenizes prompts so that only chat templates and prompt formats can write control tokens.

    A question about the log of a conversation may contain "<|im_end|>", which is ordinary text there, whereas
    "<|im_end|>" from the chat template ends the message. Other prompts are passed to the tokenizer unchanged.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        special = (token for token in tokenizer.added_tokens_decoder.values() if token.special and token.content)
        self._tokens = {token.content: token for token in special}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._special = re.compile(f"({_MARK}?)({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._readable: dict[str, bool] = {}

    def marked(self, question: Asked) -> Asked:
        """Return a question with a mark before each special token in its texts; `tokenize` removes the marks.

        Raises
        ------
        QuestionError
            If the tokenizer cannot read a special token as plain text; the message names the part of the question.
        """
        changes: dict[str, Any] = {}
        for own in fields(question):  # type: ignore[arg-type]  # questions are dataclasses
            value = getattr(question, own.name)
            # A free-form question's answers are not in the prompt.
            if own.name in ("labels", "answers") or not isinstance(value, str | tuple):
                continue
            texts = (value,) if isinstance(value, str) else value
            found = tuple(
                self.marked_text(text, _place(question, own.name, number)) if isinstance(text, str) else text
                for number, text in enumerate(texts)
            )
            if found != texts:
                changes[own.name] = found[0] if isinstance(value, str) else found
        return replace(question, **changes) if changes else question  # type: ignore[type-var]

    def marked_format(self, prompt_format: PromptFormat) -> PromptFormat:
        """Return a prompt format whose examples are marked."""
        examples = getattr(prompt_format, "examples", ())
        marked = tuple(map(self.marked, examples))
        return prompt_format if marked == examples else replace(prompt_format, examples=marked)  # type: ignore[call-arg]

    def tokenize(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Return the token ids of prompts made from marked questions.

        Parameters
        ----------
        texts : list of str
        add_special_tokens : bool
            As in the tokenizer's call. The caller checks the lengths.
        """
        if not any(_MARK in text for text in texts):
            return self._ids(texts, add_special_tokens=add_special_tokens)
        return [self._tokenized(text, add_special_tokens) for text in texts]

    def marked_text(self, text: str, where: str) -> str:
        """Return a text with marks as in `marked`; messages call it `where`."""

        def mark(match: re.Match[str]) -> str:
            if not self._is_readable(match[2]):
                raise QuestionError(
                    f"{where} contains {match[2]!r}, which this tokenizer can only read as a control token, not as "
                    "plain text; remove or rewrite it"
                )
            return f"{match[1]}{_MARK}{match[2]}"

        return self._special.sub(mark, text)

    def _is_readable(self, special: str) -> bool:
        """Return whether the tokenizer can read a special token as plain text."""
        if special not in self._readable:
            (ids,) = self._ids([special], add_special_tokens=False, split_special_tokens=True)
            control = {self.tokenizer.convert_tokens_to_ids(special)} - {self.tokenizer.unk_token_id}
            self._readable[special] = not control & set(ids)
        return self._readable[special]

    def _tokenized(self, text: str, add_special_tokens: bool) -> list[int]:
        """Tokenize a marked text; stretches with marks, between control tokens, become plain text."""
        control = [self._extent(text, match) for match in self._special.finditer(text) if not match[1]]
        bounds = accumulate([0, *(bound for extent in control for bound in extent), len(text)], max)
        parts = [text[start:end] for start, end in pairwise(bounds)]
        runs = [(marked, "".join(run)) for marked, run in groupby(filter(None, parts), lambda part: _MARK in part)]
        ids: list[int] = []
        for marked, run in runs:
            plain = self._special.sub(lambda match: match[2], run) if marked else run
            whole = add_special_tokens and len(runs) == 1
            ids += self._ids([plain], add_special_tokens=whole, split_special_tokens=marked)[0]
        if add_special_tokens and len(runs) > 1:
            before, after = self._frame
            return [*before, *ids, *after]
        return ids

    def _extent(self, text: str, match: re.Match[str]) -> tuple[int, int]:
        """Return the start and end of a control token with the surrounding white space that the tokenizer removes."""
        (start, end), token = match.span(), self._tokens[match[2]]
        if token.lstrip:
            start = len(text[:start].rstrip())
        if token.rstrip:
            end = len(text) - len(text[end:].lstrip())
        return start, end

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer adds before and after a text."""
        plain, framed = (self._ids(["A"], add_special_tokens=whole)[0] for whole in (False, True))
        places = (n for n in range(len(framed)) if plain and framed[n : n + len(plain)] == plain)
        start = next(places, len(framed))
        return framed[:start], framed[start + len(plain) :]

    @property
    def n_appended(self) -> int:
        """Number of special tokens that the tokenizer appends to a text."""
        return len(self._frame[1])

    def _ids(self, texts: list[str], **options: Any) -> list[list[int]]:
        return self.tokenizer(texts, truncation=False, verbose=False, **options)["input_ids"]


def _place(question: Any, field: str, number: int) -> str:
    """Return the name of a question's part for messages."""
    if field == "choices":
        return f"choice {LETTERS[number]}" if number < len(LETTERS) else f"choice {number}, counted from 0,"
    return f"the {_OF_DECISIONS.get(field, field) if isinstance(question, DecisionQuestion) else field}"
