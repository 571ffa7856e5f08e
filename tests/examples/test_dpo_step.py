"""The step benchmark: the arithmetic that it counts, and that it measures what it says."""

import sys

import pytest
import torch

from tests.examples.scripts import EXAMPLES, script

SMALL = ["--hidden_size", "64", "--layers", "1", "--pairs", "2", "--questions", "3", "--rounds", "1"]
LENGTHS = ["--pair_length", "40", "--question_length", "30"]


@pytest.fixture
def benchmark(monkeypatch):
    def arguments(*flags):
        monkeypatch.setattr(sys, "argv", ["dpo_step.py", *SMALL, *LENGTHS, *flags])
        return module

    assert (EXAMPLES / "benchmarks" / "dpo_step.py").is_file()
    module = script("benchmarks/dpo_step")
    return arguments


@pytest.mark.parametrize(
    ("lora", "recompute", "case", "own", "extra"),
    [
        # A pair's token: forward, backward, reference. A question's token alike; the E-step's six questions, every
        # five steps, a forward each.
        (False, False, "anchor", 4, 4 * 3 * 30),
        (True, False, "anchor, supervised", 3, 3 * 3 * 30),
        (False, True, "anchor", 5, 5 * 3 * 30),
        (False, False, "anchor, supervised, EM", 4, 4 * 3 * 30 + 6 * 30 / 5),
    ],
)
def test_the_arithmetic_is_counted_by_the_rule(benchmark, tmp_path, lora, recompute, case, own, extra):
    module = benchmark(*(["--recompute"] if recompute else []))
    options = module.parse_arguments()
    module.save_model(tmp_path / "model", options)
    data = module.make_data(options)
    plain, aware = (
        module.make_trainer(tmp_path / "model", tmp_path / "out", options, data, lora, which) for which in (None, case)
    )
    assert module.extra_over_own(plain, aware, lora, options.recompute) == pytest.approx(extra / (own * 2 * 2 * 40))
    assert bool(aware.args.gradient_checkpointing) == recompute


def test_a_step_is_the_mean_over_the_places_of_an_e_step(benchmark):
    module = benchmark()
    # Every fifth step has an E-step and costs 3 more; one step was held up.
    seconds = [4.0, 1.0, 1.0, 1.0, 1.0] * 2 + [4.0, 1.0, 90.0, 1.0, 1.0]
    assert module.average_step(seconds, 5) == pytest.approx(8 / 5)
    assert module.average_step([1.0, 2.0, 90.0], 1) == 2.0


@pytest.mark.nightly
def test_it_prints_a_row_for_each_case_and_its_verdict(benchmark, capsys):
    module = benchmark("--threads", "1")
    status = module.main()
    table = capsys.readouterr().out
    assert table.count("anchor, supervised, EM") == 2
    assert table.count("RCFT") == 2
    assert (status == 0) == (" NO" not in table)


def test_wrong_options_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark("--steps", "4").parse_arguments()
    assert "--steps must be a multiple of 5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark("--threads", "2", "--clock", "cpu").parse_arguments()
    assert "pass --threads 1" in capsys.readouterr().err


def test_what_autograd_keeps_is_counted_once_without_the_weights():
    held = script("benchmarks/dpo_memory").HeldActivations
    layer = torch.nn.Linear(100, 50, bias=False)
    given = torch.zeros(10, 100)
    with held(layer) as activations:
        output = layer(given)  # keeps its input, 4,000 bytes
        (output * output).sum().backward()  # keeps its output, 2,000 bytes, for both sides
    assert activations.most == 6000
    assert activations.held == 0
    with held(layer) as activations:
        for _ in range(2):  # one after the other, as with a separate backward
            layer(given).square().sum().backward()
    assert activations.most == 6000


def test_what_no_backward_goes_through_is_not_counted_for_longer_than_it_is_there():
    held = script("benchmarks/dpo_memory").HeldActivations
    layer = torch.nn.Linear(100, 50)
    with held(layer) as activations:
        logits = layer(torch.zeros(10, 100))
        torch.softmax(logits.gather(-1, torch.zeros(10, 4, dtype=torch.long)), dim=-1)  # keeps its own output
        assert activations.held > 0
        logits.sum().backward()
        del logits
    assert activations.held == 0


def test_the_memory_is_within_its_bounds(benchmark, capsys):
    benchmark("--weights", "LoRA", "--threads", "1", "--vocabulary", "512", "--layers", "2")
    module = script("benchmarks/dpo_memory")
    assert module.main() == 0
    header, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert header.split()[:3] == ["weights", "DPO", "(MB)"]
    assert row.split()[-1] == "yes"
