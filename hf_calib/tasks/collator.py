"""Batches of encoded questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch

from .encoding import EncodedQuestion


@dataclass(kw_only=True)
class OptionBatch:
    """A batch of B questions whose at most K options are columns of a model's output.

    Attributes
    ----------
    option_ids : torch.Tensor of int64, shape (B, K)
        Column of each option; 0 for missing options.
    option_mask : torch.Tensor of bool, shape (B, K)
        Which options exist.
    answers : torch.Tensor of int64, shape (B,)
        Index of the right option; -1 where it is not known.
    distributions : torch.Tensor of float32, shape (B, K), or None
        Probability of each option, if any question of the batch has a distribution; see `distributions_of`.
    """

    option_ids: torch.Tensor
    option_mask: torch.Tensor
    answers: torch.Tensor
    distributions: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on another device."""
        tensors: dict[str, Any] = {name: None if own is None else own.to(device) for name, own in vars(self).items()}
        return type(self)(**tensors)

    def __len__(self) -> int:
        return len(self.answers)


@dataclass
class QuestionBatch(OptionBatch):
    """A padded batch of questions of at most L tokens, whose options are tokens.

    Attributes
    ----------
    input_ids, attention_mask : torch.Tensor of int64, shape (B, L)
    answer_positions : torch.Tensor of int64, shape (B,)
        Index of each prompt's last token, whose logits predict the option.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    answer_positions: torch.Tensor

    @property
    def position_ids(self) -> torch.Tensor:
        """Each token's position, shape (B, L); see `token_positions`."""
        return token_positions(self.attention_mask)

    @property
    def left_padding(self) -> torch.Tensor:
        """Number of padding tokens before each prompt, shape (B,)."""
        return self.answer_positions + 1 - self.attention_mask.sum(dim=1)

    def padded_right(self) -> QuestionBatch:
        """Return the same questions with their padding on the right."""
        length = self.input_ids.shape[1]
        columns = torch.arange(length, device=self.input_ids.device)
        columns = (columns + self.left_padding[:, None]) % length
        return replace(
            self,
            input_ids=self.input_ids.gather(1, columns),
            attention_mask=self.attention_mask.gather(1, columns),
            answer_positions=self.answer_positions - self.left_padding,
        )


def token_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Count the tokens that are not padding, so that absolute positions do not depend on the padding side."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


@dataclass
class QuestionCollator:
    """Pads encoded questions to the longest of the batch.

    Parameters
    ----------
    pad_token_id : int
    padding_side : {"left", "right"}, default "left"
        With padding on the left, all answers are at the last position, so only its logits are computed.
    """

    pad_token_id: int
    padding_side: str = "left"

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is 'left' or 'right', got {self.padding_side!r}")

    def __call__(self, items: Sequence[EncodedQuestion]) -> QuestionBatch:
        """Make a batch of at least one question."""
        length = max(len(item.input_ids) for item in items)
        width = max(len(item.option_ids) for item in items)
        input_ids = torch.full((len(items), length), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros((len(items), length), dtype=torch.long)
        option_ids = torch.zeros((len(items), width), dtype=torch.long)
        option_mask = torch.zeros((len(items), width), dtype=torch.bool)
        ends = torch.tensor([len(item.input_ids) - 1 for item in items])
        for row, item in enumerate(items):
            n = len(item.input_ids)
            columns = slice(length - n, length) if self.padding_side == "left" else slice(0, n)
            input_ids[row, columns] = torch.tensor(item.input_ids)
            attention_mask[row, columns] = 1
            option_ids[row, : len(item.option_ids)] = torch.tensor(item.option_ids)
            option_mask[row, : len(item.option_ids)] = True
        return QuestionBatch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            answer_positions=torch.full_like(ends, length - 1) if self.padding_side == "left" else ends,
            option_ids=option_ids,
            option_mask=option_mask,
            answers=torch.tensor([item.answer for item in items]),
            distributions=distributions_of(items, width),
        )


class HasTarget(Protocol):
    """An encoded question with its answer, -1 for none, and perhaps a distribution in its place."""

    @property
    def answer(self) -> int:
        """Index of the right option."""

    @property
    def target(self) -> tuple[float, ...] | None:
        """Probability of each option."""


def distributions_of(items: Sequence[HasTarget], width: int) -> torch.Tensor | None:
    """Return the distributions of B questions, shape (B, width), or None where no question has one.

    The answer of a question without one counts as certain; a question without an answer has zeros.
    """
    if all(item.target is None for item in items):
        return None
    distributions = torch.zeros(len(items), width)
    for row, item in enumerate(items):
        if item.target is not None:
            distributions[row, : len(item.target)] = torch.tensor(item.target)
        elif item.answer >= 0:
            distributions[row, item.answer] = 1.0
    return distributions
