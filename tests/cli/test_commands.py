"""What holds of every command: help, completion, thin imports."""

import argparse
import json
import subprocess
import sys

import pytest

from hf_calib.cli import main, make_parser
from hf_calib.cli.train import TRAINING
from tests.support import question_rows


def commands():
    (action,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    # The options of the training commands are those of TRL's parsers: tests/scripts/ has their tests.
    return {name: parser for name, parser in action.choices.items() if name not in TRAINING}


@pytest.mark.parametrize("command", [name for name in commands() if name != "publish"])
def test_every_command_has_an_example_and_each_option_help(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = commands()[command]
    assert f"hf-calib {command}" in parser.epilog
    assert all(action.help for action in parser._actions if action.help is not argparse.SUPPRESS)
    assert max(map(len, parser.format_help().splitlines())) <= 80


@pytest.mark.parametrize("command", commands())
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from hf_calib.cli import main\n"
        f"try: main(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'scipy', 'pyarrow', 'numpy')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "hf-calib" in script
    for word in ("measure", "compare", "few-shot-dataset", "fail-if"):
        assert word in script


def test_bash_completes(tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    code = (
        f"source {tmp_path / 'script'}; COMP_WORDS=(hf-calib mea); COMP_CWORD=1; "
        "f=$(complete -p hf-calib | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f; echo ${COMPREPLY[@]}"
    )
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["measure"]


def test_a_task_for_the_harness(tmp_path, capsys):
    with (tmp_path / "q.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in question_rows(4))
    options = ["--dataset", str(tmp_path / "q.jsonl"), "--name", "own", "--out", str(tmp_path / "tasks")]
    assert main(["lm-eval-task", *options, "--few-shot", "1", "--few-shot-dataset", str(tmp_path / "q.jsonl")]) == 0
    assert "--tasks own" in capsys.readouterr().out
    row = json.loads((tmp_path / "tasks" / "own.jsonl").read_text().splitlines()[0])
    assert row["prompt"].count("Answer:") == 2


def test_a_task_has_no_options_of_a_model(capsys):
    with pytest.raises(SystemExit):
        main(["lm-eval-task", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "PromptFormat (default: plain)" in shown
    assert "--chat-template" not in shown


def test_the_readers_of_output_may_stop_reading(tmp_path):
    (tmp_path / "p.csv").write_text("p_A,p_B,answer\n" + "0.9,0.1,0\n0.6,0.4,1\n" * 20)
    command = f"{sys.executable} -m hf_calib.cli measure --from-predictions {tmp_path / 'p.csv'} | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in result.stderr
