"""`option_bias.py` compares every way, keeps its scores and asks nothing again."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from hf_calib.confidence import Asking
from hf_calib.tasks import PromptFormat, as_questions
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


def test_scores_of_another_model_are_not_used_and_an_incomplete_line_is_asked_again(tokenizer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    opened = import_module("kept_scores").opened
    questions = as_questions(question_rows(4))
    for seed in (0, 1):
        tiny_llama(tokenizer, seed=seed).save_pretrained(tmp_path / f"model{seed}")
        tokenizer.save_pretrained(tmp_path / f"model{seed}")

    def scores(seed):
        source = opened(str(tmp_path / f"model{seed}"), tmp_path / "s.jsonl")
        found = source.score_letters("letters", questions, PromptFormat(), Asking(2))
        return np.stack([own.log_probabilities for own in found])

    first, other = scores(0), scores(1)
    assert np.abs(first - other).max() > 0.1
    kept = (tmp_path / "s.jsonl").read_text()
    assert len(kept.splitlines()) == 8
    (tmp_path / "s.jsonl").write_text(kept[:-20])
    np.testing.assert_allclose(scores(1), other, atol=1e-4)
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 9
    assert np.array_equal(scores(0), first)
