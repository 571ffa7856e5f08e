"""The card of a model that was trained elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hf_calib
from hf_calib.calibrators import TemperatureScaling, by_name
from hf_calib.calibrators.fitted_on import FittedOn
from hf_calib.cli import main
from hf_calib.confidence import Journal, predict
from hf_calib.evaluation import CalibratorMismatchWarning, diagnose, measure_and_write_card
from hf_calib.evaluation.models import model_source, this_process
from hf_calib.evaluation.regime_text import regime_sample, regime_text
from hf_calib.evaluation.settings import AskSettings
from hf_calib.hub import (
    CalibrationCardData,
    CardConflictError,
    DatasetReference,
    InvalidFolderError,
    load,
    publish_adapter,
    read_calibration_metadata,
    save_calibration_metadata,
    write_card,
)
from hf_calib.hub.calibration_metadata import add_calibrator
from hf_calib.tasks import PromptFormat, as_questions
from tests.hub.cards import card_data, shown
from tests.support import byte_level_tokenizer, question_rows, questions, tiny_llama


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows(40)))
    return path


def test_measures_the_adapter_and_the_model_under_it(client, adapter_folder, adapter, base, dataset, capsys):
    told = ["--name", "Mine", "--alignment", "DPO", "--license", "mit", "--in-domain"]
    assert main(["card", str(adapter_folder), "--dataset", str(dataset), *told]) == 0
    data = CalibrationCardData.load(adapter_folder)
    (evaluation,) = data.evaluations
    tokenizer = byte_level_tokenizer()
    with adapter.disable_adapter():
        under = predict(adapter, tokenizer, questions(40)).report()
    for stage, expected in (("after", predict(adapter, tokenizer, questions(40)).report()), ("base", under)):
        for key in ("ece", "accuracy", "nll"):
            measured = evaluation.reports[stage].measures[key].value
            assert measured == pytest.approx(expected.measures[key].value, rel=1e-6)
    assert evaluation.dataset.name == "questions.jsonl"
    assert evaluation.in_domain
    assert (data.base_model, data.adapter_type) == (base, "LoRA")
    assert data.base_model_revision == client.repository(base).branches["main"]
    card = (adapter_folder / "README.md").read_text()
    assert "# Mine" in card
    assert yaml.safe_load(card.split("\n---\n")[0])["license"] == "mit"
    metadata = read_calibration_metadata(adapter_folder)
    assert metadata.option_counts == (4,)
    assert metadata.base_model == base
    assert publish_adapter(adapter_folder, "ann/mine").changed


def change_base(client, base, base_folder, folder, seed=5):
    """Put other weights of the base model on the Hub."""
    tiny_llama(byte_level_tokenizer(), seed=seed).save_pretrained(folder / "changed")
    files = {path.name: path.read_bytes() for path in base_folder.iterdir() if path.is_file()}
    client.add(base, files | {"model.safetensors": (folder / "changed" / "model.safetensors").read_bytes()})


def test_a_model_that_changed_on_the_hub_is_asked_again(client, base, base_folder, tmp_path):
    def measured(out):
        return hf_calib.measure(base, questions(20), out=tmp_path / out)

    first = measured("out")
    np.testing.assert_array_equal(
        measured("out").predictions.option_log_probabilities, first.predictions.option_log_probabilities
    )
    change_base(client, base, base_folder, tmp_path)
    again = measured("out")
    assert again.run["revision"] == client.repository(base).branches["main"] != first.run["revision"]
    expected = measured("fresh").predictions.option_log_probabilities
    np.testing.assert_array_equal(again.predictions.option_log_probabilities, expected)
    assert not np.allclose(expected, first.predictions.option_log_probabilities, atol=1e-3)


@pytest.mark.parametrize("place", ["hub", "here"])
def test_an_adapter_whose_base_model_changed_is_asked_again(
    client, base, base_folder, adapter_folder, tmp_path, place
):
    name = str(adapter_folder)
    if place == "hub":
        files = [path for path in adapter_folder.iterdir() if path.suffix in (".json", ".safetensors")]
        client.add(name := "ann/adapter", {path.name: path.read_bytes() for path in files})
    first = hf_calib.measure(name, questions(30), out=tmp_path / "out")
    assert first.run["base_revision"] == client.repository(base).branches["main"]
    hf_calib.calibrate(first, out=tmp_path / "fitted", force=True)
    hf_calib.measure(name, questions(20), calibrator=tmp_path / "fitted")
    change_base(client, base, base_folder, tmp_path)
    again = hf_calib.measure(name, questions(30), out=tmp_path / "out")
    assert again.run["base_revision"] == client.repository(base).branches["main"] != first.run["base_revision"]
    assert not np.allclose(again.predictions.logits, first.predictions.logits, atol=1e-3)
    with pytest.raises(ValueError, match=r"the revision of the model under the adapter is \w{14}, not "):
        hf_calib.measure(name, questions(20), calibrator=tmp_path / "fitted")


def test_a_calibrator_of_an_adapter_on_another_local_model_is_refused(base_folder, adapter_folder, tmp_path):
    tiny_llama(byte_level_tokenizer(), seed=5).save_pretrained(tmp_path / "other")
    byte_level_tokenizer().save_pretrained(tmp_path / "other")
    hf_calib.calibrate(base_folder, questions(30), adapter=adapter_folder, out=tmp_path / "fitted", force=True)
    with pytest.raises(ValueError, match="the weights of the model under the adapter are files:"):
        hf_calib.measure(tmp_path / "other", questions(9), adapter=adapter_folder, calibrator=tmp_path / "fitted")


def test_a_model_of_another_revision_is_loaded_as_its_identity_says(client, base, base_folder, tmp_path):
    """A commit that arrives after the identity was read does not change which weights are asked."""
    expected = hf_calib.measure(base, questions(20)).predictions.logits
    source = model_source(base, AskSettings(progress=False), this_process())
    change_base(client, base, base_folder, tmp_path)
    np.testing.assert_array_equal(hf_calib.measure(source, questions(20)).predictions.logits, expected)


def test_another_base_model_has_other_revisions(client, base, base_folder, adapter_folder, tmp_path):
    config = json.loads((adapter_folder / "adapter_config.json").read_text())
    config["revision"] = client.repository(base).branches["main"]
    (adapter_folder / "adapter_config.json").write_text(json.dumps(config))
    change_base(client, "lab/other", base_folder, tmp_path)
    run = hf_calib.measure("lab/other", questions(8), adapter=adapter_folder).run
    assert run["base_revision"] == client.repository("lab/other").branches["main"]


def test_a_model_in_memory_is_not_said_to_be_a_commit(client, base, base_folder, tmp_path):
    old = client.repository(base).branches["main"]
    change_base(client, base, base_folder, tmp_path)
    AutoModelForCausalLM.from_pretrained(base)  # the newest commit is the main one in the client's cache
    model = AutoModelForCausalLM.from_pretrained(base, revision=old)
    assert "revision" not in hf_calib.measure((model, byte_level_tokenizer()), questions(8)).run


def test_a_stopped_run_of_another_commit_says_what_to_do(client, base, base_folder, tmp_path, monkeypatch):
    append = Journal.append

    def stop(self, *outcomes):
        append(self, *outcomes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            hf_calib.measure(base, questions(40), out=tmp_path / "out")
    change_base(client, base, base_folder, tmp_path)
    with pytest.raises(ValueError, match=r"changed on the Hub \(then revision \w{12}; now .* write to another"):
        hf_calib.measure(base, questions(40), out=tmp_path / "out")


def test_a_loaded_model_is_the_one_on_the_hub(client, base, adapter_folder, dataset, tmp_path):
    measure_and_write_card(adapter_folder, dataset)
    publish_adapter(adapter_folder, "ann/adapter")
    for name in (base, "ann/adapter"):
        measured = hf_calib.measure(hf_calib.load(name), questions(40))
        assert (measured.run["model"], measured.run["revision"]) == (name, client.repository(name).branches["main"])
        assert measured.name == name.split("/")[1]
        hf_calib.calibrate(measured, out=tmp_path / "fitted")
        hf_calib.measure(name, questions(20), calibrator=tmp_path / "fitted")
    with pytest.raises(ValueError, match=r"calibrator: .*: the model is lab/tiny at revision .*, not ann/adapter at"):
        hf_calib.measure(base, questions(20), calibrator=tmp_path / "fitted")


def test_an_adapter_in_memory_is_not_taken_for_its_base_model(client, base, adapter, adapter_folder, tmp_path):
    measured = hf_calib.measure((adapter, byte_level_tokenizer()), questions(40))
    assert measured.run["model"] is None
    hf_calib.calibrate(measured, out=tmp_path / "fitted")
    hf_calib.measure(adapter_folder, questions(20), calibrator=tmp_path / "fitted")


def test_the_model_to_compare_with_is_asked_in_the_same_way(base_folder, dataset, tmp_path):
    own = shutil.copytree(base_folder, tmp_path / "own")
    save_calibration_metadata(own, confidence="text-tokens", option_counts=(4,))
    measure_and_write_card(own, dataset, before=str(base_folder))
    reports = CalibrationCardData.load(own).evaluations[0].reports
    for key in ("accuracy", "confidence", "ece", "nll"):
        assert reports["before"].measures[key].value == pytest.approx(reports["after"].measures[key].value, abs=1e-6)


def test_a_calibrator_that_is_not_the_models_is_neither_removed_nor_claimed(base_folder, dataset, tmp_path):
    own = shutil.copytree(base_folder, tmp_path / "own")
    TemperatureScaling().fit(np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), [0, 0, 1]).save(own / "calibrator.json")
    with pytest.raises(ValueError, match=r"calibrator: .*calibrator\.json is there, but no hf_calib\.json says"):
        measure_and_write_card(own, dataset)
    assert (own / "calibrator.json").is_file()
    (own / "calibrator.json").rename(tmp_path / "calibrator.json")
    measure_and_write_card(own, dataset)
    (tmp_path / "calibrator.json").rename(own / "calibrator.json")
    card = measure_and_write_card(own, dataset).read_text()
    assert "fitted calibrator" not in card


def test_figures_on_other_sets_from_before_a_change_are_refused(base_folder, dataset, tmp_path):
    own = shutil.copytree(base_folder, tmp_path / "own")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in question_rows(20, seed=1)))
    width = json.loads((own / "config.json").read_text())["hidden_size"]
    rng = np.random.default_rng(0)
    answers, features = np.arange(300) % 4, rng.normal(size=(300, width))
    logits = rng.normal(size=(300, 4)) + np.eye(4)[answers]
    for name, given in {"temperature": {}, "localized": {"features": features}}.items():
        calibrator = by_name(name).fit(logits, answers, **given)
        assert calibrator.save(tmp_path / name / "calibrator.json").with_suffix(".safetensors").exists() == bool(given)
        measure_and_write_card(own, dataset, calibrator=tmp_path / name)
        measure_and_write_card(own, other, calibrator=tmp_path / name)
        before = (own / "calibration_report.json").read_bytes()
        by_name(name).fit(2 * logits, answers, **given).save(tmp_path / "new" / "calibrator.json")
        with pytest.raises(ValueError, match=r"measured before the calibrator changed; delete it"):
            measure_and_write_card(own, dataset, calibrator=tmp_path / "new")
        assert (own / "calibration_report.json").read_bytes() == before
        (own / "calibration_report.json").unlink()
    measure_and_write_card(own, dataset)
    tiny_llama(byte_level_tokenizer(), seed=3).save_pretrained(own)
    with pytest.raises(ValueError, match=r"questions\.jsonl that were measured before the weights changed; delete it"):
        measure_and_write_card(own, other)
    measure_and_write_card(own, dataset)
    measure_and_write_card(own, other)


def test_figures_of_another_prompt_do_not_stay(base_folder, dataset, tmp_path):
    own = shutil.copytree(base_folder, tmp_path / "own")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in question_rows(20, seed=1)))
    measure_and_write_card(own, dataset, before=str(base_folder))
    (own / "hf_calib.json").unlink()
    prompt = PromptFormat(cue="A:")
    with pytest.raises(ValueError, match=r"measured before the prompt format changed; delete"):
        measure_and_write_card(own, other, prompt_format=prompt)
    report = own / "calibration_report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "regime": "calibratable.", "versions": {}}))
    measure_and_write_card(own, dataset, prompt_format=prompt)
    data = CalibrationCardData.load(own)
    assert data.prompt_format["cue"] == "A:"
    assert set(data.evaluations[0].reports) == {"after"}
    assert (data.regime, data.versions["hf-calib"]) == (None, hf_calib.__version__)
    save_calibration_metadata(own, prompt_format=prompt, confidence="text-tokens", option_counts=(4,))
    with pytest.raises(ValueError, match=r"measured before the way of reading confidence changed; delete it"):
        measure_and_write_card(own, other)
    measure_and_write_card(own, dataset)
    assert CalibrationCardData.load(own).confidence == "text-tokens"


def test_the_compared_model_does_not_stay_with_another_sample(base_folder, dataset, tmp_path):
    own = shutil.copytree(base_folder, tmp_path / "own")
    measure_and_write_card(own, dataset, before=str(base_folder))
    assert "For comparison" in measure_and_write_card(own, dataset).read_text()
    assert "For comparison" not in measure_and_write_card(own, dataset, limit=20).read_text()
    card = measure_and_write_card(own, dataset, limit=20, before=str(base_folder)).read_text()
    assert "For comparison" in card
    assert "Questions drawn at random from 40 (seed 0). " in card
    assert "For comparison" not in measure_and_write_card(own, dataset, limit=20, seed=1).read_text()


def test_files_of_one_name_do_not_overwrite_each_other(base_folder, dataset, tmp_path):
    own = shutil.copytree(base_folder, tmp_path / "own")
    other = tmp_path / "other" / dataset.name
    other.parent.mkdir()
    other.write_text("".join(json.dumps(row) + "\n" for row in question_rows(20, seed=1)))
    measure_and_write_card(own, dataset, limit=20)
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    for limit in (None, 10):
        with pytest.raises(ValueError, match=r"different questions under the name questions\.jsonl.* rename the file"):
            measure_and_write_card(own, other, limit=limit)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    measure_and_write_card(own, dataset)
    measure_and_write_card(own, shutil.copy(dataset, own.parent / "copy.jsonl"))
    report = own / "calibration_report.json"
    content = json.loads(report.read_text())
    assert [own["dataset"]["name"] for own in content["evaluations"]] == ["questions.jsonl", "copy.jsonl"]
    report.write_text(json.dumps(content | {"evaluations": content["evaluations"][1:]}))
    measure_and_write_card(own, other)  # as the message says
    assert len(CalibrationCardData.load(own).evaluations) == 2


def test_figures_of_another_base_model_do_not_stay(client, adapter_folder, base, base_folder, dataset, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in question_rows(20, seed=1)))
    measure_and_write_card(adapter_folder, dataset)
    (adapter_folder / "hf_calib.json").unlink()  # which names the commit to load
    report = adapter_folder / "calibration_report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "regime": "calibratable."}))
    change_base(client, base, base_folder, tmp_path)
    with pytest.raises(ValueError, match=r"questions\.jsonl that were measured before the base model changed; delete"):
        measure_and_write_card(adapter_folder, other)
    measure_and_write_card(adapter_folder, dataset)
    data = CalibrationCardData.load(adapter_folder)
    assert data.base_model_revision == client.repository(base).branches["main"]
    assert read_calibration_metadata(adapter_folder).base_model_revision == data.base_model_revision
    assert data.regime is None


def test_figures_of_another_local_base_model_do_not_stay(base_folder, adapter_folder, dataset, tmp_path):
    local = shutil.copytree(base_folder, tmp_path / "local")
    config = json.loads((adapter_folder / "adapter_config.json").read_text())
    (adapter_folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(local)}))
    other = shutil.copy(dataset, tmp_path / "other.jsonl")
    measure_and_write_card(adapter_folder, dataset)
    tiny_llama(byte_level_tokenizer(), seed=5).save_pretrained(local)
    with pytest.raises(ValueError, match="measured before the base model changed; delete it"):
        measure_and_write_card(adapter_folder, other)
    measure_and_write_card(adapter_folder, dataset)
    measure_and_write_card(adapter_folder, other)


def test_figures_that_follow_from_others_do_not_outlive_them(adapter_folder, base, dataset, client):
    measure_and_write_card(adapter_folder, dataset)
    report = adapter_folder / "calibration_report.json"
    content = json.loads(report.read_text())
    (reports,) = (own["reports"] for own in content["evaluations"])
    reports |= {"before": reports["base"], "temperature_scaled": reports.pop("base"), "calibrated": reports["after"]}
    report.write_text(json.dumps(content))
    measure_and_write_card(adapter_folder, dataset)
    assert len(CalibrationCardData.load(adapter_folder).evaluations[0].reports) == 4
    weights = load_file(adapter_folder / "adapter_model.safetensors")
    save_file({name: 2 * own for name, own in weights.items()}, adapter_folder / "adapter_model.safetensors")
    measure_and_write_card(adapter_folder, dataset)
    reports = CalibrationCardData.load(adapter_folder).evaluations[0].reports
    assert set(reports) == {"before", "temperature_scaled", "after"}


def test_another_set_and_another_model_are_added(client, adapter_folder, base_folder, dataset, tmp_path):
    measure_and_write_card(adapter_folder, dataset)
    path = adapter_folder / "README.md"
    path.write_text(path.read_text() + "\nBy hand.\n")
    tiny_llama(byte_level_tokenizer(), seed=3).save_pretrained(tmp_path / "aligned")
    byte_level_tokenizer().save_pretrained(tmp_path / "aligned")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in question_rows(20, seed=1)))
    measure_and_write_card(adapter_folder, other, before=str(tmp_path / "aligned"), in_domain=False)
    first, second = CalibrationCardData.load(adapter_folder).evaluations
    card = path.read_text()
    assert "Before calibration" not in card
    assert "| aligned |" in card
    assert "For comparison, aligned: ECE" in card
    assert "Measured with 4 options per question" in card
    assert "xiao2025restoring" not in card
    with pytest.raises(ValueError, match=r"compares with aligned on other\.jsonl, and this run with "):
        measure_and_write_card(adapter_folder, dataset, before=base_folder)
    assert set(first.reports) == {"after", "base"}
    assert set(second.reports) == {"after", "base", "before"}
    ece = {stage: report.measures["ece"].value for stage, report in second.reports.items()}
    assert len(set(ece.values())) == 3
    assert path.read_text().rstrip().endswith("By hand.")
    before = path.read_text()
    measure_and_write_card(adapter_folder, other, in_domain=False)  # the model before is not measured again, but stays
    assert path.read_text() == before


def test_calibrator_is_applied_in_card_and_confidence(client, adapter_folder, adapter, base, dataset, tmp_path):
    raw = predict(adapter, byte_level_tokenizer(), questions(40))
    calibrator = TemperatureScaling().fit(raw.probabilities, raw.answers, kind="probabilities")
    expected = calibrator.transform(raw.probabilities, kind="probabilities")
    assert not np.allclose(expected, raw.probabilities, atol=1e-3)
    (tmp_path / "fitted").mkdir()
    calibrator.save(tmp_path / "fitted" / "calibrator.json")
    assert (
        main(["card", str(adapter_folder), "--dataset", str(dataset), "--calibrator", str(tmp_path / "fitted")]) == 0
    )
    card = (adapter_folder / "README.md").read_bytes()
    measure_and_write_card(adapter_folder, dataset)  # it is there from now on
    assert (adapter_folder / "README.md").read_bytes() == card
    report = CalibrationCardData.load(adapter_folder).evaluations[0].reports["after"]
    nll = -np.log(expected[np.arange(40), raw.answers]).mean()
    assert report.measures["nll"].value == pytest.approx(nll, rel=1e-6)
    assert report.measures["option_mass"].value == pytest.approx(raw.option_mass.mean(), rel=1e-6)
    publish_adapter(adapter_folder, "ann/calibrated")
    answers = load("ann/calibrated").confidence(questions(40))
    np.testing.assert_allclose([answer.confidence for answer in answers], expected.max(axis=1), rtol=1e-6)
    assert "the recalibration" in client.files("ann/calibrated")["README.md"].decode()


def test_a_calibrator_of_another_model_is_refused(client, adapter_folder, adapter, base, dataset, tmp_path):
    raw = predict(adapter, byte_level_tokenizer(), questions(40))
    calibrator = by_name("vector").fit(raw.logits, raw.answers)
    calibrator.fitted_on = FittedOn(
        n=40, model="another", weights="files:0", asking={"confidence": {"name": "letters"}}
    )
    calibrator.save(tmp_path / "calibrator.json")
    with pytest.raises(ValueError, match="not fitted on what it is applied to: the model is"):
        measure_and_write_card(adapter_folder, dataset, calibrator=tmp_path)
    assert not (adapter_folder / "calibration_report.json").exists()
    with pytest.warns(CalibratorMismatchWarning):
        measure_and_write_card(adapter_folder, dataset, calibrator=tmp_path, force=True)
    assert "with a fitted calibrator on top" in (adapter_folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["isotonic", "vector", "localized", "simplex_etf", "auto"])
def test_calibrators_by_name_are_applied_in_card_and_confidence(client, adapter_folder, adapter, base, dataset, name):
    raw = predict(adapter, byte_level_tokenizer(), questions(40), hidden_states=True)
    calibrator = by_name(name)
    given = {"features": raw.hidden_states} if calibrator.needs_features else {}
    calibrator.fit(raw.logits, raw.answers, **given)  # as `hf_calib.calibrate` does
    expected = calibrator.transform(raw.logits, **given)
    save_calibration_metadata(adapter_folder, base_model=base, option_counts=[4], calibrator=calibrator)
    answers = load(adapter_folder).confidence(questions(40))
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, rtol=1e-4, atol=1e-6)
    measure_and_write_card(adapter_folder, dataset)
    report = CalibrationCardData.load(adapter_folder).evaluations[0].reports["after"]
    nll = -np.log(expected[np.arange(40), raw.answers]).mean()
    assert report.measures["nll"].value == pytest.approx(nll, rel=1e-3)


def test_calibrator_with_large_arrays_goes_up_and_comes_back(client, adapter_folder, base):
    rng = np.random.default_rng(0)
    probabilities, features = rng.dirichlet(np.ones(4), 3000), rng.random((3000, 3))
    calibrator = by_name("localized", gamma=0.5)
    calibrator.fit(probabilities, rng.integers(4, size=3000), kind="probabilities", features=features)
    save_calibration_metadata(adapter_folder, base_model=base, option_counts=[4], calibrator=calibrator)
    write_card(adapter_folder, card_data())
    publish_adapter(adapter_folder, "ann/localized")
    assert {"calibrator.json", "calibrator.safetensors"} <= set(client.files("ann/localized"))
    given = {"kind": "probabilities", "features": features[:50]}
    loaded = load("ann/localized").calibrator.transform(probabilities[:50], **given)
    np.testing.assert_array_equal(loaded, calibrator.transform(probabilities[:50], **given))
    save_calibration_metadata(adapter_folder, base_model=base, option_counts=[4])
    publish_adapter(adapter_folder, "ann/localized")
    assert not {"calibrator.json", "calibrator.safetensors"} & set(client.files("ann/localized"))


def test_long_prompts_and_another_prompt(client, adapter_folder, adapter, base, tmp_path, capsys):
    rows = question_rows(20)
    rows[3]["question"] = "long " * 100
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text("question: 'Q: {question}'\ncue: 'A:'\n")
    command = ["card", str(adapter_folder), "--dataset", str(path), "--prompt", str(prompt), "--max-length", "400"]
    assert main(command) == 1
    assert "1 of 20 prompts are longer than 400 tokens (the longest is row 3" in capsys.readouterr().err
    assert not (adapter_folder / "calibration_report.json").exists()
    with pytest.warns(UserWarning, match="they are dropped"):
        assert main([*command, "--drop-too-long"]) == 0
    prompt_format = PromptFormat(question="Q: {question}", cue="A:")
    (evaluation,) = CalibrationCardData.load(adapter_folder).evaluations
    kept = as_questions(rows[:3] + rows[4:])
    expected = predict(adapter, byte_level_tokenizer(), kept, prompt_format=prompt_format).report()
    measured = evaluation.reports["after"]
    assert measured.measures["nll"].value == pytest.approx(expected.measures["nll"].value, rel=1e-6)
    assert measured.n == evaluation.dataset.size == 19
    assert read_calibration_metadata(adapter_folder).prompt_format == prompt_format
    capsys.readouterr()
    assert main(["card", str(adapter_folder), "--dataset", str(path), "--prompt", "mmlu"]) == 1
    assert "records another prompt format than the one given" in capsys.readouterr().err


def test_regime_is_told_from_the_questions_that_it_was_fine_tuned_on(client, adapter_folder, adapter, base, dataset,
                                                                     tmp_path, capsys):  # fmt: skip
    trained = tmp_path / "trained.jsonl"
    trained.write_text("".join(json.dumps(row) + "\n" for row in question_rows(30, seed=5)))
    command = ["card", str(adapter_folder), "--dataset", str(dataset), "--trained-on"]
    assert main([*command, str(trained)]) == 0
    tokenizer = byte_level_tokenizer()
    known, new = (predict(adapter, tokenizer, asked) for asked in (questions(30, seed=5), questions(40)))
    expected = diagnose(known, new)
    regime = CalibrationCardData.load(adapter_folder).regime
    assert regime.startswith(f"{expected.regime}. {expected.reasons}")
    assert regime.endswith("fine-tuning questions (all 30) and from 40 new ones (questions.jsonl).")
    assert expected.regime in shown((adapter_folder / "README.md").read_text())[0]
    assert main(command[:-1]) == 0  # it stays where it is not told anew
    assert CalibrationCardData.load(adapter_folder).regime == regime
    weights = adapter_folder / "adapter_model.safetensors"
    save_file({name: 2 * own for name, own in load_file(weights).items()}, weights, metadata={"format": "pt"})
    assert main(command[:-1]) == 0
    assert CalibrationCardData.load(adapter_folder).regime is None
    assert main([*command, str(dataset)]) == 1
    assert "the regime shows only on new questions" in capsys.readouterr().err
    trained.write_text("".join(json.dumps(row) + "\n" for row in question_rows(3, answered=False)))
    assert main([*command, str(trained)]) == 1
    assert "answer" in capsys.readouterr().err


def test_a_task_of_a_local_file_is_refused(tmp_path, capsys):
    assert main(["card", str(tmp_path), "--dataset", str(tmp_path / "q.jsonl"), "--task-id", "ece"]) == 1
    assert "--task-id: " in (said := capsys.readouterr().err)
    assert "not a dataset on the Hub" in said


def test_regime_of_a_part_of_a_large_set():
    chosen = regime_sample(5000)
    assert chosen == regime_sample(5000)
    assert len(set(chosen)) == 1000
    assert 0 <= min(chosen) < max(chosen) < 5000
    assert regime_sample(7) == list(range(7))
    trained, new = (
        SimpleNamespace(confidences=np.full(1000, 0.5), correct=np.arange(1000) % 2 == 0) for _ in range(2)
    )
    text = regime_text(diagnose(trained, new), 5000, DatasetReference("lab/new", split="test"))
    assert "fine-tuning questions (1,000 of 5,000, drawn at random) and from 1,000 new ones (lab/new, test)." in text
    assert text.startswith("calibratable.")


@pytest.mark.slow
def test_registered_benchmark_gets_an_evaluation_result(client, adapter_folder, base, tmp_path):
    jsonl = "".join(json.dumps(row) + "\n" for row in question_rows(12))
    client.add("lab/benchmark", {"README.md": "", "test.jsonl": jsonl}, "dataset")
    command = [sys.executable, "-m", "hf_calib.cli", "card", str(adapter_folder), "--dataset", "lab/benchmark::test"]
    environment = {**os.environ, **client.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [*command, "--task-id", "colours"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (entry,) = yaml.safe_load((adapter_folder / ".eval_results" / "hf_calib.yaml").read_text())
    report = CalibrationCardData.load(adapter_folder).evaluations[0].reports["after"]
    assert entry["dataset"]["id"] == "lab/benchmark"
    assert entry["dataset"]["task_id"] == "colours"
    assert entry["dataset"]["revision"] == client.repository("lab/benchmark", "dataset").branches["main"]
    assert entry["value"] == pytest.approx(report.measures["accuracy"].value, abs=1e-6)
    publish_adapter(adapter_folder, "ann/mine")
    assert ".eval_results/hf_calib.yaml" in client.files("ann/mine")


def test_unanswered_questions_cannot_be_measured(client, adapter_folder, tmp_path, capsys):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows(3, answered=False)))
    assert main(["card", str(adapter_folder), "--dataset", str(path)]) == 1
    assert "answer" in capsys.readouterr().err
    assert not (adapter_folder / "calibration_report.json").exists()


def test_a_card_says_how_many_rows_were_skipped(client, adapter_folder, base, tmp_path):
    rows = question_rows(12)
    path = tmp_path / "own.jsonl"
    own = [{"stem": row["question"], "options": row["choices"], "gold": row["answer"] + 1} for row in rows]
    own[3]["options"] = ["one"]
    path.write_text("".join(json.dumps(row) + "\n" for row in own))
    command = [
        "card",
        str(adapter_folder),
        "--dataset",
        str(path),
        "--columns",
        "question=stem,choices=options,answer=gold",
    ]
    assert main(command) == 1
    with pytest.warns(UserWarning, match="skipped 1 of 12 rows"):
        assert main([*command, "--on-bad-row", "skip"]) == 0
    (evaluation,) = CalibrationCardData.load(adapter_folder).evaluations
    assert (evaluation.dataset.size, evaluation.dataset.skipped) == (11, 1)
    assert "1 unreadable rows left out" in (adapter_folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"---\nfoo: [1\n---\nText.\n", "are invalid YAML"),
        (b"---\nfoo: 1\nText.\n", "have no such line at their end"),
        ("café\n".encode("latin-1"), "is not UTF-8 text"),
        (b"<!-- hf_calib:summary -->\nText.\n", "begins but does not end"),
    ],
)
def test_a_damaged_card_is_refused_before_measuring(base_folder, dataset, tmp_path, monkeypatch, text, problem):
    own = shutil.copytree(base_folder, tmp_path / "own")
    (own / "README.md").write_bytes(text)
    monkeypatch.setattr("hf_calib.evaluation.cards.measure", None)
    with pytest.raises(CardConflictError, match=problem) as raised:
        measure_and_write_card(own, dataset)
    assert str(own / "README.md") in str(raised.value)


def test_outdated_figures_are_not_published(client, adapter_folder, dataset, tmp_path):
    measure_and_write_card(adapter_folder, dataset)
    publish_adapter(adapter_folder, "ann/mine")
    weights = load_file(adapter_folder / "adapter_model.safetensors")
    save_file({name: 2 * own for name, own in weights.items()}, adapter_folder / "adapter_model.safetensors")
    with pytest.raises(InvalidFolderError, match=r"were measured before the weights changed.*\n.*hf-calib card"):
        publish_adapter(adapter_folder, "ann/mine")
    measure_and_write_card(adapter_folder, dataset)
    publish_adapter(adapter_folder, "ann/mine")
    measured = hf_calib.measure(adapter_folder, dataset)
    add_calibrator(adapter_folder, hf_calib.calibrate(measured).calibrator)
    with pytest.raises(InvalidFolderError, match="were measured before the calibrator changed"):
        publish_adapter(adapter_folder, "ann/mine")
    other = shutil.copy(dataset, tmp_path / "other.jsonl")
    with pytest.raises(ValueError, match="measured before the calibrator changed; delete it"):
        measure_and_write_card(adapter_folder, other)
    measure_and_write_card(adapter_folder, dataset)
    publish_adapter(adapter_folder, "ann/mine")
    metadata = json.loads((adapter_folder / "hf_calib.json").read_text())
    metadata["prompt_format"]["cue"] = "A:"
    (adapter_folder / "hf_calib.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidFolderError, match="were measured before the prompt format changed"):
        publish_adapter(adapter_folder, "ann/mine")
