"""What the memory of a step is counted by, and the plan that is made from it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.examples.scripts import EXAMPLES, script


def test_live_tensors_are_counted_once_and_until_they_die():
    LiveMemory = script("benchmarks/live_memory").LiveMemory
    with LiveMemory() as memory:
        first = torch.zeros(1000)
        view = first[10:].view(-1)
        assert memory.held == 4000
        second = first + 1
        del second
        assert (memory.held, memory.most) == (4000, 8000)
        memory.reset()
        assert memory.most == 4000
        del first
        assert memory.held == 4000  # the view keeps it
        del view
        assert memory.held == 0


def test_what_a_backward_makes_is_counted():
    LiveMemory = script("benchmarks/live_memory").LiveMemory
    with LiveMemory() as memory:
        layer = nn.Linear(100, 100, bias=False)
        assert memory.held == 40_000
        layer(torch.ones(1, 100)).sum().backward()
        assert layer.weight.grad is not None
        assert memory.held == pytest.approx(80_000, abs=100)


@pytest.fixture(scope="module")
def plan():
    return script("paper/plan")


def test_weights_are_those_of_the_models(plan):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    for name, wanted in (("8B", 8.03e9), ("32B", 32.2e9), ("70B", 70.6e9)):
        hidden, intermediate, layers, heads, kv_heads, vocabulary = plan.MODELS[name]
        with torch.device("meta"):
            model = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
                    num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocabulary,
                )
            )  # fmt: skip
        counts = plan.parameters(plan.MODELS[name], 128)
        assert counts["all"] == model.num_parameters() == pytest.approx(wanted, rel=0.01)
        lora = LoraConfig(r=128, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, lora, low_cpu_mem_usage=True)  # also without memory for its weights
        assert counts["adapter"] == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_operations_are_those_of_the_benchmark(plan):
    from peft import LoraConfig, get_peft_model

    benchmark = script("benchmarks/gpu_training")
    model = benchmark.make_model("tiny", "cpu")
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    config = model.config
    shape = (
        config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, config.vocab_size,
    )  # fmt: skip
    counted = benchmark.Arithmetic(model)
    model.get_base_model().model(input_ids=torch.ones(3, 20, dtype=torch.long))
    assert sum(plan.operations(shape, plan.parameters(shape, 4), True, 60, 20)) == counted.operations


def test_states_are_deepspeeds_estimate(plan):
    pytest.importorskip("deepspeed")
    options = plan.make_parser().parse_args([])
    counts = {"all": 1_000_000_000, "adapter": 10_000_000, "largest": 50_000_000}
    assert plan.states(counts, True, False, 4, options)[0] == 18 * 10_000_000 / 4 + 4 * 50_000_000 + 2e9 / 4
    assert plan.states(counts, False, False, 4, options)[0] == 18e9 / 4 + 4 * 50_000_000 + 2e9 / 4
    assert plan.states(counts, False, True, 16, options) == (4 * 50_000_000, 18e9 * 1.5 / 2 + 2e9 / 2)


@pytest.mark.nightly
def test_what_is_measured_is_predicted(plan, capsys):
    assert plan.main(["--gpu_memory", "80"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("predicted") == len(plan.PREDICTED) + len(plan.STEPS)
    assert [line.split()[0] for line in printed.splitlines() if line[:3].strip() in plan.MODELS] == [
        name for name in plan.MODELS for _ in range(4)
    ]


def test_a_batch_that_fits_nowhere_is_refused(plan):
    pytest.importorskip("deepspeed")
    options = plan.make_parser().parse_args(["--pairs", "64"])
    with pytest.raises(SystemExit, match=r"--pairs: a batch of 70B fits on no number of GPUs"):
        plan.plan("70B", True, False, [2.0, 22.0, 12.0], options)


@pytest.mark.nightly
def test_a_step_under_zero3_is_measured_in_both_processes(tmp_path):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["accelerate", "launch", "--config_file", "examples/accelerate_configs/zero3_cpu.yaml",
         "--main_process_port", "0", "examples/benchmarks/zero3_step.py", "--hidden_size", "64", "--layers", "2",
         "--vocabulary", "512", "--pairs", "2", "--questions", "1", "--pair_length", "40", "--question_length", "30",
         "--threads", "1", "--terms", "anchor, supervised", "--weights", "LoRA"],
        cwd=EXAMPLES.parent, env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert "2 processes, DEEPSPEED" in done.stdout, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if "DPO" in line or "with anchor" in line]
    assert len(rows) == 2, json.dumps(done.stdout)
    assert done.returncode == 0
