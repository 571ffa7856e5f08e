"""The record of a run, and the classes by the names that people guess."""

import ast
from pathlib import Path

import pytest
import trl

import hf_calib
from hf_calib import trainers
from hf_calib.trainers import CalibrationMixin, CalibrationRun, calibration_aware, calibration_aware_config
from hf_calib.trainers.publishing import card_data
from tests.support import questions, tiny_llama

from .runs import dpo, lora

NAMES = ("DPO", "SFT", "KTO", "GRPO", "RLOO", "Reward")
ROOM = Path(trainers.__file__).parent


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_classes_are_returned_for_trls(name):
    shipped = getattr(hf_calib, f"CalibrationAware{name}Trainer")
    config = getattr(hf_calib, f"CalibrationAware{name}Config")
    assert calibration_aware(getattr(trl, f"{name}Trainer")) is calibration_aware(shipped) is shipped
    assert calibration_aware_config(getattr(trl, f"{name}Config")) is config


def test_dpo_is_found_under_both_names():
    assert hf_calib.CalibrationAwareDPOTrainer is hf_calib.CalibrationAwareTrainer
    assert hf_calib.CalibrationAwareDPOConfig is hf_calib.CalibrationAwareConfig


def test_a_class_of_the_same_name_elsewhere_is_another():
    class KTOTrainer(trl.DPOTrainer):
        pass

    made = calibration_aware(KTOTrainer)
    assert made is not trainers.CalibrationAwareKTOTrainer
    assert issubclass(made, CalibrationMixin)
    assert issubclass(made, KTOTrainer)
    assert calibration_aware(KTOTrainer) is made
    assert {"dpo", "hf_calib"} <= set(made._tag_names)


def test_a_run_holds_what_it_was_given_and_produced(tokenizer, tmp_path):
    held_out = questions(8, seed=9)
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), eval_calibration_dataset=held_out, anchor_weight=2.0, max_steps=2
    )
    run = trainer.calibration_run
    assert run.terms == ("anchor", "supervised")
    assert run.settings == {
        "anchor_weight": 2.0,
        "supervised_weight": 1.0,
        "calibration_batch_size": trainer.args.per_device_train_batch_size // 2,
    }
    assert run.reports == {}
    assert run.seconds is None
    trainer.train()
    trainer.evaluate()
    assert set(run.reports) == {"before", "after"}
    assert run.reports is trainer.calibration_reports
    assert run.seconds > 0
    assert run.calibration_source.size == len(run.questions) == len(run.trained_on) == 40
    assert run.evaluation_source.size == 8
    assert [entry["step"] for entry in run.history] == [2]
    assert run.regime.endswith("8 new ones (in-memory-questions).")
    assert run.method == "calibration-aware DPO, anchored to its reference, supervised by the right answers"
    # The card is made from the record, whoever made that.
    other = CalibrationRun("X", "plain X", alignment="X", starting_stage="base", reports=dict(run.reports),
                           evaluation_source=run.evaluation_source)  # fmt: skip
    data = card_data(other, trainer)
    assert (data.method, data.alignment, data.duration_seconds) == ("plain X", "X", None)
    assert data.evaluations[0].stages == ("base", "after")


def foreign_private_attributes(path):
    """Private attributes that a module reads of anything but the object that it is a method of."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if ast.unparse(node.value) not in ("self", "cls", "super()")
    }


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_no_module_reads_private_attributes_of_another_object(path):
    # What reporting callbacks of transformers keep of their libraries, and what TRL's trainers do.
    allowed = {"calibration_callback": {"_wandb", "_trackio"}, "trl_compatibility": {"_metrics", "_tag_names",
               "_total_train_tokens"}}  # fmt: skip
    assert foreign_private_attributes(path) <= allowed.get(path.stem, set())


@pytest.mark.parametrize(
    ("name", "options", "missing"),
    [
        ("calibration_reference_model", {"calibration_dataset": None}, "has no effect without calibration questions"),
        ("em_dataset", {"em_weight": 0.0}, "needs an em_weight above 0;"),
        ("em_dataset", {"em_weight": 1.0, "calibration_dataset": None}, "needs a calibration_dataset;"),
        ("eval_calibrator", {"eval_calibrator": "temperature"}, "has no effect without questions to evaluate on"),
    ],
)
def test_an_argument_without_effect_is_refused(name, options, missing, tokenizer, tmp_path):
    given = {
        "calibration_reference_model": tiny_llama(tokenizer),
        "em_dataset": questions(4),
        "eval_calibrator": "temperature",
    }
    with pytest.raises(ValueError, match=f"^{name}: {missing}"):
        dpo(tokenizer, tmp_path, peft_config=lora(), **{name: given[name], **options})


@pytest.mark.parametrize(("name", "value"), [("anchor_weight", 2.0), ("em_steps", 7)])
def test_an_argument_changed_after_construction_is_refused(name, value, tokenizer, tmp_path):
    trainer = dpo(tokenizer, tmp_path, peft_config=lora())
    setattr(trainer.args, name, value)  # as transformers' hyperparameter search does
    with pytest.raises(ValueError, match=f"^{name}: changed from .* to {value} after the trainer was constructed"):
        trainer.train()
