"""The label-free repair of a model aligned elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import TrainingArguments

import hf_calib
from hf_calib import (
    CalibrationAwareConfig,
    RecalibrationConfig,
    RecalibrationTrainer,
    recalibrate,
    reference_distributions,
)
from hf_calib.hub.errors import MissingModelError
from tests.support import questions, tiny_llama, training_arguments
from tests.trainers.runs import lora

PROMPTS = questions(300, answered=False)
HELD_OUT = questions(30, seed=4)


def sharpened(tokenizer):
    """Return a copy of the reference that is twice as sure of everything."""
    model = tiny_llama(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    return model


def settings(folder, **options):
    options = {"max_steps": 120, "per_device_train_batch_size": 16, "learning_rate": 1e-2, **options}
    return RecalibrationConfig(str(folder), **training_arguments(**options))


@pytest.mark.parametrize("cached", [False, True])
def test_the_answers_return_to_those_of_the_reference(cached, tokenizer, tmp_path):
    reference = tiny_llama(tokenizer)
    if cached:
        reference = reference_distributions(reference, tokenizer, PROMPTS, top_k=50)
    trainer = recalibrate(
        sharpened(tokenizer), reference, PROMPTS, tokenizer=tokenizer, args=settings(tmp_path),
        eval_calibration_dataset=HELD_OUT,
    )  # fmt: skip
    assert isinstance(trainer.model, PeftModel)
    wanted = hf_calib.predict(tiny_llama(tokenizer), tokenizer, HELD_OUT)
    confidence = {name: report.measures["confidence"].value for name, report in trainer.calibration_reports.items()}
    target = wanted.confidences.mean()
    assert confidence["before"] > target + 0.05
    assert abs(confidence["after"] - target) < 0.8 * (confidence["before"] - target)
    trainer.create_model_card()
    assert "recalibration" in (tmp_path / "README.md").read_text()


def test_the_number_of_questions_per_step_is_given_once(tokenizer, tmp_path):
    args = settings(tmp_path, calibration_batch_size=3, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"calibration_batch_size=3: this trainer uses 8 questions per step"):
        recalibrate(sharpened(tokenizer), tiny_llama(tokenizer), PROMPTS, tokenizer=tokenizer, args=args)
    args = settings(tmp_path, calibration_batch_size=None, max_steps=1)
    recalibrate(sharpened(tokenizer), tiny_llama(tokenizer), PROMPTS, tokenizer=tokenizer, args=args)
    assert args.calibration_batch_size is None  # the caller's


def test_answers_are_not_looked_at_unless_asked_for(tokenizer, tmp_path):
    def losses(answered, **options):
        prompts = [question if answered else replace(question, answer=None) for question in questions(60)]
        trainer = recalibrate(
            sharpened(tokenizer), tiny_llama(tokenizer), prompts, tokenizer=tokenizer,
            args=settings(tmp_path, logging_steps=1, max_steps=3, **options), peft_config=lora(),
        )  # fmt: skip
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    torch.manual_seed(0)
    without = losses(False)
    torch.manual_seed(0)
    assert losses(True) == without
    assert losses(True, supervised_weight=1.0)[0] > without[0]


def test_accumulation_changes_nothing(tokenizer, tmp_path):
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        trainer = recalibrate(
            sharpened(tokenizer), tiny_llama(tokenizer), PROMPTS, tokenizer=tokenizer, peft_config=lora(),
            args=settings(tmp_path, per_device_train_batch_size=batch_size, max_steps=3, optim="sgd",
                          gradient_accumulation_steps=accumulation, learning_rate=0.01),
        )  # fmt: skip
        weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad})
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-6, rtol=1e-4)


def test_an_adapter_goes_on_being_trained(tokenizer, tmp_path):
    adapted = get_peft_model(sharpened(tokenizer), lora())
    trainer = recalibrate(
        adapted, tiny_llama(tokenizer), PROMPTS, tokenizer=tokenizer, args=settings(tmp_path, max_steps=2)
    )
    assert trainer.model is adapted
    with pytest.raises(ValueError, match="already has an adapter"):
        recalibrate(adapted, tiny_llama(tokenizer), PROMPTS, tokenizer=tokenizer, peft_config=lora())
    adapted.requires_grad_(False)
    with pytest.raises(ValueError, match="is_trainable=True"):
        recalibrate(adapted, tiny_llama(tokenizer), PROMPTS, tokenizer=tokenizer)


def test_folders_are_given_as_strings_or_paths(tokenizer, tmp_path):
    aligned, reference = tmp_path / "aligned", tmp_path / "reference"
    for folder, model in ((aligned, sharpened(tokenizer)), (reference, tiny_llama(tokenizer, seed=7))):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    losses = []
    for given in (str, Path):
        args = settings(tmp_path / "out", max_steps=2)
        torch.manual_seed(0)  # of the adapter
        trainer = recalibrate(given(aligned), given(reference), PROMPTS[:8], args=args)
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[0] == losses[1] > 1e-3


def test_a_folder_that_is_not_there_is_named(tokenizer, tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(MissingModelError, match=f"There is no folder '{missing}'"):
        recalibrate(missing, tiny_llama(tokenizer), PROMPTS[:8], args=settings(tmp_path))
    with pytest.raises(MissingModelError, match=f"There is no folder '{missing}'"):
        recalibrate(tiny_llama(tokenizer), missing, PROMPTS[:8], tokenizer=tokenizer, args=settings(tmp_path))


def test_a_model_in_memory_without_a_name_needs_a_tokenizer(tokenizer):
    with pytest.raises(ValueError, match=r"^tokenizer: the model has no name .*; pass tokenizer="):
        recalibrate(tiny_llama(tokenizer), tiny_llama(tokenizer, seed=2), questions(8))


def test_what_it_cannot_train_or_evaluate_on_is_refused_at_once(tokenizer, tmp_path):
    model, reference = sharpened(tokenizer), tiny_llama(tokenizer)

    def made(args=None, reference=reference, **options):
        args = args or settings(tmp_path, max_steps=1)
        return RecalibrationTrainer(model, args, questions(8), reference, tokenizer, **options)

    for wrong in (TrainingArguments(str(tmp_path)), CalibrationAwareConfig(str(tmp_path), **training_arguments())):
        with pytest.raises(TypeError, match=f"args: expected a RecalibrationConfig, got {type(wrong).__name__}"):
            made(wrong)
    with pytest.raises(ValueError, match="eval_dataset: RecalibrationTrainer has no loss to evaluate on a dataset"):
        made(eval_dataset=questions(8))
    with pytest.raises(ValueError, match="reference: None leaves nothing to train"):
        made(reference=None)
    assert made(settings(tmp_path, supervised_weight=1.0), reference=None).calibration_run.terms[1] == "supervised"
    trainer = made()
    with pytest.raises(ValueError, match="eval_dataset: RecalibrationTrainer has no loss to evaluate on a dataset"):
        trainer.evaluate(questions(8))
    with pytest.raises(ValueError, match="eval_calibration_dataset: there are no questions to evaluate on"):
        trainer.evaluate()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="model: no weight is trainable"):
        made()
