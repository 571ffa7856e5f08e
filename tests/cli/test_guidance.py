"""What the command tells people: what was meant, what is missing, what is kept, what is going on."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from hf_calib.cli import main
from tests.support import byte_level_tokenizer, question_rows, tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guidance")
    tokenizer = byte_level_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, n in (("few", 12), ("many", 3000)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in question_rows(n))
    rows = [*question_rows(8), {"question": "?", "choices": ["a"], "answer": 0}]
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "p.csv").write_text("p_A,p_B,answer\n" + "0.9,0.1,0\n0.6,0.4,1\n" * 20)
    return folder


def run(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def process(*arguments, **environment):
    line = [sys.executable, "-m", "hf_calib.cli", *map(str, arguments)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        # It is ignored in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


# What was meant


@pytest.mark.parametrize(("words", "command"), [([], ""), (["publish"], " publish")])
def test_a_command_alone_shows_help(words, command, capsys):
    assert run(*words) == 0
    assert capsys.readouterr().out.startswith(f"usage: hf-calib{command} [-h]")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["meassure"], "measure"),
        (["publish", "metrik"], "metric"),
        (["measure", "--modl", "m"], "--model"),
        (["measure", "--model", "m", "--datset=d"], "--dataset"),
        (["publish", "adapter", "f", "--repos", "a/b"], "--repo"),
        (["measure", "--model", "m", "--dataset", "d", "--confidence", "leters"], "letters"),
        (["completion", "bsh"], "bash"),
        (["publish", "metric", "eec", "--namespace", "ann"], "ece"),
        (["calibrate", "--model", "m", "--dataset", "d", "--out", "o", "--method", "temprature"], "temperature"),
        (["measure", "--model", "m", "--dataset", "d", "--fail-if", "acuracy>0"], "accuracy"),
        (["measure", "--model", "m", "--dataset", "d", "--dtype", "bf61"], "bf16"),
        (["measure", "--model", "FOLDER/model", "--dataset", "d", "--device", "cdua"], "cuda"),
        (["measure", "--model", "m", "--dataset", "d", "--columns", "qestion=a"], "question"),
        (
            ["measure", "--model", "FOLDER/model", "--dataset", "FOLDER/few.jsonl", "--columns", "answer=anser"],
            "answer",
        ),
    ],
)
def test_what_was_meant_is_suggested(arguments, meant, folder, capsys):
    assert run(*(argument.replace("FOLDER", str(folder)) for argument in arguments)) in (1, 2)
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_an_unknown_option_of_a_file_is_suggested_too(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("limitt: 3\n")
    assert run("measure", "--config", tmp_path / "c.yaml") == 1
    assert "Did you mean 'limit'?" in capsys.readouterr().err


def test_values_are_not_taken_for_options(folder, capsys):
    assert run("measure", "--from-predictions", folder / "p.csv", "--seed", -1) == 2
    assert "argument --seed: must be a whole number of at least 0, got '-1'" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["p.csv", "p.csv/new"])
def test_a_file_is_not_taken_for_the_folder_of_results(out, folder, capsys):
    assert run("measure", "--from-predictions", folder / "p.csv", "--out", folder / out) == 2
    assert f"argument --out: {folder / 'p.csv'} is a file; give a folder" in capsys.readouterr().err


# Number formats and devices


@pytest.mark.parametrize(("given", "kept"), [("bf16", "bfloat16"), ("fp16", "float16"), ("float32", "float32")])
def test_number_formats_have_short_names(given, kept, folder, capsys):
    options = ["--model", folder / "model", "--dataset", folder / "few.jsonl", "--json"]
    assert run("measure", *options, "--dtype", given, "--device", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["run"]["dtype"] == kept


@pytest.mark.parametrize("device", ["gpu", "cuda", "mps", "cuda:1"])
def test_a_device_that_is_not_there_is_told_in_a_line(device, folder, monkeypatch, capsys):
    for kind in ("cuda", "mps"):
        monkeypatch.setattr(f"torch.{kind}.is_available", lambda: False)
    options = ["--model", folder / "model", "--dataset", folder / "few.jsonl", "--json"]
    assert run("measure", *options, "--device", device) == 1
    assert re.fullmatch(r"hf-calib measure: --device: PyTorch finds no .*; pass cpu.*\n", capsys.readouterr().err)


def test_gpu_is_whichever_there_is(monkeypatch):
    from hf_calib.evaluation.models import Processes, _device

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.mps.is_available", lambda: True)
    assert _device("gpu", Processes()) == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert _device("gpu", Processes(1, 2, 1)) == "cuda:1"
    assert _device("cuda:0", Processes()) == "cuda:0"
    assert _device("cpu", Processes()) == "cpu"
    with pytest.raises(ValueError, match="no cuda:2; this machine's GPUs are cuda:0 to cuda:1"):
        _device("cuda:2", Processes())


# What is missing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "FOLDER/gone", "--dataset", "FOLDER/few.jsonl"], "There is no folder '.*gone'"),
        (["--model", "some/where/gone", "--dataset", "FOLDER/few.jsonl"], "There is no folder 'some/where/gone'"),
        (["--model", "FOLDER/few.jsonl", "--dataset", "FOLDER/few.jsonl"], "few.jsonl is a file"),
        (["--model", "FOLDER/model", "--dataset", "FOLDER/gone"], "there is no file or folder '.*gone'"),
        (["--model", "FOLDER/model", "--dataset", "some/where/gone"], "there is no file or folder 'some/where/gone'"),
        (["--model", "FOLDER/model", "--adapter", "FOLDER/gone", "--dataset", "d"], "There is no folder '.*gone'"),
        (["--model", "FOLDER/model", "--dataset", "d", "--calibrator", "gone"], "there is no calibrator at 'gone'"),
        (["--model", "FOLDER/model"], "--model needs at least one --dataset"),
        (["--model", "FOLDER/model", "--dataset", "d", "--limit", "0"], "--limit is the number"),
        (["--model", "FOLDER/model", "--dataset", "d", "--few-shot", "2"], "--few-shot and --few-shot-dataset go"),
        (["--model", "openai:http://127.0.0.1:1/v1", "--dataset", "d"], "--model-name: a served model needs it"),
        (["--from-predictions", "FOLDER/p.csv", "--columns", "answer=a"], "--columns: not applicable to existing"),
        (["--from-predictions", "FOLDER/p.csv", "--limit", "3"], "--limit: not applicable to existing"),
    ],
)
def test_messages_name_what_is_missing_and_the_flag(options, message, folder, capsys):
    assert run("measure", *(option.replace("FOLDER", str(folder)) for option in options)) == 1
    assert re.search(f"hf-calib measure: .*{message}", capsys.readouterr().err)


def test_a_file_name_is_not_taken_for_an_argument(folder, capsys):
    assert main(["measure", "--model", "model:x.gguf", "--dataset", str(folder / "few.jsonl")]) == 1
    assert "hf-calib measure: model:x.gguf is not" in capsys.readouterr().err


def test_predictions_are_read_before_a_model_is_asked(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hf_calib.evaluation.calibrating.ask", lambda *_, **__: pytest.fail("asked"))
    options = ["--model", folder / "model", "--dataset", folder / "few.jsonl", "--out", tmp_path]
    assert run("calibrate", *options, "--target-predictions", folder / "gone.csv") == 1
    assert "there is no file" in capsys.readouterr().err


def test_a_template_is_checked_before_the_model_is_loaded(folder, monkeypatch, capsys):
    monkeypatch.setattr("hf_calib.hub.loading.load_language_model", lambda *_: pytest.fail("loaded"))
    options = ["--model", folder / "model", "--dataset", folder / "few.jsonl", "--chat-template"]
    assert run("measure", *options) == 1
    assert "has no chat template for --chat-template" in capsys.readouterr().err


def test_without_network_a_hub_dataset_fails_fast(folder, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    started = time.monotonic()
    running = process("lm-eval-task", "--dataset", "cais/mmlu:all:test", "--name", "n", "--out", tmp_path, **nowhere)
    error = running.communicate(timeout=120)[1]
    assert running.returncode == 1
    assert "'cais/mmlu' is not a file or folder here, and the Hub cannot be reached" in error
    assert "HF_HUB_OFFLINE=1" in error
    assert "Retrying" not in error
    assert time.monotonic() - started < 20  # the client's own retries take 25 seconds


def test_offline_a_hub_dataset_says_why(folder, tmp_path):
    running = process(
        "lm-eval-task", "--dataset", "a/b", "--name", "n", "--out", tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)
    )
    assert "with HF_HUB_OFFLINE only downloaded datasets are read" in running.communicate(timeout=120)[1]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_files_and_folders_of_predictions_are_accepted_everywhere(kind, folder, tmp_path, capsys):
    assert run("measure", "--from-predictions", folder / "p.csv", "--out", tmp_path / "m") == 0
    place = folder / "p.csv" if kind == "file" else tmp_path / "m"
    other = tmp_path / "m" if kind == "file" else folder / "p.csv"
    assert run("measure", "--from-predictions", place) == 0
    assert run("compare", place, tmp_path / "m" / "predictions.parquet") == 0
    assert run("calibrate", "--from-predictions", place, "--target-predictions", other, "--method",
               "importance_weighted", "--out", tmp_path / "c") == 0  # fmt: skip
    assert run("diagnose", "--from-predictions", place, other) == 0


# What is kept


@pytest.mark.slow
def test_an_interrupted_run_says_what_is_kept_goes_on_and_is_reused(folder, tmp_path):
    options = ["measure", "--model", folder / "model", "--dataset", folder / "many.jsonl", "--batch-size", 1]
    options += ["--out", tmp_path / "out"]
    first = process(*options)

    def answered():
        return sum(path.read_bytes().count(b"\n") for path in (tmp_path / "out").glob(".progress/*.jsonl"))

    while answered() < 40:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    error = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    kept = re.search(
        r"hf-calib measure: interrupted. (\d+) answers are kept in .*Resume with: hf-calib measure", error
    )
    assert int(kept[1]) == answered() < 3000
    assert "Traceback" not in error
    second = process(*options)
    assert f"Resuming a stopped run: {kept[1]} answers are kept" in second.communicate(timeout=120)[1]
    assert second.returncode == 0
    third = process(*options)
    output, error = third.communicate(timeout=60)
    assert "already holds this run's answers, so nothing is asked again" in error
    assert "Loading" not in error
    assert "ECE" in output


def test_without_a_folder_nothing_is_kept(folder, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_calib.confidence.asking.Asking.run", stop)
    assert run("measure", "--model", folder / "model", "--dataset", folder / "few.jsonl") == 130
    assert "interrupted. Nothing is kept; with --out DIR" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["measure", "compare", "calibrate", "diagnose"])
def test_a_finished_run_is_not_repeated(command, folder, tmp_path, monkeypatch, capsys):
    options = {
        "measure": ["--model", folder / "model", "--dataset", folder / "few.jsonl"],
        "compare": [folder / "model", tmp_path / "other", "--dataset", folder / "few.jsonl"],
        "calibrate": ["--model", folder / "model", "--dataset", folder / "few.jsonl", "--folds", 2],
        "diagnose": ["--model", folder / "model", "--dataset", folder / "few.jsonl",
                     "--held-out", folder / "many.jsonl", "--limit", 10],
    }[command]  # fmt: skip
    (tmp_path / "other").symlink_to(folder / "model")
    options = [command, *options, "--out", tmp_path / "out"]
    assert run(*options, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    with monkeypatch.context() as patched:
        patched.setattr("hf_calib.hub.loading.load_language_model", lambda *_: pytest.fail("loaded"))
        assert run(*options, "--json") == 0
        assert json.loads(capsys.readouterr().out) == first
        assert run(*options) == 0
        assert "already holds this run's answers" in capsys.readouterr().err
    assert run(*options, "--json", "--permute-options") == 0  # another run, which replaces it
    assert json.loads(capsys.readouterr().out) != first


# What is shown


def test_json_has_each_thing_once_with_the_verdict_and_warnings(folder, capsys):
    options = ["--model", folder / "model", "--on-bad-row", "skip", "--json"]
    assert run("measure", *options, "--dataset", folder / "bad.jsonl") == 0
    printed = capsys.readouterr()
    one = json.loads(printed.out)
    assert "datasets" not in one
    assert one["verdict"].endswith(".")
    assert "skipped_rows" in {warning["code"] for warning in one["warnings"]}
    assert any("choices" in message for message in one["messages"])
    assert "UserWarning" not in printed.err
    assert run("measure", *options, "--dataset", folder / "few.jsonl", "--dataset", folder / "bad.jsonl") == 0
    assert set(json.loads(capsys.readouterr().out)["datasets"]) == {str(folder / f"{n}.jsonl") for n in ("few", "bad")}


@pytest.mark.parametrize("command", ["compare", "calibrate", "diagnose"])
def test_rows_that_were_left_out_are_shown(command, folder, tmp_path, capsys):
    (tmp_path / "other").symlink_to(folder / "model")
    options = {
        "compare": [folder / "model", tmp_path / "other", "--dataset", folder / "bad.jsonl"],
        "calibrate": ["--model", folder / "model", "--dataset", folder / "bad.jsonl", "--folds", 2,
                      "--out", tmp_path / "c"],
        "diagnose": ["--model", folder / "model", "--dataset", folder / "bad.jsonl",
                     "--held-out", folder / "few.jsonl"],
    }[command]  # fmt: skip
    assert run(command, *options, "--on-bad-row", "skip") == 0
    assert "1 rows could not be read and were left out." in capsys.readouterr().out.replace("\n", " ")


def test_the_page_says_what_was_run(folder, tmp_path):
    options = ["measure", "--model", folder / "model", "--dataset", folder / "few.jsonl", "--out", tmp_path]
    assert run(*options, "--seed", 3) == 0
    page = (tmp_path / "report.html").read_text()
    block = page[page.index("What was run") :]
    assert f'<td>Command</td><td class="wide">hf-calib measure --model {folder / "model"}' in block
    assert re.search(r"<td>Date</td><td class=\"wide\">20\d\d-\d\d-\d\dT", block)
    assert '<td>Device</td><td class="wide">c' in block
    assert "12 questions, SHA-256" in block
    assert '<pre class="prompt">Question: What colour' in block
    assert "prompt_format" not in block


def test_the_first_sign_of_life_comes_before_anything_heavy(folder):
    # In place of a time, which a loaded machine would not keep: what is imported by then.
    code = (
        "import sys; from hf_calib.cli import main\n"
        "class Tells:\n"
        "    def write(self, text):\n"
        "        print(text.strip(), 'torch' in sys.modules, flush=True); sys.stderr = sys.__stderr__\n"
        "    def flush(self): pass\n"
        f"sys.stderr = Tells(); main(['measure', '--model', {str(folder / 'model')!r}, '--dataset', 'gone.jsonl'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "Starting PyTorch False"
    assert "Reading gone.jsonl" in done.stderr
