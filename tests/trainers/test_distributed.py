"""Two processes, plain or with their state and weights sharded by DeepSpeed, train what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from hf_calib.measures import BinStatistics
from tests.trainers import distributed_run

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate_configs"
NAMES = {
    "ddp": (
        "dpo-lora", "dpo-full", "sft-lora", "sft-full", "dpo-lora-few", "dpo-lora-checkpointing", "dpo-lora-reentrant",
        "dpo-lora-separate", "sft-full-separate", "reward-full", "kto-lora", "grpo-lora", "rloo-lora",
        "dpo-lora-interrupted", "dpo-lora-texts", "sft-lora-texts",
    ),
    "zero1": ("dpo-lora", "sft-full", "dpo-lora-separate"),
    "zero2": ("dpo-full", "sft-lora"),
    "zero3": (
        "dpo-lora", "dpo-full", "sft-lora", "sft-full", "dpo-lora-few", "dpo-lora-checkpointing", "dpo-full-texts",
        "sft-lora-texts",
    ),
}  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The traces of one process, and the folder of its models."""
    folder = tmp_path_factory.mktemp("one")
    names = sorted(
        {name for names in NAMES.values() for name in names} - {"dpo-lora-reentrant", "dpo-lora-interrupted"}
    )
    distributed_run.main(str(folder), *sorted(names))
    return folder, json.loads((folder / "0.json").read_text())


def launch_file(folder: Path, how: str) -> Path:
    """Return the repository's launch file for processors, with the stage that is asked for."""
    if how == "ddp":
        return CONFIGS / "ddp_cpu.yaml"
    config = json.loads((CONFIGS / "zero3_cpu.json").read_text())
    config["zero_optimization"]["stage"] = int(how[-1])
    (folder / "deepspeed.json").write_text(json.dumps(config))
    launch = yaml.safe_load((CONFIGS / "zero3_cpu.yaml").read_text())
    launch["deepspeed_config"] = {
        "deepspeed_config_file": str(folder / "deepspeed.json"), "zero3_init_flag": how == "zero3"
    }  # fmt: skip
    (folder / "launch.yaml").write_text(yaml.safe_dump(launch))
    return folder / "launch.yaml"


@pytest.mark.parametrize("how", list(NAMES))
def test_two_processes_train_what_one_does(how, one, tmp_path):
    command = [
        "accelerate", "launch", "--config_file", str(launch_file(tmp_path, how)), "--main_process_port", "0",
        "-m", "tests.trainers.distributed_run", str(tmp_path), *NAMES[how],
    ]  # fmt: skip
    # Accelerate and ninja, which DeepSpeed compiles with, lie beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=420, check=False
    )  # fmt: skip
    assert (tmp_path / "0.json").exists(), done.stderr[-4000:]
    folder, expected = one
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for traces in ranks:
        assert set(traces) == set(NAMES[how])
        if "dpo-lora-reentrant" in traces:
            assert "two forwards and one backward" in traces.pop("dpo-lora-reentrant")["error"]
        if "dpo-lora-interrupted" in traces:
            assert "after step 2 and saved to" in traces.pop("dpo-lora-interrupted")["error"]
            assert (tmp_path / "dpo-lora-interrupted" / "checkpoint-2" / "trainer_state.json").is_file()
        if how == "zero1":
            assert "DEEPSPEED has one" in traces.pop("dpo-lora-separate")["error"]
        if how == "zero3":
            assert "set gradient_checkpointing=False" in traces.pop("dpo-lora-checkpointing")["error"]
        for name, trace in traces.items():
            assert trace["processes"] == 2
            check_wrapped(trace, how)
            if name.split("-")[0] in distributed_run.ONLINE_OR_UNPAIRED:
                check_start(trace, expected[name])
                for key in ("bins", "last", "after"):
                    assert trace[key] == ranks[0][name][key]
                continue
            check_trace(trace, expected[name])
            check_weights(tmp_path / name, folder / name)


def check_wrapped(trace, how):
    """That these were two processes at one model, which wrong set-ups are not and end well all the same."""
    if how == "ddp":
        assert trace["wrapper"] == "DistributedDataParallel"
        return
    assert trace["wrapper"] == "DeepSpeedEngine"
    assert trace["stage"] == int(how[-1])
    assert trace["whole"] / 2 <= trace["held"] < 0.6 * trace["whole"]
    if how == "zero3":
        assert trace["partitioned"] > 20
        assert trace["sharded"]


def check_start(trace, expected):
    """That the terms are one process's as long as the weights are."""
    got, wanted = trace["logs"][0], expected["logs"][0]
    compared = [key for key in wanted if key.startswith("calibration/")]
    assert {"calibration/loss", "calibration/anchor", "calibration/em"} <= set(compared)
    for key in compared:
        assert got[key] == pytest.approx(wanted[key], abs=1e-5, rel=1e-5), key
    assert trace["first"] == pytest.approx(expected["first"], abs=1e-5)
    assert len(trace["logs"]) == len(expected["logs"])
    assert sum(trace["bins"]["counts"]) == pytest.approx(sum(expected["bins"]["counts"]))
    assert trace["after"]["statistics"] != trace["before"]["statistics"]


def check_trace(trace, expected):
    assert len(trace["logs"]) == len(expected["logs"]) >= 2
    for got, wanted in zip(trace["logs"], expected["logs"], strict=True):
        compared = [key for key in wanted if key == "loss" or key.startswith("calibration/")]
        assert {"loss", "calibration/loss", "calibration/em"} <= {
            *compared
        } or "calibration/preference_ece" in compared
        for key in compared:
            assert got[key] == pytest.approx(wanted[key], abs=1e-5, rel=1e-5), key
    # The same questions in the same bins, none of them twice though the last batches are uneven.
    assert trace["bins"]["counts"] == expected["bins"]["counts"]
    assert trace["bins"]["correct"] == expected["bins"]["correct"]
    for stage in {"before", "after"} & expected.keys():
        got, wanted = (BinStatistics.from_dict(run[stage]["statistics"]) for run in (trace, expected))
        assert got.counts.tolist() == wanted.counts.tolist()
        assert got.correct_sums.tolist() == wanted.correct_sums.tolist()
        assert got.confidence_sums.tolist() == pytest.approx(wanted.confidence_sums.tolist(), abs=1e-5)
        assert got.n == len(distributed_run.HELD_OUT)
    for when in ("first", "last"):
        assert trace[when] == pytest.approx(expected[when], abs=1e-5)


def check_weights(folder, expected):
    """That what was saved is complete, and is what one process saves."""
    [file] = [path.name for path in expected.glob("*.safetensors")]
    got, wanted = (safetensors.torch.load_file(where / file) for where in (folder, expected))
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=1e-5, rtol=1e-4)
