"""What `evaluate()` and the reports of a run say is what `hf_calib.predict` measures on the same model."""

import json

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_calib import load_questions, predict
from hf_calib.tasks.drawing import questions_digest
from tests.support import pairs, question_rows, questions, training_arguments
from tests.trainers.runs import dpo, lora, sft

HELD_OUT = questions(37, seed=4, choices=(4, 2, 3))
LOGGED_MEASURES = ("accuracy", "confidence", "ece", "cw_ece", "smooth_ece", "nll", "brier", "option_mass")


def expected(trainer, tokenizer, prefix="eval"):
    report = predict(trainer.model, tokenizer, HELD_OUT).report()
    measures = {f"{prefix}_calibration/{name}": report.measures[name].value for name in LOGGED_MEASURES}
    return measures | {f"{prefix}_calibration/ece_if_calibrated": report.test.expected_error}


def calibration_of(metrics):
    return {name: value for name, value in metrics.items() if "_calibration/" in name}


class Seen(TrainerCallback):
    """Keeps the metrics of each evaluation, as callbacks see them."""

    def __init__(self):
        self.metrics = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.metrics.append(dict(metrics))


def own_set(make):
    data = pairs(8, seed=3)
    return data if make is dpo else data.rename_column("chosen", "completion").remove_columns("rejected")


def trainer_of(make, tokenizer, folder, **options):
    if make is sft and "eval_dataset" in options:
        data = pairs(16).rename_column("chosen", "completion").remove_columns("rejected")
        options |= {"train_dataset": data, "calibration_dataset": questions(20)}
    return make(
        tokenizer, folder, peft_config=lora(lora_dropout=0.5), eval_calibration_dataset=HELD_OUT,
        per_device_eval_batch_size=5, **options,
    )  # fmt: skip


@pytest.mark.parametrize("make", [dpo, sft])
@pytest.mark.parametrize("own", [False, True], ids=["questions alone", "with a set of its own"])
def test_evaluate_reports_what_predict_measures(make, own, tokenizer, tmp_path):
    seen = Seen()
    options = {"eval_dataset": own_set(make)} if own else {}
    trainer = trainer_of(make, tokenizer, tmp_path, callbacks=[seen], **options)
    trainer.model.train()
    metrics = trainer.evaluate()
    assert calibration_of(metrics) == pytest.approx(expected(trainer, tokenizer), rel=1e-6)
    assert ("eval_loss" in metrics) == own
    # Callbacks see the calibration once, together with the other metrics.
    assert len(seen.metrics) == 1
    assert calibration_of(seen.metrics[0]) == calibration_of(metrics)
    assert [calibration_of(entry) for entry in trainer.state.log_history] == [calibration_of(metrics)]
    assert trainer.calibration_history == [{"step": 0, **calibration_of(metrics)}]
    assert trainer.calibration_reports["before"].n == len(HELD_OUT)


@pytest.mark.parametrize("make", [dpo, sft])
@pytest.mark.parametrize("how", ["made with", "given to evaluate"])
def test_several_sets_are_accompanied_by_one_measurement(make, how, tokenizer, tmp_path):
    sets = {"a": own_set(make), "b": own_set(make)}
    options = {"eval_dataset": sets if how == "made with" else sets["a"]}
    trainer = trainer_of(make, tokenizer, tmp_path, **options)
    metrics = trainer.evaluate() if how == "made with" else trainer.evaluate(sets)
    assert {"eval_a_loss", "eval_b_loss"} <= set(metrics)
    assert calibration_of(metrics) == pytest.approx(expected(trainer, tokenizer), rel=1e-6)
    assert len(trainer.calibration_history) == 1


def test_another_prefix_and_prediction(tokenizer, tmp_path):
    trainer = trainer_of(dpo, tokenizer, tmp_path, eval_dataset=own_set(dpo))
    metrics = trainer.evaluate(metric_key_prefix="test")
    assert calibration_of(metrics) == pytest.approx(expected(trainer, tokenizer, "test"), rel=1e-6)
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    assert not calibration_of(output.metrics)


@pytest.mark.parametrize("make", [dpo, sft])
def test_reports_before_and_after_a_run_that_evaluates_as_it_goes(make, tokenizer, tmp_path):
    trainer = trainer_of(make, tokenizer, tmp_path, eval_strategy="steps", eval_steps=1, max_steps=2, logging_steps=2)
    before = expected(trainer, tokenizer)
    trainer.train()
    after = expected(trainer, tokenizer)
    for stage, values in (("before", before), ("after", after)):
        report = trainer.calibration_reports[stage]
        for name in LOGGED_MEASURES:
            assert report.measures[name].value == pytest.approx(values[f"eval_calibration/{name}"], rel=1e-5)
    assert before["eval_calibration/nll"] != pytest.approx(after["eval_calibration/nll"], rel=1e-5)
    assert [entry["step"] for entry in trainer.calibration_history] == [1, 2]
    assert calibration_of(trainer.calibration_history[-1]) == pytest.approx(after, rel=1e-5)
    logged = [entry for entry in trainer.state.log_history if calibration_of(entry)]
    assert [entry["step"] for entry in logged] == [1, 2]
    # The trainer's own training metrics belong to the training log, not to the evaluation's.
    assert all(set(entry) - set(calibration_of(entry)) <= {"step", "epoch"} for entry in logged)


def test_measuring_changes_nothing_of_training(tokenizer, tmp_path):
    def trained(**options):
        trainer = sft(tokenizer, tmp_path, peft_config=lora(lora_dropout=0.5), logging_steps=1, **options)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert trained() == trained(eval_calibration_dataset=HELD_OUT, eval_strategy="steps", eval_steps=1)


def test_the_best_step_is_chosen_on_calibration_questions_and_reported(tokenizer, tmp_path):
    """At a rate that spoils the model, the best step is an early one, and "after" is that step's report."""
    trainer = trainer_of(
        sft, tokenizer, tmp_path, max_steps=6, learning_rate=0.3, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="eval_calibration/nll", greater_is_better=False,
    )  # fmt: skip
    trainer.train()
    curve = [entry["eval_calibration/nll"] for entry in trainer.calibration_history]
    best = min(curve)
    assert trainer.state.best_metric == best
    assert best < curve[-1]
    assert trainer.calibration_reports["after"].measures["nll"].value == pytest.approx(best, rel=1e-5)
    assert expected(trainer, tokenizer)["eval_calibration/nll"] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(
    "sets", [pytest.param(0, marks=pytest.mark.nightly), 1, pytest.param(2, marks=pytest.mark.nightly)]
)
def test_early_stopping_sees_the_metric(sets, tokenizer, tmp_path):
    given = [{}, {"eval_dataset": own_set(dpo)}, {"eval_dataset": {"a": own_set(dpo), "b": own_set(dpo)}}][sets]
    trainer = trainer_of(
        dpo, tokenizer, tmp_path, max_steps=8, learning_rate=0.5, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True, greater_is_better=False,
        metric_for_best_model="eval_calibration/nll", callbacks=[EarlyStoppingCallback(1)], anchor_weight=0.0,
        supervised_weight=0.0, em_weight=1e-6, **given,
    )  # fmt: skip
    trainer.train()
    curve = [entry["eval_calibration/nll"] for entry in trainer.calibration_history]
    assert len(curve) < 8
    assert curve[-1] >= min(curve[:-1])


def test_plain_training_arguments_evaluate_on_questions_alone(tokenizer, tmp_path):
    """TRL's SFT trainer makes a config of its own from them."""
    args = TrainingArguments(
        str(tmp_path),
        **training_arguments(
            eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, max_steps=2,
            load_best_model_at_end=True, metric_for_best_model="eval_calibration/nll",
        ),
    )  # fmt: skip
    trainer = sft(tokenizer, tmp_path, args=args, eval_calibration_dataset=HELD_OUT, peft_config=lora())
    trainer.train()
    curve = [entry["eval_calibration/nll"] for entry in trainer.calibration_history]
    assert [entry["step"] for entry in trainer.calibration_history] == [1, 2]
    assert trainer.state.best_metric == min(curve)


def test_without_questions_to_evaluate_on(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no questions to evaluate on"):
        dpo(tokenizer, tmp_path, peft_config=lora()).evaluate_calibration()
    with pytest.raises(ValueError, match="eval_strategy"):
        dpo(tokenizer, tmp_path, peft_config=lora(), eval_strategy="steps", eval_steps=1)


def test_the_model_stays_in_its_mode(tokenizer, tmp_path):
    trainer = trainer_of(dpo, tokenizer, tmp_path)
    trainer.model.train()
    modes = [module.training for module in trainer.model.modules()]
    trainer.evaluate()
    assert [module.training for module in trainer.model.modules()] == modes
    assert torch.is_grad_enabled()


def test_a_run_records_a_set_by_all_its_questions(tokenizer, tmp_path):
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows(12)))
    every, sample = load_questions(path), load_questions(path, limit=5)
    known, unknown = (
        sft(tokenizer, tmp_path / str(len(own)), eval_calibration_dataset=own).calibration_run.evaluation_source
        for own in (every, sample)
    )
    assert known.sha256 == questions_digest(every)
    # Other questions of the same file would have another digest, but are of the same set.
    assert (unknown.sha256, unknown.sample_of) == (None, 12)
