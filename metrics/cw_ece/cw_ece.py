"""Classwise expected calibration error, as an `evaluate` metric."""

import evaluate
import numpy as np

# `evaluate` fetches only the files that are imported here, so this includes what those files import.
# ruff: noqa: F401
from .binning import BinStatistics
from .classwise import classwise_statistics, option_gaps
from .estimates import Estimator, Settings
from .inputs import PROBABILITIES, CheckedInputs
from .intervals import absolute_sum_interval
from .ranking import equal_mass_calibration_error
from .sampling import clustered_covariance
from .scores import weighted_mean
from .validation import check_labels, check_probabilities, check_weights, top_prediction

_DESCRIPTION = """
Classwise expected calibration error (cw-ECE): the calibration error of each option's probability against "this option
is right", over equal-width bins, averaged over the options. The ECE uses the probability of the chosen option only;
the cw-ECE uses all of them.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float): the probabilities of all options for each sample, which sum to one. If
        questions have different numbers of options, pad the shorter rows with zeros on the right.
    references (list of int): the index of the right option of each sample.
    n_bins (int): number of equal-width bins on [0, 1]. Defaults to 10.
    norm (1, 2 or "max"): how gaps are aggregated over an option's bins. Defaults to 1.
    threshold (float): ignore probabilities below this. Defaults to 0.
    return_bins (bool): also return each option's bins. Defaults to False.
    sample_weight (list of float): weight of each sample. Defaults to None (equal weights).
    confidence_level (float): also return a confidence interval at this level, such as 0.95. Defaults to None.
Returns:
    cw_ece (float): in [0, 1], 0 for perfect calibration.
    cw_ece_low, cw_ece_high (float): the interval, with `confidence_level`.
    bins (list of list of dict): lower, upper, count, accuracy and confidence of each bin of each option, with
        `return_bins`.
Examples:
    >>> cw_ece = evaluate.load("hf_calib/cw_ece")
    >>> cw_ece.compute(predictions=[[0.75, 0.25], [0.75, 0.25]], references=[0, 0])
    {'cw_ece': 0.25}

    >>> cw_ece.compute(predictions=[[0.75, 0.25], [0.75, 0.25]], references=[0, 1], n_bins=1)
    {'cw_ece': 0.25}
"""

_CITATION = """
@inproceedings{kull2019beyond,
    title = {Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with {D}irichlet
        calibration},
    author = {Kull, Meelis and Perello Nieto, Miquel and K{\\"a}ngsepp, Markus and Silva Filho, Telmo and Song, Hao and
        Flach, Peter},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ClasswiseECE(CheckedInputs, evaluate.Metric):
    """Classwise expected calibration error."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=PROBABILITIES,
            reference_urls=["https://arxiv.org/abs/1910.12656"],
        )

    def _compute(
        self,
        predictions,
        references,
        n_bins=10,
        norm=1,
        threshold=0.0,
        sample_weight=None,
        return_bins=False,
        confidence_level=None,
    ):
        probabilities = check_probabilities(predictions)
        labels = check_labels(references, *probabilities.shape, "references")
        weights = check_weights(sample_weight, len(labels))
        options = classwise_statistics(probabilities, labels, n_bins, threshold=threshold, weights=weights)
        results = {
            "cw_ece": float(np.mean([option.error(norm) if option.weights.any() else 0.0 for option in options]))
        }
        if confidence_level is not None:
            if norm != 1 or threshold != 0:
                raise ValueError("confidence_level: an interval needs norm=1 and threshold=0")
            confidences, _, correct = top_prediction(probabilities, labels)
            estimator = Estimator(confidences, correct, Settings(n_bins, confidence_level), weights)
            measure = estimator.absolute_sum(
                options,
                lambda: estimator.stacked_covariance(
                    option_gaps(probabilities, labels, options), options[0], len(options)
                ),
            )
            results["cw_ece_low"], results["cw_ece_high"] = measure.low, measure.high
        if return_bins:
            results["bins"] = [list(option.rows()) for option in options]
        return results
