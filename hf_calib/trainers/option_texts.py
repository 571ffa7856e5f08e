"""Confidence read off options of several tokens, with gradient: the numbers of `hf_calib.measure`, for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from ..confidence.cached import CachedForward, harmless_collator
from ..confidence.encoded import EncodedOptions, PromptEncoder
from ..confidence.forward import (
    ForwardArguments,
    PackedRows,
    answer_logits,
    evaluating,
    logits_of_tokens,
    packed_mask,
    same_to_rounding,
)
from ..confidence.methods import OptionTexts
from ..tasks import PromptFormat, Question, QuestionError
from ..tasks.collator import QuestionBatch, QuestionCollator, distributions_of, on_device
from ..tasks.encoding import EncodedQuestion, target_of

# The score of an option that a question lacks. Finite, since zero times the logarithm of zero is to be zero in a
# divergence; its exponential is zero.
ABSENT = -1e4


@dataclass(frozen=True, slots=True)
class EncodedTexts(EncodedOptions):
    """A prompt and its options' texts as token ids, with the divisors of the texts' log-probabilities.

    Parameters
    ----------
    divisors : tuple of int
        One per option, at least 1.
    answer : int
        Index of the right option; -1 where it is not known.
    target : tuple of float or None, default None
        Probability of each option, in place of the one right answer.
    """

    divisors: tuple[int, ...]
    answer: int
    target: tuple[float, ...] | None = None


class EncodedLabels(EncodedTexts):
    """A prompt and its options' labels as token ids.

    Unlike texts, labels exclude each other, so their probabilities and that of all else, the rest, sum to one.
    """

    __slots__ = ()


Encoded: TypeAlias = EncodedQuestion | EncodedTexts


def encode_letters(
    questions: Sequence[Question],
    tokenizer: Any,
    prompt_format: PromptFormat,
    *,
    max_length: int | None = None,
    on_too_long: str = "error",
) -> list[EncodedQuestion] | list[EncodedLabels]:
    """Tokenize prompts and their options' letters, or the labels of typed decisions, as `OptionLetters` asks them.

    Parameters
    ----------
    questions, tokenizer, prompt_format, max_length, on_too_long
        As in `hf_calib.tasks.encode_questions`; the maximum length includes the longest label.

    Returns
    -------
    list of EncodedQuestion or of EncodedLabels
        The latter if a label of any question, such as one of more than 26 options, has several tokens.

    Raises
    ------
    QuestionError
        As `PromptEncoder.letters`.
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
    """Tokenize prompts and their options' texts the way `method` asks them.

    Parameters
    ----------
    questions, tokenizer, prompt_format, max_length, on_too_long
        As in `hf_calib.tasks.encode_questions`; the maximum length includes the longest text.
    method : OptionTexts

    Raises
    ------
    QuestionError
        If a text has no tokens, a prompt with its text is too long, or no question is left.
    """
    if not questions:
        raise QuestionError("there is no question to encode; give a dataset with at least one row")
    encoder = PromptEncoder(tokenizer, max_length, on_too_long)
    encoded = []
    for item in encoder.texts(questions, prompt_format, list_options=method.list_options):
        question = questions[item.row]
        answer = -1 if question.answer is None else question.answer
        divisors = method.divisors(question, [len(option) for option in item.options])
        encoded.append(EncodedTexts(item.row, item.input_ids, item.options, divisors, answer, target_of(question)))
    return encoded


@dataclass
class TextBatch:
    """A padded batch of B questions of at most K options whose texts have at most T tokens, N in total.

    A row of the inputs holds one option's text after its prompt, or all texts of a question after one copy of the
    prompt.

    Attributes
    ----------
    input_ids, position_ids : torch.Tensor of int64, shape (R, L)
    attention_mask : torch.Tensor, int64 of shape (R, L), or bool of shape (R, 1, L, L)
        The latter, for shared prompts, says which tokens each token attends to.
    rows, columns : torch.Tensor of int64, shape (N,)
        Position at which each text token is predicted; columns are negative, counted from the end.
    targets : torch.Tensor of int64, shape (N,)
        The text tokens.
    token_mask : torch.Tensor of bool, shape (B, K, T)
        Position of the N tokens in the texts.
    divisors : torch.Tensor of float32, shape (B, K)
    option_mask : torch.Tensor of bool, shape (B, K)
        Which options exist.
    answers : torch.Tensor of int64, shape (B,)
        Index of the right option; -1 where it is not known.
    distributions : torch.Tensor of float32, shape (B, K), or None
        As of `QuestionBatch`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    token_mask: torch.Tensor
    divisors: torch.Tensor
    option_mask: torch.Tensor
    answers: torch.Tensor
    distributions: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> TextBatch:
        """Return the batch on another device."""
        return type(self)(**on_device(self, device))

    @property
    def option_ids(self) -> torch.Tensor:
        """Each option's column in the scores, shape (B, K), like a letter's column in the logits."""
        return torch.arange(self.option_mask.shape[1], device=self.answers.device).expand_as(self.option_mask)

    def __len__(self) -> int:
        return len(self.answers)


class LabelBatch(TextBatch):
    """A batch of `EncodedLabels`."""


Batch: TypeAlias = QuestionBatch | TextBatch


@dataclass
class TextCollator:
    """Batches encoded questions with their options' texts or labels.

    Parameters
    ----------
    pad_token_id : int
    packs_up_to : int, default 0
        Questions of at most this many tokens (prompt and longest text) have their texts packed after one copy of the
        prompt, each attending to the prompt and itself. Longer ones have one copy of the prompt per text.
    padding_side : {"left", "right"}, default "right"
        Side for rows with one text; right is exact for every causal model, left computes fewer logits.
    """

    pad_token_id: int
    packs_up_to: int = 0
    padding_side: str = "right"

    def __call__(self, items: Sequence[EncodedTexts]) -> TextBatch:
        """Make a batch of at least one question."""
        packed = max(item.length for item in items) <= self.packs_up_to
        left = packed or self.padding_side == "left"
        contents = [
            (item.input_ids, options)
            for item in items
            for options in ([item.options] if packed else [(option,) for option in item.options])
        ]
        laid = PackedRows.of(contents, self.pad_token_id, left=left)
        width = max(len(item.options) for item in items)
        sizes = torch.tensor([[*map(len, item.options), *[0] * (width - len(item.options))] for item in items])
        divisors = [[*item.divisors, *[1] * (width - len(item.divisors))] for item in items]
        kind = LabelBatch if isinstance(items[0], EncodedLabels) else TextBatch
        return kind(
            input_ids=laid.input_ids,
            position_ids=laid.position_ids,
            attention_mask=packed_mask(laid.texts) if packed else (laid.texts >= 0).long(),
            rows=laid.rows,
            columns=laid.columns,
            targets=torch.tensor([token for item in items for option in item.options for token in option]),
            token_mask=torch.arange(int(sizes.max())) < sizes[..., None],
            divisors=torch.tensor(divisors, dtype=torch.float32),
            option_mask=sizes > 0,
            answers=torch.tensor([item.answer for item in items]),
            distributions=distributions_of(items, width),
        )


def answer_scores(model: nn.Module, batch: Batch, arguments: ForwardArguments | None = None) -> torch.Tensor:
    """Return the scores that the calibration terms act on; `batch.option_ids` are the options' columns in them.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model, wrapped or not.
    batch : QuestionBatch or TextBatch
    arguments : ForwardArguments, optional
        By default found from the model.

    Returns
    -------
    torch.Tensor of float32
        For letters, the logits of the whole vocabulary at the answer positions, shape (B, V). For texts, their
        log-probabilities divided by `batch.divisors`, shape (B, K), with -1e4 for missing options. For labels, shape
        (B, K + 1), the last column is the log-probability of all else.
    """
    if isinstance(batch, QuestionBatch):
        return answer_logits(model, batch, arguments)
    logits = _text_logits(model, batch, arguments)
    log_probabilities = -F.cross_entropy(logits, batch.targets, reduction="none")
    tokens = torch.zeros_like(batch.token_mask, dtype=torch.float32).masked_scatter(
        batch.token_mask, log_probabilities
    )
    scores = (tokens.sum(dim=-1) / batch.divisors).masked_fill(~batch.option_mask, ABSENT)
    if not isinstance(batch, LabelBatch):
        return scores
    # By rounding, the labels' total may be one.
    total = scores.logsumexp(dim=-1, keepdim=True).clamp(max=-torch.finfo(scores.dtype).eps)
    return torch.cat([scores, (-total.expm1()).log()], dim=-1)


def _text_logits(model: nn.Module, batch: TextBatch, arguments: ForwardArguments | None) -> torch.Tensor:
    """Return the logits that predict each text token, float32, shape (N, V)."""
    arguments = arguments or ForwardArguments.of(model)
    mask = batch.attention_mask
    if mask.dim() == 2:
        inputs = arguments.inputs(batch.input_ids, mask)
    else:
        inputs = arguments.packed_inputs(model, batch.input_ids, mask, batch.position_ids)
    return logits_of_tokens(model, arguments, inputs, batch.rows, batch.columns)


def exact_collator(
    models: Sequence[nn.Module],
    items: Sequence[Any],
    collator: QuestionCollator | TextCollator,
    device: torch.device | str,
) -> Any:
    """Return the cheapest collator whose layout does not change the models' outputs.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        The trained model first, then any other that reads the same batches.
    items : sequence of EncodedQuestion or of EncodedTexts
        The questions; the longest one is tried.
    collator : QuestionCollator or TextCollator
    device : torch.device or str
        The models'.
    """
    if isinstance(collator, QuestionCollator):
        return harmless_collator(models[0], items, collator, device)
    longest: EncodedTexts = max(items, key=lambda item: item.length)
    if all(_packs(model, items, collator, device) for model in models):
        return replace(collator, packs_up_to=longest.length, padding_side="left")
    left, right = (replace(collator, packs_up_to=0, padding_side=side) for side in ("left", "right"))
    half = replace(longest, input_ids=longest.input_ids[: max(1, len(longest.input_ids) // 2)])
    return left if all(_agree(model, [half, longest], left, right, device) for model in models) else right


def _packs(
    model: nn.Module, items: Sequence[EncodedTexts], collator: TextCollator, device: torch.device | str
) -> bool:
    forward = CachedForward(model, collator.pad_token_id, device=device)
    forward.limit(max(item.length for item in items))
    row = max(items, key=lambda item: item.packed_length)
    with evaluating(model):
        forward.check_packing(row.input_ids, row.options)
    return bool(forward.packs)


@torch.no_grad()
def _agree(
    model: nn.Module,
    items: Sequence[EncodedTexts],
    one: TextCollator,
    other: TextCollator,
    device: torch.device | str,
) -> bool:
    with evaluating(model):
        found, expected = (_text_logits(model, collator(items).to(device), None) for collator in (one, other))
    return same_to_rounding(found, expected, model)
