"""Smooth expected calibration error, as an `evaluate` metric."""

import evaluate
import numpy as np

# `evaluate` fetches only the files that are imported here, so this includes what those files import.
# ruff: noqa: F401
from .binning import BinStatistics
from .estimates import Estimator, Settings
from .inputs import CONFIDENCES, PROBABILITIES, CheckedInputs
from .intervals import family_interval
from .sampling import clustered_covariance
from .scores import weighted_mean
from .smooth import absolute_integral, smooth_cells, smooth_ece
from .validation import check_unit_interval, check_weights, confidences_and_correct

_DESCRIPTION = """
Smooth expected calibration error (smooth ECE) of Błasiok and Nakkiran: the calibration error after smoothing with a
Gaussian kernel whose width is chosen from the data. Unlike the binned ECE, it has no parameters to choose and does not
jump when a confidence crosses a bin edge.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float, or list of float): for each sample, either the probabilities of all options,
        which sum to one, or the confidence in the given answer. If questions have different numbers of options, pad
        the shorter rows with zeros on the right.
    references (list of int): with probabilities, the index of the right option; with confidences, 1 if the answer was
        right and 0 if it was wrong.
    bandwidth (float): standard deviation of the Gaussian, in (0, 1]. Defaults to None (chosen from the data).
    sample_weight (list of float): weight of each sample. Defaults to None (equal weights).
    confidence_level (float): also return a confidence interval at this level, such as 0.95. Defaults to None.
Returns:
    smooth_ece (float): in [0, 1], 0 for perfect calibration.
    bandwidth (float): the standard deviation used.
    smooth_ece_low, smooth_ece_high (float): the interval, with `confidence_level`.
Examples:
    >>> smooth_ece = evaluate.load("hf_calib/smooth_ece")
    >>> results = smooth_ece.compute(predictions=[0.75, 0.75, 0.75, 0.75], references=[1, 1, 1, 1])
    >>> round(results["smooth_ece"], 4)
    0.25
"""

_CITATION = """
@inproceedings{blasiok2024smooth,
    title = {Smooth {ECE}: Principled Reliability Diagrams via Kernel Smoothing},
    author = {B{\\l}asiok, Jaros{\\l}aw and Nakkiran, Preetum},
    booktitle = {The Twelfth International Conference on Learning Representations},
    year = {2024}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SmoothExpectedCalibrationError(CheckedInputs, evaluate.Metric):
    """Smooth expected calibration error."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[PROBABILITIES, CONFIDENCES],
            reference_urls=["https://arxiv.org/abs/2309.12236"],
        )

    def _compute(self, predictions, references, bandwidth=None, sample_weight=None, confidence_level=None):
        confidences, correct = confidences_and_correct(predictions, references)
        found = smooth_ece(confidences, correct, bandwidth=bandwidth, weights=sample_weight)
        results = {"smooth_ece": found.value, "bandwidth": found.bandwidth}
        if confidence_level is not None:
            values = check_unit_interval(confidences, "confidences")
            weights = check_weights(sample_weight, len(values))
            estimator = Estimator(values, correct, Settings(confidence_level=confidence_level), weights)
            measure = estimator.along_confidence(
                found.value, lambda d: smooth_cells(d, found.bandwidth), absolute_integral
            )
            results["smooth_ece_low"], results["smooth_ece_high"] = measure.low, measure.high
        return results
