"""The verdict on a fine-tuned model's regime."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hf_calib
from hf_calib.confidence import Predictions
from hf_calib.evaluation.diagnosing import accuracy_difference, diagnose
from hf_calib.measures import expected_calibration_error


def answered(n_correct, n, confidence=0.7):
    return SimpleNamespace(correct=np.arange(n) < n_correct, confidences=np.full(n, confidence))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 30))
def test_no_bins_give_an_error_below_the_bound(pairs, n_bins):
    confidences, correct = (np.array(values) for values in zip(*pairs, strict=True))
    training, new = (SimpleNamespace(confidences=confidences, correct=correct) for _ in range(2))
    found = diagnose(training, new, n_bins=n_bins)
    assert found.training.ece >= found.training.bound - 1e-12
    assert found.training.bound == pytest.approx(abs(correct.mean() - confidences.mean()))
    assert found.training.ece == pytest.approx(expected_calibration_error(confidences, correct, n_bins))
    assert found.gap == 0.0
    assert found.gap_low <= 0.0 <= found.gap_high


def test_newcombes_own_example():
    """Newcombe 1998, table II, 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    found = diagnose(answered(56, 70), answered(48, 80))
    assert found.gap == pytest.approx(0.2)
    assert found.gap_low == pytest.approx(0.0524, abs=5e-5)
    assert found.gap_high == pytest.approx(0.3339, abs=5e-5)
    assert accuracy_difference(found.training, found.new) == (found.gap, found.gap_low, found.gap_high)


@pytest.mark.parametrize(
    ("training", "new", "options", "regime"),
    [
        ((900, 1000), (500, 1000), {}, "non-calibratable"),
        ((505, 1000), (500, 1000), {}, "calibratable"),
        ((6, 10), (5, 10), {}, "undetermined"),
        ((450, 1000), (500, 1000), {}, "calibratable"),
        ((600, 1000), (500, 1000), {"critical_accuracy": 0.7}, "calibratable"),
        ((600, 1000), (590, 1000), {"critical_accuracy": 0.5}, "non-calibratable"),
        ((600, 1000), (500, 1000), {"critical_accuracy": 0.6}, "undetermined"),
    ],
)
def test_the_verdict(training, new, options, regime):
    found = diagnose(answered(*training), answered(*new), **options)
    assert found.regime == regime
    assert str(found).startswith(f"regime: {regime}\n")
    assert found.critical_accuracy_is_known == bool(options)
    # Where it is not known, what stands in its place is called what it is.
    assert ("lower estimate" in found.reasons) == (not options)
    assert json.loads(json.dumps(found.to_dict()))["regime"] == regime


def test_the_best_accuracy_seen_is_the_lower_estimate():
    assert diagnose(answered(9, 10), answered(5, 10)).critical_accuracy == 0.5
    assert diagnose(answered(9, 10), answered(5, 10), best_new_accuracy=0.6).critical_accuracy == 0.6
    assert diagnose(answered(9, 10), answered(5, 10), best_new_accuracy=0.4).critical_accuracy == 0.5


def test_it_finds_the_regime_where_the_truth_is_known():
    """Answers drawn from p*: a model that knows p* is calibratable, one that has learnt the answers is not."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(4), size=2000)
    answers = np.array([rng.choice(4, p=row) for row in truth])
    critical = truth.max(axis=1).mean()

    def asked(probabilities, answers):
        n = len(answers)
        return Predictions(np.log(probabilities), answers, (None,) * n, np.arange(n))

    memorised = 0.2 * truth + 0.8 * np.eye(4)[answers] * 0.999 + 0.0002
    honest = diagnose(asked(truth[:1000], answers[:1000]), asked(truth[1000:], answers[1000:]))
    overfitted = asked(memorised[:1000] / memorised[:1000].sum(1, keepdims=True), answers[:1000])
    sharpened = truth[1000:] ** 8
    new = asked(sharpened / sharpened.sum(1, keepdims=True), answers[1000:])
    assert honest.regime == "calibratable"
    assert honest.new.ece < 0.06
    for options in ({}, {"critical_accuracy": critical}):
        assert diagnose(overfitted, new, **options).regime == "non-calibratable"


def test_it_is_reached_from_the_package():
    assert hf_calib.evaluation.diagnose is hf_calib.diagnose is diagnose


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critical_accuracy": 0.0}, "critical_accuracy"),
        ({"best_new_accuracy": 1.5}, "best_new_accuracy"),
        ({"confidence_level": 1.0}, "confidence_level"),
        ({"margin": -0.1}, "margin"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        diagnose(answered(5, 10), answered(5, 10), **options)


def test_questions_that_cannot_be_counted_are_named():
    with pytest.raises(ValueError, match="new: has no questions"):
        diagnose(answered(5, 10), answered(0, 0))
    unknown = Predictions(np.log(np.full((1, 2), 0.5)), np.array([-1]), (None,), np.array([7]))
    with pytest.raises(ValueError, match="training: row 7 has no answer"):
        diagnose(unknown, answered(5, 10))


def test_each_regime_has_its_method():
    found = [diagnose(answered(right, 1000), answered(500, 1000)) for right in (500, 900, 530)]
    assert [(each.regime, each.method) for each in found] == [
        ("calibratable", "cft"),
        ("non-calibratable", "rcft"),
        ("undetermined", "temperature"),
    ]
    assert all(each.to_dict()["method"] == each.method for each in found)
