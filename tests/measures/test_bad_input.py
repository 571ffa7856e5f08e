"""Every measure refuses what it can't measure by name, and takes what is only unusual."""

from functools import partial

import numpy as np
import pytest

from hf_calib import measures
from hf_calib.measures import BinStatistics, CalibrationReport, CalibrationStream

OF_CONFIDENCES = {
    "expected_calibration_error": measures.expected_calibration_error,
    "maximum_calibration_error": measures.maximum_calibration_error,
    "signed_gap": measures.signed_gap,
    "equal_mass_calibration_error": measures.equal_mass_calibration_error,
    "smooth_ece": measures.smooth_ece,
    "kolmogorov_smirnov": measures.kolmogorov_smirnov_calibration_error,
    "kernel_calibration_error": measures.kernel_calibration_error,
    "local_calibration_error": lambda c, y: measures.local_calibration_error(c, y, np.zeros((len(c), 1))),
    "auroc": measures.auroc,
    "aurc": measures.aurc,
    "excess_aurc": measures.excess_aurc,
    "risk_coverage_curve": measures.risk_coverage_curve,
    "accuracy_at_coverage": partial(measures.accuracy_at_coverage, coverage=0.5),
    "coverage_at_accuracy": partial(measures.coverage_at_accuracy, accuracy=0.5),
    "brier_decomposition": measures.brier_decomposition,
    "calibration_test": partial(measures.calibration_test, n_resamples=100),
    "BinStatistics": BinStatistics.from_predictions,
}

OF_PROBABILITIES = {
    "accuracy": measures.accuracy,
    "brier_score": measures.brier_score,
    "negative_log_likelihood": measures.negative_log_likelihood,
    "classwise_calibration_error": measures.classwise_calibration_error,
    "adaptive_calibration_error": measures.adaptive_calibration_error,
    "differentiable_calibration_error": measures.differentiable_calibration_error,
    "CalibrationReport": partial(CalibrationReport.from_predictions, n_resamples=0),
    "CalibrationStream": lambda p, y: CalibrationStream().update(p, y),
}


@pytest.mark.parametrize(
    ("c", "y", "message"),
    [
        ([0.5, np.nan], [1, 0], r"confidences\[1\] is NaN"),
        ([np.inf, 0.5], [1, 0], r"confidences\[0\] is inf"),
        ([0.5, -0.25], [1, 0], r"confidences\[1\] is -0.25"),
        ([0.5, 1.25], [1, 0], r"confidences\[1\] is 1.25"),
        (np.empty(0), np.empty(0, dtype=bool), "confidences is empty"),
        ([0.5, 0.5], [1], r"correct has shape \(1,\), but there are 2"),
        ([0.5, 0.5], [1, 2], r"correct\[1\] is 2"),
        (np.full((2, 2), 0.5), [1, 0], r"got an array of shape \(2, 2\)"),
        ([0.5, 0.5], [[1], [1, 0]], "correct must have one dimension, got nested lists"),
    ],
)
@pytest.mark.parametrize("name", OF_CONFIDENCES)
def test_bad_confidences_are_named(name, c, y, message):
    with pytest.raises(ValueError, match=message):
        OF_CONFIDENCES[name](c, y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -1.0], r"weights\[1\] is -1.0"),
        ([0.0, 0.0], "weights are all zero"),
        ([1e-300, 1e-301], r"weights\[0\], the largest, is 1e-300, .* divide all weights by it"),
        ([1.0, 1e300], r"weights\[1\], the largest, is 1e\+300"),
    ],
)
def test_bad_weights_are_named(weights, message):
    for measure in (BinStatistics.from_predictions, measures.auroc, measures.brier_decomposition):
        with pytest.raises(ValueError, match=message):
            measure([0.5, 0.6], [1, 0], weights=weights)


@pytest.mark.parametrize("name", OF_CONFIDENCES)
def test_texts_are_no_confidences(name):
    with pytest.raises(TypeError, match="confidences must be real numbers"):
        OF_CONFIDENCES[name](["0.5"], [1])


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[0.5, np.nan]], [0], r"probabilities\[0, 1\] is NaN"),
        ([[np.inf, 0.0]], [0], r"probabilities\[0, 0\] is inf"),
        ([[1.25, -0.25]], [0], r"probabilities\[0, 0\] is 1.25"),
        ([[0.5, 0.5], [0.5, 0.502]], [0, 0], r"probabilities\[1\] sums to 1.002"),
        (np.empty((0, 2)), np.empty(0, dtype=int), "probabilities is empty"),
        ([[1.0]], [0], "at least two options"),
        ([0.5, 0.5], [0, 1], r"must have shape \(n, K\)"),
        ([[0.5, 0.5]], [2], r"labels\[0\] is 2"),
        ([[0.5, 0.5]], [0, 1], r"labels has shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_bad_probabilities_are_named(name, p, y, message):
    with pytest.raises(ValueError, match=message):
        OF_PROBABILITIES[name](p, y)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_labels_that_are_no_integers_are_refused(name):
    with pytest.raises(TypeError, match="labels must be integers"):
        OF_PROBABILITIES[name]([[0.5, 0.5]], [0.0])


def numbers(result):
    """Return the number, or the numbers, of a measure's result."""
    if isinstance(result, BinStatistics):
        return result.error()
    return np.concatenate([np.ravel(part) for part in result]) if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", OF_CONFIDENCES)
@pytest.mark.parametrize("dtype", ["int8", "bool answers", "float16"])
def test_types_of_the_same_values_give_the_same(name, dtype):
    c, y = np.array([0.0, 1.0, 1.0, 0.0, 1.0]), np.array([0, 1, 0, 1, 1])
    given = (c, y.astype(bool)) if dtype == "bool answers" else (c.astype(dtype), y)
    np.testing.assert_array_equal(numbers(OF_CONFIDENCES[name](*given)), numbers(OF_CONFIDENCES[name](c, y)))


@pytest.mark.parametrize("name", [*OF_CONFIDENCES, *list(OF_PROBABILITIES)[:-1]])
def test_tensors_are_measured_whatever_their_type(name):
    import torch

    measure = (OF_CONFIDENCES | OF_PROBABILITIES)[name]
    values = np.array([0.5, 1.0, 0.75, 0.25]) if name in OF_CONFIDENCES else np.eye(2)[[0, 1, 1, 0]]
    given = torch.tensor(values, dtype=torch.bfloat16, requires_grad=True), torch.tensor([1, 1, 0, 1])
    found, expected = measure(*given), measure(values, [1, 1, 0, 1])
    if isinstance(expected, CalibrationReport):
        assert str(found) == str(expected)
    else:
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in OF_CONFIDENCES if name not in ("auroc", "risk_coverage_curve")])
def test_one_sample_is_measured(name):
    assert np.isfinite(numbers(OF_CONFIDENCES[name]([0.75], [1]))).all()


def test_a_million_identical_values():
    n = 1_000_000
    report = CalibrationReport.from_predictions(np.tile([0.75, 0.25], (n, 1)), np.arange(n) % 2, n_resamples=0)
    # Half of the answers are right: every error is the gap, and no order is better than another.
    for name in ("ece", "mce", "rms_ce", "ks", "kernel_ce", "ece_equal_mass", "cw_ece", "ace", "signed_gap"):
        assert report.measures[name].value == pytest.approx(0.25, abs=1e-9), name
    assert report.measures["smooth_ece"].value == pytest.approx(0.25, abs=1e-3)
    assert report.measures["auroc"].value == 0.5
    assert report.measures["aurc"].value == 0.5
