"""Rows that hold prompts followed by texts, and batches of questions laid out in these rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..tasks.collator import OptionBatch, QuestionBatch, distributions_of
from .encoded import EncodedLabels, EncodedTexts


@dataclass(frozen=True)
class PackedRows:
    """R rows of at most L tokens, each a prompt followed by texts, in which N text tokens are predicted.

    Parameters
    ----------
    input_ids, position_ids : torch.Tensor of int64, shape (R, L)
        The positions of each text continue after the prompt.
    texts : torch.Tensor of int64, shape (R, L)
        As in `packed_mask`.
    rows, columns : torch.Tensor of int64, shape (N,)
        Position at which each text token is predicted, row by row; columns are negative, counted from the end.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    texts: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def of(
        cls,
        contents: Sequence[tuple[Sequence[int], Sequence[tuple[int, ...]]]],
        pad_token_id: int,
        *,
        left: bool = True,
        device: torch.device | str | None = None,
    ) -> PackedRows:
        """Lay out rows, padded on the left or the right.

        Parameters
        ----------
        contents : sequence of (sequence of int, sequence of tuple of int)
            For each row, its prompt and texts, each with at least one token.
        pad_token_id : int
        left : bool, default True
        device : torch.device or str, optional
        """
        laid: list[tuple[list[int], list[int], list[int]]] = []  # token ids, positions, text numbers
        places: list[tuple[int, int]] = []
        for prompt, texts in contents:
            n = len(prompt)
            ids, positions, numbers = list(prompt), list(range(n)), [0] * n
            starts: dict[tuple[int, ...], int] = {}
            for text in texts:
                # Nothing is predicted from a text's last token, so it is left out, and texts that differ only in it
                # are merged.
                read = text[:-1]
                if read not in starts:
                    starts[read] = len(ids)
                    ids += read
                    positions += range(n, n + len(read))
                    numbers += [len(starts)] * len(read)
                places += [(len(laid), at) for at in (n - 1, *range(starts[read], starts[read] + len(read)))]
            laid.append((ids, positions, numbers))
        length = max(len(ids) for ids, _, _ in laid)
        input_ids, position_ids, owners = (
            torch.tensor([_padded(row[part], length, fill, left) for row in laid], device=device)
            for part, fill in enumerate((pad_token_id, 0, -1))
        )
        columns = [at - (len(laid[row][0]) if left else length) for row, at in places]
        rows = torch.tensor([row for row, _ in places], device=device)
        return cls(input_ids, position_ids, owners, rows, torch.tensor(columns, device=device))


def _padded(values: list[int], length: int, fill: int, left: bool) -> list[int]:
    padding = [fill] * (length - len(values))
    return padding + values if left else values + padding


def packed_mask(texts: torch.Tensor) -> torch.Tensor:
    """Return which tokens each token sees in rows with several texts after one prompt.

    Parameters
    ----------
    texts : torch.Tensor of int64, shape (R, L)
        Number of the text that each token belongs to: 0 for the prompt, which all texts see, and -1 for padding.

    Returns
    -------
    torch.Tensor of bool, shape (R, 1, L, L)
        Each token sees the prompt and its own text up to itself.
    """
    seen, seeing = texts[:, None, :], texts[:, :, None]
    length = texts.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=texts.device).tril()
    # Padding sees itself, since a softmax over nothing is undefined.
    return (((seen == 0) | (seen == seeing)) & before)[:, None]


@dataclass
class TextBatch(OptionBatch):
    """A padded batch of questions whose options' texts have at most T tokens each and N in total.

    The inputs have one row per option, with its text after the prompt, or one row per question, with all its texts
    after one copy of the prompt. An option's column is its index.

    Attributes
    ----------
    input_ids, position_ids : torch.Tensor of int64, shape (R, L)
    attention_mask : torch.Tensor, int64 of shape (R, L), or bool of shape (R, 1, L, L)
        The bool mask is for shared prompts and says which tokens each token attends to.
    rows, columns : torch.Tensor of int64, shape (N,)
        Position at which each text token is predicted; columns are negative, counted from the end.
    targets : torch.Tensor of int64, shape (N,)
        The text tokens.
    token_mask : torch.Tensor of bool, shape (B, K, T)
        Which positions of the texts hold the N tokens.
    divisors : torch.Tensor of float32, shape (B, K)
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    token_mask: torch.Tensor
    divisors: torch.Tensor


class LabelBatch(TextBatch):
    """A batch of `EncodedLabels`."""


@dataclass
class TextCollator:
    """Batches encoded questions with their options' texts or labels.

    Parameters
    ----------
    pad_token_id : int
    packs_up_to : int, default 0
        If no question of a batch has more tokens than this (prompt and longest text), all texts of a question follow
        one copy of its prompt, and each attends to the prompt and itself. Otherwise, the prompt is repeated for each
        text.
    padding_side : {"left", "right"}, default "right"
        Padding side of rows with one text. Right is exact for every causal model; left computes fewer logits.
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
            option_ids=torch.arange(width).expand(len(items), width),
            option_mask=sizes > 0,
            answers=torch.tensor([item.answer for item in items]),
            distributions=distributions_of(items, width),
        )


Batch: TypeAlias = QuestionBatch | TextBatch
