"""Thresholds with a guarantee: against the binomial distribution, and by simulation."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from hf_calib.measures import CalibrationReport, accuracy_threshold
from hf_calib.measures.thresholds import N_CANDIDATES, AccuracyThreshold, answers_needed


def by_hand(c, y, accuracy, level):
    """Return the size and threshold of the best candidate, each tested with SciPy's binomial test."""
    best = (0, None)
    for step in range(1, N_CANDIDATES + 1):
        rank = len(c) * step // N_CANDIDATES
        cut = 0.0 if rank == len(c) else sorted(c, reverse=True)[rank]
        above = [bool(right) for value, right in zip(c, y, strict=True) if value > cut]
        if not above:
            continue
        test = binomtest(sum(above), len(above), accuracy, alternative="greater")
        if test.pvalue <= (1 - level) / N_CANDIDATES and len(above) > best[0]:
            best = (len(above), cut)
    return best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_it_is_the_binomial_test_at_every_candidate(seed, decimals):
    rng = np.random.default_rng(seed)
    c = rng.uniform(0.05, 1, 700).round(decimals)
    y = rng.random(700) < c**0.3
    for accuracy, level in [(0.7, 0.9), (0.85, 0.95), (0.9, 0.99)]:
        found = accuracy_threshold(c, y, accuracy, level=level)
        size, cut = by_hand(c, y, accuracy, level)
        assert (found.n_accepted, found.threshold) == (size, cut)
        if cut is not None:
            hits = found.n_correct
            alone = binomtest(hits, size, alternative="greater").proportion_ci(1 - (1 - level) / N_CANDIDATES)
            assert found.accuracy_low == pytest.approx(alone.low)
            assert found.accuracy_low >= accuracy
            np.testing.assert_array_equal(found.accepts(c), c > cut)


@pytest.mark.parametrize(
    "right_at",
    [lambda c: np.full_like(c, 0.895), lambda c: np.where(c > 0.6, 0.899, 0.5), lambda c: 0.79 + 0.2 * c**2],
    ids=["just below everywhere", "just below at the top", "crosses"],
)
def test_the_guarantee_holds_over_many_draws(right_at):
    """The share of draws in which the accuracy above the threshold is in truth too low is at most 1 - level."""
    level, accuracy, missed, found = 0.8, 0.9, 0, 0
    grid = np.linspace(0, 1, 100_001)
    truth = right_at(grid)
    mean_above = np.cumsum(truth[::-1])[::-1] / np.arange(len(grid), 0, -1)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        c = rng.random(400)
        own = accuracy_threshold(c, rng.random(400) < right_at(c), accuracy, level=level)
        if own.threshold is not None:
            found += 1
            missed += mean_above[int(own.threshold * 100_000)] < accuracy
    assert found > 0
    assert missed / 1500 <= 1 - level


def test_one_threshold_without_allowance_for_several_breaks_the_guarantee():
    """With the error probability spent on each candidate in full, far more than 1 - level of the draws miss."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(400):
        y = rng.random(400) < 0.895
        sizes = 400 * np.arange(1, N_CANDIDATES + 1) // N_CANDIDATES
        missed += any(binom.cdf(size - y[:size].sum(), size, 0.1) <= 0.2 for size in sizes)
    assert missed / 400 > 0.3


def test_all_answers_none_and_few():
    everything = accuracy_threshold(np.linspace(0, 1, 500), np.ones(500), 0.9)
    assert (everything.threshold, everything.coverage, everything.accuracy_accepted) == (0.0, 1.0, 1.0)
    assert everything.accepts([0.0, 0.3]).all()
    none = accuracy_threshold(np.linspace(0, 1, 500), np.zeros(500), 0.9)
    assert (none.threshold, none.coverage, none.accuracy_low) == (None, 0.0, None)
    assert np.isnan(none.accuracy_accepted)
    assert not none.accepts([1.0]).any()
    needed = answers_needed(0.9)
    assert accuracy_threshold(np.full(needed, 0.5), np.ones(needed), 0.9).threshold == 0
    assert accuracy_threshold(np.full(needed - 1, 0.5), np.ones(needed - 1), 0.9).threshold is None


@pytest.mark.parametrize("wrong", [{"accuracy": 1.0}, {"accuracy": 0}, {"level": 1.0}])
def test_what_is_out_of_range_is_named(wrong):
    arguments = {"accuracy": 0.9, "level": 0.9} | wrong
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: must be above 0 and below 1"):
        accuracy_threshold([0.5], [1], arguments.pop("accuracy"), **arguments)


def test_reports_hold_thresholds_and_keep_them():
    rng = np.random.default_rng(1)
    top = rng.uniform(0.5, 1, 800)
    p, labels = np.stack([top, 1 - top], axis=1), (rng.random(800) > top**0.1).astype(int)
    report = CalibrationReport.from_predictions(p, labels, n_resamples=100)
    assert report.thresholds == tuple(accuracy_threshold(top, labels == 0, a) for a in (0.8, 0.9, 0.95))
    assert report.thresholds[0].coverage == 1
    assert CalibrationReport.from_dict(report.to_dict()).thresholds == report.thresholds
    assert AccuracyThreshold.from_dict(report.thresholds[2].to_dict()) == report.thresholds[2]
    weighted = CalibrationReport.from_predictions(p, labels, n_resamples=100, weights=np.arange(1, 801))
    assert weighted.thresholds == ()


def test_the_guarantee_needs_answers_that_are_right_or_wrong():
    correct = np.ones(200)
    correct[3] = 0.6
    with pytest.raises(ValueError, match=r"correct\[3\] is 0.6, but the guarantee needs whether"):
        accuracy_threshold(np.linspace(0.5, 1, 200), correct, 0.9)


def test_a_threshold_is_never_shown_below_itself():
    thresholds = [0.8 + 1e-10, 0.56, 0.57, np.nextafter(0.7, 1), *np.random.default_rng(0).random(200)]
    for threshold in thresholds:
        shown = float(AccuracyThreshold(0.9, 0.95, threshold, 10, 5, 5, 0.8).shown())
        assert threshold <= shown < threshold + 0.001
