"""The balanced option head of a causal language model."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.special import softmax
from transformers import TrainingArguments

from hf_calib import predict
from hf_calib.calibrators.option_head import BalancedOptionHead, balanced_scale
from hf_calib.calibrators.simplex_etf import simplex_etf
from hf_calib.tasks import Question
from hf_calib.trainers import OptionHeadModel, train_option_head
from hf_calib.trainers.option_head import head_inputs
from tests.support import questions, tiny_llama


def learnable(n, *, seed=0, noise=0.25):
    """Questions whose answer is the option of the color that they name, but for a share of them."""
    rng = np.random.default_rng(seed)
    asked = []
    for question in questions(n, seed=seed, choices=(4, 3)):
        right = int(rng.integers(len(question.choices)))
        told = right if rng.random() > noise else int(rng.integers(len(question.choices)))
        asked.append(Question(f"{'ABCD'[told] * 3}?", question.choices, right))
    return asked


def arguments(tmp_path, **options):
    return TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=16, **{"learning_rate": 5e-3, "max_steps": 40, **options}
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(tokenizer), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = train_option_head(
        model, tokenizer, learnable(160), learnable(200, seed=1), args=arguments(tmp_path_factory.mktemp("run"))
    )
    return whole, before


def test_head_and_adapter_are_trained_and_the_frame_and_the_base_are_not(trained):
    whole, before = trained
    changed = {name for name, value in whole.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert torch.equal(whole.head.fixed.vertices, torch.from_numpy(simplex_etf(4)).float())
    new = whole.predict(learnable(200, seed=2))
    assert new.correct.mean() > 0.6
    assert (new.option_log_probabilities[1::2, 3] == -np.inf).all()
    assert new.probabilities.sum(axis=1) == pytest.approx(np.ones(200))


def test_on_the_held_out_questions_the_mean_confidence_is_the_accuracy(trained):
    whole, _ = trained
    held_out = whole.predict(learnable(200, seed=1))
    assert held_out.confidences.mean() == pytest.approx(held_out.correct.mean(), abs=2e-3)


def test_the_head_is_kept_beside_the_model(trained, tokenizer, tmp_path):
    whole, _ = trained
    asked = learnable(20, seed=3)
    whole.save(tmp_path)
    again = OptionHeadModel.load(tmp_path, whole.model, tokenizer)
    np.testing.assert_array_equal(again.predict(asked).probabilities, whole.predict(asked).probabilities)
    with pytest.raises(ValueError, match="hidden states of 32, the model's have 16"):
        OptionHeadModel.load(tmp_path, tiny_llama(tokenizer, hidden_size=16), tokenizer)
    settings = json.loads((tmp_path / "option_head.json").read_text())
    for change in ({"n_options": 10**9}, {"n_options": 3}, {"extra": 1}, {"prompt_format": {"chat": "yes"}}):
        (tmp_path / "option_head.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(ValueError):
            OptionHeadModel.load(tmp_path, whole.model, tokenizer)
    with pytest.raises(FileNotFoundError, match="no option head"):
        OptionHeadModel.load(tmp_path / "elsewhere", whole.model, tokenizer)


def test_the_learned_classifier_starts_as_the_language_model(tokenizer, model, tmp_path):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    asked = questions(12)
    whole = train_option_head(model, tokenizer, asked, asked, args=arguments(tmp_path, learning_rate=0.0, max_steps=1))
    own = predict(model, tokenizer, asked, batch_size=5, hidden_states=True)
    learned, _ = whole.head.classifiers(*head_inputs(own, whole.head))
    np.testing.assert_allclose(learned.detach().softmax(-1).numpy(), own.probabilities, atol=1e-5)


def test_bad_input_is_named(tokenizer, model, tmp_path):
    with pytest.raises(ValueError, match="answer"):
        train_option_head(model, tokenizer, questions(4, answered=False), questions(4), args=arguments(tmp_path))
    with pytest.raises(ValueError, match="2 options, and a question has 3"):
        OptionHeadModel(model, tokenizer, BalancedOptionHead(32, 2)).predict(questions(2, choices=(3,)))
    for wrong in ({"hidden_size": 0, "n_options": 4}, {"hidden_size": 4, "n_options": 1}):
        with pytest.raises(ValueError, match="two options or more"):
            BalancedOptionHead(**wrong)
    with pytest.raises(ValueError, match="scale must be"):
        BalancedOptionHead(4, 4, scale=0.0)


def test_balanced_scale_is_where_a_fine_grid_crosses():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4))
    answers = (rng.random((4000, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    first, unscaled = softmax(1.5 * logits, axis=1), torch.from_numpy(logits / 3)

    def gap(scale):
        p = (first + softmax(scale * logits / 3, axis=1)) / 2
        return p.max(axis=1).mean() - (p.argmax(axis=1) == answers).mean()

    scale, share = balanced_scale(first, unscaled, answers)
    grid = np.geomspace(0.01, 1000, 4000)
    crossing = grid[np.argmin(np.abs([gap(value) for value in grid]))]
    assert share == 0.5
    assert scale == pytest.approx(crossing, rel=0.01)
    # No scale makes up for so sure a classifier: its share falls.
    sure = softmax(30 * logits, axis=1)
    scale, share = balanced_scale(sure, unscaled, answers)
    assert scale == pytest.approx(0.01)
    assert 0 < share < 0.5
    mixed = share * sure + (1 - share) * softmax(0.01 * logits / 3, axis=1)
    assert mixed.max(axis=1).mean() == pytest.approx((mixed.argmax(axis=1) == answers).mean(), abs=1e-3)
