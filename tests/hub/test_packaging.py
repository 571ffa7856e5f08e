"""The installed package has all that it publishes, whether it was built as a wheel or installed for editing."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.hub.conftest import USER_TOKEN
from tests.hub.test_demo import demo  # noqa: F401  # a fixture
from tests.hub.test_spaces import use
from tests.support import question_rows

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("hf_calib", "metrics", "model_cards", "examples", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def test_every_room_is_packaged():
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    listed = set(configuration["options"]["packages"].split())
    linked = {line.partition(" = ")[0] for line in configuration["options"]["package_dir"].strip().splitlines()}
    assert listed == {*find_packages(str(ROOT), include=["hf_calib", "hf_calib.*"]), *linked}


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, copy / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, copy / part)
    return copy


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def published_and_used(python, client, folder, environment=None):
    """Publish every metric with the installed command, and load one as a user would."""
    (folder / "elsewhere").mkdir()
    environment = {**os.environ, **client.environment(folder / "elsewhere", USER_TOKEN), **(environment or {})}
    environment["HF_HUB_OFFLINE"] = "0"
    # Without PYTHONSAFEPATH the checkout, where the tests run, could stand in for what is installed.
    environment["PYTHONSAFEPATH"] = "1"
    where = run(python, "-c", "import hf_calib; print(hf_calib.__file__)", env=environment, cwd=folder / "elsewhere")
    told = run(python, "-m", "hf_calib.cli", "publish", "metrics", "--tag", env=environment, cwd=folder / "elsewhere")
    assert f"Published to {client.url}/spaces/ann/ece" in told
    assert use(client, folder / "elsewhere", name="ann/ece")[0]["ece"] == pytest.approx(0.3)
    return Path(where.strip())


@pytest.mark.slow
def test_wheel_publishes_everything_and_makes_cards(client, checkout, tmp_path, demo):  # noqa: F811
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.rmtree(checkout)
    target = tmp_path / "target"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel)
    environment = {"PYTHONPATH": str(target)}
    where = published_and_used(sys.executable, client, tmp_path, environment)
    assert where.is_relative_to(target)
    loaded = "import evaluate, hf_calib; print(evaluate.load(hf_calib.metric_path('ece')).name)"
    assert run(sys.executable, "-c", loaded, env={**os.environ, **environment}, cwd=tmp_path) == "ece\n"
    assert (target / "hf_calib" / "trainers" / "__init__.pyi").is_file()
    assert (target / "hf_calib" / "accelerate_configs" / "zero3.yaml").is_file()
    assert (target / "hf_calib" / "accelerate_configs" / "zero3_cpu.json").is_file()
    environment = {**os.environ, **client.environment(tmp_path / "elsewhere", USER_TOKEN), **environment}
    environment |= {"HF_HUB_OFFLINE": "0", "PYTHONSAFEPATH": "1"}
    command = (sys.executable, "-m", "hf_calib.cli")
    run(*command, "publish", "demo", demo, "--namespace", "ann", env=environment, cwd=tmp_path)
    assert "# hf-calib-demo" in client.files("ann/hf-calib-demo")["README.md"].decode()
    # The card of a model that was trained elsewhere, and its publication.
    adapter = demo / "adapter"
    for name in ("README.md", "calibration_report.json", "hf_calib.json"):
        (adapter / name).unlink()
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(20)))
    run(*command, "card", adapter, "--dataset", tmp_path / "questions.jsonl", env=environment, cwd=tmp_path)
    to = ("--repo", "ann/mine", "--base-model", "ann/lab-base-model")
    run(*command, "publish", "adapter", adapter, *to, env=environment, cwd=tmp_path)
    card = client.files("ann/mine")["README.md"].decode()
    assert 'hf_calib.load("ann/mine")' in card
    assert "| Base model | 20 |" in card.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.slow
def test_editable_installation_publishes_metrics(client, checkout, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # The dependencies are those of the tests' own environment.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", checkout)
    assert published_and_used(python, client, tmp_path).is_relative_to(checkout)
