import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.measures import (
    BinStatistics,
    bin_edges,
    expected_calibration_error,
    maximum_calibration_error,
    signed_gap,
)

from .samples import confidences_and_correct, slow_bin, slow_error

UNIT = st.floats(0, 1, allow_subnormal=True)
STREAM = st.lists(st.tuples(UNIT, st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15, 49, 100])
def test_each_edge_and_its_neighbours_fall_into_the_bin_that_exact_arithmetic_gives(n_bins):
    edges = bin_edges(n_bins)
    values = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    for value in np.unique(values):
        counts = BinStatistics.from_predictions([value], [True], n_bins).counts
        assert counts.argmax() == slow_bin(value, n_bins), value


def test_bins_are_closed_on_the_left_and_the_last_one_on_both_sides():
    assert BinStatistics.from_predictions([0.0, 0.3, 0.7, 1.0], [1, 1, 1, 1]).counts.tolist() == [
        1, 0, 0, 1, 0, 0, 0, 1, 0, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 17, 3000])
@pytest.mark.parametrize("n_bins", [1, 10, 23])
@pytest.mark.parametrize("norm", [1, 2, "max"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_error_is_what_a_loop_over_bins_gives(n, n_bins, norm, dtype):
    confidences, correct = confidences_and_correct(n, seed=n)
    confidences = confidences.astype(dtype)
    expected = slow_error(confidences, correct, n_bins, norm)
    assert expected_calibration_error(confidences, correct, n_bins, norm=norm) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("n", [2, 17, 3000])
def test_the_debiased_error_is_what_a_loop_over_bins_gives(n):
    confidences, correct = confidences_and_correct(n, skill=0.5)
    expected = slow_error(confidences, correct, 10, 2, debias=True)
    result = expected_calibration_error(confidences, correct, norm=2, debias=True)
    assert result == pytest.approx(expected, abs=1e-13)
    assert expected > 0 or n == 2


def test_debiasing_removes_most_of_the_bias_of_a_calibrated_source():
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(200):
        c = rng.random(500)
        statistics = BinStatistics.from_predictions(c, rng.random(500) < c)
        plain.append(statistics.error(2))
        debiased.append(statistics.error(2, debias=True))
    assert np.mean(debiased) < 0.5 * np.mean(plain)


@given(STREAM, st.integers(1, 30))
def test_the_error_is_between_the_size_of_the_signed_gap_and_one(stream, n_bins):
    c, y = zip(*stream, strict=True)
    error = expected_calibration_error(c, y, n_bins)
    assert abs(signed_gap(c, y)) - 1e-12 <= error <= 1
    assert error <= expected_calibration_error(c, y, n_bins, norm=2) + 1e-12
    assert expected_calibration_error(c, y, n_bins, norm=2) <= maximum_calibration_error(c, y, n_bins) + 1e-12


@given(STREAM, st.integers(1, 30), st.randoms(use_true_random=False), st.integers(0, 40))
def test_order_and_parts_don_t_matter(stream, n_bins, random, cut):
    c, y = zip(*stream, strict=True)
    whole = BinStatistics.from_predictions(c, y, n_bins)
    shuffled = list(stream)
    random.shuffle(shuffled)
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    merged = BinStatistics(n_bins)
    for part in parts:
        merged.merge(BinStatistics.from_predictions(*zip(*part, strict=True), n_bins))
    assert merged.counts.tolist() == whole.counts.tolist()
    np.testing.assert_allclose(merged.confidence_sums, whole.confidence_sums, rtol=1e-15)
    np.testing.assert_array_equal(merged.correct_sums, whole.correct_sums)
    np.testing.assert_allclose(merged.gap_covariance, whole.gap_covariance, atol=1e-15)


@given(STREAM, STREAM, STREAM)
def test_merging_is_associative_and_commutative(first, second, third):
    a, b, c = (BinStatistics.from_predictions(*zip(*s, strict=True)) for s in (first, second, third))
    left, right, turned = (a + b) + c, a + (b + c), c + b + a
    for other in (right, turned):
        assert left.counts.tolist() == other.counts.tolist()
        np.testing.assert_allclose(left.confidence_sums, other.confidence_sums, rtol=1e-15)
        assert left.error() == pytest.approx(other.error(), abs=1e-14)


@given(STREAM, st.integers(0, 39), st.floats(0, 1))
def test_a_weight_may_be_split_between_two_copies_of_a_sample(stream, index, share):
    c, y = (list(column) for column in zip(*stream, strict=True))
    index %= len(c)
    weights = [1.0] * len(c)
    split = [*weights[:index], share, *weights[index + 1 :], 1 - share]
    for norm in (1, 2, "max"):
        once = expected_calibration_error(c, y, norm=norm)
        twice = expected_calibration_error([*c, c[index]], [*y, y[index]], norm=norm, weights=split)
        assert once == pytest.approx(twice, abs=1e-12)


def test_whole_weights_are_repetitions():
    c, y = confidences_and_correct(200)
    weights = np.random.default_rng(1).integers(0, 4, 200)
    repeated = np.repeat(np.arange(200), weights)
    for norm in (1, 2, "max"):
        weighted = expected_calibration_error(c, y, norm=norm, weights=weights)
        assert weighted == pytest.approx(expected_calibration_error(c[repeated], y[repeated], norm=norm), abs=1e-13)


def test_a_calibrated_stream_s_error_goes_to_zero():
    rng = np.random.default_rng(0)
    c = rng.random(1_000_000)
    assert expected_calibration_error(c, rng.random(1_000_000) < c) < 0.003
    assert expected_calibration_error(c, c) < 1e-15


def test_sums_of_many_small_numbers_keep_their_digits():
    statistics = BinStatistics(1)
    part = np.full(32_768, 0.1)
    for _ in range(400):
        statistics.update(part, np.zeros(len(part), dtype=bool))
    n = 400 * 32_768
    # The exact sum of n copies of the float nearest to 0.1.
    assert statistics.confidence_sums[0] == pytest.approx(n * 0.1, rel=1e-12)
    whole = BinStatistics.from_predictions(np.full(n, 0.1), np.zeros(n, dtype=bool), 1)
    assert statistics.confidence_sums[0] == whole.confidence_sums[0]


def test_parts_of_the_error():
    statistics = BinStatistics.from_predictions([0.25, 0.25, 0.75, 0.75], [1, 1, 0, 0], 2)
    assert statistics.over_and_underconfidence() == (0.375, 0.375)
    assert statistics.signed_gap() == 0
    assert statistics.error() == 0.75


def test_empty_bins_are_none_in_the_rows():
    rows = list(BinStatistics.from_predictions([0.25], [True], 2).rows())
    assert rows == [
        {"lower": 0.0, "upper": 0.5, "count": 1, "accuracy": 1.0, "confidence": 0.25},
        {"lower": 0.5, "upper": 1.0, "count": 0, "accuracy": None, "confidence": None},
    ]


def test_the_state_survives_json():
    import json

    statistics = BinStatistics.from_predictions(*confidences_and_correct(1000), 7)
    back = BinStatistics.from_dict(json.loads(json.dumps(statistics.to_dict())))
    assert back.error() == statistics.error()
    assert back.counts.tolist() == statistics.counts.tolist()
    assert (back + statistics).n == 2000


def test_the_covariance_of_the_gaps_is_that_of_repeated_samples():
    rng = np.random.default_rng(0)
    draws, estimates = [], []
    for _ in range(3000):
        c = rng.random(200)
        weights = rng.random(200)
        statistics = BinStatistics.from_predictions(c, rng.random(200) < 0.6 * c, 3, weights=weights)
        draws.append(statistics.gaps)
        estimates.append(statistics.gap_covariance)
    np.testing.assert_allclose(np.mean(estimates, axis=0), np.cov(np.transpose(draws)), atol=6e-5)


BAD = [
    (([0.5, np.nan], [1, 0]), r"confidences\[1\] is NaN"),
    (([0.5, np.inf], [1, 0]), r"confidences\[1\] is inf"),
    (([-0.1, 0.5], [1, 0]), r"confidences\[0\] is -0.1"),
    (([0.5, 1.5], [1, 0]), r"confidences\[1\] is 1.5, and 1 of 2"),
    (([[0.5]], [1]), r"one dimension, got an array of shape \(1, 1\)"),
    (([], []), "confidences is empty"),
    (([0.5, 0.5], [1]), r"correct has shape \(1,\), but there are 2"),
    (([0.5], [2]), r"correct\[0\] is 2"),
    (([[0.5, 0.5], [0.5]], [1, 0]), r"confidences\[1\] has 1 values and confidences\[0\] has 2"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(*arguments)


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="confidences must be real numbers, got dtype <U"):
        expected_calibration_error(["high"], [1])
    with pytest.raises(TypeError, match="correct must be booleans"):
        expected_calibration_error([0.5], ["yes"])
    with pytest.raises(TypeError, match="n_bins must be an integer"):
        expected_calibration_error([0.5], [1], 10.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_bins": 0}, "n_bins must be at least 1"),
        ({"norm": 3}, "norm must be 1, 2 or"),
        ({"debias": True}, "debias needs norm=2"),
        ({"weights": [1.0, 2.0]}, r"weights has shape \(2,\)"),
        ({"weights": [-1.0]}, r"weights\[0\] is -1.0"),
        ({"weights": [0.0]}, "all zero"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error([0.5], [1], **options)


def test_statistics_that_can_t_be_used_say_so():
    with pytest.raises(ValueError, match="hold no samples"):
        BinStatistics().error()
    with pytest.raises(ValueError, match="can't be merged"):
        BinStatistics(5).merge(BinStatistics(6))
    with pytest.raises(ValueError, match="edges must ascend"):
        BinStatistics(edges=[0, 0.5, 0.4, 1])
    with pytest.raises(ValueError, match="edges must ascend"):
        BinStatistics(edges=[0, np.nan, 1])
    with pytest.raises(ValueError, match="counts missing"):
        BinStatistics.from_dict({"edges": None, "sums": [], "compensation": []})


def test_nothing_is_added_by_a_refused_update():
    statistics = BinStatistics()
    with pytest.raises(ValueError, match="NaN"):
        statistics.update([0.5, np.nan], [1, 0])
    assert statistics.n == 0


def test_integers_one_sample_and_identical_values():
    assert expected_calibration_error([1], [0]) == 1
    assert expected_calibration_error(np.full(2_000_000, 0.3), np.zeros(2_000_000, bool)) == pytest.approx(0.3)


def test_samples_without_weight_change_no_debiased_error():
    c, y = [0.1, 0.12, 0.9, 0.95, 0.91], [1, 0, 0, 0, 1]
    alone = BinStatistics.from_predictions([c[0], *c[2:]], [y[0], *y[2:]])
    beside = BinStatistics.from_predictions(c, y, weights=[1, 0, 1, 1, 1])
    assert beside.error(2, debias=True) == pytest.approx(alone.error(2, debias=True))
    assert alone.error(2, debias=True) > 0
