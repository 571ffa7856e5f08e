"""What rounding does to probabilities is accepted, and no more than that."""

import numpy as np
import pytest

from hf_calib.measures.validation import (
    ROUNDING,
    check_correct,
    check_probabilities,
    check_unit_interval,
    floor_zeros,
    sum_tolerance,
)

from .test_bad_input import OF_CONFIDENCES, OF_PROBABILITIES, numbers

EXACT = np.array([0.0, 1.0, 1.0, 0.6, 0.3, 1.0])
RIGHT = np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("name", OF_CONFIDENCES)
@pytest.mark.parametrize("off", [2.3e-16, 1e-9, ROUNDING])
def test_a_confidence_a_hair_outside_counts_as_0_or_1(name, off):
    c = EXACT.copy()
    c[[0, 1, 5]] += [-off, off, off]
    np.testing.assert_array_equal(numbers(OF_CONFIDENCES[name](c, RIGHT)), numbers(OF_CONFIDENCES[name](EXACT, RIGHT)))


def test_a_confidence_a_hair_above_1_is_in_the_last_bin_as_1():
    statistics = OF_CONFIDENCES["BinStatistics"](np.array([1 + 2.3e-16]), [True])
    assert statistics.counts.tolist() == [0] * 9 + [1]
    assert statistics.confidence_sums[-1] == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_come_back_within_the_interval(dtype):
    values = np.array([1.0000001, -1e-7, 0.5], dtype=dtype)
    assert check_unit_interval(values, "c").tolist() == [1.0, 0.0, 0.5]
    assert check_unit_interval(values, "c").dtype == dtype
    assert check_correct(values, 3).tolist() == [1.0, 0.0, 0.5]
    inside = np.array([0.0, 1.0], dtype=dtype)
    assert check_unit_interval(inside, "c") is inside


def measured(result):
    if hasattr(result, "measures") and not callable(result.measures):
        return [measure.value for measure in result.measures.values()]
    if hasattr(result, "measures"):
        return [measure.value for measure in result.measures().values()]
    return np.ravel(result)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_a_probability_a_hair_above_1_counts_as_1(name):
    exact = np.array([[1.0, 0.0], [0.6, 0.4], [0.0, 1.0], [0.2, 0.8]])
    off = exact + np.array([[2.3e-16, 0.0], [0, 0], [-1e-17, 1e-7], [0, 0]])
    y = np.array([0, 1, 1, 1])
    np.testing.assert_array_equal(measured(OF_PROBABILITIES[name](off, y)), measured(OF_PROBABILITIES[name](exact, y)))


@pytest.mark.parametrize("value", [1.01, 1.00001, -0.00001])
def test_what_rounding_does_not_do_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=rf"confidences\[1\] is {value}"):
        check_unit_interval([0.5, value], "confidences")
    with pytest.raises(ValueError, match=r"probabilities\[1, 0\] is"):
        check_probabilities([[0.5, 0.5], [value, 1 - value]])


@pytest.mark.parametrize("k", [2, 3, 4, 10, 26])
def test_rows_that_were_rounded_to_three_decimals_are_taken_as_they_are(k):
    rows = np.random.default_rng(k).dirichlet(np.ones(k), size=2000).round(3)
    assert np.ptp(rows.sum(axis=1)) > 0.0015 or k == 2
    assert check_probabilities(rows) is rows
    worst = np.full((1, k), 1 / k) + 4.99e-4
    assert check_probabilities(worst) is worst
    with pytest.raises(ValueError, match=r"probabilities\[0\] sums to"):
        check_probabilities(worst + 2 * sum_tolerance(k) / k)


def test_zeros_of_options_get_the_floor_and_absent_options_stay():
    with np.errstate(divide="ignore"):
        logits = np.log([[1.0, 0.0, 0.0], [0.0, 1.0, 1e-9], [0.5, 1.0, 0.0]])
    floored = np.exp(floor_zeros(logits, np.array([2, 3, 2])))
    np.testing.assert_allclose(floored, [[1, 1e-6, 0], [1e-9, 1, 1e-9], [0.5, 1, 0]], rtol=1e-9)
