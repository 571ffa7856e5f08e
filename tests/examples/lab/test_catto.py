"""CATTO's term: by hand from dense logits, inside the trainer, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from experiments.catto import CATTODPOTrainer, token_losses
from peft import LoraConfig
from scipy.special import expit, softmax
from trl import DPOConfig

from hf_calib.lab import PreferenceSettings, make_model, sample_pairs
from hf_calib.trainers import CalibrationAwareConfig, CalibrationAwareTrainer


def by_hand(logits, label, chosen, distance="absolute"):
    """The loss of one token, as the method defines it."""
    p = softmax(np.asarray(logits, dtype=np.float64))
    z = expit(p[label] - np.delete(p, label).max())
    target = z if chosen else 1 - z
    if distance == "absolute":
        return abs(p.max() - target)
    return -target * math.log(p.max()) - (1 - target) * math.log(1 - p.max())


@pytest.mark.parametrize("distance", ["absolute", "bce"])
def test_each_tokens_loss_is_the_one_by_hand(distance):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 7)) * rng.uniform(0.1, 4, size=(60, 1))
    labels, chosen = rng.integers(7, size=60), rng.integers(2, size=60).astype(bool)
    found = token_losses(torch.tensor(logits), torch.tensor(labels), torch.tensor(chosen), distance)
    expected = [by_hand(*row, distance) for row in zip(logits, labels, chosen, strict=True)]
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_a_case_worked_out():
    # p = (.5, .25, .25); the label is the top token: z = sigmoid(.25), and not the top one: z = sigmoid(-.25).
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]] * 4))
    found = token_losses(logits, torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, False]))
    high, low = 1 / (1 + math.exp(-0.25)), 1 / (1 + math.exp(0.25))
    assert found.tolist() == pytest.approx([high - 0.5, 0.5 - low, 0.5 - low, high - 0.5])


@pytest.mark.parametrize("distance", ["absolute", "bce"])
def test_the_gradient_is_the_numerical_one_and_finite_for_a_saturated_token(distance):
    logits = torch.tensor([[0.3, -0.4, 1.1, 0.2], [2.0, 0.1, -1.0, 0.5]], requires_grad=True)
    labels, chosen = torch.tensor([2, 1]), torch.tensor([True, False])
    token_losses(logits, labels, chosen, distance).sum().backward()
    for row, column in np.ndindex(2, 4):
        values = []
        for step in (1e-5, -1e-5):
            moved = logits.detach().double().numpy().copy()
            moved[row, column] += step
            values.append(sum(by_hand(*case, distance) for case in zip(moved, labels, chosen.tolist(), strict=True)))
        assert logits.grad[row, column].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=2e-4)
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = token_losses(sure, torch.tensor([0]), torch.tensor([True]), distance)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(sure.grad).all()


@pytest.fixture
def models(preset):
    return [make_model(preset.model, seed) for seed in (1, 2)]


@pytest.fixture
def pairs(world, tokenizer, models):
    return sample_pairs(world, models[1], tokenizer, PreferenceSettings(n_multiple_choice=8, n_open=8))


def config(folder, kind=DPOConfig, **arguments):
    return kind(
        str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        **{"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **arguments},
    )


def trainer_of(models, pairs, tokenizer, folder, trainer_class=CATTODPOTrainer, peft_config=None, **options):
    return trainer_class(
        model=models[0],
        ref_model=None if peft_config else models[1],
        args=config(folder),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=peft_config,
        **options,
    )


def first_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[index] for index in range(16)])


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "adapters"])
@pytest.mark.parametrize("distance", ["absolute", "bce"])
def test_the_trainers_term_is_the_mean_over_each_completions_tokens(
    distance, adapters, models, pairs, tokenizer, tmp_path
):
    peft_config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False) if adapters else None
    trainer = trainer_of(
        models, pairs, tokenizer, tmp_path, peft_config=peft_config, catto_weight=0.7, catto_distance=distance
    )
    batch = first_batch(trainer)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch).item()
    trainer.catto_weight = 0.0
    plain = trainer.compute_loss(trainer.model, batch).item()
    with torch.no_grad():
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    halves = {True: [], False: []}
    for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["completion_mask"], strict=True)):
        chosen = row < 16
        positions = [place for place in range(1, len(ids)) if mask[place]]
        assert len(positions) >= 2
        own = [by_hand(logits[row, place - 1], ids[place], chosen, distance) for place in positions]
        halves[chosen].append(np.mean(own))
    assert {len(half) for half in halves.values()} == {16}
    assert loss - plain == pytest.approx(0.7 * (np.mean(halves[True]) + np.mean(halves[False])), rel=1e-4)


def test_the_logits_are_made_in_parts_to_the_same_result(models, pairs, tokenizer, tmp_path, monkeypatch):
    trainer = trainer_of(models, pairs, tokenizer, tmp_path, catto_weight=0.7)
    batch = first_batch(trainer)
    results = []
    for at_once in (2**26, 7 * models[0].config.vocab_size):
        monkeypatch.setattr("experiments.catto._LOGITS_AT_ONCE", at_once)
        trainer.model.train()
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        results.append((loss.item(), trainer.model.lm_head.weight.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def trained_weights(trainer):
    trainer.train()
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


def test_without_weight_it_trains_as_its_parent_and_with_weight_otherwise(preset, pairs, tokenizer, tmp_path):
    def train(trainer_class, **options):
        models = [make_model(preset.model, 1) for _ in range(2)]
        return trained_weights(trainer_of(models, pairs, tokenizer, tmp_path, trainer_class, **options))

    parent = train(CalibrationAwareTrainer)
    zero, some = train(CATTODPOTrainer, catto_weight=0.0), train(CATTODPOTrainer)
    assert all(torch.equal(parent[name], zero[name]) for name in parent)
    assert any(not torch.equal(parent[name], some[name]) for name in parent)


def test_it_adds_to_the_anchor(models, pairs, world, tokenizer, tmp_path):
    questions = world.sample_questions(16, ("in",), "train", 5).to_questions(answers=False)

    def loss(weight):
        trainer = CATTODPOTrainer(
            model=models[0],
            ref_model=models[1],
            args=config(tmp_path, CalibrationAwareConfig, calibration_batch_size=16),
            train_dataset=pairs,
            processing_class=tokenizer,
            calibration_dataset=questions,
            catto_weight=weight,
        )
        trainer.current_gradient_accumulation_steps = 1  # set when training starts
        trainer.model.train()
        return trainer.compute_loss(trainer.model, first_batch(trainer)).item()

    trainer = trainer_of(models, pairs, tokenizer, tmp_path)
    trainer.model.train()
    alone = trainer.compute_loss(trainer.model, first_batch(trainer)).item()
    trainer.catto_weight = 0.0
    plain = trainer.compute_loss(trainer.model, first_batch(trainer)).item()
    assert loss(0.0) > plain + 1e-3
    assert loss(0.1) - loss(0.0) == pytest.approx(alone - plain, rel=1e-3)


def test_a_model_whose_logits_are_not_its_output_layers_is_refused(models, pairs, tokenizer, tmp_path):
    trainer = trainer_of(models, pairs, tokenizer, tmp_path)
    trainer.model.train()
    batch = first_batch(trainer)
    forward = trainer.model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.log_probs = output.log_probs * 1.5
        return output

    trainer.model.forward = scaled
    with pytest.raises(ValueError, match="output layer's logits"):
        trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"catto_weight": -0.1}, "catto_weight must be a finite, nonnegative number, got -0.1"),
        ({"catto_weight": float("nan")}, "catto_weight"),
        ({"catto_distance": "l2"}, "catto_distance must be 'absolute' or 'bce', got 'l2'"),
    ],
)
def test_wrong_arguments_are_named(options, message, models, pairs, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(models, pairs, tokenizer, tmp_path, **options)
