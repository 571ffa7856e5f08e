"""The regime in a card's words, with the questions that it was estimated from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..hub import DatasetReference
    from .diagnosing import Diagnosis

# Enough for the interval of a gap to be within ±0.045 with as many new questions; a fine-tuning set may be a hundred
# times larger.
REGIME_QUESTIONS = 1000


def regime_sample(n: int) -> list[int]:
    """Draw at most `REGIME_QUESTIONS` of n questions, always the same ones for a given n."""
    if n <= REGIME_QUESTIONS:
        return list(range(n))
    return sorted(np.random.default_rng(0).choice(n, REGIME_QUESTIONS, replace=False).tolist())


def regime_text(diagnosis: Diagnosis, n_trained: int, new: DatasetReference) -> str:
    """Return a diagnosis in sentences.

    Parameters
    ----------
    diagnosis : hf_calib.Diagnosis
    n_trained : int
        Size of the fine-tuning set, of which the diagnosis may have used a sample.
    new : DatasetReference
        Reference to the new questions, with another use of them as its `origin`.
    """
    asked = diagnosis.training.n
    part = f"all {n_trained:,}" if asked == n_trained else f"{asked:,} of {n_trained:,}"
    part += ", drawn at random" if n_trained > REGIME_QUESTIONS else ""
    others = f"others ({new}; {new.origin})" if new.origin else f"new ones ({new})"
    return (
        f"{diagnosis.regime}. {diagnosis.reasons} Estimated from the fine-tuning questions ({part}) and from "
        f"{diagnosis.new.n:,} {others}."
    )
