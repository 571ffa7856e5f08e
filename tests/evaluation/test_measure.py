"""`hf_calib.measure`: each kind of model, dataset and method, and what it returns and saves."""

import copy
import inspect
import json
import shutil
from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

import hf_calib
from hf_calib.calibrators import TemperatureScaling, by_name
from hf_calib.confidence import Journal, LocalModel, Marginalized, OptionTexts, ServedModel, predict
from hf_calib.evaluation import CalibratorMismatchWarning
from hf_calib.evaluation.digests import tensors_digest
from hf_calib.evaluation.measuring import measure_recorded
from hf_calib.evaluation.settings import AskOptions, AskSettings
from hf_calib.hub import CalibratedModel, save_calibration_metadata
from hf_calib.hub.digests import files_digest
from hf_calib.reports import Measurement
from hf_calib.tasks import FewShotFormat, PromptFormat, QuestionError, as_questions, permute_options, random_orders
from hf_calib.tasks.drawing import drawn_rows
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.confidence.test_served import Server
from tests.support import question_rows, questions, tiny_llama

ASKED = questions(30, choices=(4, 3))


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    tiny_llama(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    with (folder / "q.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in question_rows(30, choices=(4, 3)))
    return folder


@pytest.fixture(scope="module")
def llama(tokenizer):
    return tiny_llama(tokenizer)


@pytest.fixture(scope="module")
def expected(llama, tokenizer):
    return predict(llama, tokenizer, ASKED)


def same(measured, expected):
    np.testing.assert_allclose(measured.predictions.probabilities, expected.probabilities, atol=1e-5)


@pytest.mark.parametrize("kind", ["folder", "path", "pair", "tokenizer", "backend", "loaded"])
def test_every_kind_of_model_gives_what_predict_gives(kind, folder, llama, tokenizer, expected):
    options = {"tokenizer": tokenizer} if kind == "tokenizer" else {}
    model = {
        "folder": str(folder / "model"),
        "path": folder / "model",
        "pair": (llama, tokenizer),
        "tokenizer": llama,
        "backend": LocalModel(llama, tokenizer),
        "loaded": CalibratedModel(llama, tokenizer, PromptFormat()),
    }[kind]
    measured = hf_calib.measure(model, ASKED, **options)
    same(measured, expected)
    assert measured.report.measures["nll"].value == pytest.approx(expected.report().measures["nll"].value, abs=1e-5)
    assert measured.verdict == measured.report.verdict
    assert (measured.name == "model") == (kind in ("folder", "path"))


def test_an_option_that_is_not_there_is_named_with_the_one_that_was_meant(llama, tokenizer):
    with pytest.raises(TypeError, match=r"prompt_format: unknown option; .* Did you mean 'prompt'\?"):
        hf_calib.measure((llama, tokenizer), ASKED, prompt_format=PromptFormat())


def test_a_served_model_by_address_and_as_an_object():
    server = Server()
    try:
        by_address = hf_calib.measure(f"openai:{server.url}", ASKED[:5], model_name="tiny", concurrency=2)
        as_object = hf_calib.measure(ServedModel(server.url, "tiny"), ASKED[:5])
        with pytest.raises(ValueError, match="model_name: a served model needs it"):
            hf_calib.measure(f"openai:{server.url}", ASKED)
        with pytest.raises(ValueError, match="max_length: does not apply to a served model"):
            hf_calib.measure(f"openai:{server.url}", ASKED, model_name="tiny", max_length=10)
    finally:
        server.http.shutdown()
    np.testing.assert_array_equal(by_address.predictions.probabilities, as_object.predictions.probabilities)
    assert by_address.run["model"] == as_object.run["model"] == f"openai:{server.url}"
    assert by_address.name == as_object.name == "tiny"


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (ASKED, ["questions"]),
        (question_rows(30, choices=(4, 3)), ["questions"]),
        ("file", ["file"]),
        (["file"], ["file"]),
        ({"own": ASKED}, ["own"]),
        (Dataset.from_list(question_rows(30, choices=(4, 3))), ["questions"]),
        (DatasetDict(test=Dataset.from_list(question_rows(30, choices=(4, 3)))), ["test"]),
        (iter(question_rows(30, choices=(4, 3))), ["questions"]),
    ],
)
def test_every_kind_of_dataset(asked, names, folder, llama, tokenizer, expected):
    path = str(folder / "q.jsonl")
    asked = path if isinstance(asked, str) else [path] if asked == ["file"] else asked
    measured = hf_calib.measure((llama, tokenizer), asked)
    same(measured, expected)
    assert list(measured.datasets) == [path if name == "file" else name for name in names]


def test_several_datasets_are_reported_apart_and_together(llama, tokenizer, expected):
    measured = hf_calib.measure((llama, tokenizer), {"a": ASKED[:10], "b": ASKED[10:]})
    same(measured, expected)
    assert {name: report.n for name, report in measured.reports.items()} == {"a": 10, "b": 20}
    assert measured.report.n == 30


@pytest.mark.parametrize("method", ["p-true", "stated"])
def test_several_datasets_together_keep_the_answers_that_were_given(llama, tokenizer, method):
    apart = hf_calib.measure((llama, tokenizer), {"a": ASKED[:10], "b": ASKED[10:]}, method=method)
    together = hf_calib.measure((llama, tokenizer), ASKED, method=method)
    np.testing.assert_array_equal(apart.predictions.predicted, together.predictions.predicted)
    assert apart.report.measures["accuracy"].value == together.report.measures["accuracy"].value


@pytest.mark.parametrize("given", [ASKED, question_rows(30, choices=(4, 3)), iter(ASKED)])
def test_a_limit_draws_questions(llama, tokenizer, expected, given):
    measured = hf_calib.measure((llama, tokenizer), given, limit=5, seed=3)
    rows = measured.predictions.rows
    assert len(rows) == 5
    assert rows.max() > 5
    np.testing.assert_allclose(measured.predictions.probabilities, expected.probabilities[rows], atol=1e-5)
    subjects = len({question.subject for question in ASKED})
    assert measured.run["datasets"]["questions"]["drawn"] == {"of": 30, "subjects": subjects, "seed": 3}
    assert "5 of 30 questions, drawn at random (seed 3)" in str(measured)


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_how_rows_are_read(llama, tokenizer, expected, tmp_path):
    rows = [
        {"stem": row["question"], "options": row["choices"], "gold": row["answer"] + 1}
        for row in question_rows(30, choices=(4, 3))
    ]
    rows.insert(3, {"stem": "What?", "options": ["one"], "gold": 1})
    reading = {"columns": {"question": "stem", "choices": "options", "answer": "gold"}, "answer_base": 1}
    with pytest.raises(ValueError, match="on_bad_row"):
        hf_calib.measure((llama, tokenizer), {"own": rows}, **reading)
    reading["on_bad_row"] = "skip"
    measured = hf_calib.measure((llama, tokenizer), {"own": rows}, **reading)
    same(measured, expected)
    assert measured.skipped_rows == {"own": 1}
    assert measured.run["datasets"]["own"]["skipped_rows"] == 1
    models = {"a": (llama, tokenizer), "b": (tiny_llama(tokenizer, seed=1), tokenizer)}
    assert hf_calib.compare(models, {"own": rows}, **reading).to_dict()["skipped_rows"] == {"own": 1}
    assert hf_calib.calibrate(models["a"], {"own": rows}, **reading).to_dict()["skipped_rows"] == {"own": 1}
    shots = {"few_shot": 1, "few_shot_dataset": rows, "limit": 3}
    pool = as_questions(rows, **reading)
    measured = hf_calib.measure((llama, tokenizer), {"own": rows}, **reading, **shots)
    same(
        measured,
        predict(llama, tokenizer, as_questions(rows, limit=3, **reading), prompt_format=FewShotFormat.choose(pool, 1)),
    )


def test_how_questions_are_put(llama, tokenizer):
    pool = questions(9, seed=5)
    prompt = PromptFormat(cue="A:")
    measured = hf_calib.measure((llama, tokenizer), ASKED, prompt=prompt, few_shot=1, few_shot_dataset=pool)
    same(measured, predict(llama, tokenizer, ASKED, prompt_format=FewShotFormat.choose(pool, 1, prompt_format=prompt)))
    measured = hf_calib.measure((llama, tokenizer), ASKED, wordings=[prompt])
    both = [predict(llama, tokenizer, ASKED, prompt_format=own).probabilities for own in (PromptFormat(), prompt)]
    np.testing.assert_allclose(measured.predictions.probabilities, np.mean(both, axis=0), atol=1e-5)
    measured = hf_calib.measure((llama, tokenizer), ASKED, permute_options=True, seed=3)
    orders = random_orders(ASKED, 3)
    asked = [permute_options(question, order) for question, order in zip(ASKED, orders, strict=True)]
    same(measured, predict(llama, tokenizer, asked).with_options_back(orders))


def test_a_method_by_name_and_as_an_object(llama, tokenizer):
    by_its_name = hf_calib.measure((llama, tokenizer), ASKED, method="text-characters")
    as_object = hf_calib.measure((llama, tokenizer), ASKED, method=OptionTexts("characters"))
    np.testing.assert_array_equal(by_its_name.predictions.probabilities, as_object.predictions.probabilities)
    assert by_its_name.run["confidence"] == as_object.run["confidence"]
    by_its_name = hf_calib.measure((llama, tokenizer), ASKED, method="marginalized", n_orders=2)
    as_object = hf_calib.measure((llama, tokenizer), ASKED, method=Marginalized(n_orders=2))
    np.testing.assert_array_equal(by_its_name.predictions.probabilities, as_object.predictions.probabilities)


def test_questions_without_options(llama, tokenizer):
    asked = [FreeFormQuestion(f"What is {i}?", ("x", "y")) for i in range(3)]
    options = {"free_form": "exact", "method": "consistency", "n_samples": 2}
    measured = hf_calib.measure((llama, tokenizer), asked, **options)
    assert measured.run["confidence"] == {
        "name": "consistency", "matcher": "exact", "method": "agreement", "n_samples": 2, "seed": 0
    }  # fmt: skip
    assert measured.datasets["questions"].questions[0].choices[1] == "x or y"


def test_a_calibrator_is_applied_as_predictions_apply_it(llama, tokenizer, expected, tmp_path):
    fitted = TemperatureScaling().fit(expected.option_log_probabilities, expected.answers)
    fitted.save(tmp_path / "calibrator.json")
    for calibrator in (fitted, tmp_path, str(tmp_path / "calibrator.json")):
        same(hf_calib.measure((llama, tokenizer), ASKED, calibrator=calibrator), expected.calibrated(fitted))
    loaded = CalibratedModel(llama, tokenizer, PromptFormat(cue="A:"), fitted)
    measured = hf_calib.measure(loaded, ASKED)  # with all that it came with
    same(measured, loaded.predict(ASKED).calibrated(fitted))
    assert measured.report.measures["nll"].value == pytest.approx(loaded.report(ASKED).measures["nll"].value, abs=1e-5)
    answers = loaded.confidence(ASKED)
    np.testing.assert_allclose([answer.confidence for answer in answers], measured.predictions.confidences, atol=1e-5)


def test_a_calibrator_on_features_gets_the_hidden_states(llama, tokenizer):
    raw = predict(llama, tokenizer, ASKED, hidden_states=True)
    fitted = by_name("localized").fit(raw.option_log_probabilities, raw.answers, features=raw.hidden_states)
    measured = hf_calib.measure((llama, tokenizer), ASKED, calibrator=fitted)
    same(measured, raw.calibrated(fitted))
    measured = hf_calib.measure((llama, tokenizer), ASKED, calibrator=fitted, batch_size="auto")
    np.testing.assert_allclose(measured.predictions.hidden_states, raw.hidden_states, atol=1e-4)
    for options, what in (({"method": "text"}, "confidence read by text"), ({"permute_options": True}, "permute")):
        with pytest.raises(ValueError, match=f"are not available with {what}"):
            hf_calib.measure((llama, tokenizer), ASKED, calibrator=fitted, **options)


def test_it_saves_what_it_returns_and_reads_it_back(llama, tokenizer, tmp_path):
    measured = hf_calib.measure((llama, tokenizer), {"a": ASKED[:10], "b": ASKED[10:]}, out=tmp_path / "out")
    measured.save(tmp_path / "again")
    names = {"report.json", "report.html", "predictions.parquet", "reliability_diagram.png"}
    for folder in ("out", "again"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == names
        assert json.loads((tmp_path / folder / "report.json").read_text()) == measured.to_dict()
    back = hf_calib.Measurement.load(tmp_path / "out")
    assert back.to_dict() == measured.to_dict()
    assert (back.name, back.method) == (measured.name, "letters")


def test_what_it_was_without_the_calibrator_is_saved_too(llama, tokenizer, tmp_path, monkeypatch):
    plain = hf_calib.measure((llama, tokenizer), ASKED)
    fitted = TemperatureScaling().fit(plain.predictions.option_log_probabilities, plain.predictions.answers)
    options = {"calibrator": fitted, "out": tmp_path}
    measured = hf_calib.measure((llama, tokenizer), ASKED, **options)
    back = hf_calib.Measurement.load(tmp_path)
    assert back.to_dict() == measured.to_dict()
    same(back.before, plain.predictions)
    monkeypatch.setattr("hf_calib.evaluation.models.ModelSource.opened", None)  # nothing is asked again
    assert hf_calib.measure((llama, tokenizer), ASKED, **options).to_dict() == measured.to_dict()
    again = hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path)
    same(again, plain.predictions)
    assert hf_calib.Measurement.load(tmp_path).before is None


def test_a_damaged_report_is_replaced(llama, tokenizer, tmp_path):
    measured = hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path)
    for file in ("report.json", "predictions.parquet"):
        (tmp_path / file).write_text("{")
        same(hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path), measured.predictions)
    assert hf_calib.Measurement.load(tmp_path).values() == measured.values()


@pytest.fixture(scope="module")
def calibrated_folder(folder, tokenizer):
    """A model that was calibrated on its options' texts, with a prompt of its own."""
    where = folder / "calibrated"
    model = tiny_llama(tokenizer)
    model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    form = PromptFormat(cue="So:")
    raw = predict(model, tokenizer, ASKED, prompt_format=form, method="text")
    fitted = TemperatureScaling().fit(raw.option_log_probabilities, raw.answers)
    save_calibration_metadata(where, prompt_format=form, confidence="text", option_counts=[3, 4], calibrator=fitted)
    return where


def test_a_folder_is_asked_as_load_would_ask_it(calibrated_folder, llama, tokenizer, expected):
    loaded = hf_calib.load(calibrated_folder)
    measured = hf_calib.measure(calibrated_folder, ASKED)
    assert measured.method == "text"
    same(measured, loaded.predict(ASKED).calibrated(loaded.calibrator))
    same(measured.before, loaded.predict(ASKED))
    same(measured, hf_calib.measure(loaded, ASKED).predictions)
    for model in (calibrated_folder, loaded):
        with pytest.warns(CalibratorMismatchWarning, match=r"^method, prompt: the calibrator of .* is not applied"):
            other = hf_calib.measure(model, ASKED, method="letters", prompt="plain")
        same(other, expected)
    given = hf_calib.measure(calibrated_folder, ASKED, method="text", prompt=PromptFormat(cue="So:"))
    same(given, measured.predictions)


def test_models_are_compared_in_one_way(calibrated_folder, folder, llama, tokenizer, tmp_path):
    compared = hf_calib.compare([folder / "model", calibrated_folder], ASKED)
    assert compared.methods == ("text",)
    raw = predict(llama, tokenizer, ASKED, prompt_format=PromptFormat(cue="So:"), method="text")
    for own in compared.measurements.values():
        same(own, raw)
    other = tmp_path / "other"
    shutil.copytree(calibrated_folder, other)
    save_calibration_metadata(other, prompt_format=PromptFormat(cue="Then:"), confidence="text")
    with pytest.raises(ValueError, match=r"^prompt: calibrated was .*, and other with .*Then"):
        hf_calib.compare([calibrated_folder, other], ASKED)
    save_calibration_metadata(other, prompt_format=PromptFormat(cue="So:"))
    with pytest.raises(ValueError, match=r"^method: calibrated was .* 'text', and other with 'letters'; "):
        hf_calib.compare([calibrated_folder, other], ASKED)
    assert hf_calib.compare([calibrated_folder, other], ASKED, method="letters").methods == ("letters",)


def test_a_stopped_run_goes_on_and_other_weights_do_not(llama, tokenizer, tmp_path, monkeypatch):
    whole = hf_calib.measure((llama, tokenizer), ASKED)
    written = []
    append = Journal.append

    def stopping(self, stage, outcomes):
        append(self, stage, outcomes)
        written.append(len(outcomes))
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", stopping)
    options = {"out": tmp_path, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        hf_calib.measure((llama, tokenizer), ASKED, **options)
    other = tiny_llama(tokenizer, seed=1)
    with pytest.raises(ValueError, match="differs in weights"):
        hf_calib.measure((other, tokenizer), ASKED, **options)
    same(hf_calib.measure((llama, tokenizer), ASKED, **options), whole.predictions)
    assert sum(written) == len(ASKED)  # none was asked twice
    assert not (tmp_path / ".progress").exists()


@pytest.mark.parametrize("changed", ["template", "config", "base of the given adapter", "base that the adapter names"])
def test_a_finished_run_is_asked_again_after_its_files_changed(changed, llama, tokenizer, tmp_path):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}user: {{ m['content'] }}\n{% endfor %}"
    for part in (llama, tokenizer):
        part.save_pretrained(model)
    torch.manual_seed(0)
    get_peft_model(copy.deepcopy(llama), LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(model)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    given = {"base of the given adapter": {"model": model, "adapter": adapter}}.get(changed, {"model": model})
    if changed == "base that the adapter names":
        given = {"model": adapter}

    def measured(out):
        return hf_calib.measure(given["model"], ASKED, adapter=given.get("adapter"), out=out, chat_template=True)

    def probabilities(measurement):
        return measurement.predictions.option_log_probabilities

    first = measured(tmp_path / "out")
    np.testing.assert_array_equal(probabilities(measured(tmp_path / "out")), probabilities(first))
    if changed == "template":
        (model / "chat_template.jinja").write_text("{% for m in messages %}Q {{ m['content'] }} A{% endfor %}")
    elif changed == "config":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1.0}))
    else:
        tiny_llama(tokenizer, seed=1).save_pretrained(model)
    again = measured(tmp_path / "out")
    assert not np.allclose(probabilities(again), probabilities(first), atol=1e-3)
    np.testing.assert_array_equal(probabilities(again), probabilities(measured(tmp_path / "fresh")))


def test_a_finished_run_is_asked_again_after_another_adapter_was_turned_on(tokenizer, tmp_path):
    torch.manual_seed(0)
    adapted = get_peft_model(tiny_llama(tokenizer), LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False))
    adapted.add_adapter("two", LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False))

    def measured(out="out"):
        return hf_calib.measure((adapted, tokenizer), ASKED, out=tmp_path / out).predictions.option_log_probabilities

    first = measured()
    adapted.set_adapter("two")
    second = measured()
    with adapted.disable_adapter():
        without = measured()
        np.testing.assert_array_equal(without, measured("fresh"))
    for one, other in ((first, second), (second, without), (first, without)):
        assert not np.allclose(one, other, atol=1e-3)


def test_every_tensor_of_a_large_file_counts(tmp_path):
    tensors = {f"norm{i}": torch.ones(8) for i in range(50)} | {"large": torch.zeros(2**22), "last": torch.ones(8)}
    save_file(tensors, tmp_path / "model.safetensors")
    known = {files_digest(tmp_path)}
    for name in tensors:
        save_file(tensors | {name: tensors[name] + 1}, tmp_path / "model.safetensors")
        known.add(files_digest(tmp_path))
    assert len(known) == 1 + len(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert files_digest(tmp_path) in known


def test_one_changed_row_counts(tokenizer, tmp_path):
    model = tiny_llama(tokenizer, hidden_size=128)

    def digests():
        model.save_pretrained(tmp_path)
        return tensors_digest(model), files_digest(tmp_path)

    before = digests()
    assert digests() == before
    for tensor in (model.lm_head.weight, model.model.norm.weight):
        with torch.no_grad():
            tensor[tensor.shape[0] // 3] *= 4
        after = digests()
        assert all(one != other for one, other in zip(before, after, strict=True))
        before = after
    assert tensors_digest(model.to(torch.bfloat16)) != before[0]


def test_an_interrupted_save_leaves_no_report_with_others_predictions(llama, tokenizer, tmp_path, monkeypatch):
    hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path)

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Measurement, "plot", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hf_calib.measure((tiny_llama(tokenizer, seed=1), tokenizer), ASKED, out=tmp_path)
    with pytest.raises(ValueError, match="holds the beginning of a run that differs in weights"):
        hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path)
    shutil.rmtree(tmp_path / ".progress")
    again = hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path)
    same(again, predict(llama, tokenizer, ASKED))


def test_solved_examples_that_are_asked_are_said(llama, tokenizer):
    prompt = FewShotFormat.choose(ASKED[:10], 2)
    with pytest.warns(UserWarning, match=r"few_shot_dataset: 6 of 30 questions of .* \(the first is row 0, counted"):
        hf_calib.measure((llama, tokenizer), ASKED, prompt=prompt)


def test_messages_about_a_drawn_sample_name_the_rows_of_the_dataset(llama, tokenizer):
    def measured(change, **options):
        rows = question_rows(30)
        rows[row].update(change)
        return hf_calib.measure((llama, tokenizer), rows, limit=10, **options)

    row = drawn_rows(30, 10, seed=0)[4]
    assert row != 4
    with pytest.warns(UserWarning, match=rf"identical choices \(row {row}, counted from 0\)"):
        measured({"choices": ["a", "a", "b", "c"]})
    with pytest.raises(QuestionError, match=rf"have none \(row {row}, counted from 0\)"):
        measured({"answer": None})
    for options in ({}, {"permute_options": True}, {"method": "text"}):
        with pytest.raises(QuestionError, match=rf"the longest is row {row}, counted from 0"):
            measured({"question": "long " * 100}, max_length=400, **options)
    shown = as_questions(question_rows(30)[row : row + 1])
    with pytest.warns(UserWarning, match=rf"\(the first is row {row}, counted from 0\) are also solved examples"):
        measured({}, prompt=FewShotFormat.choose(shown, 1))


def test_a_finished_run_is_asked_again_after_a_loaded_models_template_changed(llama, tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    found = []
    for template in ("user: {{ messages[0]['content'] }}", "Q {{ messages[0]['content'] }} A"):
        tokenizer.chat_template = template
        out = hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path, chat_template=True)
        found.append(out.predictions.option_log_probabilities)
    assert not np.allclose(*found, atol=1e-3)
    again = hf_calib.measure((llama, tokenizer), ASKED, out=tmp_path, chat_template=True)
    np.testing.assert_array_equal(again.predictions.option_log_probabilities, found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mind-reading"}, "no way to read confidence called 'mind-reading'; choose from letters, text,"),
        ({"n_samples": 3}, "n_samples: confidence read by letters has no such setting; it goes with consistency"),
        ({"method": OptionTexts(), "n_orders": 2}, "n_orders: the method is an object"),
        ({"method": "p-true", "wordings": [PromptFormat()]}, "wordings: .* p-true gives none"),
        ({"free_form": "exact"}, "free_form: confidence read by letters needs options"),
        ({"free_form": "fuzzy", "method": "stated"}, "free_form: 'fuzzy' is not a way to match answers"),
        ({"few_shot": 2}, "few_shot and few_shot_dataset go together"),
        ({"prompt": "nowhere.yaml"}, "prompt: there is no file 'nowhere.yaml'"),
        ({"adapter": "a", "dtype": "float16"}, "adapter, dtype: does not apply to a loaded model"),
        ({"limit": 0}, "limit is the number of questions to read, at least 1"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message, llama, tokenizer):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        hf_calib.measure((llama, tokenizer), ASKED, **options)


def test_models_and_datasets_that_are_none_are_named(llama, tokenizer):
    with pytest.raises(ValueError, match="tokenizer: a loaded model needs it"):
        hf_calib.measure(llama, ASKED)
    with pytest.raises(TypeError, match=r"model: give a Hub id, a folder.* got int"):
        hf_calib.measure(3, ASKED)
    with pytest.raises(TypeError, match="a loaded model and its loaded tokenizer, but got LlamaForCausalLM and str"):
        hf_calib.measure((llama, "gpt2"), ASKED)
    with pytest.raises(TypeError, match=r"a loaded model and its loaded tokenizer, but got .* and LlamaForCausalLM"):
        hf_calib.measure((tokenizer, llama), ASKED)
    with pytest.raises(ValueError, match="given twice"):
        hf_calib.measure((llama, tokenizer), ["a.jsonl", "a.jsonl"])
    with pytest.raises(ValueError, match="dataset: there is none"):
        hf_calib.measure((llama, tokenizer), {})
    with pytest.raises(ValueError, match="measuring calibration on own"):
        hf_calib.measure((llama, tokenizer), {"own": questions(3, answered=False)})
    with pytest.raises(TypeError, match="limits"):
        hf_calib.measure((llama, tokenizer), ASKED, limits=3)


def test_what_speaks_against_a_reading_is_said(llama, tokenizer, tmp_path):
    warnings = {own.code: own.sentence for own in hf_calib.measure((llama, tokenizer), {"own": ASKED}).warnings}
    assert "The options have" in warnings["little_mass"]
    (tmp_path / "p.csv").write_text("p_A,p_B,answer\n" + "0.9,0.1,0\n" * 80 + "0.4,0.6,1\n" * 20)
    assert measure_recorded(tmp_path / "p.csv").warnings == ()
    (tmp_path / "p.csv").write_text("p_A,p_B,answer\n" + "0.9,0.1,0\n" * 80 + "0.6,0.4,1\n" * 20)
    warnings = measure_recorded(tmp_path / "p.csv").warnings
    assert "cannot be distinguished from always answering A, 80%" in warnings[0].sentence


def test_unread_answers_are_told(llama, tokenizer):
    warning = hf_calib.measure((llama, tokenizer), ASKED[:6], method="stated").warnings[0]
    assert warning.code == "unread_replies"
    assert warning.sentence.startswith("6 of 6 replies")


def test_the_options_have_one_list_of_names_with_types_and_defaults():
    assert [field.name for field in fields(AskSettings)] == list(AskOptions.__annotations__)
    documented = inspect.getdoc(hf_calib.measure)
    assert all(f"{name}" in documented for name in AskOptions.__annotations__)
    assert get_type_hints(AskSettings, vars(inspect.getmodule(AskSettings)))["limit"] == int | None


def test_an_unknown_kind_of_recording_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind: 'csv' is not a kind"):
        measure_recorded(tmp_path, "csv")
