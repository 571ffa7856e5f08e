"""The benchmark of our training steps against TRL's."""

import re
import sys

import pytest

from tests.examples.scripts import EXAMPLES, script, write
from tests.support import question_rows


@pytest.fixture(autouse=True)
def folder_of_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))


@pytest.fixture
def benchmark(monkeypatch, saved_model, tmp_path):
    pairs = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(4)]
    write(tmp_path / "pairs.jsonl", [*pairs, {**pairs[0], "chosen": "yes " * 50}])
    write(tmp_path / "questions.jsonl", question_rows(20, seed=0, choices=(4, 4)))
    module = script("benchmarks/trl_step")

    def run(*flags):
        named = ["--model", str(saved_model), "--pairs", str(tmp_path / "pairs.jsonl")]
        named += ["--questions", str(tmp_path / "questions.jsonl")]
        monkeypatch.setattr(sys, "argv", ["trl_step.py", *named, "--batch_size", "2", "--rounds", "1", *flags])
        module.main()

    return run


@pytest.mark.slow
def test_each_step_is_compared_with_trls_and_its_time_is_divided(benchmark, capsys):
    benchmark("--steps", "1", "--questions_per_step", "2")
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line for line in lines if re.match("DPO,|CFT,", line)}
    assert list(rows) == [
        "DPO, DPOTrainer", "DPO, anchor", "DPO, anchor, supervised",
        "CFT, SFTTrainer", "CFT, letters", "CFT, text-tokens",
    ]  # fmt: skip
    in_package = {}
    for name, line in rows.items():
        shares = [float(share) for share in re.findall(r"([\d.]+)%", line)]
        assert sum(shares) == pytest.approx(100, abs=0.5)
        in_package[name] = shares[4]
    # TRL's own trainers spend no time in this package; a short step of ours may not be sampled in it.
    assert in_package["DPO, DPOTrainer"] == in_package["CFT, SFTTrainer"] == 0
    assert any(in_package.values())


def test_too_few_short_pairs_are_named(benchmark):
    with pytest.raises(SystemExit, match="only 4 pairs have at most 100 characters"):
        benchmark("--steps", "2", "--max_characters", "100")


def test_a_stack_is_attributed_to_its_innermost_known_file():
    module = script("benchmarks/trl_step")

    def stack(*files):
        frame = None
        for file in files:
            code = type("Code", (), {"co_filename": file})()
            frame = type("Frame", (), {"f_code": code, "f_back": frame})()
        return module.place_of(frame)

    library = "/site-packages"
    assert stack(f"{library}/trl/trainer/dpo_trainer.py", f"{library}/hf_calib/trainers/mixin.py") == "hf_calib"
    assert stack("/hf_calib/trainers/mixin.py", f"{library}/transformers/models/llama/modeling_llama.py",
                 f"{library}/torch/nn/modules/linear.py") == "model"  # fmt: skip
    assert stack(f"{library}/trl/trainer/dpo_trainer.py", f"{library}/torch/autograd/graph.py") == "backward"
    assert stack("/somewhere/else.py") == "other"
    assert stack("/home/hf_calib/.venv/lib/site-packages/trl/trainer/dpo_trainer.py") == "TRL"
