"""Every way to write a card gives the same card, and none changes a byte or commits without news."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig

from hf_calib import (
    CalibrationAwareConfig,
    CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer,
)
from hf_calib.cli import main
from hf_calib.hub import CalibrationCardData, publish_adapter, render_card
from tests.support import byte_level_tokenizer, pairs, question_rows, questions, training_arguments

STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows(30, seed=3)))
    return path


def trained(kind, base, folder, dataset, **options):
    """A trainer of four steps on the base model, whose time is not measured."""
    options = {"max_steps": 4, "learning_rate": 1e-2, "hub_model_id": "ann/pushed", **options}
    shared = {
        "model": base,
        "processing_class": byte_level_tokenizer(),
        "peft_config": LoraConfig(r=4, task_type="CAUSAL_LM"),
        "eval_calibration_dataset": str(dataset),
    }
    torch.manual_seed(0)
    if kind == "dpo":
        args = CalibrationAwareConfig(str(folder), **training_arguments(**options))
        unanswered = [replace(question, answer=None) for question in questions(40)]
        trainer = CalibrationAwareTrainer(
            args=args, train_dataset=pairs(32), calibration_dataset=unanswered, **shared
        )  # fmt: skip
    else:
        args = CalibrationAwareSFTConfig(str(folder), **training_arguments(**options))
        trainer = CalibrationAwareSFTTrainer(args=args, train_dataset=questions(40), **shared)
    trainer.train()
    trainer.calibration_run.seconds = 60.0  # no two runs take as long
    return trainer


def fresh(folder):
    """The card that the folder's report makes where there is none yet."""
    return render_card(CalibrationCardData.load(folder))


def commits(hub):
    return len(hub.repository("ann/pushed").history())


@pytest.mark.parametrize("kind", ["dpo", pytest.param("sft", marks=pytest.mark.nightly)])
def test_created_pushed_and_measured_cards_are_the_same(client, base, dataset, tmp_path, kind):
    trainer = trained(kind, base, tmp_path / "out", dataset)
    path = tmp_path / "out" / "README.md"
    assert not path.exists()
    trainer.create_model_card()
    card = path.read_bytes()
    assert card.decode() == fresh(tmp_path / "out")
    path.unlink()
    trainer.save_model()  # PEFT writes a card of its own
    assert path.read_bytes() not in (b"", card)
    for step in (trainer.create_model_card, trainer.save_model, trainer.create_model_card):
        step()
        assert path.read_bytes() == card
    assert trainer.push_to_hub().changed
    made = commits(client)
    publish = ["publish", "adapter", str(tmp_path / "out"), "--repo", "ann/pushed"]
    for again in (
        trainer.create_model_card,
        trainer.push_to_hub,
        lambda: main(["card", str(tmp_path / "out"), "--dataset", str(dataset)]),
        lambda: main(publish),
    ):
        again()
        assert path.read_bytes() == card == client.files("ann/pushed")["README.md"]
        assert commits(client) == made


def test_model_trained_elsewhere_gets_the_card_without_what_only_a_trainer_knows(client, base, dataset, tmp_path):
    trainer = trained("dpo", base, tmp_path / "out", dataset)
    trainer.push_to_hub()
    elsewhere = tmp_path / "pushed"
    trainer.model.save_pretrained(elsewhere)
    command = ["card", str(elsewhere), "--dataset", str(dataset), "--alignment", "DPO", "--method", "mine"]
    command += ["--batch-size", str(trainer.args.per_device_eval_batch_size)]  # on which the last digits depend
    assert main(command) == 0
    known = CalibrationCardData.load(elsewhere)
    expected = replace(
        CalibrationCardData.load(tmp_path / "out"),
        hub_model_id=None,
        method="mine",
        calibration_data=None,
        label_free=None,
        settings={},
        subjects=(),
        hardware=None,
        duration_seconds=None,
        versions=known.versions,
    )
    card = (elsewhere / "README.md").read_text()
    assert card == render_card(expected)
    assert {"trl", "dpo", "lora", f"base_model:adapter:{base}"} <= set(ModelCard(card).data.tags)
    assert main(command) == 0
    assert (elsewhere / "README.md").read_text() == card
    assert publish_adapter(elsewhere, "ann/elsewhere").card == render_card(
        replace(expected, hub_model_id="ann/elsewhere")
    )
    assert not publish_adapter(elsewhere, "ann/elsewhere").changed


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_hub_strategy_ends_with_the_same_card(client, base, dataset, tmp_path, strategy):
    plain = trained("sft", base, tmp_path / "plain", dataset)
    plain.create_model_card()
    pushing = trained(
        "sft", base, tmp_path / "out", dataset, push_to_hub=True, hub_strategy=strategy, hub_always_push=True,
        save_strategy="steps", save_steps=2,
    )  # fmt: skip
    pushing.push_to_hub()
    card = (tmp_path / "plain" / "README.md").read_bytes()
    assert client.files("ann/pushed")["README.md"] == card == (tmp_path / "out" / "README.md").read_bytes()
    made = commits(client)
    assert not pushing.push_to_hub().changed
    assert commits(client) == made


def test_card_of_a_checkpoint_grows_into_the_final_one(client, base, dataset, tmp_path):
    trainer = trained("sft", base, tmp_path / "out", dataset)
    reports, trainer.calibration_run.reports = trainer.calibration_run.reports, {}
    trainer.create_model_card()
    path = tmp_path / "out" / "README.md"
    assert "hf_calib:results" not in path.read_text()
    trainer.calibration_run.reports = reports
    trainer.create_model_card()
    final = path.read_text()
    assert final == fresh(tmp_path / "out")
    trainer.calibration_run.reports = {}
    trainer.create_model_card()
    assert path.read_text() == fresh(tmp_path / "out")


def test_saving_keeps_what_people_wrote_into_the_card(client, base, dataset, tmp_path):
    trainer = trained("sft", base, tmp_path / "out", dataset)
    trainer.create_model_card(license="mit", language="en")
    path = tmp_path / "out" / "README.md"
    written = path.read_text().replace("tags:\n", "tags:\n- mine\n", 1) + "\nBy hand.\n"
    assert "license: mit\n" in written
    path.write_text(written)
    trainer.save_model()
    assert path.read_text() == written
    trainer.push_to_hub(license="mit", language="en")
    assert client.files("ann/pushed")["README.md"].decode() == written


def test_folder_with_the_report_of_another_place(client, base, dataset, tmp_path):
    """A card is made again from its folder alone, wherever that was moved."""
    trainer = trained("sft", base, tmp_path / "out", dataset)
    trainer.push_to_hub()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    (tmp_path / "moved" / "README.md").unlink()
    assert main(["card", str(tmp_path / "moved"), "--dataset", str(dataset)]) == 0
    assert (tmp_path / "moved" / "README.md").read_bytes() == client.files("ann/pushed")["README.md"]
