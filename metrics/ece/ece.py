"""Expected calibration error of a classifier's confidence, as an `evaluate` metric."""

import evaluate

# `evaluate` fetches only the files that are imported here, so this includes what those files import.
from .binning import BinStatistics
from .consistency import calibration_test
from .inputs import CONFIDENCES, PROBABILITIES, CheckedInputs
from .intervals import calibration_error_interval
from .validation import confidences_and_correct

_DESCRIPTION = """
Expected calibration error (ECE): the gap between a model's confidence and its accuracy. Predictions are grouped into
bins by confidence, and ECE = Σ_b (n_b / n) · |accuracy_b - mean confidence_b|. Bins have equal width and are closed on
the left, [lo, hi), except the last one, which is closed on both sides and includes a confidence of exactly 1.0.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float, or list of float): for each sample, either the probabilities of all options,
        which sum to one, or the confidence in the given answer. If questions have different numbers of options, pad
        the shorter rows with zeros on the right.
    references (list of int): with probabilities, the index of the right option; with confidences, 1 if the answer was
        right and 0 if it was wrong.
    n_bins (int): number of equal-width bins on [0, 1]. Defaults to 10.
    norm (1, 2 or "max"): 1 for the ECE, 2 for the root mean square calibration error, "max" for the maximum
        calibration error. Defaults to 1.
    sample_weight (list of float): weight of each sample. Defaults to None (equal weights).
    return_bins (bool): also return each bin's edges, count, accuracy and mean confidence. Defaults to False.
    return_convention (bool): also return how the value was computed, and the value that a perfectly calibrated model
        would have. Defaults to False.
    confidence_level (float): also return a confidence interval of the ECE at this level, such as 0.95. Defaults to
        None.
Returns:
    ece (float): in [0, 1], 0 for perfect calibration.
    ece_low, ece_high (float): the interval, with `confidence_level`.
    bins (list of dict): lower, upper, count, accuracy and confidence of each bin, with `return_bins`; accuracy and
        confidence are None for an empty bin.
    convention (dict): with `return_convention`, the number and kind of bins, the norm, the pooling, the number of
        samples n, and as calibrated_model the mean value of a perfectly calibrated model with the same confidences,
        which is above 0.
Examples:
    Probabilities of all options and the right option's index:

    >>> ece = evaluate.load("hf_calib/ece")
    >>> ece.compute(predictions=[[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.25, 0.75]], references=[0, 1, 0, 0])
    {'ece': 0.0}

    Confidences and whether each answer was right:

    >>> ece.compute(predictions=[0.75, 0.75, 0.25, 0.25], references=[1, 1, 0, 0], n_bins=2)
    {'ece': 0.25}

    The contents of the bins:

    >>> results = ece.compute(predictions=[0.25, 0.75, 1.0], references=[0, 1, 1], n_bins=2, return_bins=True)
    >>> results["bins"][1]
    {'lower': 0.5, 'upper': 1.0, 'count': 2, 'accuracy': 1.0, 'confidence': 0.875}

    What a perfectly calibrated model would score on 100 samples:

    >>> results = ece.compute(predictions=[0.75] * 100, references=[1] * 70 + [0] * 30, return_convention=True)
    >>> round(results["ece"], 3), round(results["convention"]["calibrated_model"], 2)
    (0.05, 0.03)
"""

_CITATION = """
@inproceedings{guo2017calibration,
    title = {On Calibration of Modern Neural Networks},
    author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
    booktitle = {Proceedings of the 34th International Conference on Machine Learning},
    year = {2017}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ECE(CheckedInputs, evaluate.Metric):
    """Expected calibration error."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[PROBABILITIES, CONFIDENCES],
            reference_urls=["https://proceedings.mlr.press/v70/guo17a.html"],
        )

    def _compute(
        self,
        predictions,
        references,
        n_bins=10,
        norm=1,
        sample_weight=None,
        return_bins=False,
        return_convention=False,
        confidence_level=None,
    ):
        confidences, correct = confidences_and_correct(predictions, references)
        statistics = BinStatistics.from_predictions(confidences, correct, n_bins, weights=sample_weight)
        results = {"ece": statistics.error(norm)}
        if confidence_level is not None:
            if norm != 1:
                raise ValueError(f"confidence_level: an interval needs norm=1, got norm={norm!r}")
            interval = calibration_error_interval(statistics, confidence_level=confidence_level)
            results["ece_low"], results["ece_high"] = interval
        if return_bins:
            results["bins"] = list(statistics.rows())
        if return_convention:
            test = calibration_test(confidences, correct, n_bins, norm=norm, weights=sample_weight)
            results["convention"] = {
                "n_bins": n_bins,
                "bins": "equal width",
                "norm": norm,
                "pooling": "all samples",
                "n": len(confidences),
                "calibrated_model": test.expected_error,
            }
        return results
