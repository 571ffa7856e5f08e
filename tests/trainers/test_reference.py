"""Where the anchor's reference comes from."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support import tiny_llama
from tests.trainers.runs import dpo, grpo, kto, lora, rloo, sft


@pytest.fixture
def saved_reference(tokenizer, tmp_path):
    tiny_llama(tokenizer, seed=7).save_pretrained(tmp_path / "reference")
    return str(tmp_path / "reference")


def test_a_reference_by_name_is_loaded_as_the_model_but_not_at_its_revision(
    tokenizer, saved_reference, tmp_path, monkeypatch
):
    asked_for = []
    original = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda name, **options: asked_for.append((name, options)) or original(name, **options),
    )
    given = {"revision": "aligned-v2", "attn_implementation": "eager"}
    folder = tmp_path / "model"
    tiny_llama(tokenizer).save_pretrained(folder)
    trainer = dpo(
        tokenizer,
        tmp_path / "out",
        model=str(folder),
        peft_config=lora(),
        model_init_kwargs=given,
        calibration_reference_model=saved_reference,
    )
    [(_, options)] = [call for call in asked_for if call[0] == saved_reference]
    assert "revision" not in options
    assert options["attn_implementation"] == "eager"
    assert trainer.args.model_init_kwargs["revision"] == "aligned-v2"

    # And it is that model's distribution which the anchor keeps to.
    term = trainer._calibration_term
    batch = term.collator(term.questions[:2])
    expected = tiny_llama(tokenizer, seed=7).eval()
    for row, item in enumerate(term.questions[:2]):
        with torch.no_grad():
            logits = expected(input_ids=torch.tensor([item.input_ids])).logits[0, -1]
        torch.testing.assert_close(term.reference_logits(batch)[row], logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("make", "options"), [(dpo, {}), (kto, {}), (grpo, {"beta": 0.1}), (rloo, {"beta": 0.1})])
def test_the_trainers_own_reference_is_the_anchors(make, options, tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path / "model")  # where the trainers load their reference from
    model.config._name_or_path = str(tmp_path / "model")
    trainer = make(tokenizer, tmp_path / "out", model=model, **options)
    assert trainer.ref_model is not None
    assert trainer._calibration_term.reference_logits.__self__.model is trainer.ref_model


def test_without_a_reference_the_starting_weights_are_kept(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, anchor_weight=2.0)
    term = trainer._calibration_term
    batch = term.collator(term.questions[:4])
    before = term.reference_logits(batch)
    trainer.train()
    assert torch.equal(term.reference_logits(batch), before)
    trainer.model.train()
    assert float(term.loss(trainer.model, 0, 0, 1)) > 1e-4  # the model has moved, its reference has not
