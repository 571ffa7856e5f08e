"""The conventions of the calibration error, that of Humanity's Last Exam, and Confidence@k."""

import numpy as np
import pytest

from hf_calib.measures import (
    CalibrationReport,
    confidence_at_k,
    ece_conventions,
    expected_calibration_error,
    hle_calibration_error,
    smooth_ece,
)
from hf_calib.measures.verdict import convention_note


def published(confidence, correct, beta=100):
    """Compute the error as the published code does, bin by bin, with its loop over all bins but the last."""
    order = np.argsort(confidence, kind="stable")
    confidence, correct = np.asarray(confidence)[order], np.asarray(correct, dtype=float)[order]
    bins = [[i * beta, (i + 1) * beta] for i in range(len(confidence) // beta)]
    bins[-1][1] = len(confidence)
    total = 0.0
    for low, high in bins[:-1]:
        gap = abs(confidence[low:high].mean() - correct[low:high].mean())
        total += (high - low) / len(confidence) * gap**2
    return np.sqrt(total), (len(confidence) - bins[-1][0]) / len(confidence) * (
        confidence[bins[-1][0] :].mean() - correct[bins[-1][0] :].mean()
    ) ** 2


@pytest.mark.parametrize("n", [100, 150, 199, 250, 1234])
def test_the_error_of_humanitys_last_exam(n):
    rng = np.random.default_rng(n)
    c = rng.random(n)
    y = rng.random(n) < c**2
    without, of_last = published(c, y)
    assert hle_calibration_error(c, y, variant="published") == pytest.approx(without, abs=1e-12)
    assert hle_calibration_error(c, y) == pytest.approx(np.sqrt(without**2 + of_last), abs=1e-12)
    assert (without == 0) == (n < 200)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="no bin for 99 answers"):
        hle_calibration_error(np.full(99, 0.5), np.ones(99), variant="published")
    assert hle_calibration_error(np.full(99, 0.5), np.ones(99)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="bin_size"):
        hle_calibration_error([0.5], [1], bin_size=0)
    with pytest.raises(ValueError, match="variant: 'fixed'"):
        hle_calibration_error([0.5], [1], variant="fixed")


def test_confidence_at_k_picks_the_most_confident_sample():
    rng = np.random.default_rng(0)
    c, y = rng.random((50, 4)).round(1), rng.random((50, 4)) < 0.5
    expected = [np.mean([y[i, j] for j in range(4) if c[i, j] == max(c[i])]) for i in range(50)]
    assert confidence_at_k(c, y) == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="two arrays of shape"):
        confidence_at_k([0.5, 0.6], [1, 0])
    with pytest.raises(ValueError, match="confidences"):
        confidence_at_k([[1.5]], [[1]])


def rows(**options):
    rng = np.random.default_rng(0)
    c = rng.random(1500)
    y = rng.random(1500) < c**1.5
    return c, y, {row.name: row for row in ece_conventions(c, y, **options)}


def test_each_convention_is_what_it_says():
    c, y, found = rows(groups=np.arange(1500) % 3, option_mass=np.full(1500, 0.4))
    for n_bins in (10, 15, 20):
        assert found[f"{n_bins} equal-width bins"].value == expected_calibration_error(c, y, n_bins)
    order = np.argsort(c)
    by_rank = [abs(c[part].mean() - y[part].mean()) for part in np.split(order, 10)]
    assert found["10 equal-mass bins"].value == pytest.approx(np.mean(by_rank))
    assert found["smooth, no bins"].value == smooth_ece(c, y).value
    per_group = [expected_calibration_error(c[g::3], y[g::3]) for g in range(3)]
    assert found["10 bins, mean over 3 groups"].value == pytest.approx(np.mean(per_group))
    raw = expected_calibration_error(0.4 * c, y)
    assert found["10 bins, raw probability"].value == pytest.approx(raw)
    assert found["100 per bin, L2, no last bin"].value == pytest.approx(published(c, y)[0])
    assert all(row.n == 1500 for row in found.values())


def test_a_calibrated_model_scores_what_is_said():
    """Answers drawn with the confidences as probabilities have these errors on average."""
    c, _, found = rows()
    rng = np.random.default_rng(7)
    drawn = [expected_calibration_error(c, rng.random(1500) < c) for _ in range(200)]
    calibrated = found["10 equal-width bins"].calibrated
    assert calibrated == pytest.approx(np.mean(drawn), rel=0.15)
    # Debiased, a calibrated model scores much less than the plain error says.
    assert found["15 equal-mass bins, debiased L2"].calibrated < 0.7 * calibrated
    assert found["10 equal-width bins"].value > 3 * calibrated


def test_one_number_for_a_calibrated_model_in_reports_and_tables():
    rng = np.random.default_rng(1)
    c = rng.uniform(0.5, 1, 40)
    p, labels = np.stack([c, 1 - c], axis=1), (rng.random(40) > c).astype(int)
    report = CalibrationReport.from_predictions(p, labels, seed=3)
    first = ece_conventions(c, labels == 0, seed=3)[0]
    assert (first.name, first.value, first.calibrated) == (
        "10 equal-width bins",
        report.ece.value,
        report.ece_convention["calibrated_model"],
    )


def test_reports_say_what_their_ece_is():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 400)
    labels = (rng.random((400, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)
    report = CalibrationReport.from_predictions(p, labels, n_bins=15)
    own = report.ece_convention
    assert {key: own[key] for key in ("n_bins", "n", "norm", "in_sample")} == {
        "n_bins": 15, "n": 400, "norm": 1, "in_sample": False
    }  # fmt: skip
    assert own["calibrated_model"] == report.test.expected_error
    assert report.ece_note.startswith("ECE: 15 bins of equal width, L1, pooled over 400 questions; a perfectly")
    assert report.to_dict()["ece_convention"] == own
    assert report.ece_note in " ".join(str(report).split())
    bare = CalibrationReport.from_predictions(p, labels, n_resamples=0)
    assert bare.ece_convention["calibrated_model"] is None
    assert bare.ece_note == "ECE: 10 bins of equal width, L1, pooled over 400 questions."


def test_one_sentence_says_what_several_eces_are():
    one = {"n_bins": 10, "n": 1000, "calibrated_model": 0.0214, "in_sample": False}
    note = (
        "ECE: 10 bins of equal width, L1, pooled over 1,000 questions; a perfectly calibrated model would score 0.021 "
        "on average."
    )
    assert convention_note({"a": one, "b": one}) == convention_note({"": one}) == note
    other = {"n_bins": 10, "n": 1, "calibrated_model": 0.3, "in_sample": True}
    assert convention_note({"a": one, "b": other}) == (
        "ECE: 10 bins of equal width, L1, pooled over 1,000 (a) and 1 (b) questions; a perfectly calibrated model "
        "would score 0.021 (a) or 0.300 (b) on average; a calibrator was fitted on these questions (b)."
    )
    third = {**one, "calibrated_model": 0.1}
    assert "score 0.021 (a), 0.300 (b) or 0.100 (c) on average" in convention_note({"a": one, "b": other, "c": third})
    assert convention_note({"b": other}).startswith("ECE: 10 bins of equal width, L1, pooled over 1 question; ")
    assert convention_note({"b": other}).endswith("; a calibrator was fitted on these questions.")


def test_the_raw_ece_is_given_where_the_options_have_little_of_the_probability():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 300)
    labels = rng.integers(3, size=300)
    mass = rng.uniform(0.2, 0.6, 300)
    report = CalibrationReport.from_predictions(p, labels, option_mass=mass, n_resamples=100)
    top = p.argmax(axis=1)
    expected = expected_calibration_error(p.max(axis=1) * mass, top == labels)
    assert report.ece_raw.value == pytest.approx(expected)
    assert report.ece_raw.low <= expected <= report.ece_raw.high
    for other in (None, np.full(300, 0.95)):
        assert "ece_raw" not in CalibrationReport.from_predictions(p, labels, option_mass=other).measures


def test_confidence_at_k_names_the_position_of_a_bad_value():
    with pytest.raises(ValueError, match=r"confidences\[1, 0\] is 1.2"):
        confidence_at_k([[0.5, 0.5], [1.2, 0.1]], [[1, 0], [1, 0]])
    with pytest.raises(ValueError, match=r"correct\[1, 1\] is 7.0"):
        confidence_at_k([[0.5, 0.5], [0.2, 0.1]], [[1, 0], [1, 7]])
    with pytest.raises(ValueError, match=r"confidences is empty, its shape is \(2, 0\)"):
        confidence_at_k(np.zeros((2, 0)), np.zeros((2, 0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"option_mass": [0.5]}, "option_mass has 1 values, but there are 3 questions"),
        ({"groups": ["a"]}, r"groups has shape \(1,\), but there are 3 questions"),
        ({"groups": ["a", None, "b"]}, r"groups\[1\] is None: every question needs a group"),
    ],
)
def test_what_belongs_to_each_question_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ece_conventions([0.5, 0.6, 0.7], [1, 0, 1], **options)


def test_a_bin_holds_a_whole_number_of_answers():
    with pytest.raises(ValueError, match=r"bin_size: must be an integer of at least 1, got 2\.5"):
        hle_calibration_error([0.5] * 9, [1] * 9, bin_size=2.5)
