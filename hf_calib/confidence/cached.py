"""Forwards that compute what sequences share once, through the key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .forward import ForwardArguments, same_to_rounding

# Logits of the whole vocabulary are held for this many numbers at most at once, 256 MiB of float32.
LOGITS_BUDGET = 2**26


@dataclass(frozen=True)
class Computed:
    """Prompts that a model has read.

    Parameters
    ----------
    logits : torch.Tensor of float32, shape (B, V)
        After each prompt's last token.
    cache : transformers.DynamicCache or None
        Of all prompts, padding included.
    mask : torch.Tensor of int64, shape (B, L)
        Which positions of the cache are tokens.
    """

    logits: torch.Tensor
    cache: Any
    mask: torch.Tensor


class CachedForward:
    """Runs a causal language model on prompts that share a prefix, and on continuations of one prompt.

    A model whose cache is not one of keys and values at every position (state spaces, sliding windows, virtual
    tokens of an adapter) computes everything anew; the results are the same. `check` finds out where a model's results
    would not be.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model in evaluation mode.
    pad_token_id : int

    Attributes
    ----------
    shares : bool
        Whether prefixes are computed once, and the cache is kept.
    pads : bool
        Whether prompts of different lengths may be read together.
    """

    def __init__(self, model: nn.Module, pad_token_id: int) -> None:
        self.model = model
        self.pad_token_id = pad_token_id
        self.arguments = ForwardArguments.of(model)
        self.shares = self.arguments.use_cache and not self.arguments.virtual_tokens and _keeps_everything(model)
        self.pads = True
        self._checked = False
        self._prefix: tuple[tuple[int, ...], Any] | None = None

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Find out, once, whether what the model says of a prompt depends on padding or on a shared prefix.

        Recurrent models read padding as text, and some models number their positions from the padding on.

        Parameters
        ----------
        prompts : sequence of sequence of int
            Those that are about to be read.
        """
        longest = max(prompts, key=len)
        half = longest[: len(longest) // 2]
        if self._checked or len(half) < 2:
            return
        self._checked = True
        alone = self.read([half]).logits[0]
        self.pads = same_to_rounding(self.read([half, longest]).logits[0], alone, self.model)
        if self.shares:
            try:
                shared = self.read([half, longest] if self.pads else [half], prefix=len(half) // 2).logits[0]
            except Exception:  # a cache of a kind of its own; without one, too, every prompt can be read
                self.shares = False
            else:
                self.shares = same_to_rounding(shared, alone, self.model)
            self._prefix = None

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.model.parameters()).device

    def read(self, prompts: Sequence[Sequence[int]], *, prefix: int = 0, keep: bool = False) -> Computed:
        """Read prompts.

        Parameters
        ----------
        prompts : sequence of sequence of int
            Token ids; none empty.
        prefix : int, default 0
            How many first tokens all of them share, less than the shortest has. They are computed once, also for the
            next call with the same ones.
        keep : bool, default False
            Return the cache.
        """
        if not self.shares:
            prefix = 0
        rows = [list(prompt[prefix:]) for prompt in prompts]
        input_ids, mask = self._padded(rows, left=not self.arguments.virtual_tokens)
        past = None
        if prefix:
            past = _repeated(self._prefix_cache(tuple(prompts[0][:prefix])), len(prompts))
            mask = torch.cat([mask.new_ones(len(prompts), prefix), mask], dim=1)
        if self.arguments.virtual_tokens:
            ends = mask.sum(dim=1) - input_ids.shape[1] - 1  # counted from the end: virtual tokens come at the front
            logits = self._forward(input_ids, mask, None, keep=False, positions_kept=None).logits
            return Computed(logits[torch.arange(len(prompts)), ends].float(), None, mask)
        output = self._forward(input_ids, mask, past, keep=keep and self.shares, positions_kept=1)
        cache = output.past_key_values if keep and self.shares else None
        return Computed(output.logits[:, -1].float(), cache, mask)

    def continue_from(
        self, computed: Computed, rows: Sequence[int], tokens: Sequence[Sequence[int]], *, keep: bool = False
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Read continuations of prompts that were read, padded on the right.

        Parameters
        ----------
        computed : Computed
            With its cache.
        rows : sequence of int, of length R
            Which prompt each continuation follows.
        tokens : sequence of sequence of int
            The continuations.
        keep : bool, default False
            Return the new cache too.

        Returns
        -------
        logits : torch.Tensor, shape (R, T, V)
            In the model's number format.
        cache : transformers.DynamicCache or None
        mask : torch.Tensor of int64, shape (R, L + T)
        """
        chosen = torch.tensor(list(rows), device=self.device)
        input_ids, mask = self._padded([list(row) for row in tokens], left=False)
        mask = torch.cat([computed.mask[chosen], mask], dim=1)
        output = self._forward(input_ids, mask, _selected(computed.cache, chosen), keep=keep, positions_kept=None)
        return output.logits, output.past_key_values if keep else None, mask

    def _prefix_cache(self, prefix: tuple[int, ...]) -> Any:
        if self._prefix is None or self._prefix[0] != prefix:
            self._prefix = None  # let go of the old one first
            input_ids, mask = self._padded([list(prefix)], left=True)
            self._prefix = (
                prefix, self._forward(input_ids, mask, None, keep=True, positions_kept=1).past_key_values
            )  # fmt: skip
        return self._prefix[1]

    def _padded(self, rows: list[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(map(len, rows))
        padding = [[self.pad_token_id] * (length - len(row)) for row in rows]
        ids = [pad + row if left else row + pad for pad, row in zip(padding, rows, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])[:, None]
        columns = torch.arange(length)
        mask = columns >= length - lengths if left else columns < lengths
        return torch.tensor(ids, device=self.device), mask.long().to(self.device)

    def _forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor, past: Any, *, keep: bool, positions_kept: int | None
    ) -> Any:
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask}
        if self.arguments.position_ids and not self.arguments.virtual_tokens:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        if self.arguments.use_cache:
            inputs["use_cache"] = keep or past is not None
        if past is not None:
            inputs["past_key_values"] = past
        if positions_kept is not None and self.arguments.logits_to_keep:
            inputs["logits_to_keep"] = positions_kept
        return self.model(**inputs)


def _keeps_everything(model: nn.Module) -> bool:
    """Whether the model's cache holds the keys and values of every position."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    config = getattr(model, "config", None)
    if config is None or getattr(model, "_is_stateful", False):
        return False
    try:
        layers = DynamicCache(config=config).layers
    except Exception:  # a configuration of a kind of its own says nothing of how it caches
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _repeated(cache: Any, n: int) -> Any:
    from transformers import DynamicCache

    return DynamicCache(
        [(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1)) for layer in cache.layers]
    )


def _selected(cache: Any, rows: torch.Tensor) -> Any:
    from transformers import DynamicCache

    return DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in cache.layers])
