"""The calibration of the preference's own probability, in DPO and in reward modelling."""

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from packaging import version
from trl import RewardConfig, RewardTrainer

from hf_calib.measures import expected_calibration_error
from hf_calib.regularizers import BinTargets
from hf_calib.trainers import CalibrationAwareConfig, CalibrationAwareRewardTrainer
from tests.support import on_disk, pairs, questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, lora, reward

PAIRS = pairs(64)
OLD_TRL = version.parse(trl.__version__) < version.parse("1.16")


def score_by_hand(model, tokenizer, text):
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, 0])


def log_ratio_by_hand(trainer, tokenizer, prompt, answer):
    """The answer's log-probability, end of sequence included, less the one with the adapter off."""
    first = tokenizer(prompt)["input_ids"]
    ids = torch.tensor([[*first, *tokenizer(answer)["input_ids"], tokenizer.eos_token_id]])

    def log_probability():
        with torch.no_grad():
            logits = trainer.model(input_ids=ids).logits.log_softmax(-1)
        return float(logits[0, :-1].gather(-1, ids[0, 1:, None])[len(first) - 1 :].sum())

    policy = log_probability()
    with trainer.model.disable_adapter():
        return policy - log_probability()


def expected_measures(margins):
    confidences = 1 / (1 + np.exp(-np.abs(margins)))
    correct = np.array(margins) > 0
    return {
        "eval_calibration/preference_ece": expected_calibration_error(confidences, correct),
        "eval_calibration/preference_accuracy": correct.mean(),
        "eval_calibration/preference_confidence": confidences.mean(),
    }


@pytest.mark.parametrize("precomputed", [False, True])
def test_dpo_reports_what_a_computation_by_hand_gives(precomputed, tokenizer, tmp_path):
    # The last batch of four is uneven. TRL 1.8 precomputes nothing for datasets in memory.
    data, held_out = (on_disk(part, tmp_path / name) for name, part in (("train", PAIRS), ("test", pairs(10, seed=3))))
    trainer = dpo(
        tokenizer, tmp_path, train_dataset=data, peft_config=lora(), calibration_dataset=None, logging_steps=1,
        preference_calibration=True, eval_dataset=held_out, beta=0.3, per_device_eval_batch_size=4,
        precompute_ref_log_probs=precomputed,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    trainer.model.eval()
    margins = [
        0.3 * (log_ratio_by_hand(trainer, tokenizer, row["prompt"], row["chosen"])
               - log_ratio_by_hand(trainer, tokenizer, row["prompt"], row["rejected"]))
        for row in held_out
    ]  # fmt: skip
    for name, value in expected_measures(margins).items():
        assert metrics[name] == pytest.approx(value, abs=1e-4), name
    logs = trainer.state.log_history
    assert logs[0]["calibration/preference_confidence"] == pytest.approx(0.5, abs=1e-5)  # the reference itself
    assert logs[2]["calibration/preference_confidence"] > 0.5
    assert logs[2]["calibration/preference_accuracy"] == pytest.approx(logs[2]["rewards/accuracies"])


@pytest.mark.parametrize(
    "adapter",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(OLD_TRL, reason="this TRL takes a compiled model to have no adapter")
        ),
    ],
)
def test_a_compiled_models_forward_counts_once(adapter, tokenizer, tmp_path):
    options = {"peft_config": lora()} if adapter else {"ref_model": tiny_llama(tokenizer)}
    logs = []
    for compiled in (False, True):
        trainer = dpo(
            tokenizer, tmp_path, calibration_dataset=None, preference_calibration=True, logging_steps=1, max_steps=3,
            learning_rate=0.01, torch_compile=compiled, torch_compile_backend="eager" if compiled else None, **options,
        )  # fmt: skip
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for plain, compiled in zip(*logs, strict=True):
        names = [name for name in plain if name.startswith("calibration/preference")]
        assert len(names) >= 3
        assert [compiled[name] for name in names] == pytest.approx([plain[name] for name in names], abs=1e-5)
    assert logs[1][2]["calibration/preference_accuracy"] == pytest.approx(logs[1][2]["rewards/accuracies"])


def test_reward_modelling_reports_what_a_computation_by_hand_gives(tokenizer, tmp_path):
    held_out = pairs(10, seed=3)
    trainer = reward(tokenizer, tmp_path, eval_dataset=held_out, per_device_eval_batch_size=4, max_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.model.eval()
    margins = [
        score_by_hand(trainer.model, tokenizer, row["prompt"] + row["chosen"] + "<eos>")
        - score_by_hand(trainer.model, tokenizer, row["prompt"] + row["rejected"] + "<eos>")
        for row in held_out
    ]
    for name, value in expected_measures(margins).items():
        assert metrics[name] == pytest.approx(value, abs=1e-4), name


def random_labels(n, seed):
    rng = np.random.default_rng(seed)
    rows = [dict(row) for row in pairs(n, seed=seed)]
    for row in rows:
        if rng.random() < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("make", [dpo, reward])
def test_the_regularizer_holds_the_confidence_to_the_accuracy(make, tokenizer, tmp_path):
    """Labels at random: nothing can be learned, and without the regularizer the confidence grows all the same."""
    data, held_out = random_labels(256, 1), random_labels(200, 9)
    found = {}
    for weight in (0.0, 20.0):
        options = {"peft_config": lora(), "calibration_dataset": None, "beta": 1.0} if make is dpo else {}
        trainer = make(
            tokenizer, tmp_path / str(weight), train_dataset=data, eval_dataset=held_out,
            preference_weight=weight, preference_calibration=True, max_steps=60, learning_rate=3e-3,
            per_device_eval_batch_size=50, **options,
        )  # fmt: skip
        trainer.train()
        found[weight] = trainer.evaluate()
    confidence = "eval_calibration/preference_confidence"
    assert found[20.0][confidence] < found[0.0][confidence] - 0.02
    assert found[20.0]["eval_calibration/preference_ece"] < found[0.0]["eval_calibration/preference_ece"]


def test_the_bins_come_from_the_first_pass_before_each_step(tokenizer, tmp_path, monkeypatch):
    updates = []
    update = BinTargets.update
    monkeypatch.setattr(
        BinTargets, "update", lambda self, confidences, correct: updates.append(len(confidences)) or update(
            self, confidences, correct)
    )  # fmt: skip
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), calibration_dataset=None, train_dataset=pairs(24), max_steps=9,
        preference_weight=1.0, per_device_train_batch_size=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer.train()
    # Six steps of four pairs are a pass; each step's are added when it ends, those of the second pass never.
    assert updates == [4] * 6


@pytest.mark.parametrize("make", [dpo, reward])
def test_accumulation_changes_nothing(make, tokenizer, tmp_path):
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        options = {"peft_config": lora(), "calibration_dataset": None} if make is dpo else {}
        trainer = make(
            tokenizer, tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
            preference_weight=5.0, optim="sgd", learning_rate=0.05, max_grad_norm=0.0, **options,
        )  # fmt: skip
        trainer.train()
        weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad})
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-5, rtol=1e-3)


def test_a_separate_backward_of_the_calibration_terms_changes_nothing(tokenizer, tmp_path):
    def history(separate):
        trainer = dpo(
            tokenizer, tmp_path, peft_config=lora(), preference_weight=1.0, anchor_weight=1.0, logging_steps=1,
            separate_backward=separate,
        )  # fmt: skip
        trainer.train()
        return trainer.state.log_history[:-1]

    for found, expected in zip(history(True), history(False), strict=True):
        shared = {name for name in expected if name.startswith("calibration/preference")}
        assert len(shared) == 3
        assert {name: found[name] for name in shared} == pytest.approx({name: expected[name] for name in shared})


@pytest.mark.parametrize("make", [dpo, reward])
def test_a_resumed_run_is_the_uninterrupted_one(make, tokenizer, tmp_path):
    options = {"peft_config": lora(lora_dropout=0.3), "calibration_dataset": None} if make is dpo else {}
    options |= {"preference_weight": 1.0, "logging_steps": 1, "lr_scheduler_type": "constant"}
    options |= {"save_strategy": "steps", "save_steps": 3}

    def trained(folder, steps, resume=None):
        trainer = make(tokenizer, folder, max_steps=steps, **options)
        trainer.train(resume_from_checkpoint=resume)
        logs = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
        return trainer, logs

    whole, logs = trained(tmp_path / "whole", 6)
    trained(tmp_path / "cut", 4)
    resumed, again = trained(tmp_path / "cut", 6, str(tmp_path / "cut" / "checkpoint-3"))
    for step in (4, 5, 6):
        for name in ("loss", "calibration/preference_ece", "grad_norm"):
            assert again[step][name] == logs[step][name]
    assert resumed._preference_term.state_dict() == whole._preference_term.state_dict()
    assert sum(whole._preference_term.targets.counts) > 0
    for (name, value), (_, expected) in zip(
        resumed.model.named_parameters(), whole.model.named_parameters(), strict=True
    ):
        assert torch.equal(value, expected), name


def test_a_plain_config_trains_as_the_extended_trainer(tokenizer, tmp_path):
    weights = []
    for kind in (RewardTrainer, CalibrationAwareRewardTrainer):
        trainer = reward(tokenizer, tmp_path, kind=kind, config=RewardConfig)
        trainer.train()
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_negative_weight_is_named(tmp_path):
    with pytest.raises(ValueError, match="preference_weight must be a finite, nonnegative number, got -1"):
        CalibrationAwareConfig(str(tmp_path), **training_arguments(), preference_weight=-1.0)


def test_margins_of_weighted_tokens_are_refused(tokenizer, tmp_path):
    for options in ({"preference_calibration": True}, {"preference_weight": 1.0}):
        with pytest.raises(ValueError, match="ld_alpha: cannot be combined with preference calibration"):
            dpo(tokenizer, tmp_path, peft_config=lora(), ld_alpha=0.3, **options)
    assert dpo(tokenizer, tmp_path, peft_config=lora(), ld_alpha=0.3).ld_alpha == 0.3


def test_the_card_says_what_was_calibrated(tokenizer, tmp_path):
    for weight in (0.0, 1.0):
        trainer = dpo(
            tokenizer, tmp_path / str(weight), calibration_dataset=None, eval_calibration_dataset=questions(6),
            preference_weight=weight, peft_config=lora(), max_steps=1,
        )  # fmt: skip
        trainer.train()
        trainer.create_model_card()
        card = (tmp_path / str(weight) / "README.md").read_text(encoding="utf-8")
        assert ("Nothing was done here to calibrate it" in card) == (weight == 0)
        assert ("The preferences' probability was regularized" in card) == (weight > 0)
