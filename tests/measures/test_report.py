import json

import numpy as np
import pandas as pd
import pytest
import torch

from hf_calib import measures
from hf_calib.measures import CATALOG, CalibrationReport

from .samples import probabilities_and_labels


@pytest.fixture(scope="module")
def predictions():
    return probabilities_and_labels(600)


@pytest.fixture(scope="module")
def report(predictions):
    p, y = predictions
    rng = np.random.default_rng(0)
    return CalibrationReport.from_predictions(
        p,
        y,
        groups=np.arange(600) % 12,
        option_mass=rng.random(600),
        true_probabilities=np.roll(p, 1, axis=1),
        features=rng.random((600, 2)),
        flips=rng.random(600),
        most_confident_correct=rng.random(600) < 0.7,
        gold=np.roll(p, 2, axis=1),
        ordered=np.arange(600) % 3 == 0,
    )


def test_every_measure_is_there_with_an_interval_around_it(report):
    assert list(report.measures) == list(CATALOG)
    for name, measure in report.measures.items():
        assert measure.low <= measure.value <= measure.high, name


def test_the_values_are_those_of_the_functions(report, predictions):
    p, y = predictions
    c, right = p.max(axis=1), p.argmax(axis=1) == y
    gold, ordered = np.roll(p, 2, axis=1), np.arange(600) % 3 == 0
    truth = np.roll(p, 1, axis=1)[np.arange(600), p.argmax(axis=1)]
    parts = measures.brier_decomposition(c, right)
    expected = {
        "accuracy": measures.accuracy(p, y),
        "confidence": measures.mean_confidence(p),
        "signed_gap": measures.signed_gap(c, right),
        "ece": measures.expected_calibration_error(c, right),
        "mce": measures.maximum_calibration_error(c, right),
        "rms_ce": measures.expected_calibration_error(c, right, norm=2),
        "rms_ce_debiased": measures.expected_calibration_error(c, right, norm=2, debias=True),
        "ece_equal_mass": measures.equal_mass_calibration_error(c, right),
        "ece_true": measures.expected_calibration_error(c, truth),
        "tce": measures.target_calibration_error(c, truth),
        "smooth_ece": measures.smooth_ece(c, right).value,
        "cw_ece": measures.classwise_calibration_error(p, y),
        "ace": measures.adaptive_calibration_error(p, y),
        "ks": measures.kolmogorov_smirnov_calibration_error(c, right),
        "kernel_ce": measures.kernel_calibration_error(c, right),
        "dece": measures.differentiable_calibration_error(p, y),
        "nll": measures.negative_log_likelihood(p, y),
        "brier": measures.brier_score(p, y),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "kl_from_gold": measures.kl_from_gold(p, gold),
        "brier_from_gold": measures.brier_from_gold(p, gold),
        "total_variation": measures.total_variation(p, gold),
        "score_error": measures.expected_score_error(p[ordered], gold[ordered]),
        "auroc": measures.auroc(c, right),
        "aurc": measures.aurc(c, right),
        "excess_aurc": measures.excess_aurc(c, right),
        "accuracy_at_coverage": measures.accuracy_at_coverage(c, right, 0.8),
        "coverage_at_accuracy": measures.coverage_at_accuracy(c, right, 0.9),
    }
    for name, value in expected.items():
        assert report.measures[name].value == pytest.approx(value, abs=1e-12), name
    assert report.test == measures.calibration_test(c, right)


def test_groups_are_measured_apart_and_averaged(report, predictions):
    p, y = predictions
    # In the order of the names as text.
    assert list(report.groups) == sorted(map(str, range(12)))
    third = np.arange(600) % 12 == 3
    assert report.groups["3"].n == 50
    assert report.groups["3"].measures["accuracy"].value == measures.accuracy(p[third], y[third])
    accuracies = [group.measures["accuracy"].value for group in report.groups.values()]
    assert report.macro["accuracy"] == pytest.approx(np.mean(accuracies))
    assert report.micro["accuracy"] == pytest.approx(report.measures["accuracy"].value)


def test_dependent_questions_widen_the_intervals():
    p, y = probabilities_and_labels(200, seed=5)
    groups = np.tile(np.arange(200), 5)
    p, y = np.tile(p, (5, 1)), np.tile(y, 5)
    alone = CalibrationReport.from_predictions(p, y)
    together = CalibrationReport.from_predictions(p, y, groups=groups)
    assert together.clustered
    assert not alone.clustered
    for name in ("accuracy", "confidence", "nll", "brier", "ece", "auroc", "aurc", "cw_ece", "dece"):
        a, t = alone.measures[name], together.measures[name]
        assert t.high - t.low > 1.4 * (a.high - a.low), name
        assert t.value == a.value


@pytest.mark.slow
def test_the_intervals_of_means_cover():
    rng = np.random.default_rng(0)
    hits = dict.fromkeys(("accuracy", "brier", "auroc", "aurc"), 0)
    big_c = rng.random(400_000) / 2 + 0.5
    big_y = rng.random(400_000) < big_c**2
    truth = {
        "accuracy": big_y.mean(),
        "brier": 2 * np.mean((1 - big_c) ** 2 * big_y + big_c**2 * ~big_y),
        "auroc": measures.auroc(big_c, big_y),
        "aurc": measures.aurc(big_c, big_y),
    }
    for _ in range(150):
        c = rng.random(300) / 2 + 0.5
        y = rng.random(300) < c**2
        found = CalibrationReport.from_predictions(np.column_stack([c, 1 - c]), np.where(y, 0, 1), n_resamples=100)
        for name in hits:
            hits[name] += found.measures[name].low <= truth[name] <= found.measures[name].high
    for name, count in hits.items():
        assert count / 150 >= 0.89, name


def test_it_survives_its_file(report, tmp_path):
    report.save(tmp_path / "report.json")
    back = CalibrationReport.load(tmp_path / "report.json")
    assert back.to_dict() == report.to_dict()
    assert str(back) == str(report)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["bins"] == report.bins
    assert sum(row["count"] for row in report.bins) == 600


def test_nan_and_infinity_survive_json(tmp_path):
    report = CalibrationReport.from_predictions([[1.0, 0.0], [1.0, 0.0]], [1, 1])
    report.save(tmp_path / "report.json")
    assert "Infinity" not in (tmp_path / "report.json").read_text()
    back = CalibrationReport.load(tmp_path / "report.json")
    assert back.measures["nll"].value == np.inf
    assert np.isnan(back.measures["auroc"].value)
    assert back.measures["aurc"].value == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("not json", "is not a calibration report"), ("[]", "contains a list"), ('{"format": 1}', "clustered.* missing")],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        CalibrationReport.load(tmp_path / "report.json")


def test_a_later_format_is_refused(report):
    with pytest.raises(ValueError, match="format 2"):
        CalibrationReport.from_dict({**report.to_dict(), "format": 2})


def test_the_table_fits_a_terminal_and_names_everything(report):
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "600 questions",
        "ECE",
        "95% interval",
        "Could it be chance? A perfectly calibrated model would show an ECE of",
        "[0.9, 1]",
        "macro average",
    ):
        assert words in text


def test_without_intervals_and_with_one_sample(predictions):
    bare = CalibrationReport.from_predictions(*predictions, n_resamples=0)
    assert all(measure.low is None for measure in bare.measures.values())
    assert bare.test is None
    one = CalibrationReport.from_predictions([[0.5, 0.5]], [0])
    assert one.n == 1
    assert one.measures["ece"].value == 0.5
    assert "1 question\n" in str(one)


def test_identical_values_and_small_dtypes():
    p = np.tile(np.array([[0.75, 0.25]], dtype=np.float16), (5000, 1))
    report = CalibrationReport.from_predictions(p, np.zeros(5000, dtype=np.uint8))
    assert report.measures["ece"].value == 0.25
    assert np.isnan(report.measures["auroc"].value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ["a"]}, r"groups has shape \(1,\), but there are 600"),
        ({"option_mass": [0.5]}, "option_mass has 1 values"),
        ({"option_mass": [1.5] * 600}, r"option_mass\[0\] is 1.5"),
        ({"true_probabilities": [[1.0, 0.0]]}, r"true_probabilities has shape \(1, 2\)"),
        ({"features": [[1.0]]}, r"features has shape \(1, 1\)"),
        ({"weights": [1.0]}, r"weights has shape \(1,\)"),
        ({"confidence_level": 95}, "confidence_level must be between 0 and 1"),
        ({"n_resamples": 5}, "n_resamples must be at least 100"),
        ({"n_bins": 0}, "n_bins must be at least 1"),
    ],
)
def test_bad_options_are_named(predictions, options, message):
    with pytest.raises(ValueError, match=message):
        CalibrationReport.from_predictions(*predictions, **options)


@pytest.mark.parametrize("name", ["true_probabilities", "gold"])
def test_distributions_that_do_not_sum_to_one_are_named(name):
    p, y = probabilities_and_labels(3)
    with pytest.raises(ValueError, match=rf"^{name}\[0\] sums to 0.5"):
        CalibrationReport.from_predictions(p, y, **{name: p / 2})


@pytest.mark.parametrize("missing", [None, np.nan])
@pytest.mark.parametrize("as_array", [list, lambda names: np.array(names, dtype=object)])
def test_a_missing_group_is_no_group_of_that_name(missing, as_array):
    p, y = probabilities_and_labels(3)
    with pytest.raises(ValueError, match=rf"groups\[1\] is {missing!s}: every question needs a group"):
        CalibrationReport.from_predictions(p, y, groups=as_array(["a", missing, "b"]))


def test_groups_may_be_tensors():
    p, y = probabilities_and_labels(3)
    groups = torch.tensor([0.0, 1.0, 1.0], dtype=torch.bfloat16)
    assert CalibrationReport.from_predictions(p, y, groups=groups).groups["1.0"].n == 2


def test_a_missing_group_of_pandas_is_named():
    groups = pd.array(["a", None], dtype="string")
    with pytest.raises(ValueError, match=r"groups\[1\] is <NA>: every question needs a group"):
        CalibrationReport.from_predictions([[0.9, 0.1], [0.6, 0.4]], [0, 1], groups=groups)


def test_a_group_without_weight_is_named():
    p, y = probabilities_and_labels(5)
    with pytest.raises(ValueError, match=r"group 'b' are all zero \(2 questions, the first in row 1\)"):
        CalibrationReport.from_predictions(p, y, groups=list("abcba"), weights=[1, 0, 2, 0, 0])
    report = CalibrationReport.from_predictions(p, y, groups=list("abcba"), weights=[1, 0, 2, 1, 0], n_resamples=0)
    assert list(report.groups) == ["a", "b", "c"]


def test_importing_the_measures_loads_numpy_alone():
    import subprocess
    import sys

    code = (
        "import sys, hf_calib.measures; print(sorted({'torch', 'scipy', 'matplotlib', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("n_resamples", [0, 100])
def test_the_local_error_says_on_how_many_samples_it_was_measured(n_resamples, tmp_path):
    rng = np.random.default_rng(0)
    n = 2500
    p = rng.dirichlet(np.ones(3), n)
    report = CalibrationReport.from_predictions(
        p, rng.integers(3, size=n), features=rng.random((n, 2)), n_resamples=n_resamples
    )
    assert report.measures["lce"].n_used == 2000
    assert "(n = 2,000)" in next(line for line in str(report).splitlines() if "LCE" in line)
    assert report.measures["ece"].n_used is None
    report.save(tmp_path / "report.json")
    assert CalibrationReport.load(tmp_path / "report.json").measures["lce"] == report.measures["lce"]


def test_groups_get_all_intervals_where_they_are_asked_for():
    rng = np.random.default_rng(0)
    p, y, groups = rng.dirichlet(np.ones(3), 200), rng.integers(3, size=200), np.repeat(["a", "b"], 100)
    few, every = (
        CalibrationReport.from_predictions(p, y, groups=groups, n_resamples=100, all_group_intervals=wanted)
        for wanted in (False, True)
    )
    alone = CalibrationReport.from_predictions(p[:100], y[:100], n_resamples=100)
    assert every.groups["a"].measures == alone.measures
    without = {name for name, measure in few.groups["a"].measures.items() if measure.low is None}
    assert "smooth_ece" in without
    assert "ece" not in without
    assert {name: m.value for name, m in few.groups["a"].measures.items()} == {
        name: m.value for name, m in alone.measures.items()
    }


def test_the_accuracy_of_right_answers_alone_has_an_interval_with_weights():
    weights = np.random.default_rng(0).random(1000)
    for n in range(10, 1000, 90):
        probabilities = np.tile([0.9, 0.1], (n, 1))
        for label in (0, 1):
            report = CalibrationReport.from_predictions(
                probabilities, np.full(n, label), weights=weights[:n], n_resamples=100
            )
            assert report.accuracy.value == 1 - label
            # Wilson's interval is at least as wide as that of so many equal weights.
            assert report.accuracy.high - report.accuracy.low > 3.8 / (n + 3.8)


def test_questions_without_weight_count_for_nothing():
    p = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    labels, clusters = np.arange(60) % 3, np.arange(60) // 3
    weights = (clusters % 2 == 0) * (1.0 + np.arange(60) % 5)
    p[59] = [0, 1, 0]  # the right option has probability 0, but no weight
    counted = weights > 0
    for own in (None, clusters):
        report = CalibrationReport.from_predictions(p, labels, weights=weights, clusters=own, n_resamples=200)
        alone = CalibrationReport.from_predictions(
            p[counted], labels[counted], weights=weights[counted],
            clusters=None if own is None else own[counted], n_resamples=200,
        )  # fmt: skip
        for key in ("accuracy", "confidence", "signed_gap", "nll", "brier", "brier_reliability", "auroc", "aurc"):
            mine, other = report.measures[key], alone.measures[key]
            assert (mine.value, mine.low, mine.high) == pytest.approx((other.value, other.low, other.high)), key
