"""The table over seeds, from results that are there already."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "lab" / "demo_over_seeds.py"


def domain(ece, accuracy):
    return {"measures": {"ece": {"value": ece}, "accuracy": {"value": accuracy}}}


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def test_means_with_lowest_and_highest(tmp_path):
    for seed, ece in ((0, 0.1), (3, 0.4)):
        (tmp_path / str(seed)).mkdir()
        wins = {"multiple_choice": 0.75, "open": 0.5 + ece}
        result = {"DPO": {"in": domain(ece, 0.5), "out": domain(2 * ece, 0.25), "win_rate": wins}}
        (tmp_path / str(seed) / "results.json").write_text(json.dumps(result))
    done = run("--seeds", 0, 3, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2] == (
        "| DPO | 0.250 [0.100, 0.400] | 0.500 [0.200, 0.800] | 0.500 [0.500, 0.500] | 0.250 [0.250, 0.250] "
        "| 0.750 [0.750, 0.750] | 0.750 [0.600, 0.900] |"
    )


@pytest.mark.nightly
def test_a_missing_seed_is_run_with_the_whole_demo(tmp_path):
    done = run("--seeds", 1, "--preset", "mini", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-8].startswith("| model | ECE, in")
    written = {path.name for path in (tmp_path / "1").iterdir()}
    assert {
        "model",
        "lab-base-model-mini",
        "reliability_diagram.png",
        "results.json",
        "results.txt",
        "training.log",
    } <= written
    assert "runs" not in written
    card = (tmp_path / "1" / "model" / "README.md").read_text()
    assert "DPO\N{NO-BREAK SPACE}+\N{NO-BREAK SPACE}temperature\N{NO-BREAK SPACE}scaling" in card
    assert re.search(r"Regime: (non-)?calibratable\. The accuracy on the fine-tuning set", card)
    assert "lab-prompts" in card
    again = run("--seeds", 1, "--preset", "mini", "--out", tmp_path)
    assert again.stdout.splitlines() == done.stdout.splitlines()[-8:]
