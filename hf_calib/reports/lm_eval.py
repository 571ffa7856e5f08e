"""Functions that lm-evaluation-harness calls from tasks written by `hf_calib.tasks.write_lm_eval_task`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..measures import brier_score, expected_calibration_error, negative_log_likelihood

Results = Sequence[tuple[float, bool]]


def process_results(doc: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Return the metrics' input for one question, from its options' log-likelihoods in order.

    Returns
    -------
    dict
        acc, and for `ece`, `brier` and `nll` the options' distribution with the right option's index.
    """
    scores = np.array([result[0] for result in results], dtype=np.float64)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    answer = int(doc["answer"])
    item = (p.tolist(), answer)
    return {"acc": float(p.argmax() == answer), "ece": item, "brier": item, "nll": item}


def ece(items: Sequence[tuple[list[float], int]]) -> float:
    """Aggregate to the expected calibration error over ten bins of equal width."""
    confidences = [max(p) for p, _ in items]
    return expected_calibration_error(confidences, np.array([int(np.argmax(p)) == answer for p, answer in items]))


def brier(items: Sequence[tuple[list[float], int]]) -> float:
    """Aggregate to the Brier score over all options."""
    return brier_score(*_arrays(items))


def nll(items: Sequence[tuple[list[float], int]]) -> float:
    """Aggregate to the mean negative log-likelihood of the right option."""
    return negative_log_likelihood(*_arrays(items))


def _arrays(items: Sequence[tuple[list[float], int]]) -> tuple[np.ndarray, np.ndarray]:
    width = max(len(p) for p, _ in items)
    probabilities = np.array([[*p, *[0.0] * (width - len(p))] for p, _ in items])
    return probabilities, np.array([answer for _, answer in items])
