"""The callback for any trainer: what it logs, to where, and that training is left as it is."""

import glob
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer

import hf_calib
from hf_calib import CalibrationCallback
from hf_calib.tasks import QuestionError
from tests.support import pairs, questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, lora, reward

HELD_OUT = questions(13, seed=4, choices=(4, 3))


def plain(tokenizer, folder, *, callbacks=(), **options):
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in pairs(16)["prompt"]]
    torch.manual_seed(1)
    settings = training_arguments(eval_strategy="steps", eval_steps=2, max_steps=4, logging_steps=1, **options)
    return Trainer(
        model=tiny_llama(tokenizer), args=TrainingArguments(str(folder), **settings), train_dataset=rows,
        eval_dataset=rows[:4], processing_class=tokenizer, callbacks=list(callbacks),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )  # fmt: skip


def dpo_trainer(tokenizer, folder, **options):
    torch.manual_seed(1)
    settings = training_arguments(eval_strategy="steps", eval_steps=2, max_steps=4, logging_steps=1, **options)
    return DPOTrainer(
        model=tiny_llama(tokenizer), args=DPOConfig(str(folder), **settings), train_dataset=pairs(16),
        eval_dataset=pairs(4), processing_class=tokenizer, peft_config=lora(),
    )  # fmt: skip


@pytest.mark.parametrize("make", [plain, dpo_trainer])
def test_it_measures_before_at_every_evaluation_and_after(make, tokenizer, tmp_path):
    trainer = make(tokenizer, tmp_path)
    callback = CalibrationCallback(HELD_OUT)
    trainer.add_callback(callback)
    first = hf_calib.predict(trainer.model, tokenizer, HELD_OUT).report()
    trainer.train()
    last = hf_calib.predict(trainer.model, tokenizer, HELD_OUT).report()
    assert [entry["step"] for entry in callback.history] == [2, 4]
    for stage, expected in (("before", first), ("after", last)):
        for name, measure in expected.measures.items():
            assert callback.reports[stage].measures[name].value == pytest.approx(measure.value, abs=1e-5), name
    logged = [entry for entry in trainer.state.log_history if "eval_calibration/ece" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    names = {name.removeprefix("eval_calibration/") for name in logged[1] if name.startswith("eval_calibration/")}
    measures = {"accuracy", "confidence", "ece", "cw_ece", "smooth_ece", "nll", "brier", "option_mass"}
    assert names == {*measures, "ece_if_calibrated"}
    assert logged[1]["eval_calibration/ece_if_calibrated"] == pytest.approx(last.test.expected_error, abs=1e-5)
    for name in measures:
        assert logged[1][f"eval_calibration/{name}"] == pytest.approx(last.measures[name].value, abs=1e-5)
    assert last.measures["nll"].value != first.measures["nll"].value


def test_training_is_left_as_it_is(tokenizer, tmp_path):
    weights = []
    for used in (False, True):
        trainer = plain(tokenizer, tmp_path)
        if used:
            trainer.add_callback(CalibrationCallback(HELD_OUT))
        trainer.train()
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_its_measures_choose_the_best_step(tokenizer, tmp_path):
    trainer = plain(
        tokenizer, tmp_path, save_strategy="steps", save_steps=2, load_best_model_at_end=True,
        metric_for_best_model="eval_calibration/nll", greater_is_better=False,
    )  # fmt: skip
    callback = CalibrationCallback(HELD_OUT)
    trainer.add_callback(callback)
    trainer.train()
    best = min(entry["eval_calibration/nll"] for entry in callback.history)
    assert trainer.state.best_metric == pytest.approx(best)
    assert callback.reports["after"].measures["nll"].value == pytest.approx(best, abs=1e-5)


def test_several_evaluation_sets_are_one_measurement(tokenizer, tmp_path):
    trainer = plain(tokenizer, tmp_path)
    trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset}
    callback = CalibrationCallback(HELD_OUT)
    trainer.add_callback(callback)
    trainer.train()
    assert [entry["step"] for entry in callback.history] == [2, 4]


def test_the_diagram_and_the_measures_reach_tensorboard(tokenizer, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = plain(tokenizer, tmp_path, report_to="tensorboard")
    trainer.add_callback(CalibrationCallback(HELD_OUT))
    trainer.train()
    [file] = glob.glob(str(tmp_path / "**" / "events*"), recursive=True)
    events = EventAccumulator(file).Reload()
    assert events.Tags()["images"] == ["eval_calibration/reliability"]
    assert [image.step for image in events.Images("eval_calibration/reliability")] == [2, 4]
    [name] = [name for name in events.Tags()["scalars"] if name.endswith("calibration/ece")]
    assert [scalar.step for scalar in events.Scalars(name)] == [2, 4]


@pytest.mark.parametrize(("name", "attribute"), [("WandbCallback", "_wandb"), ("TrackioCallback", "_trackio")])
def test_the_diagram_reaches_other_trackers(name, attribute, tokenizer, tmp_path):
    logged = []
    tracker = SimpleNamespace(log=logged.append, Image=lambda pixels: pixels)
    reporter = type(name, (TrainerCallback,), {attribute: tracker})()
    trainer = plain(tokenizer, tmp_path, callbacks=[reporter])
    trainer.add_callback(CalibrationCallback(HELD_OUT, prefix="mmlu"))
    trainer.train()
    assert [entry["train/global_step"] for entry in logged] == [2, 4]
    picture = logged[0]["mmlu/reliability"]
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert len(np.unique(picture)) > 10  # something is drawn


def test_it_works_among_a_trainers_callbacks_and_logs_its_warnings_once(tokenizer, tmp_path, caplog):
    callback = CalibrationCallback(HELD_OUT)
    with pytest.raises(ValueError, match="no trainer yet"):
        callback.measure()
    trainer = plain(tokenizer, tmp_path, callbacks=[callback])
    trainer.train()
    assert [entry["step"] for entry in callback.history] == [2, 4]
    warnings = callback.reports["after"].warnings
    assert "too_few_questions" in {finding.code for finding in warnings}
    assert caplog.text.count("13 questions are too few for any of these figures") == 1
    assert callback.measure().accuracy.value == callback.reports["after"].accuracy.value


def test_in_another_trainer_it_measures_that_trainers_model(tokenizer, tmp_path):
    callback = CalibrationCallback(HELD_OUT)
    for seed in (0, 1):
        trainer = plain(tokenizer, tmp_path, callbacks=[callback])
        trainer.model.load_state_dict(tiny_llama(tokenizer, seed=seed).state_dict())
        trainer.train()
        expected = hf_calib.predict(tiny_llama(tokenizer, seed=seed), tokenizer, HELD_OUT).report()
        found = callback.reports["before"].measures["nll"].value
        assert found == pytest.approx(expected.measures["nll"].value, abs=1e-5)
        assert [entry["step"] for entry in callback.history] == [2, 4]


def test_a_prefix_that_is_used_twice_is_refused(tokenizer, tmp_path):
    two = [CalibrationCallback(HELD_OUT), CalibrationCallback(questions(6))]
    with pytest.raises(ValueError, match="prefix: 'eval_calibration' is used by two callbacks"):
        plain(tokenizer, tmp_path, callbacks=two)
    aware = dpo(
        tokenizer, tmp_path, peft_config=lora(), calibration_dataset=None, eval_calibration_dataset=HELD_OUT,
        callbacks=[CalibrationCallback(questions(6))],
    )  # fmt: skip
    with pytest.raises(ValueError, match="already used for the trainer's eval_calibration_dataset"):
        aware.train()


def test_a_prefix_that_transformers_does_not_look_for_is_refused(tokenizer, tmp_path):
    for metric in ("mmlu/ece", "eval_mmlu/ece"):
        callback = CalibrationCallback(HELD_OUT, prefix="mmlu")
        with pytest.raises(ValueError, match=f"metric_for_best_model='{metric}': .*pass prefix='eval_mmlu'"):
            plain(tokenizer, tmp_path, callbacks=[callback], metric_for_best_model=metric)


def test_a_model_that_predicts_no_tokens_is_refused(tokenizer, tmp_path):
    trainer = reward(tokenizer, tmp_path)
    trainer.add_callback(CalibrationCallback(HELD_OUT))
    with pytest.raises(ValueError, match="LlamaForSequenceClassification has no language-model head"):
        trainer.train()


def test_what_it_cannot_ask_is_named(tokenizer, tmp_path):
    with pytest.raises(QuestionError, match="none"):
        plain(tokenizer, tmp_path, callbacks=[CalibrationCallback(questions(4, answered=False))])
    trainer = plain(tokenizer, tmp_path)
    trainer.processing_class = None
    trainer.add_callback(CalibrationCallback(HELD_OUT))
    with pytest.raises(ValueError, match="tokenizer="):
        trainer.train()
