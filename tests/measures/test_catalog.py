"""One catalog declares every measure, and everything that shows measures reads it."""

import numpy as np
import pytest

from hf_calib.confidence.predictions import Predictions
from hf_calib.confidence.recorded import Recorded
from hf_calib.evaluation.thresholds import Threshold, check_names
from hf_calib.hub.card import evaluation_table, legend
from hf_calib.hub.card_data import AFTER, CalibrationCardData, DatasetReference, Evaluation
from hf_calib.measures import CATALOG, CalibrationReport, Measure, MeasureInfo, shown_in
from hf_calib.reports import Measurement
from hf_calib.reports.page import render_page
from hf_calib.reports.terminal import screen

from .samples import probabilities_and_labels


def keys(place):
    return [info.key for info in shown_in(place)]


def test_the_keys_that_logs_and_tables_are_read_by_stay():
    assert keys("log") == ["accuracy", "confidence", "ece", "cw_ece", "smooth_ece", "nll", "brier", "option_mass"]
    assert keys("models") == ["accuracy", "confidence", "ece", "cw_ece", "nll", "brier", "auroc"]
    assert keys("calibrators") == ["accuracy", "confidence", "ece", "nll"]
    assert keys("terminal") == ["accuracy", "confidence", "ece", "ece_raw", "brier", "auroc", "flip_rate"]
    assert keys("groups") == ["accuracy", "confidence", "ece"]
    assert all(key == info.key for key, info in CATALOG.items())
    assert len({info.label for info in CATALOG.values()}) == len({info.short for info in CATALOG.values()}) == 37


def sharpened(p, power):
    p = p**power
    return p / p.sum(axis=1, keepdims=True)


def test_directions_prefer_the_better_model():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 3000)
    y = np.array([rng.choice(4, p=row) for row in p])
    features = np.ones((3000, 1))
    options = {"n_resamples": 0, "true_probabilities": p, "features": features}
    options |= {"gold": p, "ordered": np.ones(3000, dtype=bool)}
    good = CalibrationReport.from_predictions(p, y, **options).measures
    overconfident = CalibrationReport.from_predictions(sharpened(p, 3), y, **options).measures
    underconfident = CalibrationReport.from_predictions(sharpened(p, 0.3), y, **options).measures
    random = CalibrationReport.from_predictions(rng.permuted(p, axis=1), y, **options).measures
    asked_again = ("ece_raw", "flip_rate", "confidence_at_k")  # of the masses, other orders, and samples
    of_ranking = {"accuracy", "auroc", "aurc", "excess_aurc", "accuracy_at_coverage", "coverage_at_accuracy"}
    for key, info in CATALOG.items():
        if info.direction is None or key in asked_again:
            continue
        worse = underconfident if key == "underconfidence" else overconfident
        worse = random if key in {*of_ranking, "brier_resolution"} else worse
        change = worse[key].value - good[key].value
        assert change > 0 if info.direction == "lower" else change < 0, key


@pytest.fixture
def added(monkeypatch):
    info = MeasureInfo(
        "square",
        "Square of the accuracy",
        "squared accuracy",
        "accuracy times itself",
        "higher",
        lambda battery: Measure(battery.accuracy().value ** 2),
        ("terminal", "page", "card", "log", "groups"),
    )
    monkeypatch.setitem(CATALOG, "square", info)
    return info


def test_a_measure_that_is_added_to_the_catalog_is_shown_everywhere(added):
    p, y = probabilities_and_labels(60)
    report = CalibrationReport.from_predictions(p, y, groups=np.arange(60) % 2)
    square = report.measures["accuracy"].value ** 2
    assert report.to_dict()["measures"]["square"]["value"] == square
    assert f"Square of the accuracy                   {square:.4f}" in str(report)
    assert "squared accuracy" in str(report).split("Group")[1].splitlines()[0]

    check_names([Threshold.parse("square<0.5")], CATALOG)

    predictions = Predictions(np.log(p), y, (None,) * 60, np.arange(60))
    measurement = Measurement("m", {"set": Recorded(predictions, (None,) * 60)})
    assert f"Squared accuracy {square:.3f}" in (shown := screen(measurement))
    assert max(map(len, shown.splitlines())) <= 80
    page = render_page(measurement)
    assert "<dt>squared accuracy</dt>" in page
    assert "Square of the accuracy</td>" in page

    evaluation = Evaluation(DatasetReference("set", size=60), {AFTER: report})
    data = CalibrationCardData(model_name="m", evaluations=(evaluation,))
    assert "Squared accuracy" in evaluation_table(data, evaluation)["all_measures"]
    assert "Squared accuracy: accuracy times itself" in legend(data)

    from hf_calib.trainers.evaluator import logged_measures

    assert logged_measures(report, "eval_calibration/")["eval_calibration/square"] == square
