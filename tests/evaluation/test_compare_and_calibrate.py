"""`hf_calib.compare`, `calibrate`, and `diagnose` of a model."""

import json

import numpy as np
import pytest

import hf_calib
from hf_calib.calibrators import TemperatureScaling, load_calibrator
from hf_calib.confidence import OptionTexts, predict
from hf_calib.evaluation import diagnose
from hf_calib.reports import differences
from tests.support import questions, tiny_llama

ASKED, NEW = questions(24, choices=(4, 3)), questions(24, seed=1, choices=(4, 3))


@pytest.fixture(scope="module")
def models(tokenizer):
    return {name: (tiny_llama(tokenizer, seed=seed), tokenizer) for name, seed in (("base", 0), ("other", 1))}


def test_models_in_memory_with_names_of_ones_own(models, tmp_path):
    found = hf_calib.compare(models, {"own": ASKED}, method=["letters", OptionTexts()], out=tmp_path)
    assert (found.models, found.tasks, found.methods) == (("base", "other"), ("own",), ("letters", "text"))
    base, other = (predict(*model, ASKED) for model in models.values())
    for one, expected in zip(found.differences["other", "own", "letters"], differences(base, other), strict=True):
        assert one.difference.value == pytest.approx(expected.difference.value, abs=1e-5)
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.json", "comparison.html", ".answers"}


def test_measurements_and_their_folders(models, tmp_path):
    measured = {name: hf_calib.measure(model, {"own": ASKED}) for name, model in models.items()}
    for name, own in measured.items():
        own.save(tmp_path / name)
    expected = hf_calib.compare(models, {"own": ASKED}).to_dict()
    assert hf_calib.compare(measured).to_dict() == expected
    assert hf_calib.compare([tmp_path / "base", str(tmp_path / "other")]).to_dict() == expected
    with pytest.raises(ValueError, match="dataset, limit: these models were measured already"):
        hf_calib.compare(measured, ASKED, limit=3)
    with pytest.raises(ValueError, match="either models or measurements"):
        hf_calib.compare({"base": measured["base"], "other": models["other"]}, ASKED)


def test_questions_that_can_be_read_once_are_asked_of_all(models):
    found = hf_calib.compare(models, {"own": iter(ASKED)}, method=["letters", "text"])
    assert len(found.differences) == 2


def test_settings_go_to_the_methods_that_have_them(models):
    found = hf_calib.compare(models, ASKED[:6], method=["letters", "marginalized"], n_orders=2)
    assert found.methods == ("letters", "marginalized")
    with pytest.raises(ValueError, match="n_samples: none of these methods has such a setting"):
        hf_calib.compare(models, ASKED, method=["letters", "marginalized"], n_samples=2)


def test_wrong_comparisons(models):
    for given, message in (
        ("model", "at least one other model"),
        ([models["base"]], "at least one other model"),
        ([models["base"], models["other"]], "'LlamaForCausalLM' is given twice; give a mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            hf_calib.compare(given, ASKED)
    with pytest.raises(ValueError, match="at least one --dataset"):
        hf_calib.compare(models)


def test_a_calibrator_is_fitted_and_saved(models, tmp_path):
    raw = predict(*models["base"], ASKED)
    fitted = hf_calib.calibrate(models["base"], ASKED, folds=2, out=tmp_path)
    expected = TemperatureScaling().fit(raw.option_log_probabilities, raw.answers)
    assert fitted.calibrator.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert (fitted.name, fitted.n, fitted.folds) == ("temperature", 24, 2)
    assert fitted.report is fitted.reports["temperature"]
    assert fitted.reports["none"].measures["nll"].value == pytest.approx(raw.report().measures["nll"].value, abs=1e-5)
    assert json.loads((tmp_path / "calibration.json").read_text()) == fitted.to_dict()
    assert load_calibrator(tmp_path).temperature == fitted.calibrator.temperature
    measured = hf_calib.measure(models["base"], ASKED, calibrator=fitted.calibrator)
    np.testing.assert_allclose(measured.predictions.probabilities, raw.calibrated(expected).probabilities, atol=1e-4)


def test_it_is_fitted_on_a_measurement_or_its_folder_alike(models, tmp_path):
    measured = hf_calib.measure(models["base"], ASKED)
    measured.save(tmp_path)
    options = {"calibrators": ("temperature", "vector"), "folds": 2}
    expected = hf_calib.calibrate(models["base"], ASKED, **options).to_dict()
    assert hf_calib.calibrate(measured, **options).to_dict() == expected
    assert hf_calib.calibrate(tmp_path, **options).to_dict() == expected
    with pytest.raises(ValueError, match="predictions that exist already need none"):
        hf_calib.calibrate(measured, ASKED)
    with pytest.raises(ValueError, match="dataset: a model needs questions to fit on"):
        hf_calib.calibrate(models["base"])


def test_a_target_and_a_reference_are_given_as_measurements(models):
    base, other = (hf_calib.measure(model, ASKED) for model in models.values())
    found = hf_calib.calibrate(base, calibrators="reference_agreement", reference_predictions=other, folds=2)
    same = hf_calib.calibrate(
        base, calibrators="reference_agreement", reference_predictions=other.predictions, folds=2
    )
    assert found.to_dict() == same.to_dict()
    target = hf_calib.calibrate(base, calibrators="importance_weighted", target_predictions=other, folds=2)
    assert target.name == "importance_weighted"


def test_a_model_is_diagnosed_on_questions(models, tmp_path):
    found = diagnose(ASKED, NEW, model=models["base"], out=tmp_path)
    known, new = (predict(*models["base"], asked) for asked in (ASKED, NEW))
    expected = diagnose(known, new)
    assert (found.regime, found.gap, found.new.n) == (expected.regime, expected.gap, 24)
    assert found.training.confidence == pytest.approx(expected.training.confidence, abs=1e-6)
    assert json.loads((tmp_path / "diagnosis.json").read_text()) == found.to_dict()
    measured = [hf_calib.measure(models["base"], asked) for asked in (ASKED, NEW)]
    assert diagnose(*measured).to_dict() == found.to_dict()
    with pytest.raises(ValueError, match=r"are the same questions, q\.jsonl"):
        diagnose("q.jsonl", "q.jsonl", model=models["base"])
    with pytest.raises(ValueError, match="limit: these say how a model is asked; give model"):
        diagnose(known, new, limit=3)
