"""Two processes, plain or with their state and weights sharded by DeepSpeed, train what one process does."""

import json
import os
import subprocess
import sys
from functools import cache
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
        "dpo-lora", "dpo-full", "sft-full", "dpo-lora-few", "dpo-lora-reentrant", "dpo-lora-separate", "reward-full",
        "reward-full-resumed", "kto-lora-clipped", "grpo-lora-clipped", "rloo-lora-clipped", "dpo-lora-interrupted",
        "fsdp2-full-checkpointing", "dpo-lora-texts",
    ),
    "zero3": (
        "dpo-lora", "sft-full", "dpo-lora-few-checkpointing", "dpo-full-clipped-checkpointing",
        "dpo-lora-checkpointing-resumed", "dpo-lora-bf16-separate", "dpo-lora-bf16-checkpointing",
        "text-full-checkpointing", "grpo-lora-clipped-checkpointing", "sft-lora-texts",
    ),
}  # fmt: skip
# What else there is to combine.
NIGHTLY = {
    "ddp": (
        "sft-lora", "dpo-lora-checkpointing", "sft-full-separate", "fsdp2-full-reentrant", "sft-lora-texts",
        "kto-full-clipped", "grpo-full-clipped", "rloo-full-clipped", "dpo-lora-clipped-four-reentrant",
        "text-full-checkpointing",
    ),
    "zero1": ("dpo-lora", "sft-full", "dpo-lora-separate"),
    "zero2": (
        "dpo-lora", "dpo-full", "sft-lora", "dpo-lora-clipped-recomputed", "dpo-full-four-reentrant", "dpo-full-texts",
        "dpo-full-clipped-reentrant", "text-lora-checkpointing",
        *(f"{method}-{weights}-clipped-{way}" for method in ("kto", "grpo", "rloo")
          for weights, way in (("lora", "checkpointing"), ("full", "reentrant"))),
        *(f"{method}-{weights}-clipped-{times}-{way}" for method in ("dpo", "text")
          for weights, times, way in (("lora", "once", "reentrant"), ("full", "four", "checkpointing"))),
        "dpo-full-checkpointing-resumed", "dpo-full-bf16-separate", "dpo-full-bf16-checkpointing",
    ),
}  # fmt: skip
NIGHTLY["zero3"] = NIGHTLY["offload"] = NIGHTLY["zero2"]
LAUNCHES = [
    *((how, names) for how, names in NAMES.items()),
    *(pytest.param(how, names, marks=pytest.mark.nightly) for how, names in NIGHTLY.items()),
]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def compared_with(name: str) -> str:
    """Return the name of the run that a run must equal: the one without what changes nothing."""
    changes_nothing = (*distributed_run.RECOMPUTING, "separate", "resumed")
    return "-".join(part for part in name.split("-") if part not in changes_nothing)


def is_compared_with_two(name: str) -> bool:
    """Return whether one process would train something else, so that two with the whole model are run as well."""
    return name.split("-")[0] in distributed_run.ONLINE_OR_UNPAIRED


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Return a function from a run's name to its trace in one process, and the folder of its model."""
    folder = tmp_path_factory.mktemp("one")
    traces = {}

    def of(name):
        if name not in traces:
            distributed_run.main(str(folder), name)
            traces.update(json.loads((folder / "0.json").read_text()))
        return traces[name], folder / name

    return of


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Return a function from a way to launch and the names of runs to the traces of both processes, and a folder."""
    return cache(lambda how, names: launch(tmp_path_factory.mktemp(how), how, names))


def launch_file(folder: Path, how: str) -> Path:
    """Return the repository's launch file for processors, with the stage that is asked for."""
    if how == "ddp":
        return CONFIGS / "ddp_cpu.yaml"
    stage = 3 if how == "offload" else int(how[-1])
    config = json.loads((CONFIGS / f"zero3_{'offload_' * (how == 'offload')}cpu.json").read_text())
    config["zero_optimization"]["stage"] = stage
    (folder / "deepspeed.json").write_text(json.dumps(config))
    launch = yaml.safe_load((CONFIGS / "zero3_cpu.yaml").read_text())
    launch["deepspeed_config"] = {
        "deepspeed_config_file": str(folder / "deepspeed.json"), "zero3_init_flag": stage == 3
    }  # fmt: skip
    (folder / "launch.yaml").write_text(yaml.safe_dump(launch))
    return folder / "launch.yaml"


def launch(folder: Path, how: str, names: tuple[str, ...]) -> tuple[list[dict], Path]:
    """Run trainers in two processes; return the traces of both, and the folder of their models."""
    command = [
        "accelerate", "launch", "--config_file", str(launch_file(folder, how)), "--main_process_port", "0",
        "-m", "tests.trainers.distributed_run", str(folder), *names,
    ]  # fmt: skip
    # Accelerate and ninja, which DeepSpeed compiles with, lie beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip
    assert (folder / "0.json").exists(), done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], folder


@pytest.mark.parametrize(("how", "names"), LAUNCHES)
def test_two_processes_train_what_one_does(how, names, one, launched):
    ranks, folder = launched(how, names)
    for traces in ranks:
        assert set(traces) == set(names)
        if "dpo-lora-interrupted" in traces:
            assert "after step 2 and saved to" in traces.pop("dpo-lora-interrupted")["error"]
            assert (folder / "dpo-lora-interrupted" / "checkpoint-2" / "trainer_state.json").is_file()
        for name, trace in traces.items():
            assert "error" not in trace, f"{name}: {trace}"
            if name.startswith("fsdp2"):
                check_sharded_gradients(trace)
                continue
            assert trace["processes"] == 2
            check_wrapped(trace, how)
            check_recomputed(trace, name, how)
            other = compared_with(name)
            if "clipped" in name:  # by much, of a norm that is compared below
                assert all(entry["grad_norm"] > 1.0 for entry in trace["logs"])
            if is_compared_with_two(name):
                if how == "ddp":
                    check_start(trace, one(name)[0])
                else:  # two processes of which each has the whole model
                    others = sorted({compared_with(each) for each in names if is_compared_with_two(each)})
                    traces_of_whole, whole = launched("ddp", tuple(others))
                    check_trace(trace, traces_of_whole[0][other])
                    check_weights(folder / name, whole / other)
                for key in ("bins", "last", "after"):
                    assert trace[key] == ranks[0][name][key]
                continue
            expected, weights = one(other)
            if "bf16" in name:
                check_rounded(trace, expected)
                check_trace(trace, traces[f"{other}-separate"])  # whose gradients are summed up alike
                check_weights(folder / name, folder / f"{other}-separate")
                continue
            check_trace(trace, expected)
            check_weights(folder / name, weights)


def check_wrapped(trace, how):
    """That these were two processes at one model, which wrong set-ups are not and end well all the same."""
    if how == "ddp":
        assert trace["wrapper"] == "DistributedDataParallel"
        return
    assert trace["wrapper"] == "DeepSpeedEngine"
    assert trace["stage"] == (3 if how == "offload" else int(how[-1]))
    assert trace["whole"] / 2 <= trace["held"] < 0.6 * trace["whole"]
    if how in ("zero3", "offload"):
        assert trace["partitioned"] > 20
        # TRL's fused head reads the output layer's weight, which DeepSpeed may then leave gathered.
        assert all(name.endswith("lm_head.weight") for name in trace["unsharded"])


def check_recomputed(trace, name, how):
    """That activations were recomputed where they are to be, in the way that was asked for."""
    asked = next((part for part in name.split("-") if part in distributed_run.RECOMPUTING), None)
    if asked is None:
        assert trace["reentrant"] == []
        return
    # TRL makes it reentrant where an adapter is trained under ZeRO-3.
    forced = "lora" in name and how in ("zero3", "offload")
    assert set(trace["reentrant"]) == {forced or asked == "reentrant"}


def check_sharded_gradients(trace):
    """That the gradients of weights sharded by FSDP2 are those of whole ones."""
    assert 0.4 * trace["whole"] < trace["held"] < 0.6 * trace["whole"]  # an odd number of rows is not split evenly
    assert trace["largest"] > 0.1
    assert trace["apart"] < 1e-6


def check_rounded(trace, expected):
    """That the first step is one process's but for the rounding of bfloat16, which later ones enlarge."""
    for key in ("loss", "grad_norm", "calibration/loss"):
        assert trace["logs"][0][key] == pytest.approx(expected["logs"][0][key], rel=0.05), key
        assert trace["logs"][0][key] != expected["logs"][0][key]


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
        compared = [key for key in wanted if key in ("loss", "grad_norm") or key.startswith("calibration/")]
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
        assert got.confidence_sums.tolist() == pytest.approx(wanted.confidence_sums.tolist(), abs=1e-5, rel=1e-5)
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
