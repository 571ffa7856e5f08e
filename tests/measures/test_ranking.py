import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from hf_calib.measures import (
    accuracy_at_coverage,
    aurc,
    auroc,
    coverage_at_accuracy,
    equal_mass_calibration_error,
    equal_mass_edges,
    excess_aurc,
    kolmogorov_smirnov_calibration_error,
    risk_coverage_curve,
)
from hf_calib.measures.ranking import aurc_influence, auroc_influence, ranked_blocks

from .samples import confidences_and_correct

STREAM = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.booleans()),
    min_size=1,
    max_size=30,
)
MEASURES = [auroc, aurc, excess_aurc, kolmogorov_smirnov_calibration_error, equal_mass_calibration_error]


def tied(n=400, seed=0):
    c, y = confidences_and_correct(n, seed)
    return np.round(c, 2), y


@pytest.mark.parametrize("weighted", [False, True])
def test_auroc_agrees_with_scikit_learn(weighted):
    c, y = tied()
    w = np.random.default_rng(1).random(len(c)) if weighted else None
    expected = metrics.roc_auc_score(y, c, sample_weight=w)
    assert auroc(c, y, weights=w) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("right", [True, False])
def test_auroc_of_one_kind_of_answer_is_nan(right):
    assert np.isnan(auroc([0.2, 0.4], [right, right]))


def test_the_curve_and_its_area_are_what_a_loop_over_thresholds_gives():
    c, y = tied()
    risks = [np.mean(~y[c >= threshold]) for threshold in c]
    assert aurc(c, y) == pytest.approx(np.mean(risks), abs=1e-13)
    curve = risk_coverage_curve(c, y)
    for coverage, risk, threshold in zip(*curve, strict=True):
        assert coverage == pytest.approx(np.mean(c >= threshold), abs=1e-13)
        assert risk == pytest.approx(np.mean(~y[c >= threshold]), abs=1e-13)
    assert curve.coverage[-1] == 1


def test_the_best_order_has_no_excess_in_the_limit():
    n = 100_000
    y = np.arange(n) >= n // 4
    assert excess_aurc(np.arange(n) / n, y) == pytest.approx(0, abs=1e-4)
    assert excess_aurc([0.5, 0.5], [False, False]) == 0
    assert excess_aurc(1 - np.arange(n) / n, y) > 0.2


def test_points_of_the_curve():
    c, y = [0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]
    assert accuracy_at_coverage(c, y, 0.5) == 1
    assert accuracy_at_coverage(c, y, 0.6) == pytest.approx(2 / 3)
    assert accuracy_at_coverage(c, y, 1.0) == 0.75
    assert coverage_at_accuracy(c, y, 1.0) == 0.5
    assert coverage_at_accuracy(c, y, 0.75) == 1
    assert coverage_at_accuracy([0.9, 0.1], [0, 0], 0.5) == 0
    for coverage in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\]"):
            accuracy_at_coverage(c, y, coverage)
    with pytest.raises(ValueError, match="accuracy must be in"):
        coverage_at_accuracy(c, y, -1)


def test_kolmogorov_smirnov_is_the_largest_cumulative_gap():
    c, y = tied()
    gaps = [abs(np.sum((y - c)[c <= t])) / len(c) for t in np.unique(c)]
    assert kolmogorov_smirnov_calibration_error(c, y) == pytest.approx(max(gaps), abs=1e-13)


def test_equal_mass_bins_are_equal_cuts_of_the_sorted_samples():
    c, y = confidences_and_correct(1000)
    order = np.argsort(c)
    gaps = [abs(np.sum((y - c)[part])) for part in np.array_split(order, 10)]
    assert equal_mass_calibration_error(c, y) == pytest.approx(sum(gaps) / 1000, abs=1e-13)


def test_equal_mass_bins_keep_equal_confidences_together():
    edges = equal_mass_edges([0.1, 0.5, 0.5, 0.5, 0.5, 0.9], 3)
    assert edges[0] == 0
    assert edges[-1] == 1
    c, y = np.full(100, 0.5), np.arange(100) < 30
    assert equal_mass_calibration_error(c, y, 4) == pytest.approx(0.2)


@pytest.mark.parametrize("measure", MEASURES)
@given(stream=STREAM, random=st.randoms(use_true_random=False))
def test_order_doesn_t_matter_and_the_range_is_kept(measure, stream, random):
    c, y = zip(*stream, strict=True)
    value = measure(c, y)
    shuffled = list(stream)
    random.shuffle(shuffled)
    np.testing.assert_allclose(measure(*zip(*shuffled, strict=True)), value, atol=1e-12)
    assert np.isnan(value) or -1e-12 <= value <= 1


@pytest.mark.parametrize("measure", MEASURES)
@given(stream=STREAM, index=st.integers(0, 29), share=st.sampled_from([0.25, 0.5, 0.75]))
def test_a_weight_may_be_split_between_two_copies_of_a_sample(measure, stream, index, share):
    c, y = (list(column) for column in zip(*stream, strict=True))
    index %= len(c)
    split = [1.0] * len(c)
    split[index] = share
    twice = measure([*c, c[index]], [*y, y[index]], weights=[*split, 1 - share])
    np.testing.assert_allclose(twice, measure(c, y), atol=1e-12)


@pytest.mark.parametrize(("measure", "influence"), [(auroc, auroc_influence), (aurc, aurc_influence)])
def test_the_influence_is_the_slope_by_each_sample_s_weight(measure, influence):
    c, y = tied(60)
    w = np.random.default_rng(2).random(60) + 0.5
    blocks, block = ranked_blocks(c, y, w)
    of_wrong, of_right = influence(blocks)
    expected = np.where(y, of_right[block], of_wrong[block])
    for i in range(60):
        step = np.zeros(60)
        step[i] = 1e-6
        slope = (measure(c, y, weights=w + step) - measure(c, y, weights=w - step)) / 2e-6
        assert slope * w.sum() == pytest.approx(expected[i], abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input_is_named(measure):
    with pytest.raises(ValueError, match=r"confidences\[0\] is 2"):
        measure([2.0], [1])
    with pytest.raises(ValueError, match="empty"):
        measure([], [])


@pytest.mark.parametrize("scale", [1e-30, 0.1, 0.3, 7.7])
def test_equal_mass_bins_do_not_depend_on_the_scale_of_the_weights(scale):
    rng = np.random.default_rng(0)
    c, weights = rng.random(300), rng.integers(0, 4, 300).astype(float)
    np.testing.assert_array_equal(equal_mass_edges(c, weights=weights * scale), equal_mass_edges(c, weights=weights))
