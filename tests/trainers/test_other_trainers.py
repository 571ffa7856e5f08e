"""KTO, RLOO, GRPO, and any trainer that computes its loss in `compute_loss`."""

import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer

from hf_calib.trainers import (
    CalibrationAwareTrainer,
    CalibrationMixin,
    calibration_aware,
    calibration_aware_config,
)
from hf_calib.trainers.calibration_term import CalibrationTerm
from tests.support import pairs, questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, grpo, kto, longer, lora, rloo, sft, unpaired

ANSWERLESS = questions(20, answered=False)


@pytest.mark.parametrize("make", [kto, rloo, grpo])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full weights"])
def test_it_trains_with_the_terms_and_reports_calibration(make, adapter, tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path / "model")  # KTO loads its reference from there
    model.config._name_or_path = str(tmp_path / "model")
    trainer = make(
        tokenizer, tmp_path, model=model, peft_config=lora() if adapter else None, max_steps=3, logging_steps=1,
        em_weight=1.0, eval_calibration_dataset=questions(12, seed=4), anchor_weight=1.0,
    )  # fmt: skip
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "calibration/loss" in entry]
    assert len(logs) == 3
    assert logs[0]["calibration/anchor"] == pytest.approx(0.0, abs=1e-5)  # at the reference
    assert logs[2]["calibration/anchor"] > 1e-5
    assert all(entry["calibration/supervised"] > 0 for entry in logs)
    assert any(not torch.equal(p, weights[name]) for name, p in trainer.model.named_parameters() if name in weights)
    before, after = (trainer.calibration_reports[stage] for stage in ("before", "after"))
    assert before.n == after.n == 12
    assert before.measures["nll"].value != after.measures["nll"].value
    metrics = trainer.evaluate()
    assert metrics["eval_calibration/nll"] == pytest.approx(after.measures["nll"].value)


@pytest.mark.parametrize(
    ("trainer_class", "config_class", "data", "options"),
    [
        (KTOTrainer, KTOConfig, unpaired(64), {}),
        (RLOOTrainer, RLOOConfig, pairs(64).remove_columns(["chosen", "rejected"]), {"reward_funcs": longer}),
        (GRPOTrainer, GRPOConfig, pairs(64).remove_columns(["chosen", "rejected"]), {"reward_funcs": longer}),
    ],
)
def test_without_questions_it_is_the_extended_trainer_to_the_last_bit(
    trainer_class, config_class, data, options, tokenizer, tmp_path
):
    settings = training_arguments(max_steps=3, gradient_accumulation_steps=2, logging_steps=1)
    if options:
        settings |= {"num_generations": 2, "max_completion_length": 6}
    results = []
    for kind in (trainer_class, calibration_aware(trainer_class)):
        torch.manual_seed(1)
        trainer = kind(
            model=tiny_llama(tokenizer), args=config_class(str(tmp_path / kind.__name__), **settings),
            train_dataset=data, processing_class=tokenizer, peft_config=lora(lora_dropout=0.1), **options,
        )  # fmt: skip
        trainer.train()
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        results.append((weights, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
    assert results[0][1] == results[1][1]
    assert len(results[0][1]) == 3
    assert all(torch.equal(results[0][0][name], results[1][0][name]) for name in results[0][0])


class OwnStep(Trainer):
    """Computes its loss without `compute_loss`, as TRL's trainer for online DPO."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = model(**inputs).loss
        self.accelerator.backward(loss)
        return loss.detach()


def test_a_trainer_whose_steps_leave_the_terms_out_stops(tokenizer, tmp_path):
    trainer = calibration_aware(OwnStep)(
        tiny_llama(tokenizer),
        TrainingArguments(str(tmp_path), **training_arguments(max_steps=2)),
        train_dataset=[tokenizer("some text to learn") for _ in range(16)],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        calibration_dataset=ANSWERLESS,
    )
    with pytest.raises(RuntimeError, match="the trainer does not call compute_loss, so the calibration terms have no"):
        trainer.train()


def term_gradients(make, tokenizer, folder, monkeypatch, batch_size, accumulation, **options):
    """Return what the terms alone add to a step's gradients: those with them less those without."""
    loss = CalibrationTerm.loss
    found = []
    for scale in (0.0, 1.0):
        trainer = make(
            tokenizer, folder, peft_config=lora(), per_device_train_batch_size=batch_size, max_steps=1,
            gradient_accumulation_steps=accumulation, calibration_batch_size=6, em_weight=1.0, max_grad_norm=0.0,
            anchor_weight=1.0, calibration_reference_model=tiny_llama(tokenizer, seed=3), **options,
        )  # fmt: skip
        gradients = {}
        backward = trainer.accelerator.backward

        def spy(value, backward=backward, gradients=gradients, trainer=trainer, **kwargs):
            backward(value, **kwargs)
            gradients.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})

        def scaled(*args, scale=scale):
            value = loss(*args)
            return None if value is None else scale * value

        trainer.accelerator.backward = spy
        with monkeypatch.context() as patch:
            patch.setattr(CalibrationTerm, "loss", scaled)
            trainer.train()
        found.append(gradients)
    return {name: found[1][name] - found[0][name] for name in found[0]}


@pytest.mark.parametrize(
    "make", [dpo, grpo, *(pytest.param(make, marks=pytest.mark.nightly) for make in (sft, kto, rloo))]
)
def test_the_terms_weigh_the_same_however_the_step_is_accumulated(make, tokenizer, tmp_path, monkeypatch):
    """Four by two and one by eight, whichever way the trainer scales its own loss; KTO needs two samples at least."""
    few, many = (
        term_gradients(make, tokenizer, tmp_path / str(parts), monkeypatch, 8 // parts, parts)
        for parts in (2, 4 if make is kto else 8)
    )
    scale = max(float(value.abs().max()) for value in few.values())
    assert scale > 1e-3
    for name in few:
        torch.testing.assert_close(few[name], many[name], atol=2e-5 * max(scale, 1.0), rtol=1e-4)


class DoublingTrainer(DPOTrainer):
    """A user's own trainer."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return 2 * super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def test_a_trainer_of_ones_own_becomes_calibration_aware(tokenizer, tmp_path):
    kind = calibration_aware(DoublingTrainer)
    assert issubclass(kind, CalibrationMixin)
    assert issubclass(kind, DoublingTrainer)
    assert calibration_aware(DoublingTrainer) is kind
    config = calibration_aware_config(DPOConfig)
    runs = {}
    for name, data in (("plain", None), ("aware", ANSWERLESS)):
        torch.manual_seed(1)
        trainer = kind(
            model=tiny_llama(tokenizer), train_dataset=pairs(16), processing_class=tokenizer, peft_config=lora(),
            args=config(str(tmp_path), **training_arguments(logging_steps=1, anchor_weight=3.0)),
            calibration_dataset=data,
        )  # fmt: skip
        trainer.train()
        runs[name] = trainer.state.log_history
    assert runs["aware"][2]["calibration/loss"] == pytest.approx(3 * runs["aware"][2]["calibration/anchor"])
    assert runs["plain"][0]["loss"] == pytest.approx(runs["aware"][0]["loss"], rel=1e-6)  # at the reference: zero
    assert "calibration/loss" not in runs["plain"][0]


def test_a_plain_transformers_trainer_becomes_calibration_aware(tokenizer, tmp_path):
    kind = calibration_aware(Trainer)
    args = calibration_aware_config(TrainingArguments)(
        str(tmp_path), **training_arguments(logging_steps=1, supervised_weight=0.0)
    )
    ids = [tokenizer(text)["input_ids"] for text in pairs(16)["prompt"]]
    trainer = kind(
        model=tiny_llama(tokenizer), args=args, train_dataset=[{"input_ids": row} for row in ids],
        processing_class=tokenizer, data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        calibration_dataset=ANSWERLESS, eval_calibration_dataset=questions(8),
    )  # fmt: skip
    trainer.train()
    anchors = [entry["calibration/anchor"] for entry in trainer.state.log_history if "calibration/anchor" in entry]
    assert anchors[0] == pytest.approx(0.0, abs=1e-6)
    assert anchors[2] > 1e-6
    trainer.create_model_card()
    assert "hf_calib" in (tmp_path / "README.md").read_text()


def test_what_cannot_become_calibration_aware_is_named():
    assert calibration_aware(CalibrationAwareTrainer) is CalibrationAwareTrainer
    with pytest.raises(TypeError, match=r"subclass of transformers\.Trainer, got <class 'int'>"):
        calibration_aware(int)
    with pytest.raises(TypeError, match=r"subclass of transformers\.TrainingArguments, got <class 'int'>"):
        calibration_aware_config(int)


def test_questions_without_a_tokenizer_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="processing_class"):
        calibration_aware(Trainer)(
            model=tiny_llama(tokenizer), args=TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=[], calibration_dataset=ANSWERLESS,
        )  # fmt: skip
