"""`option_bias.py` compares every way, keeps its scores and asks nothing again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import question_rows, tiny_llama

SCRIPT = Path(__file__).parents[2] / "examples" / "real_models" / "option_bias.py"


@pytest.mark.nightly
def test_a_second_run_scores_nothing_and_gives_the_same(tokenizer, tmp_path):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(20)))
    command = [sys.executable, str(SCRIPT), "--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "q.jsonl")]
    command += ["--n", "12", "--scores", str(tmp_path / "s.jsonl"), "--out", str(tmp_path / "r.json")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (first,) = json.loads((tmp_path / "r.json").read_text())
    kept = (tmp_path / "s.jsonl").read_bytes()
    subprocess.run(command, check=True)
    (again,) = json.loads((tmp_path / "r.json").read_text())
    assert again == first
    assert (tmp_path / "s.jsonl").read_bytes() == kept
    assert first["n"] == 12
    assert len(first["methods"]) == 12
    for name, own in first["methods"].items():
        value, low, high = own["as it is"]["ece"]
        assert low <= value <= high
        assert ("flip_rate" in own) == (not name.startswith("text"))
        (row,) = [line for line in printed.splitlines() if line.startswith(f"| {name} |")]
        assert f"{value:.3f} [{low:.3f}, {high:.3f}] → " in row
