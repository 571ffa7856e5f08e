"""Risk-coverage measures of a confidence, as an `evaluate` metric."""

import evaluate
import numpy as np

# `evaluate` fetches only the files that are imported here, so this includes what those files import.
# ruff: noqa: F401
from .binning import BinStatistics
from .estimates import Estimator, Settings
from .inputs import CONFIDENCES, PROBABILITIES, CheckedInputs
from .intervals import family_interval
from .ranking import (
    accuracy_at,
    aurc_from_blocks,
    aurc_influence,
    aurc_of_unseen,
    best_aurc,
    coverage_at,
    curve_from_blocks,
    of_samples,
    ranked_blocks,
)
from .sampling import influence_error
from .scores import weighted_mean
from .validation import check_correct, check_unit_interval, check_weights, confidences_and_correct

_DESCRIPTION = """
Risk and coverage of selective answering: the area under the risk-coverage curve (AURC), its excess over a perfect
ranking of the same answers (excess AURC), and points of the curve. It measures whether confidence separates right
answers from wrong ones, regardless of its scale.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float, or list of float): for each sample, either the probabilities of all options,
        which sum to one, or the confidence in the given answer. If questions have different numbers of options, pad
        the shorter rows with zeros on the right.
    references (list of int): with probabilities, the index of the right option; with confidences, 1 if the answer was
        right and 0 if it was wrong.
    coverage (float): also return the accuracy of this share of answers, the most confident ones, in (0, 1].
    accuracy (float): also return the largest share of the most confident answers with this accuracy, in [0, 1].
    return_curve (bool): also return the curve. Defaults to False.
    sample_weight (list of float): weight of each sample. Defaults to None (equal weights).
    confidence_level (float): also return a confidence interval at this level, such as 0.95. Defaults to None.
Returns:
    aurc (float): in [0, 1], lower is better: the mean over the samples of the error rate among answers that are at
        least as confident.
    excess_aurc (float): AURC minus that of a perfect ranking with the same accuracy, in [0, 1).
    aurc_low, aurc_high (float): the interval, with `confidence_level`; None for a single sample.
    accuracy_at_coverage (float): with `coverage`.
    coverage_at_accuracy (float): with `accuracy`; 0 if no share reaches it.
    curve (dict of lists): coverage, risk and threshold, with `return_curve`.
Examples:
    >>> risk_coverage = evaluate.load("hf_calib/risk_coverage")
    >>> results = risk_coverage.compute(predictions=[0.9, 0.8, 0.7, 0.6], references=[1, 1, 0, 0], coverage=0.5)
    >>> round(results["aurc"], 4), results["accuracy_at_coverage"]
    (0.2083, 1.0)
"""

_CITATION = """
@inproceedings{geifman2019bias,
    title = {Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers},
    author = {Geifman, Yonatan and Uziel, Guy and El-Yaniv, Ran},
    booktitle = {International Conference on Learning Representations},
    year = {2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RiskCoverage(CheckedInputs, evaluate.Metric):
    """Risk-coverage measures of a confidence."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[PROBABILITIES, CONFIDENCES],
            reference_urls=["https://arxiv.org/abs/1805.08206"],
        )

    def _compute(
        self,
        predictions,
        references,
        coverage=None,
        accuracy=None,
        sample_weight=None,
        return_curve=False,
        confidence_level=None,
    ):
        given, correct = confidences_and_correct(predictions, references)
        confidences = check_unit_interval(given, "confidences")
        weights = check_weights(sample_weight, len(confidences))
        blocks, block = ranked_blocks(confidences, check_correct(correct, len(confidences)), weights)
        curve = curve_from_blocks(blocks)
        area = aurc_from_blocks(blocks)
        best = best_aurc(1 - blocks.correct.sum() / blocks.weights.sum())
        results = {"aurc": area, "excess_aurc": area - best}
        if confidence_level is not None:
            estimator = Estimator(confidences, correct, Settings(confidence_level=confidence_level), weights)
            measure = estimator.smoothly(
                area,
                lambda: of_samples(aurc_influence(blocks), block, correct),
                0.0,
                1.0,
                lambda unseen: aurc_of_unseen(area, unseen),
            )
            results["aurc_low"], results["aurc_high"] = measure.low, measure.high
        if coverage is not None:
            if not 0 < coverage <= 1:
                raise ValueError(f"coverage must be in (0, 1], got {coverage}")
            results["accuracy_at_coverage"] = accuracy_at(curve, coverage)
        if accuracy is not None:
            if not 0 <= accuracy <= 1:
                raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
            results["coverage_at_accuracy"] = coverage_at(curve, accuracy)
        if return_curve:
            results["curve"] = {
                "coverage": curve.coverage.tolist(),
                "risk": curve.risk.tolist(),
                "threshold": curve.thresholds.tolist(),
            }
        return results
