"""The script that trains P(True) and stated confidence on a model's own graded answers."""

import json

import numpy as np
import pytest

import hf_calib
from hf_calib.confidence import LocalModel
from hf_calib.tasks.free_form import MATCHERS
from tests.examples.scripts import EXAMPLES, script, write
from tests.support import COLOURS, NOUNS

ROWS = [{"question": f"Is the {noun} {colour}?", "answers": [colour, "yes"]} for noun in NOUNS for colour in COLOURS]

pytestmark = pytest.mark.filterwarnings("ignore:self-evaluation")


@pytest.fixture
def arguments(saved_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "real_models"))
    # An untrained model says nothing that is right; about half of what it says counts here.
    monkeypatch.setitem(MATCHERS, "exact", lambda answer, other: sum(map(ord, answer)) % 2 == 0)
    questions = write(tmp_path / "asked.jsonl", ROWS)
    return [
        "--model", str(saved_model), "--questions", str(questions), "--shots", "2", "--n_train", "20", "--n_fit", "8",
        "--n_test", "16", "--steps", "4", "--max_new_tokens", "4", "--learning_rate", "1e-2",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def test_every_stage_is_measured_once(arguments, tmp_path, monkeypatch, capsys):
    free_form = script("real_models/free_form")
    free_form.main(arguments)
    table = capsys.readouterr().out.splitlines()[-8:]
    written = (tmp_path / "out" / "results.json").read_text()
    assert str(tmp_path) not in written
    results = json.loads(written)
    readings = json.loads((tmp_path / "out" / "readings.json").read_text())["confidences"]
    assert [results["answers"][name]["n"] for name in ("test", "train", "fit")] == [16, 20, 8]
    answers = hf_calib.SelfEvaluationQuestions.load(tmp_path / "out" / "answers_test.parquet").answers
    right = np.array([answer.right for answer in answers])
    assert results["accuracy"] == right.mean()
    assert results["answers"]["test"]["right"] == right.sum()
    assert results["brier_of_constant"] == pytest.approx(2 * np.mean((right.mean() - right) ** 2))
    lines = iter(table[2:])
    for reading in ("p-true", "stated-levels"):
        stages = results["measured"][reading]
        assert list(stages) == ["before", "before, temperature", "trained"]
        for stage, figures in stages.items():
            c = np.array(readings[reading][stage])
            assert figures["brier"]["value"] == pytest.approx(2 * np.mean((c - right) ** 2))
            assert figures["ece"]["low"] <= figures["ece"]["value"] <= figures["ece"]["high"]
            assert figures["accuracy at 20%"]["low"] <= figures["accuracy at 20%"]["high"]
            assert next(lines).startswith(f"| {reading}, {stage} | {c.mean():.3f} | {figures['ece']['value']:.3f} [")
        assert stages["trained"]["confidence"] != stages["before"]["confidence"]
        assert stages["trained"]["auroc gain"]["value"] == pytest.approx(
            stages["trained"]["auroc"]["value"] - stages["before"]["auroc"]["value"]
        )

    def asked_again(*args, **kwargs):
        raise AssertionError("what was measured is measured again")

    monkeypatch.setattr(LocalModel, "generate", asked_again)
    for name in ("read", "trained"):
        monkeypatch.setattr(free_form, name, asked_again)
    free_form.main(arguments)
    assert (tmp_path / "out" / "results.json").read_text() == written
    free_form.main([*arguments, "--readings", "p-true"])
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["measured"]) == ["p-true"]
    with pytest.raises(SystemExit, match="other settings"):
        free_form.main([*arguments, "--steps", "5"])


def test_too_few_questions_are_refused(arguments, tmp_path):
    with pytest.raises(SystemExit, match="has 60 questions, and 1024 are needed; lower --n_test"):
        script("real_models/free_form").main([*arguments, "--n_train", "998"])
