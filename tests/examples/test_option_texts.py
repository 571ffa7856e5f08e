"""The scripts on option texts: the repair of a model, and the benchmark of a step."""

import json
import sys

import pytest

import hf_calib
from tests.examples.scripts import EXAMPLES, script, write
from tests.support import question_rows


@pytest.fixture
def arguments(saved_model, tmp_path):
    train = write(tmp_path / "train.jsonl", question_rows(24))
    test = write(tmp_path / "test.jsonl", question_rows(12, seed=5))
    return [
        "--model", str(saved_model), "--train", str(train), "--test", str(test), "--steps", "12", "--n_test", "10",
        "--n_fit", "8", "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def test_a_repair_writes_every_figure_and_is_not_repeated(arguments, tmp_path, monkeypatch, capsys):
    repair = script("real_models/repair")
    repair.main(arguments)
    table = capsys.readouterr().out.splitlines()[-5:]
    written = (tmp_path / "out" / "results.json").read_text()
    results = json.loads(written)
    assert results["n"] == {"test": 10, "temperature": 8, "train": 16}
    assert results["settings"]["confidence"] == "text-tokens"
    assert results["settings"]["train"] == ["train.jsonl"]
    assert str(tmp_path) not in written
    assert list(results["measured"]) == ["before", "before, temperature", "after"]
    for line, (stage, figures) in zip(table[2:], results["measured"].items(), strict=True):
        assert figures["n"] == 10
        assert figures["ece"]["low"] <= figures["ece"]["value"] <= figures["ece"]["high"]
        assert line.startswith(f"| {stage} | 10 | {figures['accuracy']['value']:.3f} [")
    assert results["measured"]["after"]["nll"]["value"] != results["measured"]["before"]["nll"]["value"]
    # The figures are those of the model that is there, asked as it was trained.
    questions = hf_calib.Measurement.load(tmp_path / "out" / "after").datasets["test"].questions
    model = hf_calib.load(tmp_path / "out" / "model")
    report = hf_calib.measure((model.model, model.tokenizer), list(questions), method="text-tokens").report
    assert report.measures["nll"].value == pytest.approx(results["measured"]["after"]["nll"]["value"], abs=1e-5)

    def asked_again(*args, **kwargs):
        raise AssertionError("what was measured is measured again")

    monkeypatch.setattr(hf_calib, "measure", asked_again)
    monkeypatch.setattr(repair, "trained", asked_again)
    repair.main(arguments)
    assert capsys.readouterr().out.splitlines()[-5:] == table
    assert (tmp_path / "out" / "results.json").read_text() == written
    with pytest.raises(SystemExit, match="other settings"):
        repair.main([*arguments, "--steps", "13"])


def test_a_repair_goes_on_from_its_last_checkpoint(arguments, tmp_path, monkeypatch):
    repair = script("real_models/repair")

    def stopped(self, *args, **kwargs):
        train(self, *args, **kwargs)
        raise KeyboardInterrupt

    train = hf_calib.CalibrationAwareSFTTrainer.train
    monkeypatch.setattr(hf_calib.CalibrationAwareSFTTrainer, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        repair.main(arguments)
    resumed = []

    def spied(self, resume_from_checkpoint=None):
        resumed.append(resume_from_checkpoint)
        return train(self, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(hf_calib.CalibrationAwareSFTTrainer, "train", spied)
    repair.main(arguments)
    assert [path.rpartition("/")[2] for path in resumed] == ["checkpoint-12"]


def test_the_benchmark_counts_a_packed_prompt_once(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    small = "--hidden_size 64 --layers 1 --vocabulary 256 --questions 2 --steps 1 --rounds 1 --prompt_length 20"
    monkeypatch.setattr(sys, "argv", ["text_step.py", *small.split(), "--option_length", "3"])
    script("benchmarks/text_step").main()
    tokens = {line.rsplit(maxsplit=4)[0]: int(line.split()[-2]) for line in capsys.readouterr().out.splitlines()[-3:]}
    # Of each text but its last token is read.
    assert tokens["texts, packed"] == 2 * (20 + 4 * 2)
    assert tokens["texts, a row per text"] == 2 * 4 * (20 + 2)
