"""The GPU benchmark, tried out on the processor: what it counts, and that every method runs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from hf_calib import PromptFormat
from tests.examples.scripts import EXAMPLES, script

TINY = ["--size", "tiny", "--device", "cpu", "--steps", "5", "--warmup", "1", "--questions", "4", "--pairs", "2",
        "--pair_length", "30", "--lora_r", "4"]  # fmt: skip


@pytest.fixture(scope="module")
def benchmark():
    return script("benchmarks/gpu_training")


def test_the_questions_are_as_long_as_mmlus(benchmark):
    from mmlu_lengths import QUANTILES, lengths, questions, tokenizer

    encode = tokenizer()
    wanted = lengths(400, 3)
    found = [len(encode(PromptFormat().render(question))["input_ids"]) for question in questions(400, 3)]
    # An option takes a token at least, so the shortest differ a little.
    assert np.abs(np.array(found) - wanted).max() <= 4
    assert np.mean(np.array(found) == wanted) > 0.9
    for share, tokens in QUANTILES[1:-1]:
        assert np.quantile(found, share) == pytest.approx(tokens, rel=0.1, abs=3)
    assert np.mean(wanted) == pytest.approx(98, rel=0.1)
    assert encode.unk_token_id not in encode(PromptFormat().render(questions(1, 0)[0]))["input_ids"]


def test_the_arithmetic_is_what_pytorch_counts(benchmark):
    model = benchmark.make_model("tiny", "cpu").float()
    model.set_attn_implementation("eager")  # its products are counted in full, where a causal token needs half
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    counted = benchmark.Arithmetic(model)
    ids = torch.randint(256, (3, 20))
    decoder = model.get_base_model().model
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        decoder(input_ids=ids)
    attention = 2 * 2 * 32 * 3 * 20**2  # layers, heads' width, and half of two products of two operations
    assert counted.trained == 0
    assert counted.operations == flops.get_total_flops() - attention
    counted.operations = 0
    with FlopCounterMode(display=False) as flops:
        decoder(input_ids=ids).last_hidden_state.sum().backward()
    assert counted.trained == 60
    # Nothing is passed on to the embedding by the first layer's queries, keys and values, adapter included.
    first = 2 * 60 * (32 * (32 + 16 + 16) + 3 * 4 * 32)
    assert counted.operations == flops.get_total_flops() - 3 * attention + first


def test_peaks_are_found_by_the_drivers_name(benchmark):
    assert benchmark.peak_of("NVIDIA H100 80GB HBM3") == 989
    assert benchmark.peak_of("NVIDIA H100 PCIe") == 756
    assert benchmark.peak_of("NVIDIA A100-SXM4-80GB") == 312
    assert benchmark.peak_of("NVIDIA A10G") == 70
    assert benchmark.peak_of("NVIDIA L40S") == 362
    assert benchmark.peak_of("A chip of the year 2040") is None


def test_it_is_llama_3_1_8b(benchmark):
    with torch.device("meta"):
        model = benchmark.make_model("8b", "meta")
    assert model.num_parameters() == 8_030_261_248
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["SFT", "RCFT", "DPO", "calibration-aware DPO"])
def test_a_method_is_measured(method, benchmark):
    found = benchmark.measure(method, benchmark.make_parser().parse_args(TINY))
    assert found["method"] == method
    assert found["peak memory (GB)"] is None
    assert min(found["ms/step"], found["tokens/s"], found["TFLOP/s"]) > 0


@pytest.mark.nightly
def test_the_command_prints_a_row_for_each_method():
    command = [sys.executable, str(EXAMPLES / "benchmarks" / "gpu_training.py"), *TINY, "--peak_tflops", "0.1"]
    done = subprocess.run([*command, "--methods", "SFT", "RCFT"], capture_output=True, text=True, check=True)
    assert "share of peak" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["SFT", "RCFT"]


def test_without_a_gpu_the_large_model_is_refused(benchmark):
    with pytest.raises(SystemExit, match="no GPU found"):
        benchmark.main(["--device", "cpu"])
