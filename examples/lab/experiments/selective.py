"""What calibrated confidence is for: answering only where it suffices, and choosing among sampled answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_calib.measures import confidence_at_k, coverage_at_accuracy

if TYPE_CHECKING:
    from hf_calib.confidence import Predictions

# The share of wrong answers that is tolerated, and how many answers are sampled to each question.
TOLERATED_ERROR = 0.3
SAMPLES = 5

MEASURES = {
    "answered": "answered",
    "error": "their error",
    "answerable": "answerable",
    "one_sample": "one sample",
    "majority": "majority",
    "most_confident": "most confident",
    "top": "most probable",
}
"""What `selective_measures` returns, and the columns' titles."""

SELECTIVE_KEYS = ("seed", "reported", "world", "method", "domain", "n", *MEASURES)
"""The keys of a row of ``selective.json``, in order; those of the main experiment's rows mean the same here."""

FILES: dict[str, Any] = {"file": "selective.json", "runs": "selective_runs", "row_keys": SELECTIVE_KEYS}
"""How `experiments.results.Results` keeps these rows."""


def legend(error: float = TOLERATED_ERROR, samples: int = SAMPLES) -> str:
    """Say what the columns mean."""
    return (
        f"Answered: share of the questions in which the confidence is at least {1 - error:g}, as someone who trusts "
        f"it and tolerates {error:.0%} wrong answers would choose; their error: share of these answers that are "
        "wrong. Answerable: the largest share with at most that error for any threshold, which only the right answers "
        "tell. The last four are accuracies: of one answer sampled from the options' probabilities, of the most "
        f"frequent and of the most confident of {samples} sampled ones (Confidence@{samples}), and of the most "
        "probable option."
    )


def selective_measures(
    predictions: Predictions, *, error: float = TOLERATED_ERROR, samples: int = SAMPLES, seed: int = 0
) -> dict[str, float | None]:
    """Return how useful a model's confidences are for selective answering and for choosing among samples.

    Parameters
    ----------
    predictions : Predictions
        Of n questions with answers.
    error : float, default 0.3
        The share of wrong answers that is tolerated.
    samples : int, default 5
        Number of answers that are sampled to each question.
    seed : int, default 0
        Of the samples, drawn from the options' probabilities.

    Returns
    -------
    dict of str to (float or None)
        By key of `MEASURES`: shares in [0, 1]. The error is None where no question is answered; the accuracies of
        samples are where the confidence is not the probability that an answer is sampled with.
    """
    confidences, correct = predictions.confidences, predictions.correct
    answered = confidences >= 1 - error
    of_samples: dict[str, float | None] = dict.fromkeys(("one_sample", "majority", "most_confident"))
    if predictions.chosen is None and predictions.most_confident_correct is None:
        drawn = sampled_options(predictions.probabilities, samples, seed)
        right = drawn == predictions.answers[:, None]
        chances = np.take_along_axis(predictions.probabilities, drawn, axis=1)
        # How often each sample's answer was drawn.
        votes = (drawn[:, :, None] == drawn[:, None, :]).mean(axis=2)
        of_samples["one_sample"] = float(right[:, 0].mean())
        of_samples["majority"] = confidence_at_k(votes, right)
        of_samples["most_confident"] = confidence_at_k(chances, right)
    return {
        "answered": float(answered.mean()),
        "error": float(1 - correct[answered].mean()) if answered.any() else None,
        "answerable": coverage_at_accuracy(confidences, correct, 1 - error),
        **of_samples,
        "top": float(correct.mean()),
    }


def sampled_options(probabilities: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Draw k options of each question, independently; shape (n, k).

    Parameters
    ----------
    probabilities : ndarray of shape (n, K)
        Each row a distribution.
    k, seed : int
    """
    chances = np.random.default_rng([seed, 17]).random((len(probabilities), k))
    reached = np.cumsum(probabilities, axis=1)[:, None, :] / probabilities.sum(axis=1)[:, None, None]
    return (chances[:, :, None] >= reached[:, :, :-1]).sum(axis=2)


def selective_rows(common: Sequence[dict[str, Any]], answers: dict[Any, Predictions]) -> list[dict[str, Any]]:
    """Return the rows of ``selective.json`` that belong to a method's rows of the main experiment.

    Parameters
    ----------
    common : sequence of dict
        The main experiment's rows, one for each domain.
    answers : dict of str to Predictions
        By domain.
    """
    return [
        {name: row[name] for name in SELECTIVE_KEYS[:6]} | selective_measures(answers[row["domain"]], seed=row["seed"])
        for row in common
    ]
