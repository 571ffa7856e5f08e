"""Batching of requests, so that shared beginnings are computed once and there is little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..tasks.encoding import common_prefix

# A shared beginning shorter than this is not worth a separate forward.
MIN_PREFIX = 32

# Grouping by shared beginnings makes smaller batches, so it has to save at least this share of the cost.
_SPARED = 0.2

# The fixed cost of a forward, in tokens: an accelerator reads the weights in about the time of computing this many.
_FORWARD = 256


@dataclass(frozen=True)
class BatchPlan:
    """Batches of requests, and how many first tokens the requests of a batch share.

    Parameters
    ----------
    batches : tuple of tuple of int
        Positions of the requests.
    prefixes : tuple of int
        For each request, the number of tokens that are computed once for its group; less than its prompt.
    """

    batches: tuple[tuple[int, ...], ...]
    prefixes: tuple[int, ...]


def plan_batches(
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    *,
    lengths: Sequence[int] | None = None,
    share_prefixes: bool = True,
    padded: bool = True,
) -> BatchPlan:
    """Plan the batches of token sequences.

    Parameters
    ----------
    prompts : sequence of sequences of int
    batch_size : int
    lengths : sequence of int, optional
        Number of tokens of each prompt's row; by default those of the prompt.
    share_prefixes : bool, default True
        Group prompts with the same beginning if that costs less, as with few-shot prompts.
    padded : bool, default True
        Allow prompts of different lengths in a batch.
    """
    lengths = [len(prompt) for prompt in prompts] if lengths is None else lengths

    def batches_of(positions: Sequence[int]) -> list[tuple[int, ...]]:
        batches = by_length([lengths[i] for i in positions], batch_size, padded=padded)
        return [tuple(positions[i] for i in batch) for batch in batches]

    def cost(batches: Sequence[tuple[int, ...]], prefix: int = 0) -> int:
        return sum(len(batch) * (lengths[batch[0]] - prefix) + _FORWARD for batch in batches)

    plain = batches_of(range(len(prompts)))
    prefixes = [0] * len(prompts)
    if not share_prefixes:
        return BatchPlan(tuple(plain), tuple(prefixes))
    grouped: list[tuple[int, ...]] = []
    total = 0
    for prefix, group in _groups(prompts):
        batches = batches_of(group)
        own = prefix + _FORWARD + cost(batches, prefix)
        # Among all others the group would fill whole batches.
        if own < sum(lengths[i] for i in group) + _FORWARD * len(group) / batch_size:
            grouped += batches
            total += own
            for position in group:
                prefixes[position] = prefix
    rest = batches_of([position for position, prefix in enumerate(prefixes) if not prefix])
    if total + cost(rest) > (1 - _SPARED) * cost(plain):
        return BatchPlan(tuple(plain), (0,) * len(prompts))
    return BatchPlan((*grouped, *rest), tuple(prefixes))


def by_length(lengths: Sequence[int], batch_size: int, *, padded: bool = True) -> Iterator[list[int]]:
    """Yield batches of the positions, the longest first, for little padding and early failure of too large batches.

    Without padding, all prompts in a batch have the same length.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        batch = order[start : start + batch_size]
        if not padded:
            batch = [i for i in batch if lengths[i] == lengths[batch[0]]]
        yield batch
        start += len(batch)


def _groups(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Return groups of at least two positions, with the length of their shared prefix."""
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    groups: list[tuple[int, list[int]]] = []
    for position in order:
        prompt = prompts[position]
        if groups:
            shared, members = groups[-1]
            # The last token is never shared, since its logits are needed.
            length = min(common_prefix(prompts[members[0]], prompt, shared), len(prompt) - 1)
            if length >= MIN_PREFIX and 2 * length >= len(prompt):
                groups[-1] = (length, members)
                members.append(position)
                continue
        groups.append((len(prompt) - 1, [position]))
    return [(shared, members) for shared, members in groups if len(members) > 1]
