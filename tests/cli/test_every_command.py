"""What scripts can rely on in every command: JSON, configuration files, conditions, resumption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hf_calib.cli import main, make_parser
from hf_calib.cli.configuration import with_configuration
from hf_calib.cli.parser import command_of
from hf_calib.cli.train import TRAINING
from hf_calib.confidence import Journal
from tests.support import question_rows, tiny_llama


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("every")
    for seed in (0, 1):
        tiny_llama(tokenizer, seed=seed).save_pretrained(folder / f"model{seed}")
        tokenizer.save_pretrained(folder / f"model{seed}")
    for name, seed in (("one", 0), ("two", 1)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in question_rows(12, seed=seed))
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def commands(names=()):
    """Yield every command's words with its parser."""
    parser, _ = command_of(names, make_parser())
    nested = [action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)]
    if not nested:
        yield names, parser
    for action in nested:
        for name in action.choices:
            yield from commands((*names, name))


# Those that train have TRL's parsers, see tests/scripts/test_launch.py.
EVERY = {names: parser for names, parser in commands() if names[0] not in TRAINING}


def test_there_are_as_many_as_are_known():
    assert len(EVERY) >= 10
    assert ("publish", "adapter") in EVERY


@pytest.mark.parametrize("names", EVERY, ids=" ".join)
def test_help_json_and_configuration(names, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = EVERY[names]
    assert {"--json", "--config", "--help"} <= set(parser._option_string_actions)
    assert f"hf-calib {' '.join(names)}" in parser.epilog
    assert all(action.help for action in parser._actions)
    assert max(map(len, parser.format_help().splitlines())) <= 80
    assert "%%" not in parser.format_help()


@pytest.mark.parametrize("names", [names for names, own in EVERY.items() if "--dataset" in own._option_string_actions])
def test_commands_that_read_questions_say_how(names):
    assert {"--columns", "--answer-base", "--on-bad-row"} <= set(EVERY[names]._option_string_actions)


# Arguments from a file


def arguments_of(tmp_path, text, *given):
    (tmp_path / "c.yaml").write_text(text)
    arguments = [*given, "--config", str(tmp_path / "c.yaml")]
    return make_parser().parse_args(with_configuration(arguments, make_parser()))


def test_positional_arguments_stand_in_a_file_too(tmp_path):
    text = "models: [a, b, c]\ndataset: d\njson: true\nconfidence: [letters, text]\n"
    options = arguments_of(tmp_path, text, "compare")
    assert options.models == ["a", "b", "c"]
    assert options.confidence == ["letters", "text"]
    assert options.json
    options = arguments_of(tmp_path, text, "compare", "x", "y", "--dataset", "e", "--confidence=p-true")
    assert (options.models, options.dataset, options.confidence) == (["x", "y"], ["e"], ["p-true"])


def test_nested_commands_take_a_file(tmp_path):
    options = arguments_of(tmp_path, "folder: f\nrepo: a/b\ndry_run: true\n", "publish", "adapter")
    assert (options.folder, options.repo, options.dry_run) == ("f", "a/b", True)
    options = arguments_of(tmp_path, "folder: f\nrepo: a/b\n", "publish", "adapter", "g", "--repo", "c/d")
    assert (options.folder, options.repo) == ("g", "c/d")
    options = arguments_of(tmp_path, "from-predictions: [p, q]\n", "diagnose", "--fail-if", "gap>0")
    assert options.from_predictions == ["p", "q"]


def test_what_a_file_may_hold_is_told(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("folders: f\n")
    assert run("publish", "adapter", "--config", tmp_path / "c.yaml") == 1
    assert "publish adapter has no option 'folders'; it has base-model" in capsys.readouterr().err


# Conditions


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("ece>1", 0),
        ("ece>=0", 3),
        ("nll.change.high<=-100", 0),
        ("nll.change.low<=100", 3),
        ("ece.base<2", 3),
        ("sharpening<1e9", 1),  # no factor describes the log-odds of unrelated models
    ],
)
def test_conditions_on_a_comparison(folder, tmp_path_factory, condition, code, capsys):
    out = tmp_path_factory.getbasetemp() / "compared"
    for seed in (0, 1):
        if not (out / f"m{seed}").exists():
            run(
                "measure",
                "--model",
                folder / f"model{seed}",
                "--dataset",
                folder / "one.jsonl",
                "--out",
                out / f"m{seed}",
            )
    assert run("compare", out / "m0", out / "m1", "--fail-if", condition) == code
    told = f"{condition} holds of m1 on {folder / 'one.jsonl'} (letters)" in capsys.readouterr().err
    assert told == (code == 3)


def test_conditions_on_a_calibration_and_a_diagnosis(folder, tmp_path, capsys):
    options = ["--model", folder / "model0", "--dataset", folder / "one.jsonl"]
    assert run("calibrate", *options, "--out", tmp_path / "c", "--folds", 2, "--fail-if", "confidence<2") == 3
    assert run("calibrate", *options, "--out", tmp_path / "c", "--folds", 2, "--fail-if", "confidence>2") == 0
    assert run("calibrate", *options, "--out", tmp_path / "d", "--fail-if", "gap>2") == 1
    assert not (tmp_path / "d").exists()
    options = [*options, "--held-out", folder / "two.jsonl"]
    assert run("diagnose", *options, "--fail-if", "new.accuracy<2", "--fail-if", "gap>2") == 3
    assert "new.accuracy<2 holds" in capsys.readouterr().err
    assert run("diagnose", *options, "--fail-if", "regime>2") == 1
    assert "choose from 'gap', 'gap_low', 'gap_high', 'critical_accuracy'" in capsys.readouterr().err


def test_a_calibrator_that_does_not_exist_is_told_before_anything_is_asked(tmp_path, capsys):
    assert (
        run("calibrate", "--model", "nowhere", "--dataset", "nowhere", "--method", "alchemy", "--out", tmp_path) == 1
    )
    assert "alchemy" in capsys.readouterr().err


# What the other commands print as JSON


def test_a_card_as_json_with_a_condition(folder, tmp_path, tokenizer, capsys):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    options = ["card", tmp_path / "own", "--dataset", folder / "one.jsonl", "--json"]
    assert run(*options, "--fail-if", "ece>=0") == 3
    result = json.loads(capsys.readouterr().out)
    assert result["card"].endswith("README.md")
    assert result["reports"]["after"]["n"] == 12
    assert run(*options, "--fail-if", "eec>=0") == 1


def test_a_task_and_completion_as_json(folder, tmp_path, capsys):
    options = ["--dataset", folder / "one.jsonl", "--name", "own", "--out", tmp_path / "tasks", "--json"]
    assert run("lm-eval-task", *options) == 0
    assert json.loads(capsys.readouterr().out) == {
        "task": "own",
        "yaml": str(tmp_path / "tasks" / "own.yaml"),
        "n": 12,
    }
    assert run("completion", "bash", "--json") == 0
    assert "complete" in json.loads(capsys.readouterr().out)["script"]


def test_a_demo_tells_its_steps_beside_the_json(tmp_path, capsys, monkeypatch):
    def demo(out, **options):
        print("a step")
        return {}

    monkeypatch.setattr("hf_calib.lab.demo.run_demo", demo)
    assert run("demo", "--out", tmp_path, "--json") == 0
    printed = capsys.readouterr()
    assert (json.loads(printed.out), printed.err) == ({}, "a step\n")


# Resumption


def cases(folder):
    one, two = folder / "one.jsonl", folder / "two.jsonl"
    models = [folder / "model0", folder / "model1"]
    return {
        "measure": (["--model", models[0], "--dataset", one], "report.json", 12),
        "compare": (
            [*models, "--dataset", one, "--confidence", "letters", "--confidence", "text"],
            "comparison.json",
            48,
        ),
        "calibrate": (["--model", models[0], "--dataset", one, "--folds", 2], "calibration.json", 12),
        "diagnose": (["--model", models[0], "--dataset", one, "--held-out", two], "diagnosis.json", 24),
    }


@pytest.mark.parametrize("command", ["measure", "compare", "calibrate", "diagnose"])
@pytest.mark.parametrize("at", [2, pytest.param(5, marks=pytest.mark.nightly)])
def test_a_stopped_run_goes_on(command, at, folder, tmp_path, monkeypatch):
    options, result, n = cases(folder)[command]
    options = [command, *options, "--batch-size", 2, "--json"]
    assert run(*options, "--out", tmp_path / "whole") == 0
    written = []
    append = Journal.append

    def stopping(self, stage, outcomes):
        append(self, stage, outcomes)
        written.append(len(outcomes))
        if len(written) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", stopping)
    assert run(*options, "--out", tmp_path / "stopped") == 130
    assert not (tmp_path / "stopped" / result).exists()
    assert run(*options, "--out", tmp_path / "stopped") == 0
    assert sum(written) == n  # none was asked twice
    found = [json.loads((tmp_path / name / result).read_text()) for name in ("whole", "stopped")]
    for one in found:  # when and into which folder
        for name in ("date", "command"):
            one.get("run", {}).pop(name, None)
    assert found[0] == found[1]
    assert not (tmp_path / "stopped" / ".progress").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("command", ["diagnose", "calibrate", "compare"])
def test_a_killed_process_goes_on(command, folder, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in question_rows(400, seed=seed))
    for seed in (0, 1):
        (tmp_path / f"model{seed}").symlink_to(folder / f"model{seed}")
    options, result, _ = cases(tmp_path)[command]
    line = [sys.executable, "-m", "hf_calib.cli", command, *map(str, options), "--batch-size", "1"]
    line += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def answered():
        return sum(path.read_bytes().count(b"\n") for path in (tmp_path / "out").glob("**/.progress/**/*.jsonl"))

    while answered() < 100:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = answered()
    assert not (tmp_path / "out" / result).exists()
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"{min(kept, 400)}/400" in done.stderr
    assert json.loads((tmp_path / "out" / result).read_text())
