"""The regime as a card states it, with the questions it was estimated from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..hub import DatasetReference
    from .diagnosing import Diagnosis

# Enough for a gap's interval to be within 0.045 of it where there are as many new ones; a fine-tuning set may hold a
# hundred times as many.
REGIME_QUESTIONS = 1000


def regime_sample(n: int) -> list[int]:
    """Draw at most `REGIME_QUESTIONS` of n questions, the same ones for every set of this size."""
    if n <= REGIME_QUESTIONS:
        return list(range(n))
    return sorted(np.random.default_rng(0).choice(n, REGIME_QUESTIONS, replace=False).tolist())


def regime_text(diagnosis: Diagnosis, n_trained: int, new: DatasetReference) -> str:
    """Say a diagnosis in sentences.

    Parameters
    ----------
    diagnosis : hf_calib.Diagnosis
    n_trained : int
        Size of the fine-tuning set, of which the diagnosis may have seen a part.
    new : DatasetReference
        What the new questions are.
    """
    asked = diagnosis.training.n
    part = f"all {n_trained:,}" if asked == n_trained else f"{asked:,} of {n_trained:,}"
    part += ", drawn at random" if n_trained > REGIME_QUESTIONS else ""
    return (
        f"{diagnosis.regime}. {diagnosis.reasons} Estimated from the fine-tuning questions ({part}) and from "
        f"{diagnosis.new.n:,} new ones ({new})."
    )
