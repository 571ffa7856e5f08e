"""Distributions as answers: the supervised term of every trainer, and the Brier score."""

import functools

import numpy as np
import pytest
import torch
from peft import LoraConfig
from trl import SFTConfig
from trl.trainer import sft_trainer

from hf_calib import (
    CalibrationAwareConfig,
    CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer,
)
from hf_calib.regularizers import answer_loss, brier_loss
from hf_calib.tasks import TypedDecisions, encode_questions
from hf_calib.tasks.collator import QuestionCollator
from hf_calib.tasks.questions import DecisionQuestion
from tests.support import pairs, questions, tiny_llama, training_arguments


def soft(n=16, seed=0):
    """Questions with three or four options and distributions as answers."""
    rng = np.random.default_rng(seed)
    return [
        DecisionQuestion(
            own.question, own.choices, subject=own.subject, target=rng.dirichlet(np.ones(len(own.choices)))
        )
        for own in questions(n, seed=seed, choices=(3, 4))
    ]


def by_hand(model, tokenizer, asked):
    """Cross-entropy and Brier score of each question alone."""
    rows = []
    for item in encode_questions(asked, tokenizer):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([item.input_ids])).logits[0, -1].double()
        options = list(item.option_ids)
        t = torch.tensor(np.eye(len(options))[item.answer] if item.target is None else item.target)
        own = logits[options].softmax(-1)
        rows.append((float(-(t * logits.log_softmax(-1)[options]).sum()), float(((own - t) ** 2).sum())))
    return np.array(rows)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_terms_are_what_their_formulas_say(tokenizer, tmp_path, mixed):
    asked = soft(12) + (questions(4, seed=5) if mixed else [])
    trainer = CalibrationAwareTrainer(
        model=tiny_llama(tokenizer),
        args=CalibrationAwareConfig(
            str(tmp_path),
            **training_arguments(
                calibration_batch_size=len(asked), anchor_weight=0.0, supervised_weight=3.0, brier_weight=2.0
            ),
        ),
        train_dataset=pairs(16),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"),
        calibration_dataset=asked,
    )
    trainer.model.eval()
    loss = trainer._calibration_term.loss(trainer.model, 0, 0, 1)
    cross_entropy, brier = by_hand(trainer.model, tokenizer, asked).mean(axis=0)
    assert float(loss.detach()) == pytest.approx(3 * cross_entropy + 2 * brier, rel=1e-4)
    assert trainer._calibration_term.pop_logs()["calibration/brier"] == pytest.approx(brier, rel=1e-4)
    assert trainer.calibration_run.method.endswith("supervised by the gold distributions, with the Brier score")


def test_a_certain_distribution_is_the_right_answer(tokenizer):
    plain = questions(8, choices=(3, 4))
    certain = [
        DecisionQuestion(own.question, own.choices, target=tuple(np.eye(len(own.choices))[own.answer]))
        for own in plain
    ]
    logits = torch.randn(8, len(tokenizer), generator=torch.Generator().manual_seed(0))
    batches = [QuestionCollator(0)(list(encode_questions(own, tokenizer))) for own in (plain, certain)]
    assert batches[0].distributions is None
    torch.testing.assert_close(*(answer_loss(logits, batch) for batch in batches))
    p = [
        logits.gather(-1, batch.option_ids).masked_fill(~batch.option_mask, -torch.inf).softmax(-1)
        for batch in batches
    ]
    torch.testing.assert_close(*(brier_loss(own, batch) for own, batch in zip(p, batches, strict=True)))


def sft(tokenizer, folder, asked, **options):
    torch.manual_seed(0)
    return CalibrationAwareSFTTrainer(
        model=tiny_llama(tokenizer),
        args=CalibrationAwareSFTConfig(
            str(folder), **training_arguments(**{"per_device_train_batch_size": 4, "max_steps": 30, **options})
        ),
        train_dataset=asked,
        processing_class=tokenizer,
    )


def test_fine_tuning_on_distributions_lowers_their_divergence(tokenizer, tmp_path):
    asked = soft(8)
    trainer = sft(tokenizer, tmp_path, asked, learning_rate=1e-2, optim="adamw_torch")
    before = by_hand(trainer.model, tokenizer, asked)
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(before[:4, 0].mean(), rel=1e-4)
    trainer.train()
    after = by_hand(trainer.model.eval(), tokenizer, asked)
    entropy = np.mean([-sum(p * np.log(p) for p in own.target if p > 0) for own in asked])
    assert after[:, 0].mean() - entropy < 0.3 * (before[:, 0].mean() - entropy)
    assert after[:, 1].mean() < before[:, 1].mean()
    assert any("option_accuracy" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("confidence", ["letters", "text-tokens"])
def test_em_and_brier_act_beside_the_distributions(tokenizer, tmp_path, confidence):
    trainer = sft(
        tokenizer,
        tmp_path,
        soft(24),
        max_steps=3,
        em_weight=1.0,
        brier_weight=1.0,
        calibration_confidence=confidence,
        logging_steps=1,
    )
    trainer.train()
    assert trainer.calibration_run.terms == ("supervised", "brier", "em")
    assert any("calibration/brier" in entry and "calibration/em" in entry for entry in trainer.state.log_history)


def test_typed_decisions_are_questions_for_a_trainer(tokenizer, tmp_path):
    row = {
        "state": "The run ended.",
        "questions": {"ok": {"type": "noul", "instructions": "Is it fine?"}},
        "gold": {"ok": {"probabilities": {"true": 0.7, "false": 0.3}}},
    }
    trainer = sft(tokenizer, tmp_path, TypedDecisions([row] * 4), max_steps=1)
    trainer.train()
    assert trainer.calibration_run.trained_on[0].target == (0.3, 0.7)


def test_what_cannot_be_trained_on_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r'supervised_on: questions with a distribution .* need "answer"'):
        sft(tokenizer, tmp_path, soft(4), supervised_on="question_and_answer")
    with pytest.raises(ValueError, match="brier_weight must be"):
        CalibrationAwareConfig(str(tmp_path), **training_arguments(brier_weight=-1.0))


def test_fine_tuning_on_distributions_needs_no_config(tokenizer, tmp_path, monkeypatch):
    # The config that TRL makes without one asks for bfloat16, which not every CPU has.
    default = functools.partial(SFTConfig, **training_arguments(output_dir=str(tmp_path)))
    monkeypatch.setattr(sft_trainer, "SFTConfig", lambda folder: default())
    model = tiny_llama(tokenizer)
    before = by_hand(model, tokenizer, soft(8))[:, 0].mean()
    CalibrationAwareSFTTrainer(model, train_dataset=soft(8), processing_class=tokenizer).train()
    assert by_hand(model.eval(), tokenizer, soft(8))[:, 0].mean() < before - 0.1
