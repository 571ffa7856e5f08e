"""Brier score of all options, as an `evaluate` metric."""

import evaluate
import numpy as np

# `evaluate` fetches only the files that are imported here, so this includes what those files import.
# ruff: noqa: F401
from .binning import BinStatistics
from .distributions import kl_terms, squared_distance, variation_terms
from .estimates import Estimator, Settings
from .inputs import PROBABILITIES, CheckedInputs
from .intervals import family_interval
from .sampling import influence_error
from .scores import brier_decomposition, brier_score, brier_terms, weighted_mean
from .validation import check_distributions, check_labels, check_probabilities, check_weights, top_prediction

_DESCRIPTION = """
Brier score: the mean squared distance between the predicted distribution and the right answer, summed over all
options, Σ_k (p_k - 1[k is right])². It rewards both accuracy and calibration. Optionally, the Brier score of the
confidence is decomposed into reliability (calibration), resolution and uncertainty.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float): the probabilities of all options for each sample, which sum to one. If
        questions have different numbers of options, pad the shorter rows with zeros on the right.
    references (list of int): the index of the right option of each sample.
    decomposition (bool): also return the decomposition of the Brier score of the confidence, E(c - y)², where y is 1
        for a right answer and 0 for a wrong one. Defaults to False.
    n_bins (int): number of equal-width bins for the decomposition. Defaults to 10.
    sample_weight (list of float): weight of each sample. Defaults to None (equal weights).
    gold (list of list of float): the distributions to compare with, such as a teacher's, padded like the predictions;
        also return the distances from them. Defaults to None.
    confidence_level (float): also return a confidence interval at this level, such as 0.95. Defaults to None.
Returns:
    brier (float): in [0, 2], 0 if the right option always has probability one. For two options it is twice the score
        of one option's probability.
    brier_low, brier_high (float): the interval, with `confidence_level`.
    brier_from_gold, kl_from_gold, total_variation (float): with `gold`: the mean squared distance, summed over the
        options; the mean divergence KL(gold ‖ prediction) in nats, with predictions clipped at 1e-9; and half the mean
        sum of the distances.
    reliability, resolution, uncertainty, within_bin (float): with `decomposition`; reliability - resolution +
        uncertainty + within_bin is the Brier score of the confidence.
Examples:
    >>> brier = evaluate.load("hf_calib/brier")
    >>> brier.compute(predictions=[[0.5, 0.5], [1.0, 0.0]], references=[0, 0])
    {'brier': 0.25}

    >>> results = brier.compute(predictions=[[0.75, 0.25], [0.75, 0.25]], references=[0, 1], decomposition=True)
    >>> results["reliability"], results["resolution"], results["uncertainty"]
    (0.0625, 0.0, 0.25)

    >>> results = brier.compute(predictions=[[0.5, 0.5]], references=[0], gold=[[1.0, 0.0]])
    >>> results["brier_from_gold"], round(results["kl_from_gold"], 3), results["total_variation"]
    (0.5, 0.693, 0.5)
"""

_DISTANCES = {"brier_from_gold": squared_distance, "kl_from_gold": kl_terms, "total_variation": variation_terms}

_CITATION = """
@article{brier1950verification,
    title = {Verification of forecasts expressed in terms of probability},
    author = {Brier, Glenn W.},
    journal = {Monthly Weather Review},
    volume = {78},
    year = {1950}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BrierScore(CheckedInputs, evaluate.Metric):
    """Brier score of all options."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=PROBABILITIES,
            reference_urls=["https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2"],
        )

    def _compute(
        self,
        predictions,
        references,
        decomposition=False,
        n_bins=10,
        sample_weight=None,
        gold=None,
        confidence_level=None,
    ):
        probabilities = check_probabilities(predictions)
        labels = check_labels(references, *probabilities.shape, "references")
        results = {"brier": brier_score(probabilities, labels, weights=sample_weight)}
        if not decomposition and confidence_level is None and gold is None:
            return results
        weights = check_weights(sample_weight, len(labels))
        confidences, _, correct = top_prediction(probabilities, labels)
        if gold is not None:
            distributions = check_distributions(gold, probabilities.shape, "gold")
            for name, terms in _DISTANCES.items():
                results[name] = weighted_mean(terms(probabilities, distributions), weights)
        if confidence_level is not None:
            estimator = Estimator(confidences, correct, Settings(confidence_level=confidence_level), weights)
            measure = estimator.mean(brier_terms(probabilities, labels), 0.0, 2.0)
            results["brier_low"], results["brier_high"] = measure.low, measure.high
        if decomposition:
            results.update(brier_decomposition(confidences, correct, n_bins, weights=weights)._asdict())
        return results
