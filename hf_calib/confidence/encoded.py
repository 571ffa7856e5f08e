"""Prompts with continuations as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from ..tasks import LETTERS, DecisionQuestion, PromptFormat, Question, QuestionError, encode_questions
from ..tasks.chat import answer_stem
from ..tasks.encoding import EncodedQuestion, common_prefix, require_chat_template, rows_that_fit, target_of
from ..tasks.special_tokens import Asked, PromptTokenizer
from .methods import OptionTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedOptions:
    """A prompt, and the continuations to score.

    Parameters
    ----------
    row : int
        Index of the question.
    input_ids : tuple of int
        The prompt.
    options : tuple of tuple of int
        The tokens of each continuation, at least one.
    """

    row: int
    input_ids: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Number of tokens of the prompt with the longest option."""
        return len(self.input_ids) + max(map(len, self.options))

    @property
    def packed_length(self) -> int:
        """Number of tokens of a row with all options, each without its last token, after one copy of the prompt."""
        return len(self.input_ids) + sum(map(len, {option[:-1] for option in self.options}))


@dataclass(frozen=True, slots=True)
class EncodedTexts(EncodedOptions):
    """A prompt and its options' texts as token ids, with the divisors of the texts' log-probabilities.

    Parameters
    ----------
    divisors : tuple of int
        One per option, at least 1.
    answer : int
        Index of the right option, or -1 if it is unknown.
    target : tuple of float or None, default None
        Probability of each option, instead of a single right answer.
    """

    divisors: tuple[int, ...]
    answer: int
    target: tuple[float, ...] | None = None


class EncodedLabels(EncodedTexts):
    """A prompt and its options' labels as token ids.

    Unlike texts, labels are mutually exclusive: their probabilities and that of any other output sum to one.
    """

    __slots__ = ()


Encoded: TypeAlias = EncodedQuestion | EncodedTexts


class PromptEncoder:
    """Encodes prompts with texts, labels or generated answers after them.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    max_length : int or None
        The longest sequence, prompt and answer together.
    on_too_long : {"error", "drop"}
        Raise for a longer one, or leave it out with a warning.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, on_too_long: str = "error"
    ) -> None:
        if on_too_long not in ("error", "drop"):
            raise ValueError(f"on_too_long is 'error' or 'drop', got {on_too_long!r}")
        self.tokenizer = tokenizer
        self.tokens = PromptTokenizer(tokenizer)
        self.max_length = max_length
        self.on_too_long = on_too_long
        self._known: dict[tuple[Any, ...], tuple[tuple[int, ...], ...]] = {}

    def texts(
        self, questions: Sequence[Question], prompt_format: PromptFormat, *, list_options: bool
    ) -> list[EncodedOptions]:
        """Return prompts with the options' texts as continuations.

        An empty prompt is the beginning-of-sequence token, or the end-of-sequence token of a tokenizer without one.

        Raises
        ------
        QuestionError
            If a text adds no token to the prompt, or a prompt with it is too long.
        """
        items = []
        for row, question in enumerate(questions):
            asked = self._marked(row, question)
            texts = [choice.strip() for choice in asked.choices]
            items.append(self._continued(row, self._stem(prompt_format, asked, list_options), texts, prompt_format))
        return self._fitting(items, questions)

    def answers(
        self, questions: Sequence[Any], texts: Sequence[str], prompt_format: PromptFormat
    ) -> list[EncodedOptions]:
        """Return prompts without options, each with its answer's text as the one continuation.

        Raises
        ------
        QuestionError
            If a text is no token at all, or a prompt with it is too long.
        """
        items = []
        for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
            stem = self._stem(prompt_format, self._marked(row, question), False)
            answer = self.tokens.marked_text(text.strip(), f"row {row}, counted from 0: the answer")
            items.append(self._continued(row, stem, [answer], prompt_format))
        return self._fitting(items, questions)

    def letters(self, questions: Sequence[Question], prompt_format: PromptFormat) -> list[EncodedOptions]:
        """Return prompts with the options' letters as continuations, or with labels if there are typed decisions.

        Raises
        ------
        QuestionError
            For the reasons of `hf_calib.tasks.encode_questions` and `labels`, or if a prompt is too long.
        """
        if any(isinstance(question, DecisionQuestion) for question in questions):
            return self._fitting(self.labels(questions, prompt_format), questions)
        encoded = encode_questions(
            questions,
            self.tokenizer,
            prompt_format,
            max_length=self.max_length,
            on_too_long=self.on_too_long,
        )
        return [_with_letters(item.row, item) for item in encoded]

    def labels(self, questions: Sequence[Question], prompt_format: PromptFormat) -> list[EncodedOptions]:
        """Return prompts with the options' labels as continuations, for questions of up to 255 options.

        The labels are letters if there are enough and each is one token. Otherwise they are pairs of letters (AA, AB,
        ...) or numbers of equal length, the first kind in which no label's tokens begin another's. So the options are
        disjoint, and the probability of each is the exact product over its tokens. Prompts may be too long.

        Raises
        ------
        QuestionError
            If the tokenizer can't tell the options apart by any labels.
        """
        found: dict[int, EncodedOptions] = {}

        def try_letters(rows: Sequence[int]) -> None:
            encoded = encode_questions([questions[row] for row in rows], self.tokenizer, prompt_format)
            for row, item in zip(rows, encoded, strict=True):
                found[row] = _with_letters(row, item)

        with_letters = [row for row, question in enumerate(questions) if len(question.choices) <= len(LETTERS)]
        try:
            try_letters(with_letters)
        except QuestionError:  # one of their letters is several tokens; the labels of others must not depend on it
            for row in with_letters:
                with suppress(QuestionError):
                    try_letters([row])
        for row, question in enumerate(questions):
            if row not in found:
                found[row] = self._labeled(row, question, prompt_format)
        return [found[row] for row in range(len(questions))]

    def _labeled(self, row: int, question: Question, prompt_format: PromptFormat) -> EncodedOptions:
        n = len(question.choices)
        for labels in (_two_letters(n), _numbers(n)):
            named = DecisionQuestion(
                question.question, question.choices, None, question.subject, question.context, labels=labels
            )
            stem = self._stem(prompt_format, self._marked(row, named), True)
            two = self._continued(row, stem, (labels[0], labels[-1]), prompt_format)
            # The others are looked up once for each ending of a prompt and number of options.
            key = (*labels, *two.input_ids[-2:], two.options)
            if key not in self._known:
                self._known[key] = self._continued(row, stem, labels, prompt_format).options
            if _tells_apart(self._known[key], self.tokenizer.unk_token_id):
                return EncodedOptions(row, two.input_ids, self._known[key])
        raise QuestionError(
            f"row {row}, counted from 0: with this tokenizer, neither letters nor numbers distinguish {n} options; "
            "use another tokenizer or fewer options"
        )

    def _continued(self, row: int, stem: str, texts: Sequence[str], prompt_format: PromptFormat) -> EncodedOptions:
        """Return a prompt with the texts that may follow it."""
        prefix = "" if prompt_format.chat else prompt_format.answer_prefix
        whole = self._tokenize([stem + prefix + text for text in texts], prompt_format)
        start = self._tokenize([stem], prompt_format)[0]
        # A tokenizer may merge the prompt's end with an option's beginning; the prompt is what all have in common.
        n = min(common_prefix(start, ids) for ids in whole)
        for number, ids in enumerate(whole):
            if len(ids) == n:
                name = LETTERS[number] if number < len(LETTERS) else str(number)
                raise QuestionError(f"row {row}, counted from 0: choice {name} adds no token to the prompt")
        prompt = tuple(whole[0][:n]) if n else (self._beginning(),)
        return EncodedOptions(row, prompt, tuple(tuple(ids[n:]) for ids in whole))

    def prompts(
        self, questions: Sequence[Question], prompt_format: PromptFormat, *, list_options: bool, max_new_tokens: int
    ) -> list[EncodedOptions]:
        """Return prompts that an answer of at most `max_new_tokens` follows; they have no options of their own."""
        items = []
        for row, question in enumerate(questions):
            stem = self._stem(prompt_format, self._marked(row, question), list_options)
            ids = self._tokenize([stem], prompt_format)[0]
            items.append(EncodedOptions(row, tuple(ids), ((0,) * max_new_tokens,)))
        return self._fitting(items, questions)

    def _marked(self, row: int, question: Asked) -> Asked:
        try:
            return self.tokens.marked(question)
        except QuestionError as error:
            raise QuestionError(f"row {row}, counted from 0: {error}") from None

    def _stem(self, prompt_format: PromptFormat, question: Any, list_options: bool) -> str:
        prompt_format = self.tokens.marked_format(prompt_format)
        if not prompt_format.chat:
            return prompt_format.render(question, options=list_options)
        require_chat_template(self.tokenizer)
        return answer_stem(self.tokenizer, prompt_format.messages(question, options=list_options))

    def _tokenize(self, texts: list[str], prompt_format: PromptFormat) -> list[list[int]]:
        if prompt_format.chat:  # a chat template writes the special tokens itself
            return self.tokens.tokenize(texts, add_special_tokens=False)
        n_tail = self.tokens.n_appended
        return [ids[: len(ids) - n_tail] for ids in self.tokens.tokenize(texts, add_special_tokens=True)]

    def _beginning(self) -> int:
        """Return the token that stands for the beginning of a text, before options without any prompt."""
        token = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        if token is None:
            raise QuestionError("no token precedes the option, so the model has nothing to condition on")
        return token

    def _fitting(self, items: list[EncodedOptions], questions: Sequence[Any]) -> list[EncodedOptions]:
        lengths = {item.row: item.length for item in items}
        what = "prompts with their answers"
        kept = set(rows_that_fit(lengths, self.max_length, self.on_too_long, what=what, questions=questions))
        return [item for item in items if item.row in kept]


def encode_letters(
    questions: Sequence[Question],
    tokenizer: Any,
    prompt_format: PromptFormat,
    *,
    max_length: int | None = None,
    on_too_long: str = "error",
) -> list[EncodedQuestion] | list[EncodedLabels]:
    """Tokenize prompts and their options' letters, or the labels of typed decisions, as `OptionLetters` does.

    Parameters
    ----------
    questions, tokenizer, prompt_format, max_length, on_too_long
        As in `hf_calib.tasks.encode_questions`; the maximum length includes the longest label.

    Returns
    -------
    list of EncodedQuestion or of EncodedLabels
        `EncodedLabels` if any question has a label of several tokens, as most with more than 26 options do.

    Raises
    ------
    QuestionError
        For the reasons of `PromptEncoder.letters`.
    """
    items = PromptEncoder(tokenizer, max_length, on_too_long).letters(questions, prompt_format)
    single = all(len(option) == 1 for item in items for option in item.options)
    encoded: list[Any] = []
    for item in items:
        question = questions[item.row]
        answer, target = -1 if question.answer is None else question.answer, target_of(question)
        if single:
            ids = tuple(token for (token,) in item.options)
            encoded.append(EncodedQuestion(item.input_ids, ids, answer, item.row, target))
        else:
            divisors = (1,) * len(item.options)
            encoded.append(EncodedLabels(item.row, item.input_ids, item.options, divisors, answer, target))
    return encoded


def encode_texts(
    questions: Sequence[Question],
    tokenizer: Any,
    method: OptionTexts,
    prompt_format: PromptFormat,
    *,
    max_length: int | None = None,
    on_too_long: str = "error",
) -> list[EncodedTexts]:
    """Tokenize prompts and their options' texts as `method` does.

    Parameters
    ----------
    questions, tokenizer, prompt_format, max_length, on_too_long
        As in `hf_calib.tasks.encode_questions`; the maximum length includes the longest text.
    method : OptionTexts

    Raises
    ------
    QuestionError
        If there is no question, a text has no tokens, or a prompt is too long with its text.
    """
    if not questions:
        raise QuestionError("questions: no question to encode; give a dataset with at least one row")
    encoder = PromptEncoder(tokenizer, max_length, on_too_long)
    encoded = []
    for item in encoder.texts(questions, prompt_format, list_options=method.list_options):
        question = questions[item.row]
        answer = -1 if question.answer is None else question.answer
        divisors = method.divisors(question, [len(option) for option in item.options])
        encoded.append(EncodedTexts(item.row, item.input_ids, item.options, divisors, answer, target_of(question)))
    return encoded


def _with_letters(row: int, item: EncodedQuestion) -> EncodedOptions:
    return EncodedOptions(row, item.input_ids, tuple((token,) for token in item.option_ids))


def _two_letters(n: int) -> tuple[str, ...]:
    return tuple(first + second for first in LETTERS for second in LETTERS)[:n]


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(str(number).zfill(len(str(n))) for number in range(1, n + 1))


def _tells_apart(options: Sequence[tuple[int, ...]], unknown: int | None) -> bool:
    """Whether no option's tokens are the beginning of another's, and all are known."""
    begins = any(after[: len(before)] == before for before, after in pairwise(sorted(options)))
    return not begins and not any(unknown in option for option in options if unknown is not None)


def padding_token(tokenizer) -> int:
    """Return the token to pad with: the tokenizer's own, else its end-of-sequence token, as TRL does.

    Raises
    ------
    ValueError
        If it has neither.
    """
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has neither a padding nor an end-of-sequence token; set "
            "tokenizer.pad_token"
        )
    return token
