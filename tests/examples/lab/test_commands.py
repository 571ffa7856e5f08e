"""The scripts of the lab's experiments, and the commands that the documentation names."""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiments.command_line import run_script, seeds
from experiments.compared import METHODS

from tests.examples.scripts import script

ROOT = Path(__file__).resolve().parents[3]
LAB = ROOT / "examples" / "lab"
WORK = {
    "run": "compare",
    "sweep": "sweep",
    "reinforce": "reinforce",
    "free_form": "free_form",
    "report": "report",
    "selective": "show",
}


def main(name, *arguments):
    """Do what running a script does, without importing the libraries again."""
    module = script(f"lab/{name}")
    return run_script(module.parser(), getattr(module, WORK[name]), [str(part) for part in arguments])


def test_seeds_are_numbers_and_ranges():
    assert seeds("0-7") == list(range(8))
    assert seeds("3, 5-6,9") == [3, 5, 6, 9]
    for wrong in ("", "a", "1-", "5-3", "-2", "1,,2"):
        with pytest.raises(argparse.ArgumentTypeError):
            seeds(wrong)


@pytest.mark.parametrize("name", WORK)
def test_help_fits_and_has_an_example(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(name, "--help")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert f"example: python examples/lab/{name}.py " in printed


def test_wrong_usage_is_told(tmp_path, capsys):
    for arguments in (["--method", "ppo"], ["--world", "flat"], ["--seeds", "x"]):
        with pytest.raises(SystemExit) as ended:
            main("run", "--seeds", "3", "--out", tmp_path, *arguments)
        assert ended.value.code == 2
    assert main("report", tmp_path) == 1
    assert "results.json" in capsys.readouterr().err


def test_a_run_of_one_method_reports(tmp_path, capsys):
    run = ["--preset", "mini", "--world", "fixed", "--method", "pretrained", "--out", tmp_path]
    assert main("run", *run, "--seeds", "0") == 0
    said = capsys.readouterr()
    assert "no report yet" in said.err
    assert "fixed, seed 0: pretrained" in said.out
    assert main("report", tmp_path, "--all-seeds", "--baseline", "pretrained") == 0
    assert "were chosen on 0 of them" in capsys.readouterr().out
    assert (tmp_path / "reliability_fixed.png").is_file()
    assert main("report", tmp_path, "--all-seeds", "--baseline", "pretrained", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in printed["rows"]] == ["pretrained"] * 3
    assert printed["report"] == (tmp_path / "report.md").read_text()


def test_the_commands_of_the_documentation_are_commands():
    found = []
    for path in ("README.md", "examples/lab/README.md", "examples/lab/tutorial.ipynb", "CHANGELOG.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        found += re.findall(
            r"python examples/lab/(run|sweep|reinforce|free_form|report|selective)\.py([^#`\n]*)", text
        )
    assert {name for name, _ in found} == set(WORK)
    for name, arguments in found:
        if arguments.strip():
            script(f"lab/{name}").parser().parse_args(shlex.split(arguments))


def test_the_story_explains_every_method():
    story = (LAB / "README.md").read_text(encoding="utf-8")
    table = story[story.index("## What is compared") : story.index("## Run it")]
    for name in METHODS:
        assert f"`{name}`" in table or f"`{name.removeprefix('dpo')}`" in table


def _group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.nightly
def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(tmp_path):
    """Two seeds in two processes, killed on the way; then every method on one; then some of them without."""
    environment = {**os.environ, "HF_CALIB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    some = ("dpo", "dpo+temperature", "rcft", "repair-unlabelled")

    def command(out, seeds, methods):
        run = ["--preset", "mini", "--world", "fixed", "--seeds", seeds, "--jobs", "2"]
        named = [part for name in methods for part in ("--method", name)]
        return [sys.executable, str(LAB / "run.py"), *run, *named, "--out", str(out)]

    def complete(*arguments):
        subprocess.run(command(*arguments), env=environment, check=True, capture_output=True)

    def rows(out):
        return json.loads((out / "results.json").read_text())

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    first = command(killed, "2-3", some)
    process = subprocess.Popen(first, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 600
        while len(list((killed / "runs").glob("*.json"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        process.kill()
        process.wait()
        # The processes of the seeds end with it, and don't write on.
        while _group_is_alive(process.pid):
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        if _group_is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in (killed / "runs").glob("*.json")}
    assert 3 <= len(finished) < 2 * len(some)
    complete(killed, "2-3", some)
    assert {(row["seed"], row["reported"]) for row in rows(killed)} == {(2, False), (3, True)}
    assert len(rows(killed)) == 2 * len(some) * 3
    complete(killed, "3", METHODS)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert len(rows(killed)) == (len(some) + len(METHODS)) * 3
    assert "Seeds 3." in (killed / "report.md").read_text()
    ece = {(row["method"], row["domain"]): row["ece"] for row in rows(killed) if row["seed"] == 3}
    for name in ("pretrained", "repair-unlabelled", "calibration-aware-dpo-unlabelled", "calibration-aware-dpo"):
        for domain in ("in", "out", "unseen"):
            assert ece[name, domain] < ece["dpo", domain] - 0.1
    for name in ("dpo+temperature", "daca", "cft", "rcft", "rcft-published"):
        assert ece[name, "in"] < ece["dpo", "in"] - 0.1
    # Each trains otherwise, so none is another under a second name.
    assert len({ece[name, "out"] for name in METHODS}) == len(METHODS)
    complete(whole, "3", some)
    again = [row for row in rows(killed) if row["seed"] == 3 and row["method"] in some]
    for one, other in zip(again, rows(whole), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
