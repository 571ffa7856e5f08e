import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import softmax

from hf_calib.calibrators import by_name
from hf_calib.confidence import Predictions
from hf_calib.measures import aurc, expected_calibration_error


def predictions_of(log_probabilities, answers=None, subjects=None):
    n = len(log_probabilities)
    return Predictions(
        option_log_probabilities=np.asarray(log_probabilities, dtype=float),
        answers=np.zeros(n, dtype=int) if answers is None else np.asarray(answers),
        subjects=tuple(subjects or [None] * n),
        rows=np.arange(n),
    )


@st.composite
def scores(draw):
    """Log-probabilities of options, some rows with fewer than the others."""
    n, width = draw(st.integers(1, 6)), draw(st.integers(2, 8))
    values = draw(arrays.arrays(float, (n, width), elements=st.floats(-500, -0.01)))
    for row in range(n):
        values[row, draw(st.integers(2, width)) :] = -np.inf
    return values


@given(scores())
def test_probabilities_are_the_softmax_over_the_options_that_exist(values):
    predictions = predictions_of(values)
    np.testing.assert_allclose(predictions.probabilities, softmax(values, axis=1), atol=1e-12)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1.0, atol=1e-12)
    assert (predictions.probabilities[~np.isfinite(values)] == 0).all()
    assert (predictions.n_choices == np.isfinite(values).sum(axis=1)).all()
    assert (predictions.confidences >= 1 / predictions.n_choices - 1e-12).all()
    assert (predictions.confidences == predictions.probabilities.max(axis=1)).all()
    # Scores that differ in the last digit may have equal probabilities.
    predicted = np.take_along_axis(values, predictions.predicted[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(predicted, values.max(axis=1), atol=1e-12)
    assert ((predictions.option_mass >= 0) & (predictions.option_mass <= 1)).all()


@pytest.mark.parametrize("mass", [1.0, 1e-30])
@given(k=st.integers(2, 30), n_bins=st.sampled_from([10, 15, 20]), seed=st.integers(0, 1000))
def test_shares_of_samples_are_binned_and_tied_as_they_are(mass, k, n_bins, seed):
    rng = np.random.default_rng(seed)
    shares = rng.multinomial(k, rng.dirichlet(np.ones(4), 60)) / k
    answers = rng.integers(4, size=60)
    with np.errstate(divide="ignore"):
        values = np.log(shares) + np.log(mass)
    own = Predictions(values, answers, (None,) * 60, np.arange(60), np.full(60, 4))
    # All places of a share in the table are one number.
    assert len(np.unique(own.probabilities)) == len(np.unique(shares))
    np.testing.assert_allclose(own.probabilities, shares, rtol=2e-12)
    confidences, correct = shares.max(axis=1), shares.argmax(axis=1) == answers
    report = own.report(n_bins=n_bins, n_resamples=0)
    assert report.ece.value == pytest.approx(expected_calibration_error(confidences, correct, n_bins=n_bins))
    assert report.measures["aurc"].value == pytest.approx(aurc(confidences, correct))


def test_the_raw_mass_is_what_the_whole_softmax_puts_on_the_options():
    with np.errstate(divide="ignore"):
        predictions = predictions_of(np.log([[0.1, 0.2, 0.3], [0.5, 0.25, 0.0], [0.5, 0.5, 1e-300]]))
    np.testing.assert_allclose(predictions.option_mass, [0.6, 0.75, 1.0])
    np.testing.assert_allclose(predictions.probabilities[:2], [[1 / 6, 1 / 3, 1 / 2], [2 / 3, 1 / 3, 0]])


def test_correctness_needs_every_answer():
    values = np.log([[0.1, 0.2], [0.5, 0.25], [0.3, 0.3]])
    assert predictions_of(values, [1, 1, 0]).correct.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="row 1 has no answer, so it is not known whether"):
        _ = predictions_of(values, [1, -1, 0]).correct
    with pytest.raises(ValueError, match="row 2 has no answer"):
        predictions_of(values, [1, 0, -1]).report()


@pytest.mark.parametrize(
    ("values", "answers", "message"),
    [
        (np.zeros((2, 2)), [0], r"shape \(2, 2\), but there are \{'answers': 1"),
        (np.zeros(2), [0, 0], r"shape \(2,\)"),
        ([[0.5, 0.5]], [0], "must be at most 0"),
        ([[np.nan, -1]], [0], "must be at most 0"),
        ([[-np.inf, -np.inf]], [0], "at least one finite"),
    ],
)
def test_what_are_no_log_probabilities_is_refused(values, answers, message):
    with pytest.raises(ValueError, match=message):
        Predictions(np.asarray(values), np.asarray(answers), (None,) * len(answers), np.arange(len(answers)))


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    values = np.log(0.9 * rng.dirichlet(np.ones(4), size=60))
    values[::3, 3] = -np.inf
    return predictions_of(values, rng.integers(3, size=60), ["law", "art", None] * 20)


def test_the_report_is_of_these_predictions(many):
    report = many.report(n_resamples=100)
    assert report.n == 60
    assert report.measures["accuracy"].value == pytest.approx(many.correct.mean())
    assert report.measures["confidence"].value == pytest.approx(many.confidences.mean())
    assert report.measures["option_mass"].value == pytest.approx(many.option_mass.mean())
    right = many.probabilities[np.arange(60), many.answers]
    assert report.measures["nll"].value == pytest.approx(-np.log(right).mean())


def test_the_report_groups_by_subject(many):
    groups = many.report(n_resamples=0).groups
    assert sorted(groups) == ["art", "law", "no subject"]
    assert {group.n for group in groups.values()} == {20}
    chosen = np.array([subject == "law" for subject in many.subjects])
    assert groups["law"].measures["accuracy"].value == pytest.approx(many.correct[chosen].mean())


def test_the_report_takes_other_groups_or_none(many):
    assert many.report(groups=None, n_resamples=0).groups == {}
    halves = np.repeat(["first", "second"], 30)
    assert sorted(many.report(groups=halves, n_resamples=0).groups) == ["first", "second"]
    without = predictions_of(many.option_log_probabilities, many.answers)
    assert without.report(n_resamples=0).groups == {}


def test_a_calibrator_changes_no_answer_that_was_given_in_words():
    """An answer that is more probably wrong than right stays the answer; there is no other."""
    confidences = np.array([0.2, 0.4, 0.9])
    said = Predictions.from_answers(
        np.zeros(3, int), confidences, np.full(3, 2), np.array([1, 0, 0]), (None,) * 3, np.arange(3)
    )
    found = said.calibrated(by_name("temperature").fit(said.logits, said.answers))
    np.testing.assert_array_equal(found.predicted, 0)
    np.testing.assert_array_equal(found.correct, [False, True, True])
    assert 0 < found.confidences[0] < found.confidences[1] < 0.5 < found.confidences[2]
    assert abs(found.confidences[0] - 0.2) > 0.01
