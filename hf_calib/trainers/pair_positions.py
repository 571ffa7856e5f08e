"""The tokens that `calibration_dataset="pairs"` anchors: those of the preference pairs' own chosen replies."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..tasks.encoding import EncodedQuestion
from .trl_compatibility import tokenized_pairs

logger = logging.getLogger(__name__)

PAIRS = "pairs"
"""The `calibration_dataset` that stands for the trainer's own pairs."""

MOST = 10_000
"""The largest number of pairs that are used."""

# The anchor compares the probabilities of all tokens, so it ignores the options.
_ANY_OPTIONS = (0, 1)


def is_pairs(source: Any) -> bool:
    """Return whether a `calibration_dataset` stands for the trainer's own pairs."""
    return isinstance(source, str) and source == PAIRS


def no_pairs(trainer: Any) -> ValueError:
    """Return the error for a trainer that has no preference pairs to anchor."""
    return ValueError(
        f"calibration_dataset={PAIRS!r}: {type(trainer).__name__} has no text preference pairs in memory; use a DPO "
        'trainer with a text dataset that is not streamed, or pass questions or "self"'
    )


def positions_in_pairs(trainer: Any, max_length: int | None, reference: Any = None) -> list[EncodedQuestion]:
    """Draw the token of each chosen reply whose prediction is anchored, the same on every process.

    The first token of a reply is never drawn. It often decides which reply is preferred, so anchoring it would keep
    the model from learning the preference (`examples/lab/README.md`: sweep `chat`).

    Parameters
    ----------
    trainer : CalibrationMixin
        Before training. At most `MOST` of its pairs are used, chosen at random.
    max_length : int or None
        The largest number of tokens up to and including the drawn one.
    reference : optional
        Its `calibration_reference_model`, which must not be given.

    Returns
    -------
    list of EncodedQuestion
        The tokens before each drawn one, without an answer; `row` is the pair's row. Pairs whose chosen reply has no
        second token within `max_length` are left out, and the log says how many.

    Raises
    ------
    ValueError
        If the trainer has no text pairs in memory, the anchor has no weight, an argument has no effect, or no chosen
        reply has a second token within `max_length`.
    """
    settings, given = trainer.calibration_arguments, f"calibration_dataset={PAIRS!r}"
    if settings.anchor_weight == 0:
        raise ValueError(
            f"{given}: only the anchor can use the pairs, since they are not questions with answers, but "
            "anchor_weight is 0; raise it, or pass questions with answers"
        )
    if reference is not None:
        raise ValueError(
            f"calibration_reference_model: has no effect with {given}, which uses the trainer's own reference; leave "
            "it out, or pass questions as calibration_dataset"
        )
    for name in ("brier_weight", "em_weight", "dece_weight"):
        if getattr(settings, name) > 0:
            raise ValueError(f"{name}: has no effect with {given}, since pairs are not questions; set it to 0")
    pairs = tokenized_pairs(trainer)
    if pairs is None:
        raise no_pairs(trainer)
    rng = np.random.default_rng(trainer.args.seed)
    items = []
    rows = np.sort(rng.permutation(len(pairs))[:MOST])
    for row, pair in zip(rows.tolist(), pairs.select(rows), strict=True):
        prompt, reply = pair["prompt"], pair["chosen"]
        # The last token that may be drawn is the reply's last, or the last within the limit.
        stop = len(reply) if max_length is None else min(len(reply), max_length - len(prompt))
        if stop > 1:
            known = (*prompt, *reply[: rng.integers(1, stop)])
            items.append(EncodedQuestion(known, _ANY_OPTIONS, -1, row))
    if not items:
        raise ValueError(
            f"{given}: no chosen reply has a second token within max_length={max_length}; raise max_length and "
            'calibration_max_length, or pass questions or "self"'
        )
    if len(items) < len(rows) and trainer.accelerator.is_main_process:
        logger.warning(
            "%s: %d of %d chosen replies have no second token within max_length=%s; the anchor leaves these pairs out",
            given, len(rows) - len(items), len(rows), max_length,
        )  # fmt: skip
    return items
