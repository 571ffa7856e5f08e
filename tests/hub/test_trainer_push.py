"""`push_to_hub` of the calibration-aware trainers, from a real run to a model that anyone loads."""

import html
import json
import os
import platform
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download
from peft import LoraConfig
from transformers.integrations import CodeCarbonCallback

import hf_calib
from hf_calib import (
    CalibrationAwareConfig,
    CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer,
)
from hf_calib.calibrators import by_name
from hf_calib.hub import (
    CalibrationCardData,
    CalibrationWarning,
    InvalidFolderError,
    MissingTokenError,
    NotYourRepositoryError,
    PrivateInformationError,
    publish_checkpoint,
    save_calibration_metadata,
)
from tests.hub.conftest import USER_TOKEN
from tests.support import byte_level_tokenizer, pairs, question_rows, questions, training_arguments

PICKLES = (".bin", ".pt", ".pth", ".pkl")
LOGITS = """
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
torch.save(model(torch.arange(20).reshape(1, -1)).logits, sys.argv[2])
assert "hf_calib" not in sys.modules
"""


def trainer_of(kind, base, folder, **options):
    """A trainer of four steps with LoRA on the base model as the Hub has it."""
    options = {"max_steps": 4, "learning_rate": 1e-2, "hub_model_id": "ann/pushed", **options}
    shared = {
        "model": base,
        "processing_class": byte_level_tokenizer(),
        "peft_config": LoraConfig(r=4, task_type="CAUSAL_LM"),
        "eval_calibration_dataset": options.pop("eval_calibration_dataset", None) or questions(30, seed=3),
    }
    torch.manual_seed(0)
    if kind == "dpo":
        args = CalibrationAwareConfig(str(folder), **training_arguments(**options))
        unanswered = [replace(question, answer=None) for question in questions(40)]
        return CalibrationAwareTrainer(args=args, train_dataset=pairs(32), calibration_dataset=unanswered, **shared)
    args = CalibrationAwareSFTConfig(str(folder), **training_arguments(**options))
    return CalibrationAwareSFTTrainer(args=args, train_dataset=questions(40), **shared)


class Watched(CodeCarbonCallback):
    """The callback with a stand-in for codecarbon's tracker, which has its figures once it is stopped."""

    class Tracker:
        def start(self):
            pass

        def stop(self):
            self.final_emissions_data = SimpleNamespace(energy_consumed=0.25)

    def __init__(self):
        self.tracker = self.Tracker()


def test_energy_on_the_card_is_what_codecarbon_measured(client, base, tmp_path, monkeypatch):
    trainer = trainer_of("sft", base, tmp_path / "out", max_steps=1)
    trainer.add_callback(Watched())
    trainer.create_model_card()
    assert CalibrationCardData.load(tmp_path / "out").energy_kwh is None
    trainer.train()
    trainer.create_model_card()
    assert CalibrationCardData.load(tmp_path / "out").energy_kwh == 0.25
    assert "0.25 kWh" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # other machines' energy is not known
    trainer.create_model_card()
    assert CalibrationCardData.load(tmp_path / "out").energy_kwh is None


@pytest.mark.parametrize("kind", ["dpo", pytest.param("sft", marks=pytest.mark.nightly)])
def test_pushed_adapter_is_the_trained_one_wherever_it_is_loaded(client, base, tmp_path, kind):
    trainer = trainer_of(kind, base, tmp_path / "out")
    trainer.train()
    publication = trainer.push_to_hub()
    assert publication.changed
    files = client.files("ann/pushed")
    assert {"README.md", "adapter_model.safetensors", "hf_calib.json", "reliability_diagram.png"} <= set(files)
    assert not [name for name in files if name.endswith(PICKLES)]
    environment = {**os.environ, **client.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", LOGITS, "ann/pushed", str(tmp_path / "logits")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    expected = trainer.model.eval()(torch.arange(20).reshape(1, -1)).logits
    assert torch.equal(torch.load(tmp_path / "logits"), expected)


def test_card_holds_what_was_measured_before_and_after(client, base, tmp_path):
    trainer = trainer_of("dpo", base, tmp_path / "out")
    trainer.train()
    trainer.push_to_hub()
    before, after = (trainer.calibration_reports[stage].measures for stage in ("before", "after"))
    assert before["ece"].value != after["ece"].value
    card = ModelCard(client.files("ann/pushed")["README.md"].decode())
    text = html.unescape(card.text).replace("\N{NO-BREAK SPACE}", " ")
    for measures in (before, after):
        for name in ("ece", "accuracy"):
            measure = measures[name]
            assert f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]" in text
    assert card.data.base_model == base
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics["ece"] == pytest.approx(after["ece"].value, abs=1e-6)
    assert metrics["accuracy"] == pytest.approx(after["accuracy"].value, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        loaded = hf_calib.load("ann/pushed")
    report = loaded.report(questions(30, seed=3))
    assert report.measures["ece"].value == pytest.approx(after["ece"].value, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        "end",
        "all_checkpoints",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("every_save", "checkpoint")),
    ],
)
def test_every_hub_strategy(client, base, tmp_path, strategy):
    trainer = trainer_of(
        "sft", base, tmp_path / "out", push_to_hub=True, hub_strategy=strategy, hub_always_push=True,
        save_strategy="steps", save_steps=2,
    )  # fmt: skip
    trainer.train()
    if strategy == "end":
        assert not {"README.md", "adapter_model.safetensors"} & set(client.files("ann/pushed"))
    trainer.push_to_hub()
    files = set(client.files("ann/pushed"))
    assert {"README.md", "adapter_model.safetensors", "hf_calib.json"} <= files
    folders = {name.split("/")[0] for name in files if "/" in name}
    assert (
        folders
        == {
            "end": set(),
            "every_save": set(),
            "checkpoint": {"last-checkpoint"},
            "all_checkpoints": {"checkpoint-2", "checkpoint-4"},
        }[strategy]
    )
    assert not [name for name in files if name.endswith("training_args.bin")]
    assert not [name for name in files if "/" not in name and name.endswith(PICKLES)]
    assert not [name for name in files if name.endswith("/README.md")]
    for content in client.files("ann/pushed").values():
        assert str(tmp_path).encode() not in content
    if folders:  # goes on from what is published alone
        commit = client.repository("ann/pushed").branches["main"]
        copy = Path(snapshot_download("ann/pushed", revision=commit, local_dir=tmp_path / "copy"))
        again = trainer_of("sft", base, tmp_path / "resumed", max_steps=5)
        again.train(resume_from_checkpoint=str(copy / max(folders)))
        assert again.state.global_step == 5
        assert again.state.log_history[-1]["step"] == 5


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_no_checkpoint_on_a_local_base_model_goes_up(client, base, base_folder, tmp_path, caplog, strategy):
    trainer = trainer_of(
        "sft", str(base_folder), tmp_path / "out", max_steps=1, push_to_hub=True, hub_strategy=strategy,
        hub_always_push=True, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    trainer._finish_current_push()
    assert set(client.files("ann/pushed")) <= {"README.md", ".gitattributes"}
    assert caplog.text.count("was trained on a base model that is not a repository on the Hub") == 2
    folder = tmp_path / "out" / "checkpoint-1"
    for path in ("README.md", "adapter_config.json"):
        assert str(base_folder) in (folder / path).read_text()
    with pytest.raises(InvalidFolderError, match="--base-model NAMESPACE/NAME"):
        publish_checkpoint(folder, "ann/pushed", "last-checkpoint")
    assert not [request for request in client.log if "/_lfs/" in request.path]


def test_checkpoint_goes_up_without_what_is_private(client, adapter_folder):
    folder = adapter_folder
    state = {"best_model_checkpoint": str(folder / "checkpoint-1"), "global_step": 1}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "README.md").write_text("By PEFT.")
    client.add("ann/pushed", {"last-checkpoint/old.safetensors": b"old", "README.md": "The model's."})
    assert publish_checkpoint(folder, "ann/pushed", "last-checkpoint").changed
    files = client.files("ann/pushed")
    names = {"adapter_config.json", "adapter_model.safetensors", "trainer_state.json", "optimizer.pt"}
    names |= {"checkpoint-10/optimizer.pt"}  # whatever lies in it may be needed
    assert set(files) == {"README.md", *(f"last-checkpoint/{name}" for name in names)}
    assert files["README.md"] == b"The model's."
    published = json.loads(files["last-checkpoint/trainer_state.json"])
    assert published == {"best_model_checkpoint": "checkpoint-1", "global_step": 1}
    assert json.loads((folder / "trainer_state.json").read_text()) == state
    commits = len(client.repository("ann/pushed").history())
    assert not publish_checkpoint(folder, "ann/pushed", "last-checkpoint").changed
    (folder / "notes.txt").write_text(f"in {Path.home()}/runs")
    with pytest.raises(PrivateInformationError, match=r"notes\.txt"):
        publish_checkpoint(folder, "ann/pushed", "last-checkpoint")
    assert len(client.repository("ann/pushed").history()) == commits


def test_card_says_that_it_removes_a_calibrator_that_no_longer_fits(client, base, tmp_path):
    trainer = trainer_of("sft", base, tmp_path / "out", max_steps=1)
    temperature = by_name("temperature").fit(np.log([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    save_calibration_metadata(tmp_path / "out", calibrator=temperature)
    with pytest.warns(CalibrationWarning, match=r"calibrator.json was fitted(.|\n)*hf-calib card .*--calibrator DIR"):
        trainer.create_model_card()
    assert not (tmp_path / "out" / "calibrator.json").exists()
    assert not json.loads((tmp_path / "out" / "hf_calib.json").read_text())["calibrator"]
    assert "the recalibration" not in (tmp_path / "out" / "README.md").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        trainer.create_model_card()


def test_nothing_of_the_machine_is_published(client, base, tmp_path, monkeypatch):
    user, host = "someuserofthismachine", "somenameofthismachine"
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, user)
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(platform, "node", lambda: host)
    folder = tmp_path / user / "out"
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(30, seed=3)))
    trainer = trainer_of(
        "sft", base, folder, max_steps=2, run_name=f"{host}-run", project=user, hub_token=USER_TOKEN,
        eval_calibration_dataset=str(tmp_path / "questions.jsonl"), push_to_hub=True, hub_strategy="checkpoint",
        hub_always_push=True, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    trainer.push_to_hub()
    files = client.files("ann/pushed")
    assert {"README.md", "calibration_report.json", "last-checkpoint/trainer_state.json"} <= set(files)
    for name, content in files.items():
        for private in (user, host, str(tmp_path), USER_TOKEN):
            assert private.encode() not in content, name
    assert "questions.jsonl" in files["README.md"].decode()


def test_second_push_without_news_makes_no_commit(client, base, tmp_path):
    trainer = trainer_of("sft", base, tmp_path / "out")
    trainer.train()
    trainer.push_to_hub()
    commits = len(client.repository("ann/pushed").history())
    assert not trainer.push_to_hub().changed
    assert len(client.repository("ann/pushed").history()) == commits


def test_push_without_a_token_and_to_somebody_elses(client, base, tmp_path, monkeypatch):
    trainer = trainer_of("sft", base, tmp_path / "out", max_steps=1, hub_model_id="somebody/else")
    trainer.train()
    with pytest.raises(NotYourRepositoryError, match="somebody"):
        trainer.push_to_hub()
    other = trainer_of("sft", base, tmp_path / "other", max_steps=1)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MissingTokenError, match="HF_TOKEN"):
        other.push_to_hub()
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_adapter_of_a_local_base_model_needs_the_bases_name(client, base, base_folder, tmp_path):
    trainer = trainer_of("sft", str(base_folder), tmp_path / "out", max_steps=1)
    trainer.train()
    with pytest.raises(InvalidFolderError, match="base"):
        trainer.push_to_hub()
    trainer.push_to_hub(base_model=base)
    config = json.loads(client.files("ann/pushed")["adapter_config.json"])
    assert config["base_model_name_or_path"] == base
