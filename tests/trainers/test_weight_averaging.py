"""The trained weights become the mean of the last steps' ones."""

import types

import pytest
import torch
from transformers import TrainerCallback, TrainerState

from hf_calib import CalibrationCallback
from hf_calib.trainers.weight_averaging import FILE, WeightAveragingCallback, check_averaging
from tests.support import questions
from tests.trainers.runs import dpo, lora, sft


class Recorder(TrainerCallback):
    """Keeps the trained weights of every step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})


def trained(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("make", "peft_config"), [(sft, None), (sft, lora()), (dpo, lora())])
def test_the_model_is_the_mean_of_the_last_steps(make, peft_config, tokenizer, tmp_path):
    recorder = Recorder()
    trainer = make(
        tokenizer, tmp_path, peft_config=peft_config, max_steps=5, average_weights=0.6, callbacks=[recorder]
    )
    trainer.train()
    assert len(recorder.steps) == 5
    for name, weight in trained(trainer).items():
        torch.testing.assert_close(weight, torch.stack([step[name] for step in recorder.steps[2:]]).mean(0))
    moved = [name for name, weight in trained(trainer).items() if not torch.equal(weight, recorder.steps[-1][name])]
    assert moved


def test_what_is_measured_after_training_and_saved_is_the_mean(tokenizer, tmp_path):
    asked = questions(12, seed=3)
    trainer = sft(
        tokenizer, tmp_path, max_steps=4, average_weights=1.0, learning_rate=1e-2, eval_calibration_dataset=asked
    )
    trainer.train()
    assert trainer.calibration_reports["after"].to_dict() == trainer.evaluate_calibration().to_dict()


def test_a_callback_that_measures_after_training_measures_the_mean(tokenizer, tmp_path):
    callback = CalibrationCallback(questions(12, seed=3), prefix="eval_two")
    trainer = sft(
        tokenizer, tmp_path, max_steps=4, average_weights=1.0, learning_rate=1e-2, callbacks=[callback],
        eval_calibration_dataset=questions(12, seed=3),
    )  # fmt: skip
    trainer.train()
    after = (trainer.calibration_reports["after"], callback.reports["after"], callback.measure())
    assert len({own.measures["nll"].value for own in after}) == 1


@pytest.mark.parametrize(("share", "steps", "averaged"), [(0.9, 10, 9), (0.8, 5, 4), (0.6, 10, 6), (0.35, 10, 4)])
def test_the_share_of_steps_is_rounded_up(share, steps, averaged):
    callback = WeightAveragingCallback(share)
    model, state = torch.nn.Linear(1, 1, bias=False), TrainerState(max_steps=steps)
    callback.on_train_begin(None, state, None, model=model)
    for step in range(1, steps + 1):
        model.weight.data.fill_(step)
        state.global_step = step
        callback.on_step_end(None, state, None)
    callback.on_train_end(None, state, None)
    assert model.weight.item() == pytest.approx((steps + steps - averaged + 1) / 2)


def test_averaging_changes_nothing_in_the_steps(tokenizer, tmp_path):
    plain, averaged = Recorder(), Recorder()
    sft(tokenizer, tmp_path / "a", max_steps=4, callbacks=[plain]).train()
    sft(tokenizer, tmp_path / "b", max_steps=4, callbacks=[averaged], average_weights=0.5).train()
    for one, other in zip(plain.steps, averaged.steps, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_averages_as_the_uninterrupted_one(tokenizer, tmp_path):
    options = {
        "average_weights": 0.8, "save_strategy": "steps", "save_steps": 2, "peft_config": lora(lora_dropout=0.3),
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    whole = sft(tokenizer, tmp_path / "whole", max_steps=5, **options)
    whole.train()
    cut = sft(tokenizer, tmp_path / "whole", max_steps=5, **options)
    cut.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    expected = trained(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in trained(cut).items())
    # The mean is that of four steps, three of them before the checkpoint.
    (tmp_path / "whole" / "checkpoint-4" / FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"at step 4, but the checkpoint has no {FILE}"):
        sft(tokenizer, tmp_path / "whole", max_steps=5, **options).train(
            resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4")
        )


def test_a_run_that_ends_early_says_so(tokenizer, tmp_path, caplog):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    trainer = sft(tokenizer, tmp_path, max_steps=6, average_weights=0.5, callbacks=[Stop()])
    recorder = Recorder()
    trainer.add_callback(recorder)
    with caplog.at_level("WARNING", "transformers"):
        trainer.train()
    assert all(torch.equal(weight, recorder.steps[-1][name]) for name, weight in trained(trainer).items())


def test_refusals(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"average_weights must be a share between 0 and 1, got 1\.5"):
        sft(tokenizer, tmp_path, average_weights=1.5)
    with pytest.raises(ValueError, match="set only one of them"):
        sft(
            tokenizer, tmp_path, average_weights=0.5, load_best_model_at_end=True, eval_strategy="steps",
            save_strategy="steps", eval_steps=2, save_steps=2, eval_dataset=questions(4), max_steps=2,
        )  # fmt: skip
    sharded = types.SimpleNamespace(state=types.SimpleNamespace(deepspeed_plugin=types.SimpleNamespace(zero_stage=3)))
    with pytest.raises(ValueError, match="ZeRO-2"):
        check_averaging(sharded, None)
