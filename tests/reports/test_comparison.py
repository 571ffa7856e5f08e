"""Differences between models, against independent computations and in simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence.predictions import Predictions
from hf_calib.measures import (
    accuracy,
    auroc,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
)
from hf_calib.reports import Comparison, differences, sharpening
from hf_calib.reports.comparison import summary
from hf_calib.reports.page import render_comparison


def predictions(logits, answers, subjects=None, rows=None):
    values = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    n = len(answers)
    return Predictions(
        values, np.asarray(answers), subjects or (None,) * n, np.arange(n) if rows is None else np.asarray(rows)
    )


def world(n, seed, temperature=1.0, k=4):
    """Return the calibrated logits, the answers drawn from them, and the same at another temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = np.array([rng.choice(k, p=row) for row in p])
    return logits, answers, logits / temperature


def test_values_are_those_of_the_measures():
    logits, answers, sharper = world(500, 0, 0.4)
    base, other = (
        predictions(logits, answers),
        predictions(sharper + 0.3 * np.random.default_rng(1).normal(size=sharper.shape), answers),
    )
    found = {own.measure: own for own in differences(base, other)}
    expected = {
        "accuracy": lambda own: accuracy(own.probabilities, own.answers),
        "confidence": lambda own: own.confidences.mean(),
        "ece": lambda own: expected_calibration_error(own.confidences, own.correct),
        "cw_ece": lambda own: classwise_calibration_error(own.probabilities, own.answers),
        "nll": lambda own: negative_log_likelihood(own.probabilities, own.answers),
        "brier": lambda own: brier_score(own.probabilities, own.answers),
        "auroc": lambda own: auroc(own.confidences, own.correct),
    }
    assert list(found) == list(expected)
    for name, of in expected.items():
        assert found[name].base == pytest.approx(of(base), abs=1e-12)
        assert found[name].other == pytest.approx(of(other), abs=1e-12)
        own = found[name].difference
        assert own.value == pytest.approx(of(other) - of(base), abs=1e-12)
        assert own.low <= own.value <= own.high


def test_intervals_of_means_are_the_paired_t_test():
    from scipy.stats import ttest_rel

    logits, answers, sharper = world(300, 2, 0.5)
    base, other = predictions(logits, answers), predictions(sharper, answers)
    own = {d.measure: d for d in differences(base, other)}["brier"].difference
    from hf_calib.measures.scores import brier_terms

    expected = ttest_rel(
        brier_terms(other.probabilities, answers), brier_terms(base.probabilities, answers)
    ).confidence_interval()
    assert (own.low, own.high) == pytest.approx((expected.low, expected.high))


def test_intervals_of_auroc_are_about_the_bootstraps():
    logits, answers, _ = world(400, 3)
    rng = np.random.default_rng(4)
    base, other = predictions(logits, answers), predictions(logits + rng.normal(size=logits.shape), answers)
    own = {d.measure: d for d in differences(base, other)}["auroc"].difference
    drawn = []
    for _ in range(400):
        chosen = rng.integers(len(answers), size=len(answers))
        drawn.append(
            auroc(other.confidences[chosen], other.correct[chosen])
            - auroc(base.confidences[chosen], base.correct[chosen])
        )
    assert own.high - own.low == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.2)


def test_verdicts():
    logits, answers, sharper = world(2000, 5, 0.3)
    base, other = predictions(logits, answers), predictions(sharper, answers)
    said = {own.measure: own.verdict for own in differences(base, other)}
    assert said == {
        "accuracy": "not significantly different",
        "confidence": "higher",
        "ece": "worse",
        "cw_ece": "worse",
        "nll": "worse",
        "brier": "worse",
        "auroc": said["auroc"],
    }
    back = {own.measure: own.verdict for own in differences(other, base)}
    assert (back["ece"], back["confidence"], back["nll"]) == ("better", "lower", "better")
    text = summary("aligned", "base", differences(base, other))
    ece, accuracy_ = expected_calibration_error, accuracy(base.probabilities, answers)
    of = [f"{ece(own.confidences, own.correct):.3f}" for own in (other, base)]
    assert text.startswith(f"Compared with base, aligned is worse calibrated (ECE {of[0]} vs. {of[1]}, difference +0.")
    assert text.endswith(
        f" and is not significantly different in accuracy (accuracy {accuracy_:.3f} vs. {accuracy_:.3f})."
    )


def test_a_single_question_has_differences_without_intervals():
    logits, answers, sharper = world(1, 5, 0.3)
    for own in differences(predictions(logits, answers), predictions(sharper, answers)):
        assert own.difference.low is None
        assert own.verdict == "not significantly different"


def test_intervals_of_a_few_questions_stay_within_the_possible_range():
    sure = np.log([[0.99, 0.01], [0.01, 0.99]])
    wrong = np.log([[0.2, 0.8], [0.7, 0.3]])
    largest = {"nll": np.inf, "brier": 2}
    for one, two in ((sure, wrong), (wrong, sure)):
        for own in differences(predictions(one, [0, 1]), predictions(two, [0, 1])):
            limit = largest.get(own.measure, 1)
            if own.difference.low is not None:
                assert -limit <= own.difference.low <= own.difference.value <= own.difference.high <= limit
    # One model is right in both questions and the other in none; a share 1 - 0.05^(1/2) may be otherwise.
    accuracy = next(own.difference for own in differences(predictions(wrong, [0, 1]), predictions(sure, [0, 1])))
    assert (accuracy.low, accuracy.high) == (pytest.approx(1 - 2 * (1 - 0.05**0.5)), 1)


def test_a_model_beside_itself_differs_in_nothing():
    logits, answers, _ = world(200, 6)
    base = predictions(logits, answers)
    for own in differences(base, base):
        assert own.difference.value == 0
        assert own.difference.low <= 0 <= own.difference.high
        assert own.verdict == "not significantly different"
    assert sharpening(base, base).slope.value == pytest.approx(1)
    assert sharpening(base, base).r_squared == pytest.approx(1)


@given(st.floats(0.1, 5), st.integers(0, 100))
def test_a_temperature_is_the_sharpenings_inverse(temperature, seed):
    logits, answers, tempered = world(30, seed, temperature)
    found = sharpening(predictions(logits, answers), predictions(tempered, answers))
    assert found.slope.value == pytest.approx(1 / temperature)
    assert found.r_squared == pytest.approx(1)


def test_a_question_with_fewer_options_counts_with_those_that_it_has():
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(50, 4))
    logits[::2, 3] = -np.inf
    noisy = 2 * logits + rng.normal(size=logits.shape)
    answers = rng.integers(3, size=50)
    found = sharpening(predictions(logits, answers), predictions(noisy, answers))
    xs, ys = [], []
    for x, y in zip(logits, noisy, strict=True):
        there = np.isfinite(x)
        xs += list(x[there] - x[there].mean())
        ys += list(y[there] - y[there].mean())
    slope = np.linalg.lstsq(np.array(xs)[:, None], np.array(ys), rcond=None)[0][0]
    assert found.slope.value == pytest.approx(slope)


def test_a_question_that_only_one_model_was_asked_may_have_more_options():
    logits, answers, sharper = world(60, 9, 0.5)
    base, other = predictions(logits, answers), predictions(sharper, answers)
    width = logits.shape[1]
    wider = np.concatenate([np.pad(logits, ((0, 0), (0, 2)), constant_values=-np.inf), np.zeros((1, width + 2))])
    wide = predictions(wider, np.append(answers, 0))
    for one, two in ((wide, other), (other, wide)):
        narrow = (base, other) if one is wide else (other, base)
        assert sharpening(one, two).slope.value == pytest.approx(sharpening(*narrow).slope.value)
        for found, expected in zip(differences(one, two), differences(*narrow), strict=True):
            assert found.difference.value == pytest.approx(expected.difference.value)


def test_only_questions_of_both_count_and_they_must_be_the_same():
    logits, answers, sharper = world(100, 8, 0.5)
    base = predictions(logits, answers)
    some = predictions(sharper[20:], answers[20:], rows=np.arange(20, 100))
    found = {own.measure: own for own in differences(base, some)}
    assert found["accuracy"].base == pytest.approx((base.correct[20:]).mean())
    with pytest.raises(ValueError, match="no question in common"):
        differences(base, predictions(sharper, answers, rows=np.arange(200, 300)))
    other = answers.copy()
    other[3] = (other[3] + 1) % 4
    with pytest.raises(ValueError, match="row 3: the models differ in the right answer"):
        differences(base, predictions(sharper, other))


def test_subjects_are_clusters_where_there_are_ten():
    logits, answers, _ = world(400, 9)
    subjects = tuple(f"s{i % 20}" for i in range(400))
    # A factor that a whole subject shares makes the changes of its questions depend on each other.
    factor = np.exp(np.tile(np.random.default_rng(1).normal(size=20), 20))[:, None]
    found = {}
    for n_subjects in (1, 20):
        own = subjects if n_subjects == 20 else tuple("s0" for _ in subjects)
        pair = predictions(logits, answers, own), predictions(logits * factor, answers, own)
        found[n_subjects] = {d.measure: d for d in differences(*pair)}["confidence"].difference
    change = pair[1].confidences - pair[0].confidences
    means = np.array([change[np.array(subjects) == f"s{i}"].mean() for i in range(20)])
    from scipy.stats import t

    half = t.ppf(0.975, 19) * means.std(ddof=1) / np.sqrt(20)
    assert (found[20].high - found[20].low) / 2 == pytest.approx(half)
    assert found[20].high - found[20].low > 1.3 * (found[1].high - found[1].low)


def test_every_model_needs_every_cell():
    logits, answers, sharper = world(50, 10, 0.5)
    base, other = predictions(logits, answers), predictions(sharper, answers)
    cells = {("a", "t", "letters"): base, ("b", "t", "letters"): other, ("a", "u", "letters"): base}
    with pytest.raises(ValueError, match="b was not measured on u by letters"):
        Comparison.of(cells)
    with pytest.raises(ValueError, match="at least two models"):
        Comparison.of({("a", "t", "letters"): base})


def test_log_odds_are_not_described_by_a_factor_that_does_not_fit():
    logits, answers, sharper = world(200, 11, 0.5)
    unrelated = np.random.default_rng(12).normal(size=logits.shape)
    base = predictions(logits, answers)
    key = ("other", "task", "letters")
    for other, fits in ((sharper, True), (unrelated, False)):
        cells = {("base", *key[1:]): base, key: predictions(other, answers)}
        found = Comparison.of(cells)
        assert (key in found.sharpenings) is fits
        assert ("log-odds" in render_comparison(found)) is fits
        assert ("sharpening" in found.to_dict()["comparisons"][0]) is fits


def test_page_shows_both_diagrams_n_and_names():
    logits, answers, sharper = world(200, 13, 0.3)
    cells = {
        ("my-base", "t", "letters"): predictions(logits, answers),
        ("my-other", "t", "letters"): predictions(sharper, answers),
    }
    page = render_comparison(Comparison.of(cells))
    assert page.count('aria-label="Reliability diagram') == 2
    for name in ("my-base", "my-other"):
        assert f"<h3>{name}</h3>" in page
        assert f'<th class="name">{name}</th>' in page
    assert "n = 200" in page
    assert "my-other vs. my-base" in page
    assert "not significantly different" in page
    assert "Overconfident." in page


@pytest.mark.nightly
@pytest.mark.parametrize("temperatures", [(1.0, 0.6), (0.7, 0.5), (1.0, 1.3)])
def test_intervals_of_the_ece_difference_cover(temperatures):
    big, big_answers, _ = world(200_000, 99)

    def error(temperature):
        own = predictions(big / temperature, big_answers)
        return expected_calibration_error(own.confidences, own.correct)

    truth = error(temperatures[1]) - error(temperatures[0])
    covered = []
    for seed in range(200):
        logits, answers, _ = world(1000, seed)
        models = [predictions(logits / temperature, answers) for temperature in temperatures]
        own = {d.measure: d for d in differences(*models, n_resamples=400)}["ece"].difference
        covered.append(own.low <= truth <= own.high)
    assert 0.92 <= np.mean(covered) <= 1
