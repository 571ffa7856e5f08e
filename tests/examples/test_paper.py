"""The files of the paper's settings, on stand-ins of their architectures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import yaml

from hf_calib import load_questions
from tests.examples import paper_runs
from tests.examples.paper_runs import NAMES, PAPER
from tests.examples.scripts import EXAMPLES, write
from tests.examples.test_scripts import adapter_moved
from tests.support import question_rows

QUICK = ["tulu3_8b_rcft", "vicuna_7b_cft", "olmo2_7b_repair", "mistral_7b_rcft_qlora"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    paper_runs.prepare(folder)
    return folder


def check_output(name, folder):
    out = folder / "out" / name
    weights = safetensors.torch.load_file(out / "adapter_model.safetensors")
    adapted = {part for key in weights for part in key.split(".") if part.endswith("_proj")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    if not name.endswith(("repair", "repair_qlora")):  # which starts at its reference here, and stays
        assert adapter_moved(out)
    report = json.loads((out / "calibration_report.json").read_text())
    assert ("em_weight" in report["settings"]) == ("rcft" in name)
    assert json.loads((out / "hf_calib.json").read_text())


def test_there_is_a_file_for_every_model_and_way():
    assert len(NAMES) == 4 * 3 * 2
    for name in NAMES:
        given = yaml.safe_load((PAPER / f"{name}.yaml").read_text())
        assert (given["lora_r"], given["lora_alpha"], given["lora_dropout"]) == (128, 64, 0.05)
        assert (given["num_train_epochs"], given["learning_rate"]) == (5, 5e-6)
        assert given["gradient_checkpointing"] is True
        assert given.get("load_in_4bit", False) == name.endswith("qlora")
        assert f"examples/paper/{name}.yaml" in (PAPER / f"{name}.yaml").read_text()
        # Four questions a step: two on each of two devices, or twice two on one.
        assert given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 2) == 4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_every_file_runs(name, prepared):
    paper_runs.run(name, prepared)
    check_output(name, prepared)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_qlora")])
def test_a_file_runs_under_zero3_in_two_processes(name, tmp_path):
    paper_runs.prepare(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["accelerate", "launch", "--config_file", "examples/accelerate_configs/zero3_cpu.yaml",
         "--main_process_port", "0", "-m", "tests.examples.paper_runs", str(tmp_path), name],
        cwd=EXAMPLES.parent, env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    for rank in range(2):
        assert (tmp_path / f"done-{rank}.json").exists(), done.stderr[-4000:]
    check_output(name, tmp_path)
    assert "CPU, 2 processes" in (tmp_path / "out" / name / "calibration_report.json").read_text()


def test_questions_are_drawn_in_equal_shares_and_none_twice(tmp_path):
    sources = [write(tmp_path / f"{seed}.jsonl", question_rows(20, seed=seed)) for seed in (1, 2, 3)]
    command = [sys.executable, str(PAPER / "questions.py"), "--sources", *map(str, sources), "--train", "30",
               "--held_out", "15", "--output_dir", str(tmp_path / "out")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)})
    train, held_out = (load_questions(tmp_path / "out" / f"{part}.jsonl") for part in ("train", "held_out"))
    assert (len(train), len(held_out)) == (30, 15)
    texts = [question.question + str(question.choices) for question in [*train, *held_out]]
    assert len(set(texts)) == 45
    for source in sources:
        own = {question.question + str(question.choices) for question in load_questions(source)}
        assert sum(text in own for text in texts[:30]) == 10
    failed = subprocess.run([*command, "--train", "90"], check=False, capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)})  # fmt: skip
    assert "has 20 answered questions, but 35 are needed" in failed.stderr


def test_vicunas_template_is_vicunas(prepared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared / "vicuna")
    tokenizer.chat_template = (PAPER / "vicuna.jinja").read_text()
    messages = [
        {"role": "user", "content": "red?"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "b"}
    ]  # fmt: skip
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.startswith("A chat between a curious user and an artificial intelligence assistant.")
    assert text.endswith("questions. USER: red? ASSISTANT: yes<eos>USER: b ASSISTANT:")
