"""Forwards that compute shared prefixes once, through the key-value cache, in step with other processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import nn

from ..tasks.collator import QuestionCollator
from .asking import out_of_memory
from .encoded import EncodedTexts
from .forward import (
    ForwardArguments,
    evaluating,
    logits_at,
    logits_of_tokens,
    same_to_rounding,
    text_logits,
    unwrapped,
)
from .packing import PackedRows, TextCollator, packed_mask

# The largest number of logits that are held at once, 256 MiB of float32.
LOGITS_BUDGET = 2**26

# A prompt with the texts that may follow it, as token ids.
Contents: TypeAlias = tuple[Sequence[int], Sequence[tuple[int, ...]]]

# A prompt with fewer tokens is too short to check whether padding and caches are harmless.
_SHORTEST_CHECKED = 4


@dataclass(frozen=True)
class Computed:
    """Prompts that a model has read.

    Parameters
    ----------
    logits : torch.Tensor of float32, shape (B, V)
        After each prompt's last token.
    cache : transformers.DynamicCache or None
        The cache of all prompts, including padding.
    mask : torch.Tensor of int64, shape (B, L)
        Which positions of the cache are tokens.
    states : torch.Tensor of float32, shape (B, d), or None
        The hidden states that the logits are computed from.
    """

    logits: torch.Tensor
    cache: Any
    mask: torch.Tensor
    states: torch.Tensor | None = None


class CachedForward:
    """Runs a causal language model on prompts that share a prefix, and on continuations of one prompt.

    A model whose cache is not one of keys and values at every position (state spaces, texts beyond a sliding window,
    virtual tokens of an adapter) computes everything anew; the results are the same. `check` finds out where a model's
    results would not be.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model in evaluation mode, wrapped or not.
    pad_token_id : int
    padding_side : {"left", "right"}, default "left"
        Side of the prompts' padding; always the right one with virtual tokens.
    device : torch.device or str, optional
        Device of the inputs; by default that of the model's weights.
    in_step : bool, default False
        Run equally many forwards on all processes of `torch.distributed`, as sharded models require: a process without
        work joins the others' forwards until `wait` has ended everywhere.

    Attributes
    ----------
    shares : bool or None
        Whether prefixes are computed once and the cache is kept; None if this is not known yet.
    pads : bool or None
        Whether prompts of different lengths may be read together; None if this is not known yet.
    packs : bool or None
        Whether several texts may follow one prompt in a row; None if this is not known yet.
    """

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        padding_side: str = "left",
        *,
        device: torch.device | str | None = None,
        in_step: bool = False,
    ) -> None:
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is 'left' or 'right', got {padding_side!r}")
        self.model = model
        self.pad_token_id = pad_token_id
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.in_step = in_step
        self.arguments = ForwardArguments.of(model)
        self._left = padding_side == "left" and not self.arguments.virtual_tokens
        self._reach = _reach(model)
        able = self._reach > 0 and not self.arguments.virtual_tokens
        self.shares: bool | None = None if able and self.arguments.use_cache else False
        self.pads: bool | None = None
        self.packs: bool | None = None if able and self.arguments.position_ids and not in_step else False
        self._packed: dict[bool, int] = {}  # with and without a prefix, the longest row that was checked
        self._prefix: tuple[tuple[int, ...], Any] | None = None

    def limit(self, longest: int) -> None:
        """Share nothing if the longest prompt, with what follows it, has more tokens than a sliding window."""
        if longest > self._reach:
            self.shares = self.packs = False

    def check(self, prompt: Sequence[int], *, pads: bool, shares: bool) -> bool:
        """Find out what is not known yet: whether what the model says depends on padding, or on a shared prefix.

        Recurrent models read padding as text, and some models count positions from the padding on.

        Parameters
        ----------
        prompt : sequence of int
            A long one. If memory does not suffice for two of it, its first half is used.
        pads, shares : bool
            Which of the two matters.

        Returns
        -------
        bool
            Whether something was found out.
        """
        pads, shares = pads and self.pads is None, shares and self.shares is None
        if not pads and not shares:
            return False
        while len(prompt) >= _SHORTEST_CHECKED:
            try:
                self._check(prompt, pads, shares)
                return True
            except Exception as error:
                if not out_of_memory(error) or len(prompt) < 2 * _SHORTEST_CHECKED:
                    raise
            prompt = prompt[: len(prompt) // 2]
        return False

    def agree(self, num_processes: int) -> None:
        """Take what `check` found on the most cautious of the processes that share the work."""
        if num_processes > 1:
            from accelerate.utils import gather_object

            found = gather_object([(self.pads, self.shares, self.packs)])
            self.pads, self.shares, self.packs = (
                False if False in own else own[0] for own in zip(*found, strict=True)
            )

    def _check(self, prompt: Sequence[int], pads: bool, shares: bool) -> None:
        half = prompt[: len(prompt) // 2]
        alone = self.read([half]).logits[0]
        if pads:
            self.pads = same_to_rounding(self.read([half, prompt]).logits[0], alone, self.model)
        if shares:
            try:
                shared = self.read([half, prompt] if self.pads else [half], prefix=len(half) // 2).logits[0]
            except Exception as error:  # an unknown kind of cache; every prompt can be read without one
                if out_of_memory(error):
                    raise
                self.shares = False
            else:
                self.shares = same_to_rounding(shared, alone, self.model)
            self._prefix = None

    def read(
        self, prompts: Sequence[Sequence[int]], *, prefix: int = 0, keep: bool = False, states: bool = False
    ) -> Computed:
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
        states : bool, default False
            Return the hidden states.
        """
        if self.shares is False:
            prefix, keep = 0, False
        input_ids, mask = self._padded([list(prompt[prefix:]) for prompt in prompts], left=self._left)
        ends = torch.full_like(mask[:, 0], mask.shape[1] - 1) if self._left else mask.sum(dim=1) - 1
        past = None
        if prefix:
            past = _repeated(self._prefix_cache(tuple(prompts[0][:prefix])), len(prompts))
            mask = torch.cat([mask.new_ones(len(prompts), prefix), mask], dim=1)
        inputs = self._inputs(input_ids, mask, past=past, keep=keep)
        logits, hidden, output = logits_at(self.model, self.arguments, inputs, ends, states=states)
        return Computed(logits, output.past_key_values if keep else None, mask, hidden)

    @torch.no_grad()
    def check_packing(self, prompt: Sequence[int], texts: Sequence[tuple[int, ...]], prefix: int = 0) -> bool:
        """Find out, unless it is known, whether the model says the same of a text after others in a row.

        Padding before a row needs no check of its own, since the other texts are to a text what padding is.

        Parameters
        ----------
        prompt, texts
            Of the longest row.
        prefix : int, default 0
            As of `read`.

        Returns
        -------
        bool
            Whether something was found out.
        """
        length = len(prompt) + sum(map(len, texts))
        if self.packs is False or length <= self._packed.get(prefix > 0, 0):
            return False
        self._packed[prefix > 0] = length
        longest = max(texts, key=len)
        alone = self.read([(*prompt, *longest)], prefix=prefix).logits[0]
        # Another text as long, and one more token at the end, so that what the texts end with is read too.
        other = (*longest[:-1], int(longest[-1] == 0), 0)
        try:
            found = self.read_packed([(prompt, (other, *texts, (*longest, 0)))], prefix)[-1]
        except Exception:  # the model does not support such a mask, or memory does not suffice
            self.packs = False
        else:
            self.packs = same_to_rounding(found, alone, self.model)
        return True

    def read_packed(self, contents: Sequence[Contents], prefix: int = 0) -> torch.Tensor:
        """Read prompts with all their texts, one row per prompt.

        Parameters
        ----------
        contents : sequence of (sequence of int, sequence of tuple of int)
            For each row its prompt and the texts that may follow it.
        prefix : int, default 0
            As of `read`.

        Returns
        -------
        torch.Tensor of float32, shape (N, V)
            The logits that predict each token of each text.
        """
        if self.shares is False:
            prefix = 0
        rows = [(prompt[prefix:], texts) for prompt, texts in contents]
        packed = PackedRows.of(rows, self.pad_token_id, device=self.device)
        seen, past = packed_mask(packed.texts), None
        if prefix:
            past = _repeated(self._prefix_cache(tuple(contents[0][0][:prefix])), len(rows))
            seen = torch.cat([seen.new_ones(*seen.shape[:3], prefix), seen], dim=-1)
        inputs = self.arguments.packed_inputs(
            self.model, packed.input_ids, seen, packed.position_ids + prefix, past=past
        )
        return logits_of_tokens(self.model, self.arguments, inputs, packed.rows, packed.columns)

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
        output = self.model(**self._inputs(input_ids, mask, past=_selected(computed.cache, chosen), keep=keep))
        return output.logits, output.past_key_values if keep else None, mask

    def read_whole(self, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Read prompts with their continuations, where there is no cache to continue from.

        Parameters
        ----------
        prompts, tokens : sequence of sequence of int, of length R
            The continuations are not empty.

        Yields
        ------
        torch.Tensor of float32, shape (T, V)
            The logits after each token of a continuation.
        """
        together = self.pads is True and self._left
        for batch in [range(len(prompts))] if together else [[row] for row in range(len(prompts))]:
            input_ids, mask = self._padded([[*prompts[row], *tokens[row]] for row in batch], left=True)
            inputs = self._inputs(input_ids, mask)
            if self.arguments.logits_to_keep:
                inputs["logits_to_keep"] = max(len(tokens[row]) for row in batch)
            logits = self.model(**inputs).logits
            for place, row in enumerate(batch):
                yield logits[place, -len(tokens[row]) :].float()

    def wait(self) -> None:
        """Run forwards as long as another process does, if all must run equally many."""
        token = torch.full((1, 1), self.pad_token_id, device=self.device)
        while self.in_step and bool(self._running(here=False)):
            self.model(**self.arguments.inputs(token, torch.ones_like(token)))

    def _inputs(
        self, input_ids: torch.Tensor, mask: torch.Tensor, *, past: Any = None, keep: bool = False
    ) -> dict[str, Any]:
        """Return a forward's keywords, once the other processes know of it."""
        from transformers import DynamicCache

        if self.in_step:
            self._running(here=True)
        # The model's own kind of cache drops what is outside a sliding window.
        past = DynamicCache() if keep and past is None else past
        return self.arguments.inputs(input_ids, mask, past=past, keep=keep)

    def _running(self, *, here: bool) -> torch.Tensor:
        """Tell all processes whether this one is about to run a forward, and return how many are."""
        running = torch.tensor(int(here), device=self.device)
        torch.distributed.all_reduce(running)
        return running

    def _prefix_cache(self, prefix: tuple[int, ...]) -> Any:
        if self._prefix is None or self._prefix[0] != prefix:
            self._prefix = None  # let go of the old one first
            input_ids, mask = self._padded([list(prefix)], left=True)
            inputs, end = self._inputs(input_ids, mask, keep=True), torch.tensor([len(prefix) - 1], device=self.device)
            self._prefix = prefix, logits_at(self.model, self.arguments, inputs, end)[2].past_key_values
        return self._prefix[1]

    def _padded(self, rows: list[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(map(len, rows))
        padding = [[self.pad_token_id] * (length - len(row)) for row in rows]
        ids = [pad + row if left else row + pad for pad, row in zip(padding, rows, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])[:, None]
        columns = torch.arange(length)
        mask = columns >= length - lengths if left else columns < lengths
        return torch.tensor(ids, device=self.device), mask.long().to(self.device)


def exact_collator(
    models: Sequence[nn.Module],
    items: Sequence[Any],
    collator: QuestionCollator | TextCollator,
    device: torch.device | str,
) -> Any:
    """Return the cheapest collator whose layout does not change the models' outputs, for batches of any lengths.

    If padding changes a model's output, it is put on the right, where a causal model reads it after the answer.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        The trained model, followed by any others that read the same batches. For letters, only the first is tried.
    items : sequence of EncodedQuestion or of EncodedTexts
        The questions; the longest one is tried.
    collator : QuestionCollator or TextCollator
    device : torch.device or str
        The models' device.
    """
    if isinstance(collator, QuestionCollator):
        forward = CachedForward(models[0], collator.pad_token_id, collator.padding_side, device=device)
        with torch.no_grad(), evaluating(models[0]):
            forward.check(max((item.input_ids for item in items), key=len), pads=True, shares=False)
        return replace(collator, padding_side="right") if forward.pads is False else collator
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
        found, expected = (text_logits(model, collator(items).to(device)) for collator in (one, other))
    return same_to_rounding(found, expected, model)


def _reach(model: nn.Module) -> float:
    """Return up to how many tokens the keys and values of all positions are the model's whole state; 0 if never."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    own = unwrapped(model)
    config = getattr(own, "config", None)
    if config is None or getattr(own, "_is_stateful", False):
        return 0
    try:
        layers = {type(layer) for layer in DynamicCache(config=config).layers}
    except Exception:  # a configuration of a kind of its own says nothing of how it caches
        return 0
    if not layers or layers - {DynamicLayer, DynamicSlidingWindowLayer}:
        return 0
    return (_window(own) or 0) if DynamicSlidingWindowLayer in layers else math.inf


def _window(model: nn.Module) -> int | None:
    """Return how many tokens back the model's attention reaches, None for all of them."""
    config: Any = getattr(unwrapped(model), "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) else None


def _repeated(cache: Any, n: int) -> Any:
    from transformers import DynamicCache

    return DynamicCache(
        [(layer.keys.expand(n, -1, -1, -1), layer.values.expand(n, -1, -1, -1)) for layer in cache.layers]
    )


def _selected(cache: Any, rows: torch.Tensor) -> Any:
    from transformers import DynamicCache

    return DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in cache.layers])
