"""A model that ignores the attention mask is trained and measured as if each question were asked alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from hf_calib.calibrators.option_head import BalancedOptionHead
from hf_calib.confidence import predict
from hf_calib.confidence.cached import exact_collator
from hf_calib.tasks import QuestionCollator, encode_questions
from hf_calib.trainers.evaluator import CalibrationEvaluator
from hf_calib.trainers.option_head import OptionHeadModel
from hf_calib.trainers.reference_distributions import reference_distributions
from tests.support import questions, tiny_gpt2, tiny_llama, tiny_rwkv
from tests.trainers.runs import sft

ASKED = questions(16, choices=(3, 4))


@torch.no_grad()
def by_hand(model, tokenizer, asked=ASKED):
    """Return the logits after each question alone, and the right options' tokens."""
    model.eval()
    items = encode_questions(asked, tokenizer).items
    logits = [model(input_ids=torch.tensor([item.input_ids])).logits[0, -1] for item in items]
    return torch.stack(logits), torch.tensor([item.option_ids[item.answer] for item in items])


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_rwkv])
def test_where_padding_matters_it_is_on_the_right(make, tokenizer):
    model, items = make(tokenizer).train(), encode_questions(ASKED, tokenizer).items
    sides = {side: QuestionCollator(tokenizer.pad_token_id, side) for side in ("left", "right")}
    assert exact_collator([model], items, sides["right"], "cpu") is sides["right"]
    found = exact_collator([model], items, sides["left"], "cpu")
    assert found == sides["right" if make is tiny_rwkv else "left"]
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rounding_of_a_narrow_number_format_is_no_difference(tokenizer):
    items, collator = encode_questions(ASKED, tokenizer).items, QuestionCollator(tokenizer.pad_token_id)
    for dtype in (torch.bfloat16, torch.float16):
        model = tiny_llama(tokenizer).to(dtype)
        assert exact_collator([model], items, collator, "cpu") is collator
    with torch.autocast("cpu", torch.bfloat16):
        assert exact_collator([tiny_llama(tokenizer)], items, collator, "cpu") is collator


def test_the_terms(tokenizer, tmp_path):
    trainer = sft(
        tokenizer, tmp_path, model=tiny_rwkv(tokenizer), calibration_dataset=ASKED,
        train_dataset=Dataset.from_dict({"text": ["It is red."] * 8}), anchor_weight=0.0, supervised_weight=1.0,
        calibration_batch_size=16,
    )  # fmt: skip
    logits, targets = by_hand(trainer.model, tokenizer)
    loss = trainer._calibration_term.loss(trainer.model, 0, 0, 1).detach()
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)


def test_the_supervised_loss(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, model=tiny_rwkv(tokenizer), train_dataset=ASKED)
    logits, targets = by_hand(trainer.model, tokenizer)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ASKED))])
    loss = trainer.compute_loss(trainer.model, inputs).detach()
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)


def test_the_evaluation(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, model=tiny_rwkv(tokenizer), eval_calibration_dataset=ASKED)
    assert isinstance(trainer._evaluator, CalibrationEvaluator)
    found = trainer._evaluator.predictions().probabilities
    alone = predict(trainer.model, tokenizer, ASKED, batch_size=1).probabilities
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_reference_distributions(tokenizer):
    model = tiny_rwkv(tokenizer).eval()
    kept = reference_distributions(model, tokenizer, ASKED, top_k=3, batch_size=8)
    logits, _ = by_hand(model, tokenizer)
    for row, expected in enumerate(logits.log_softmax(-1)):
        ids = kept.token_ids[row][kept.token_ids[row] >= 0].long()
        torch.testing.assert_close(kept.log_probabilities[row][: len(ids)], expected[ids], atol=1e-4, rtol=1e-4)


def test_the_option_head(tokenizer):
    whole = OptionHeadModel(tiny_rwkv(tokenizer), tokenizer, BalancedOptionHead(32, 4))
    together, alone = (whole.predict(ASKED, batch_size=size).hidden_states for size in (8, 1))
    np.testing.assert_allclose(together, alone, atol=1e-4)
