"""`hf-calib dpo` and the other training commands: their options, their help, and what they start."""

import argparse
import importlib
import json
import subprocess
import sys

import pytest
import yaml

from hf_calib.cli import main
from hf_calib.cli.train import TRAINING
from hf_calib.scripts import launch as launching
from hf_calib.scripts.launch import launch, launch_file_options, launch_options
from hf_calib.trainers.trl_compatibility import has_ppo
from tests.examples.scripts import EXAMPLES, FLAGS, flags, printed_table
from tests.examples.test_scripts import adapter_moved

CONFIGS = EXAMPLES / "accelerate_configs"


@pytest.fixture
def started(monkeypatch):
    """The options that `accelerate launch` was called with, instead of a training."""
    calls = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", calls.append)
    return calls


def arguments(tmp_path, **options):
    return [*flags(output_dir=tmp_path, model_name_or_path="m", **options)]


@pytest.mark.parametrize("name", sorted(set(TRAINING) - (set() if has_ppo() else {"ppo"})))
def test_every_command_starts_its_script(name, started, tmp_path):
    launch(name, arguments(tmp_path))
    (options,) = started
    assert options.module
    assert options.training_script == f"hf_calib.scripts.{name}"
    assert options.training_script_args == arguments(tmp_path)
    module = importlib.import_module(f"hf_calib.scripts.{name}")
    assert callable(module.main)
    assert (EXAMPLES / f"{name}.py").is_file()


@pytest.mark.skipif(has_ppo(), reason="the installed TRL has PPO")
def test_without_ppo_its_command_says_what_to_do(tmp_path, capsys):
    assert main(["ppo", *arguments(tmp_path)]) == 1
    assert "hf-calib[ppo]" in capsys.readouterr().err


def test_options_of_the_launcher_go_to_it(started, tmp_path):
    launch("dpo", ["--accelerate_config", "zero3", *arguments(tmp_path), "--num_processes", "4"])
    (options,) = started
    assert options.config_file == str(CONFIGS / "zero3.yaml")
    assert options.num_processes == 4
    assert options.deepspeed_config_file is None


def test_options_may_stand_in_a_file(started, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"accelerate_config": "ddp", "learning_rate": 0.5, "output_dir": str(tmp_path)}))
    launch("kto", ["--config", str(file), "--use_cpu", "True", "--bf16", "False"])
    (options,) = started
    assert options.config_file == str(CONFIGS / "ddp.yaml")
    assert options.training_script_args[:2] == ["--config", str(file)]


def test_a_deepspeed_file_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = launch_file_options("zero2_cpu")
    assert found == [
        "--config_file", str(CONFIGS / "zero2_cpu.yaml"), "--deepspeed_config_file", str(CONFIGS / "zero2_cpu.json"),
    ]  # fmt: skip
    own = tmp_path / "own.yaml"
    own.write_text("num_processes: 3\n")
    assert launch_file_options("own.yaml") == ["--config_file", "own.yaml"]


@pytest.mark.parametrize("name", ["zero9", "no/such.yaml"])
def test_launch_files_that_are_not_there_are_named(name):
    with pytest.raises(FileNotFoundError, match=rf"{name}.*ddp, ddp_cpu, fsdp2, zero2"):
        launch_file_options(name)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", ""])
def test_what_is_not_a_launch_file_is_refused(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"--accelerate_config: .*x.yaml is not"):
        launch_file_options(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize("given", [["--lerning_rate", "1"], ["--num_processes", "2", "--lerning_rate", "1"]])
def test_unknown_options_are_refused_before_anything_starts(given, started, tmp_path, capsys):
    assert main(["dpo", *arguments(tmp_path), *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Loading PyTorch and TRL\nhf-calib dpo: --lerning_rate: unknown option")
    assert "Did you mean '--learning_rate'?" in error
    assert started == []


def test_a_launch_file_must_be_named():
    with pytest.raises(ValueError, match="name a launch file"):
        launch_options(["--accelerate_config"], argparse.ArgumentParser())


def test_the_examples_refuse_unknown_options_too(monkeypatch, tmp_path):
    module = importlib.import_module("hf_calib.scripts.dpo")
    monkeypatch.setattr(sys, "argv", ["dpo.py", *arguments(tmp_path), "--lerning_rate", "1"])
    with pytest.raises(ValueError, match="--lerning_rate: unknown option"):
        launching.run(pytest.fail, module.make_parser())


@pytest.mark.parametrize("name", ["dpo", "sft", "grpo", "recalibrate", "reward"])
def test_help_shows_the_calibration_options_first_and_every_option_once(name):
    parser = importlib.import_module(f"hf_calib.scripts.{name}").make_parser(prog=f"hf-calib {name}")
    text = parser.format_help()
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    ours = [title.startswith("calibration") for title in titles]
    assert ours == sorted(ours, reverse=True)
    assert sum(ours) == {"dpo": 3, "sft": 3, "grpo": 2, "recalibrate": 2, "reward": 1}[name]
    own = {"grpo": ["rewards"], "recalibrate": ["recalibration: model and tokenizer"]}.get(name, [])
    assert titles[sum(ours) :][: len(own) + 1] == [*own, "help"]
    assert not any(title.startswith("hf_calib") for title in titles)
    assert titles.count("transformers TrainingArguments") == 1
    for action in parser._actions:
        assert sum(line.startswith(f"  {action.option_strings[0]}") and line[len(action.option_strings[0]) + 2:][:1]
                   in ("", " ", ",") for line in text.splitlines()) == 1, action.option_strings  # fmt: skip
    first = text.index("--preference_weight" if name == "reward" else "--anchor_weight")
    assert first < text.index("--learning_rate")
    assert "--accelerate_config" in text


def test_the_commands_help_is_there_without_torch():
    code = (
        "import sys; from hf_calib.cli import make_parser; text = make_parser().format_help(); "
        f"print(all(name in text for name in {list(TRAINING)}), 'torch' in sys.modules, 'trl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "launcher", [[], pytest.param(["--accelerate_config", "zero2_cpu"], marks=pytest.mark.nightly)]
)
def test_the_command_trains_from_any_folder(launcher, saved_model, data, tmp_path):
    out = tmp_path / "adapter"
    options = {**FLAGS, "model_name_or_path": saved_model, "dataset_name": data / "pairs.jsonl", "use_peft": True,
               "calibration_dataset": data / "questions.csv", "eval_calibration_dataset": data / "held_out.jsonl",
               "output_dir": out}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "hf_calib.cli", "dpo", *launcher, *flags(**options)],
        capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert adapter_moved(out)
    assert printed_table(done.stdout)["after"]["nll"] != printed_table(done.stdout)["before"]["nll"]
    hardware = json.loads((out / "calibration_report.json").read_text())["hardware"]
    assert hardware.startswith("CPU, 2 processes" if launcher else "CPU, 1 process ")


@pytest.mark.slow
@pytest.mark.distributed
def test_an_error_of_the_script_is_the_last_line(saved_model, data, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hf_calib.cli", "dpo", *flags(
            model_name_or_path=saved_model, dataset_name=data / "no.jsonl", output_dir=tmp_path)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no file or folder" in done.stderr.strip().splitlines()[-1]
