"""`hf_calib.compare`, `calibrate`, and `diagnose` of a model."""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

import hf_calib
from hf_calib.calibrators import TemperatureScaling, load_calibrator
from hf_calib.calibrators.inputs import UninformativeFitWarning
from hf_calib.confidence import Journal, LocalModel, OptionTexts, predict
from hf_calib.evaluation import CalibratorMismatchWarning, UninformativeFitError, diagnose, measure_recorded
from hf_calib.hub.digests import files_digest
from hf_calib.reports import differences
from hf_calib.tasks import FewShotFormat, PromptFormat
from tests.support import question_rows, questions, tiny_llama

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
    assert {path.name for path in tmp_path.iterdir()} == {
        "comparison.json",
        "comparison.html",
        "measurements",
    }
    # The predictions are kept, to be compared again without asking.
    kept = [tmp_path / "measurements" / f"{name}-letters" for name in models]
    again = hf_calib.compare(dict(zip(models, kept, strict=True)))
    for one, expected in zip(
        again.differences["other", "own", "letters"], found.differences["other", "own", "letters"], strict=True
    ):
        assert one.difference.value == pytest.approx(expected.difference.value, abs=1e-12)


def test_an_interruption_counts_what_is_kept_of_all_models(models, tmp_path, monkeypatch):
    append = Journal.append

    def stopping(self, stage, outcomes):
        append(self, stage, outcomes)
        if self.folder.parent.name == "other":
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", stopping)
    options = {"out": tmp_path, "batch_size": 5, "limit": 20}
    with pytest.raises(KeyboardInterrupt, match=r"^25 answers are kept .* the same call with this folder$"):
        hf_calib.compare(models, {"own": ASKED}, **options)
    monkeypatch.undo()
    score = LocalModel.score_letters

    def of_the_other(self, *arguments):
        assert self.model is models["other"][0]
        return score(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LocalModel, "score_letters", of_the_other)
        found = hf_calib.compare(models, {"own": ASKED}, **options)
    assert found.to_dict() == hf_calib.compare(models, {"own": ASKED}, batch_size=5, limit=20).to_dict()
    assert not [*tmp_path.glob("**/.progress")]


def test_answers_that_a_calibrator_was_fitted_on_are_kept(models, tmp_path, monkeypatch):
    hf_calib.calibrate(models["base"], {"own": ASKED}, folds=2, out=tmp_path, force=True)
    kept = hf_calib.Measurement.load(tmp_path / "measurement")
    assert kept.to_dict()["run"]["confidence"]["name"] == "letters"
    monkeypatch.setattr("hf_calib.evaluation.models.ModelSource.opened", None)  # nothing is asked again
    other = hf_calib.calibrate(models["base"], {"own": ASKED}, calibrators="vector", folds=2, out=tmp_path, force=True)
    assert other.n == 24


def test_measurements_and_their_folders(models, tmp_path):
    measured = {name: hf_calib.measure(model, {"own": ASKED}) for name, model in models.items()}
    for name, own in measured.items():
        own.save(tmp_path / name)
    expected = hf_calib.compare(models, {"own": ASKED}).to_dict()
    assert hf_calib.compare(measured).to_dict() == expected
    assert hf_calib.compare([tmp_path / "base", str(tmp_path / "other")]).to_dict() == expected
    with pytest.raises(ValueError, match="dataset, limit: these models were measured already"):
        hf_calib.compare(measured, ASKED, limit=3)
    with pytest.raises(ValueError, match="either only measurements or only models"):
        hf_calib.compare({"base": measured["base"], "other": models["other"]}, ASKED)


def test_different_question_sets_are_said(models, tmp_path):
    """The same questions are found wherever they are in the two sets; what only one model answered is counted."""
    base = hf_calib.measure(models["base"], {"a.jsonl": ASKED[:10] + NEW[:6]})
    other = hf_calib.measure(models["other"], {"b.jsonl": NEW[3:8] + ASKED[:8]})
    found = hf_calib.compare({"base": base, "other": other}, out=tmp_path)
    key = ("other", "a.jsonl", "letters")
    one, two = found.pairs[key]
    assert (len(one), found.left_out[key]) == (11, (5, 2))
    both = [*range(8), 13, 14, 15]
    np.testing.assert_array_equal(one.rows, both)
    np.testing.assert_array_equal(one.answers, two.answers)
    np.testing.assert_allclose(two.probabilities[:8], other.predictions.probabilities[5:])
    said = "n = 11 questions that both answered; left out: 5 that only base answered, 2 that only other answered"
    assert found.n_text(key) == said
    assert said in (tmp_path / "comparison.html").read_text()
    (cell,) = json.loads((tmp_path / "comparison.json").read_text())["comparisons"]
    assert (cell["n"], cell["left_out"]) == (11, {"base": 5, "other": 2})
    assert found.notes == ("base was measured on 'a.jsonl'.", "other was measured on 'b.jsonl'.")
    with pytest.raises(ValueError, match="no question in common"):
        hf_calib.compare({"base": base, "other": hf_calib.measure(models["other"], {"c": NEW[10:]})})


def test_models_that_were_asked_differently_are_noted(models):
    base = hf_calib.measure(models["base"], ASKED)
    measured = {"base": base, "same": hf_calib.measure(models["other"], ASKED)}
    measured["prompt"] = hf_calib.measure(models["other"], ASKED, prompt=PromptFormat(cue="So:"))
    measured["both"] = hf_calib.measure(models["other"], ASKED, prompt=PromptFormat(cue="So:"), permute_options=True)
    assert hf_calib.compare(measured).notes == (
        "prompt was asked with a different prompt than base.",
        "both was asked with a different prompt and a different order of the options than base.",
    )


def test_a_dataset_that_not_all_were_measured_on_is_left_out_and_said(models):
    base = hf_calib.measure(models["base"], {"own": ASKED, "new": NEW})
    other = hf_calib.measure(models["other"], {"own": ASKED})
    found = hf_calib.compare({"base": base, "other": other})
    assert found.tasks == ("own",)
    assert found.notes == ("'new' (24 questions of base) was left out: not every model was measured on it.",)
    elsewhere = hf_calib.measure(models["other"], {"x": ASKED, "y": NEW})
    with pytest.raises(ValueError, match="measured on different datasets; 'own' "):
        hf_calib.compare({"base": base, "other": elsewhere})


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
        ([models["base"], models["other"]], "'LlamaForCausalLM' is given twice; remove one, or give a mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            hf_calib.compare(given, ASKED)
    with pytest.raises(ValueError, match="at least one --dataset"):
        hf_calib.compare(models)


def test_what_was_not_measured_is_named(models, tmp_path):
    measured = hf_calib.measure(models["base"], ASKED)
    (tmp_path / "empty").mkdir()
    for other, problem in (
        (tmp_path / "typo.jsonl", r"there is no file or folder '.*typo\.jsonl'"),
        (str(tmp_path / "empty"), r"'.*empty' holds no predictions"),
        (models["other"], "'other' is a model"),
    ):
        with pytest.raises(ValueError, match=rf"^models: {problem}, but 'base' was measured; give either"):
            hf_calib.compare({"base": measured, "other": other})


def test_readings_of_one_family_are_distinguished(models):
    ways = [OptionTexts(), OptionTexts(normalization="tokens")]
    found = hf_calib.compare(models, {"own": ASKED}, method=ways)
    assert found.methods == ("text", "text-tokens")
    assert len(found.pairs) == len(found.measurements) / 2 == 2
    with pytest.raises(ValueError, match="method: two entries read confidence by 'text'"):
        hf_calib.compare(models, {"own": ASKED}, method=["text", OptionTexts()])
    summed, mean = (hf_calib.measure(models["base"], {"own": ASKED}, method=way) for way in ways)
    with pytest.raises(
        ValueError, match=r"models: confidence was read in .* \(one by text, two by text-tokens\); meas"
    ):
        hf_calib.compare({"one": summed, "two": mean})
    elsewhere = replace(mean, run={})
    assert hf_calib.compare({"one": mean, "two": elsewhere}).methods == ("text-tokens",)


def test_a_calibrator_is_fitted_and_saved(models, tmp_path):
    raw = predict(*models["base"], ASKED)
    fitted = hf_calib.calibrate(models["base"], ASKED, folds=2, out=tmp_path, force=True)  # a model at chance
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


def test_sets_whose_confidence_was_read_in_different_ways_are_refused(models, tmp_path):
    letters = hf_calib.measure(models["base"], ASKED)
    texts = hf_calib.measure(models["base"], NEW, method="text-tokens")
    texts.save(tmp_path)
    for recorded in (texts, tmp_path):
        with pytest.raises(ValueError, match=r"^training, new: .* \(training by letters, new by text-tokens\)"):
            diagnose(letters, recorded)
        with pytest.raises(ValueError, match=r"^target_predictions: .* \(the model by letters, the target by tex"):
            hf_calib.calibrate(letters, calibrators="importance_weighted", target_predictions=recorded, folds=2)
    # Predictions do not record how they were read.
    assert diagnose(letters, texts.predictions).new.n == len(texts.predictions)
    # A reference replaces the answers, and may be read in another way.
    reference = hf_calib.measure(models["base"], ASKED, method="text")
    found = hf_calib.calibrate(letters, calibrators="reference_agreement", reference_predictions=reference, folds=2)
    assert found.name == "reference_agreement"


def test_a_model_is_diagnosed_on_questions(models, tmp_path):
    found = diagnose(ASKED, NEW, model=models["base"], out=tmp_path)
    known, new = (predict(*models["base"], asked) for asked in (ASKED, NEW))
    expected = diagnose(known, new)
    assert (found.regime, found.gap, found.new.n) == (expected.regime, expected.gap, 24)
    assert found.training.confidence == pytest.approx(expected.training.confidence, abs=1e-6)
    assert json.loads((tmp_path / "diagnosis.json").read_text()) == found.to_dict()
    measured = [hf_calib.measure(models["base"], asked) for asked in (ASKED, NEW)]
    assert diagnose(*measured).to_dict() == found.to_dict()
    with pytest.raises(ValueError, match=r"new: holds the same questions as training, q\.jsonl"):
        diagnose("q.jsonl", "q.jsonl", model=models["base"])
    with pytest.raises(ValueError, match="new: holds the same questions as training; pass"):
        diagnose(known, known)
    for name in ("one", "other"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(12)))
    for other in ("other.jsonl", f"../{tmp_path.name}/one.jsonl"):
        with pytest.raises(ValueError, match=r"new: holds the same questions as training, .*one\.jsonl"):
            diagnose(tmp_path / "one.jsonl", tmp_path / other, model=models["base"])
    with pytest.raises(ValueError, match="limit: these say how a model is asked; give model"):
        diagnose(known, new, limit=3)


# What a calibrator is for


def test_calibrated_predictions_are_not_calibrated_again(models, tmp_path):
    fitted = hf_calib.calibrate(models["base"], ASKED, folds=2, force=True, out=tmp_path / "c")
    measured = hf_calib.measure(models["base"], NEW, calibrator=fitted.calibrator, out=tmp_path / "m")
    for recorded in (measured, tmp_path / "m"):
        with pytest.raises(
            ValueError, match=r"^the predictions of 'Llam.*' are already calibrated, by temperature; .*before/"
        ):
            hf_calib.calibrate(recorded, folds=2)
    assert hf_calib.calibrate(tmp_path / "m" / "before", folds=2).n == len(NEW)


def test_the_same_prompt_in_memory_and_in_a_folder_is_not_said_to_differ(models, tmp_path):
    prompt = FewShotFormat.choose(questions(20, seed=9), 1)
    measured = {name: hf_calib.measure(model, ASKED, prompt=prompt) for name, model in models.items()}
    measured["other"].save(tmp_path)
    assert not hf_calib.compare({"base": measured["base"], "other": tmp_path}).notes
    plain = hf_calib.measure(models["other"], ASKED)
    assert "different prompt" in hf_calib.compare({"base": measured["base"], "other": plain}).notes[0]


def test_a_saved_calibrator_applies_after_solved_examples(models, tmp_path):
    prompt = FewShotFormat.choose(questions(20, seed=9), 1)
    hf_calib.calibrate(models["base"], ASKED, prompt=prompt, folds=2, force=True, out=tmp_path)
    assert hf_calib.measure(models["base"], NEW, prompt=prompt, calibrator=tmp_path).before is not None
    with pytest.raises(
        ValueError, match=r"calibrator: it was not fitted on what it is applied to: prompt_format\.exam"
    ):
        hf_calib.measure(models["base"], NEW, calibrator=tmp_path)


def test_files_of_one_name_in_two_folders_are_kept_apart(models, tmp_path):
    for name, start in (("law", 0), ("med", 20)):
        (tmp_path / name).mkdir()
        rows = question_rows(40)[start : start + 20]
        (tmp_path / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [tmp_path / name / "test.jsonl" for name in ("law", "med")]
    known = hf_calib.calibrate(models["base"], paths, folds=2).calibrator.fitted_on.datasets
    assert list(known) == ["test.jsonl", "test.jsonl (2)"]
    assert len(set(known.values())) == 2


def test_a_calibrator_knows_what_it_was_fitted_on(models, tmp_path):
    fitted = hf_calib.calibrate(models["base"], {"own": ASKED}, folds=2, out=tmp_path, force=True).calibrator
    loaded = load_calibrator(tmp_path)
    assert loaded.fitted_on == fitted.fitted_on
    known = loaded.fitted_on
    assert (known.n, list(known.datasets)) == (24, ["own"])
    assert known.weights.startswith("tensors:")
    assert known.asking["confidence"]["name"] == "letters"
    assert known.asking["prompt_format"]["chat"] is False
    content = json.loads((tmp_path / "calibrator.json").read_text())
    for wrong in ({**content["fitted_on"], "n": 0}, {**content["fitted_on"], "more": 1}, [], {"n": 3}):
        (tmp_path / "calibrator.json").write_text(json.dumps({**content, "fitted_on": wrong}))
        with pytest.raises(ValueError, match="fitted_on"):
            load_calibrator(tmp_path)


def test_a_calibrator_of_something_else_is_refused_before_anything_is_asked(models, tmp_path, monkeypatch):
    hf_calib.calibrate(models["base"], {"own": ASKED}, folds=2, out=tmp_path, force=True)
    other = {
        "model": (models["other"], {}),
        "prompt_format.cue": (models["base"], {"prompt": PromptFormat(cue="So:")}),
        "confidence.name": (models["base"], {"method": "text"}),
    }
    for named, (model, options) in other.items():
        with monkeypatch.context() as patched:
            patched.setattr("hf_calib.evaluation.models.ModelSource.opened", None)  # nothing is asked
            with pytest.raises(ValueError, match=f"not fitted on what it is applied to: .*{named}.*--force"):
                hf_calib.measure(model, {"new": NEW}, calibrator=tmp_path, **options)
        with pytest.warns(CalibratorMismatchWarning, match=named):
            forced = hf_calib.measure(model, {"new": NEW}, calibrator=tmp_path, force=True, **options)
        assert forced.run["calibrator"]["method"] == "temperature"


def test_recorded_predictions_are_checked_and_not_calibrated_twice(models, tmp_path):
    hf_calib.calibrate(models["base"], {"own": ASKED}, folds=2, out=tmp_path / "c", force=True)
    for name, model in models.items():
        hf_calib.measure(model, {"new": NEW}, out=tmp_path / name)
    once = measure_recorded(tmp_path / "base", calibrator=tmp_path / "c", out=tmp_path / "once")
    assert once.before.report.n == 24
    with pytest.raises(ValueError, match="the model is"):
        measure_recorded(tmp_path / "other", calibrator=tmp_path / "c")
    with pytest.raises(ValueError, match="calibrated already, by temperature"):
        measure_recorded(tmp_path / "once", calibrator=tmp_path / "c")


def test_before_and_after_are_kept_and_the_very_questions_are_noticed(models, tmp_path):
    fitted = hf_calib.calibrate(models["base"], {"own": ASKED}, folds=2).calibrator
    measured = hf_calib.measure(models["base"], {"new": NEW, "again": ASKED}, calibrator=fitted, out=tmp_path)
    raw = hf_calib.measure(models["base"], {"new": NEW, "again": ASKED})
    assert measured.before.report.measures == raw.report.measures
    assert measured.before.report.measures["ece"] != measured.report.measures["ece"]
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["before"]["measures"]["ece"] == raw.to_dict()["measures"]["ece"]
    page = (tmp_path / "report.html").read_text()
    assert "Before and after temperature" in page
    assert page.count('aria-label="Reliability diagram') == 3
    noticed = [own.dataset for own in measured.warnings if own.code == "calibrator_in_sample"]
    assert noticed == ["again"]


def test_a_fit_that_says_nothing_is_not_saved_unless_forced(tmp_path):
    rows = ["p_A,p_B,answer", *["0.9,0.1,A", "0.8,0.2,A"] * 20]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UninformativeFitError, match=r"the fit does not generalize\. .*were right") as caught:
            hf_calib.calibrate(tmp_path / "p.csv", out=tmp_path / "c")
        assert not (tmp_path / "c" / "calibrator.json").exists()
        assert caught.value.calibration.problem
        forced = hf_calib.calibrate(tmp_path / "p.csv", out=tmp_path / "c", force=True)
    assert load_calibrator(tmp_path / "c").temperature == forced.calibrator.temperature
    assert json.loads((tmp_path / "c" / "calibration.json").read_text())["problem"] == forced.problem
    with pytest.warns(UninformativeFitWarning, match="were right"):
        unsaved = hf_calib.calibrate(tmp_path / "p.csv")
    with pytest.raises(UninformativeFitError):
        unsaved.save(tmp_path / "d")


def test_weights_are_told_from_others_wherever_they_lie(models, tmp_path):
    for name in ("base", "other"):
        models[name][0].save_pretrained(tmp_path / name)
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    assert files_digest(tmp_path / "base") == files_digest(tmp_path / "copy")
    assert files_digest(tmp_path / "base") != files_digest(tmp_path / "other")
    assert files_digest("some/model") is None
