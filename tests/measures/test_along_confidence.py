"""Smooth ECE, kernel and local error, DECE and ACE against what their definitions say, written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.measures import (
    adaptive_calibration_error,
    classwise_calibration_error,
    differentiable_calibration_error,
    expected_calibration_error,
    kernel_calibration_error,
    local_calibration_error,
    smooth_ece,
)

from .samples import confidences_and_correct, probabilities_and_labels, slow_bin


def reflected_integral(c, y, sigma, points=20_001):
    """Integrate |E[K(t, c) (y - c)]| with six reflections on either side."""
    t = np.linspace(0, 1, points)
    smoothed = np.zeros(points)
    for k in range(-6, 7):
        for sign in (1, -1):
            distance = t[:, None] - (2 * k + sign * c)
            smoothed += ((y - c) * np.exp(-(distance**2) / (2 * sigma**2))).sum(axis=1)
    return np.trapezoid(np.abs(smoothed), t) / (np.sqrt(2 * np.pi) * sigma * len(c))


@pytest.mark.parametrize("sigma", [1.0, 0.2, 0.05, 0.01])
def test_smooth_ece_is_the_integral_over_the_reflected_kernel(sigma):
    c, y = confidences_and_correct(80)
    c[:2] = 0, 1
    assert smooth_ece(c, y, bandwidth=sigma).value == pytest.approx(reflected_integral(c, y, sigma), abs=1e-4)


def test_the_bandwidth_is_where_smooth_ece_meets_it():
    c, y = confidences_and_correct(2000)
    result = smooth_ece(c, y)
    assert result.value == pytest.approx(result.bandwidth, abs=1e-5)
    assert smooth_ece(c, y, bandwidth=result.bandwidth * 1.1).value < result.bandwidth * 1.1


def test_smooth_ece_hardly_moves_when_confidences_cross_an_edge():
    c = np.full(100, 0.5)
    y = np.arange(100) < 50
    below = c - 1e-9 * np.where(y, 1, 0)
    assert abs(smooth_ece(below, y).value - smooth_ece(c, y).value) < 1e-5
    assert expected_calibration_error(below, y) - expected_calibration_error(c, y) > 0.4


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_smooth_ece_is_at_most_the_mean_gap_and_at_least_the_signed_one(stream):
    c, y = (np.array(column, dtype=float) for column in zip(*stream, strict=True))
    value = smooth_ece(c, y).value
    assert abs(np.mean(c - y)) - 1e-4 <= value <= np.mean(np.abs(c - y)) + 1e-4


def test_smooth_ece_refuses_a_bandwidth_out_of_range():
    with pytest.raises(ValueError, match=r"bandwidth must be in \(0, 1\]"):
        smooth_ece([0.5], [1], bandwidth=0.0)


@pytest.mark.parametrize("width", [0.4, 0.01, 0.0005])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_kernel_error_is_the_sum_over_all_pairs(width, weighted):
    c, y = confidences_and_correct(300)
    c = np.round(c, 2)
    w = np.random.default_rng(1).random(300) if weighted else np.ones(300)
    gap = w * (y - c)
    pairs = gap @ np.exp(-np.abs(c[:, None] - c) / width) @ gap
    expected = np.sqrt(pairs) / w.sum()
    result = kernel_calibration_error(c, y, width=width, weights=w if weighted else None)
    assert result == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_local_error_is_the_weighted_mean_around_each_sample(weighted):
    c, y = confidences_and_correct(200)
    rng = np.random.default_rng(1)
    features = rng.random((200, 3))
    w = rng.random(200) + 0.1 if weighted else np.ones(200)
    local = []
    for i in range(200):
        same = [j for j in range(200) if slow_bin(c[j], 15) == slow_bin(c[i], 15)]
        k = [w[j] * np.exp(-np.linalg.norm(features[i] - features[j]) / 0.2) for j in same]
        local.append(abs(np.dot(k, (c - y)[same])) / sum(k))
    result = local_calibration_error(c, y, features, weights=w if weighted else None)
    assert result.mean == pytest.approx(np.average(local, weights=w), abs=1e-12)
    assert result.maximum == pytest.approx(np.max(local), abs=1e-12)
    assert result.n_used == 200
    assert local_calibration_error(c, y, features, max_samples=50).n_used == 50
    with pytest.raises(ValueError, match="max_samples must be at least 1, got 0"):
        local_calibration_error(c, y, features, max_samples=0)


def test_samples_without_weight_leave_the_local_error_as_it_is():
    c, y = confidences_and_correct(200)
    features = np.random.default_rng(1).random((200, 3))
    weights = np.repeat([1.0, 0.0], 100)
    result = local_calibration_error(c, y, features, weights=weights)
    assert result == local_calibration_error(c[:100], y[:100], features[:100])
    assert local_calibration_error(c, y, features, weights=weights, max_samples=100) == result


def test_a_wide_neighbourhood_gives_the_binned_error():
    c, y = confidences_and_correct(500)
    features = np.random.default_rng(1).random((500, 3))
    result = local_calibration_error(c, y, features, gamma=1e9)
    assert result.mean == pytest.approx(expected_calibration_error(c, y, 15), abs=1e-6)


def test_the_local_error_finds_what_bins_average_out():
    y = np.arange(1000) % 2 == 0
    features = y[:, None].astype(float)
    assert expected_calibration_error(np.full(1000, 0.5), y) == 0
    assert local_calibration_error(np.full(1000, 0.5), y, features).mean > 0.4


@pytest.mark.parametrize(
    ("features", "message"),
    [([[1.0]], r"features has shape \(1, 1\), but there are 2"), ([[1.0], [np.inf]], r"features\[1\]")],
)
def test_bad_features_are_named(features, message):
    with pytest.raises(ValueError, match=message):
        local_calibration_error([0.5, 0.5], [1, 0], features)


@pytest.mark.parametrize("n_options", [2, 4])
def test_dece_is_what_its_definition_says(n_options):
    p, y = probabilities_and_labels(100, n_options)
    edges = np.arange(1, 15) / 15
    gaps = np.zeros(15)
    for row, label in zip(p, y, strict=True):
        c = row.max()
        rank = 1 + sum(1 / (1 + np.exp(-(row[k] - row[label]) / 0.01)) for k in range(n_options) if k != label)
        scores = np.array([(m + 1) * c - edges[:m].sum() for m in range(15)]) / 0.01
        membership = np.exp(scores - scores.max())
        gaps += membership / membership.sum() * (max(0, 2 - rank) - c)
    assert differentiable_calibration_error(p, y) == pytest.approx(np.abs(gaps).sum() / 100, abs=1e-12)


def test_a_cold_dece_is_the_ece():
    p, y = probabilities_and_labels(2000)
    cold = differentiable_calibration_error(p, y, 10, bin_temperature=1e-7, rank_temperature=1e-7)
    assert cold == pytest.approx(expected_calibration_error(p.max(1), p.argmax(1) == y), abs=1e-3)
    with pytest.raises(ValueError, match="bin_temperature must be positive"):
        differentiable_calibration_error(p, y, bin_temperature=0)


def test_ace_cuts_each_option_s_sorted_probabilities_into_equal_parts():
    p, y = probabilities_and_labels(400, 3)
    errors = [
        sum(abs(np.sum((y == k)[part] - p[part, k])) for part in np.array_split(np.argsort(p[:, k]), 10)) / 400
        for k in range(3)
    ]
    assert adaptive_calibration_error(p, y) == pytest.approx(np.mean(errors), abs=1e-13)
    assert adaptive_calibration_error(p, y, 1) == pytest.approx(classwise_calibration_error(p, y, 1), abs=1e-13)
    assert adaptive_calibration_error([[1.0, 0.0]], [0], threshold=0.5) == 0
