"""The positions of `calibration_dataset="pairs"`: tokens of the preference pairs themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tasks.encoding import EncodedQuestion
from .trl_compatibility import tokenized_pairs

PAIRS = "pairs"
"""The `calibration_dataset` that stands for the trainer's own pairs."""

MOST = 10_000
"""The largest number of pairs that positions are drawn in."""

# The anchor compares all tokens' probabilities, and reads no options.
_ANY_OPTIONS = (0, 1)


def is_pairs(source: Any) -> bool:
    """Return whether a `calibration_dataset` stands for the trainer's own pairs."""
    return isinstance(source, str) and source == PAIRS


def positions_in_pairs(trainer: Any, max_length: int | None, reference: Any = None) -> list[EncodedQuestion]:
    """Draw one position in the chosen reply of each preference pair for the anchor, the same on every process.

    The reply's first token is never the one that is predicted there: it often decides what the pairs prefer, which the
    anchor would keep the model from learning (`examples/lab/README.md`: sweep `chat`).

    Parameters
    ----------
    trainer : CalibrationMixin
        Before training. At most `MOST` of its pairs are used, drawn at random.
    max_length : int or None
        The largest number of tokens up to and including the one that is predicted.
    reference : optional
        Its `calibration_reference_model`, which must not be given.

    Returns
    -------
    list of EncodedQuestion
        The tokens before each position, with no answer; `row` is the pair's row.

    Raises
    ------
    ValueError
        If the trainer has no pairs of text in memory, the anchor has no weight, an argument has no effect, or no reply
        has two tokens.
    """
    settings, given = trainer.calibration_arguments, f"calibration_dataset={PAIRS!r}"
    if settings.anchor_weight == 0:
        raise ValueError(
            f"{given}: the pairs have no answers to questions, so only the anchor can use them, but anchor_weight is "
            "0; raise it, or pass questions with answers"
        )
    if reference is not None:
        raise ValueError(
            f"{given}: the pairs are anchored to the trainer's own reference; leave calibration_reference_model out, "
            "or pass questions"
        )
    for name in ("brier_weight", "em_weight", "dece_weight"):
        if getattr(settings, name) > 0:
            raise ValueError(f"{name}: has no effect with {given}, which has no answers; set it to 0")
    pairs = tokenized_pairs(trainer)
    if pairs is None:
        raise ValueError(
            f"{given}: {type(trainer).__name__} has no preference pairs of text that could be read before training; "
            'use a DPO trainer with a dataset that is not streamed, or pass questions or "self"'
        )
    rng = np.random.default_rng(trainer.args.seed)
    items = []
    rows = np.sort(rng.permutation(len(pairs))[:MOST])
    for row, pair in zip(rows.tolist(), pairs.select(rows), strict=True):
        prompt, reply = pair["prompt"], pair["chosen"]
        # The last token that may be predicted is the reply's last, or the last within the limit.
        stop = len(reply) if max_length is None else min(len(reply), max_length - len(prompt))
        if stop > 1:
            known = (*prompt, *reply[: rng.integers(1, stop)])
            items.append(EncodedQuestion(known, _ANY_OPTIONS, -1, row))
    if not items:
        raise ValueError(
            f"{given}: no chosen reply has a second token within max_length; raise max_length, or pass questions or "
            '"self"'
        )
    return items
