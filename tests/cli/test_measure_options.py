"""What `hf-calib measure` can be told, each option against what the rooms give."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest

from hf_calib.cli import main
from hf_calib.confidence import Journal, predict
from hf_calib.confidence.recorded import read_predictions
from hf_calib.measures import CalibrationReport
from hf_calib.tasks import FewShotFormat, PromptFormat, load_questions, permute_options, random_orders
from tests.support import question_rows, tiny_llama


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    tiny_llama(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, seed, choices in (("one", 0, (3, 4)), ("two", 1, (2, 5)), ("dev", 2, (4,))):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in question_rows(12, seed=seed, choices=choices))
    return folder


@pytest.fixture
def model(tokenizer):
    return tiny_llama(tokenizer)


def measure(*arguments):
    return main(["measure", *map(str, arguments)])


def probabilities(path):
    return np.concatenate([own.predictions.confidences for own in read_predictions(path).values()])


def test_the_conventions_say_how_many_questions_and_groups_they_count(tmp_path, capsys):
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 1, 12_000)
    rows = pyarrow.table(
        {
            "probabilities": [[c, 1 - c] for c in confidences],
            "answer": (rng.random(12_000) > confidences).astype(int),
            "subject": [f"subject {i % 57}" for i in range(12_000)],
        }
    )
    pyarrow.parquet.write_table(rows, tmp_path / "p.parquet")
    assert measure("--from-predictions", tmp_path / "p.parquet", "--conventions") == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("convention")) :]
    place = table[0].index("n  used by")
    assert max(map(len, table)) <= 80
    assert all(line[: place + 1].endswith(" 12,000") for line in table[2:])
    [grouped] = [line for line in table if "mean over" in line]
    assert grouped.startswith("10 bins, mean over 57 groups ")
    assert measure("--from-predictions", tmp_path / "p.parquet", "--conventions", "--json") == 0
    assert {row["n"] for row in json.loads(capsys.readouterr().out)["conventions"]} == {12_000}


def test_several_datasets(folder, tmp_path, model, tokenizer, capsys):
    sets = [folder / "one.jsonl", folder / "two.jsonl"]
    out = tmp_path / "out"
    assert measure("--model", folder / "model", *(f"--dataset={own}" for own in sets), "--out", out) == 0
    printed = capsys.readouterr().out
    # Paths are as long as they are.
    assert max(len(line) for line in printed.splitlines() if str(tmp_path.parent) not in line) <= 80
    report = json.loads((out / "report.json").read_text())
    assert report["n"] == 24
    expected = {str(own): predict(model, tokenizer, load_questions(own)) for own in sets}
    for name, predictions in expected.items():
        assert report["datasets"][name]["measures"]["nll"]["value"] == pytest.approx(
            predictions.report().measures["nll"].value, abs=1e-6
        )
        assert report["run"]["datasets"][name]["n"] == 12
    assert CalibrationReport.load(out / "report.json").n == 24
    rows = pyarrow.parquet.read_table(out / "predictions.parquet").to_pylist()
    assert [(row["dataset"], row["row"]) for row in rows] == [(str(own), i) for own in sets for i in range(12)]
    np.testing.assert_allclose(
        [row["confidence"] for row in rows],
        np.concatenate([predictions.confidences for predictions in expected.values()]),
        atol=1e-5,
    )
    page = (out / "report.html").read_text()
    assert "Datasets" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert not (out / ".progress").exists()


def test_a_prompt_format_and_few_shot_examples(folder, tmp_path, model, tokenizer):
    (tmp_path / "prompt.yaml").write_text('question: "Q: {question}"\ncue: "A:"\n')
    prompt = PromptFormat(question="Q: {question}", cue="A:")
    pool = load_questions(folder / "dev.jsonl")
    measure(
        *("--model", folder / "model", "--dataset", folder / "one.jsonl", "--out", tmp_path),
        *("--prompt", tmp_path / "prompt.yaml", "--few-shot", 2, "--few-shot-dataset", folder / "dev.jsonl"),
    )
    shots = FewShotFormat.choose(pool, 2, prompt_format=prompt)
    expected = predict(model, tokenizer, load_questions(folder / "one.jsonl"), prompt_format=shots)
    np.testing.assert_allclose(probabilities(tmp_path / "predictions.parquet"), expected.confidences, atol=1e-5)
    run = json.loads((tmp_path / "report.json").read_text())["run"]
    assert run["prompt_format"]["cue"] == "A:"
    assert len(run["prompt_format"]["examples"]) == 6  # two of each of the three subjects


def test_permuted_options_come_back_in_the_files_order(folder, tmp_path, model, tokenizer):
    measure(
        *("--model", folder / "model", "--dataset", folder / "one.jsonl", "--out", tmp_path),
        *("--permute-options", "--seed", 3, "--batch-size", "auto"),
    )
    questions = load_questions(folder / "one.jsonl")
    rows = pyarrow.parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    moved = 0
    for row, question, order in zip(rows, questions, random_orders(questions, 3), strict=True):
        expected = predict(model, tokenizer, [permute_options(question, order)]).probabilities[0]
        np.testing.assert_allclose(np.array(row["probabilities"])[order], expected, atol=1e-5)
        assert row["answer"] == question.answer
        moved += order.tolist() != sorted(order)
    assert moved > 4


@pytest.mark.parametrize("confidence", ["text", "text-characters", "text-tokens", "marginalized"])
def test_ways_to_read_confidence(folder, confidence, capsys):
    options = ["--model", folder / "model", "--dataset", folder / "one.jsonl", "--json"]
    assert measure(*options, "--confidence", confidence) == 0
    own = json.loads(capsys.readouterr().out)
    assert measure(*options) == 0
    letters = json.loads(capsys.readouterr().out)
    assert own["measures"]["nll"]["value"] != pytest.approx(letters["measures"]["nll"]["value"])
    assert ("option_mass" in own["measures"]) == (confidence in ("text", "marginalized"))


def test_an_adapter_on_the_model(folder, tmp_path, tokenizer, capsys):
    import peft
    import torch

    model = peft.get_peft_model(
        tiny_llama(tokenizer),
        peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, base_model_name_or_path="gone"),
    )
    model.peft_config["default"].base_model_name_or_path = "gone"
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    options = ["--model", folder / "model", "--adapter", tmp_path / "adapter", "--dataset", folder / "one.jsonl"]
    assert measure(*options, "--json") == 0
    with torch.no_grad():
        expected = predict(model, tokenizer, load_questions(folder / "one.jsonl")).report().measures["nll"].value
    assert json.loads(capsys.readouterr().out)["measures"]["nll"]["value"] == pytest.approx(expected, abs=1e-5)


# Thresholds and configuration


@pytest.mark.parametrize(
    ("condition", "code"), [("ece>0", 3), ("ece > 1", 0), ("accuracy<=1", 3), ("accuracy>=1.5", 0), ("nll<1e9", 3)]
)
def test_thresholds_decide_the_exit_code(folder, tmp_path, condition, code, capsys):
    (tmp_path / "p.csv").write_text("p_A,p_B,answer\n0.9,0.1,1\n0.6,0.4,0\n")
    assert measure("--from-predictions", tmp_path / "p.csv", "--fail-if", "ece>2", "--fail-if", condition) == code
    assert (f"{condition} holds" in capsys.readouterr().err) == (code == 3)


def test_wrong_conditions(tmp_path, capsys):
    (tmp_path / "p.csv").write_text("p_A,p_B,answer\n0.9,0.1,0\n0.6,0.4,0\n")
    with pytest.raises(SystemExit) as stop:
        measure("--from-predictions", tmp_path / "p.csv", "--fail-if", "ece is 3")
    assert stop.value.code == 2
    assert measure("--from-predictions", tmp_path / "p.csv", "--fail-if", "eec>1") == 1
    assert "there is no measure 'eec'" in capsys.readouterr().err
    assert measure("--from-predictions", tmp_path / "p.csv", "--fail-if", "auroc>1") == 1
    assert "auroc has no value here" in capsys.readouterr().err
    assert measure("--from-predictions", tmp_path / "p.csv", "--fail-if", "tce>1") == 1
    assert "'tce' was not measured here" in capsys.readouterr().err
    assert measure("--model", "nowhere", "--dataset", "nowhere", "--fail-if", "eec>1") == 1  # before anything is read
    assert "there is no measure 'eec'" in capsys.readouterr().err


def test_a_configuration_file_and_the_command_line_over_it(folder, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {folder / 'model'}\ndataset: [{folder / 'one.jsonl'}, {folder / 'two.jsonl'}]\nlimit: 5\njson: true\n"
        "permute_options: false\n"
    )
    assert measure("--config", config) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 10
    assert measure("--config", config, "--limit", 3, f"--dataset={folder / 'one.jsonl'}") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: 3", "measure has no option 'limits'"),
        ("- 3", "must hold options by name"),
        ("json: 3", "either true or false"),
        ("limit: [1, 2]", "takes one value, got 2"),
        ("limit: {a: 1}", "must be a text or a number"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_configuration_files(tmp_path, text, message, capsys):
    (tmp_path / "c.yaml").write_text(text)
    assert measure("--config", tmp_path / "c.yaml", "--model", "m", "--dataset", "d") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m"], "--model needs at least one --dataset"),
        (["--from-predictions", "p.csv", "--dataset", "d"], "not applicable to existing predictions"),
        (["--from-predictions", "gone.csv"], "there is no file 'gone.csv'"),
        (["--from-lm-eval", "gone"], "no samples_*.jsonl"),
        (["--from-helm", "gone"], "no scenario_state.json"),
    ],
)
def test_wrong_sources(arguments, message, capsys):
    assert measure(*arguments) == 1
    assert message in capsys.readouterr().err


def test_few_shot_needs_its_dataset(folder, capsys):
    assert measure("--model", folder / "model", "--dataset", folder / "one.jsonl", "--few-shot", 2) == 1
    assert "go together" in capsys.readouterr().err


# Resumption and sharing


def test_a_run_that_was_stopped_goes_on(folder, tmp_path, monkeypatch, capsys):
    from hf_calib.confidence import asking

    options = ["--model", folder / "model", "--dataset", folder / "one.jsonl", "--batch-size", 2, "--json"]
    assert measure(*options) == 0
    expected = json.loads(capsys.readouterr().out)["measures"]
    written = []
    append = Journal.append

    def stop_after_three(self, stage, outcomes):
        append(self, stage, outcomes)
        written.append(len(outcomes))
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(asking.Journal, "append", stop_after_three)
    assert measure(*options, "--out", tmp_path) == 130
    assert (tmp_path / ".progress").exists()
    assert not (tmp_path / "report.json").exists()
    # Another run does not go on with what this one began.
    assert measure(*options, "--out", tmp_path, "--permute-options") == 1
    assert "differs in --permute-options" in capsys.readouterr().err
    assert measure(*options, "--out", tmp_path) == 0
    assert sum(written) == 12  # none was asked twice
    assert json.loads(capsys.readouterr().out)["measures"] == expected
    assert not (tmp_path / ".progress").exists()


def test_a_run_that_was_refused_does_not_stand_in_the_way_of_its_correction(folder, tmp_path, capsys):
    options = ["--model", folder / "model", "--dataset", folder / "one.jsonl", "--out", tmp_path, "--max-length", 46]
    assert measure(*options) == 1
    assert "longer than 46 tokens" in capsys.readouterr().err
    assert measure(*options, "--drop-too-long") == 0
    assert 0 < json.loads((tmp_path / "report.json").read_text())["n"] < 12


def test_a_line_that_was_cut_off_is_asked_again(tmp_path):
    journal = Journal(tmp_path, {"a": 1})
    journal.append("letters", {0: [-1.0], 3: [-0.1]})
    (tmp_path / "letters-0.jsonl").open("a").write("[[1, [-2.0")
    journal = Journal(tmp_path, {"a": 1})
    assert journal.read("letters") == {0: [-1.0], 3: [-0.1]}
    journal.append("letters", {1: [-2.5]})
    assert journal.read("letters") == {0: [-1.0], 3: [-0.1], 1: [-2.5]}
    assert journal.read("letter") == {}


def test_another_model_is_not_a_new_commit(tmp_path):
    Journal(tmp_path, {"model": "a", "revision": "1"}).append("letters", {0: [-1.0]})
    with pytest.raises(ValueError, match="differs in model, revision; finish that one"):
        Journal(tmp_path, {"model": "b", "revision": "2"})
    with pytest.raises(ValueError, match="differs in revision; finish that one"):
        Journal(tmp_path, {"model": "a"})


@pytest.mark.slow
def test_a_killed_process_goes_on(folder, tmp_path):
    with (tmp_path / "many.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in question_rows(3000, choices=(4,)))
    command = [sys.executable, "-m", "hf_calib.cli", "measure", "--model", str(folder / "model"), "--batch-size", "1"]
    command += ["--dataset", str(tmp_path / "many.jsonl"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = tmp_path / "out" / ".progress" / "set0_letters-0.jsonl"
    while not journal.exists() or journal.stat().st_size < 5000:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(Journal(journal.parent, json.loads((journal.parent / "run.json").read_text())).read("set0_letters"))
    assert 0 < kept < 3000
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{kept}/3000" in result.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["n"] == 3000


@pytest.mark.distributed
def test_two_processes_give_what_one_gives(folder, tmp_path):
    command = ["-m", "hf_calib.cli", "measure", "--model", str(folder / "model"), "--device", "cpu"]
    command += ["--dataset", str(folder / "one.jsonl"), "--batch-size", "2"]
    subprocess.run([sys.executable, *command, "--out", str(tmp_path / "one")], check=True, capture_output=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29631"]
    subprocess.run([*launcher, *command, "--out", str(tmp_path / "two")], check=True, capture_output=True, timeout=600)
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["measures"] == two["measures"]
    tables = [pyarrow.parquet.read_table(tmp_path / name / "predictions.parquet") for name in ("one", "two")]
    assert tables[0].equals(tables[1])


def test_questions_without_options(folder, tmp_path, capsys):
    rows = [{"question": f"What is {i}?", "answer": ["x", "y"]} for i in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model", folder / "model", "--dataset", tmp_path / "q.jsonl", "--free-form", "contains"]
    assert measure(*options, "--confidence", "consistency", "--out", tmp_path / "out") == 0
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row["question"] for row in rows] == [f"What is {i}?" for i in range(6)]
    assert all(row["choices"][1] == "x or y" and row["predicted"] == 0 for row in rows)
    back = read_predictions(tmp_path / "out" / "predictions.parquet")
    (recorded,) = back.values()
    np.testing.assert_allclose(recorded.predictions.confidences, [row["confidence"] for row in rows])
    assert measure(*options) == 1
    assert "--free-form: confidence read by letters needs options" in capsys.readouterr().err


@pytest.mark.parametrize("confidence", ["p-true", "stated", "stated-levels", "stated-words", "stated-top-k"])
def test_words_of_ones_own_with_each_way(folder, tmp_path, confidence):
    (tmp_path / "q.jsonl").write_text('{"question": "What is it?", "answer": "x"}\n' * 3)
    options = ["--model", folder / "model", "--dataset", tmp_path / "q.jsonl", "--free-form", "exact"]
    assert measure(*options, "--confidence", confidence, "--out", tmp_path / "out") == 0
    run = json.loads((tmp_path / "out" / "report.json").read_text())["run"]
    assert run["confidence"]["name"] == confidence


def test_ways_have_their_settings(folder, tmp_path, capsys):
    options = ["--model", folder / "model", "--dataset", folder / "one.jsonl", "--limit", 3, "--json"]

    def settings(*more):
        assert measure(*options, *more) == 0
        return json.loads(capsys.readouterr().out)["run"]["confidence"]

    own = settings("--confidence", "consistency", "--n-samples", 3, "--temperature", 0.5)
    assert (own["n_samples"], own["temperature"]) == (3, 0.5)
    assert settings("--confidence", "stated-top-k", "--top-k", 2)["top_k"] == 2
    for way in ("consistency", "stated", "stated-words", "stated-top-k"):
        assert settings("--confidence", way, "--max-new-tokens", 5)["max_new_tokens"] == 5
    own = settings("--confidence", "marginalized", "--n-orders", 2)
    assert (own["n_orders"], own["method"]) == (2, {"name": "letters"})
    for way, tokens, message in (
        ("p-true", 5, "--max-new-tokens: confidence read by p-true has no such setting; it goes with stated, "),
        ("stated", 0, "--max-new-tokens: must be at least 1, got 0"),
    ):
        assert measure(*options, "--confidence", way, "--max-new-tokens", tokens) == 1
        assert message in capsys.readouterr().err


def test_wordings_are_averaged_over(folder, tmp_path, model, tokenizer, capsys):
    asked = load_questions(folder / "one.jsonl")
    (tmp_path / "w.yaml").write_text('- question: "Q: {question}"\n  cue: "A:"\n- {choice: "({letter}) {choice}"}\n')
    options = ["--model", folder / "model", "--dataset", folder / "one.jsonl", "--wordings", tmp_path / "w.yaml"]
    assert measure(*options, "--out", tmp_path / "out") == 0
    formats = [
        PromptFormat(),
        PromptFormat(question="Q: {question}", cue="A:"),
        PromptFormat(choice="({letter}) {choice}"),
    ]
    parts = [predict(model, tokenizer, asked, prompt_format=own).probabilities for own in formats]
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    for row, expected in zip(rows, np.mean(parts, axis=0), strict=True):
        np.testing.assert_allclose(row["probabilities"], expected[: len(row["probabilities"])], atol=1e-5)
    run = json.loads((tmp_path / "out" / "report.json").read_text())["run"]["confidence"]
    assert (run["n_orders"], [own["cue"] for own in run["formats"]]) == (1, ["A:", "Answer:"])
    for method, message in (("p-true", "p-true gives none"), ("stated", "stated gives none")):
        assert measure(*options, "--confidence", method) == 1
        assert message in capsys.readouterr().err
    for text, message in (("a: b", "a list of prompt formats"), ("- {cues: b}", "no 'cues'"), ("[", "neither YAML")):
        (tmp_path / "w.yaml").write_text(text)
        assert measure(*options) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("confidence", ["p-true", "stated", "stated-top-k", "consistency", "consistency-entropy"])
def test_elicited_confidence(folder, tmp_path, confidence, capsys):
    options = ["--model", folder / "model", "--dataset", folder / "one.jsonl", "--out", tmp_path]
    assert measure(*options, "--confidence", confidence, "--limit", 5, "--batch-size", "auto") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run"]["confidence"]["name"] == confidence.split("-entropy")[0].removesuffix("-top-k")
    assert report["measures"]["option_mass"]["value"] <= 1
