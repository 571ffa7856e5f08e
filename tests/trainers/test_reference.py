"""Where the anchor's reference comes from."""

import copy

import pytest
import torch
from peft import IA3Config, LoHaConfig, PromptTuningConfig, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hf_calib import reference_distributions
from hf_calib.trainers.reference import ReferenceUnavailableError
from tests.support import questions, tiny_llama
from tests.trainers.runs import dpo, grpo, kto, lora, rloo, sft


@pytest.fixture
def saved_reference(tokenizer, tmp_path):
    tiny_llama(tokenizer, seed=7).save_pretrained(tmp_path / "reference")
    return str(tmp_path / "reference")


@pytest.mark.parametrize(
    ("make", "options"), [(sft, {}), (sft, {"peft_config": lora()}), (dpo, {"peft_config": lora()})]
)
def test_the_trained_model_cannot_be_its_own_reference(make, options, tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    options = {**options, "anchor_weight": 1.0}
    make(tokenizer, tmp_path, model=copy.deepcopy(model), calibration_reference_model=model, **options)
    with pytest.raises(
        ReferenceUnavailableError, match=r"shares weights with the model .* or copy\.deepcopy\(model\)"
    ):
        make(tokenizer, tmp_path, model=model, calibration_reference_model=model, **options)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_copy_of_the_starting_weights_answers_as_the_model(dtype, tokenizer, tmp_path):
    tiny_llama(tokenizer).to(dtype).save_pretrained(tmp_path / "model")
    # Keeps the frequencies of the rotary embeddings in float32.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    model.lm_head.float()
    trainer = sft(tokenizer, tmp_path / "out", model=model, anchor_weight=2.0)
    copied = trainer._calibration_term.reference_logits.__self__.model
    assert copied.model.rotary_emb.inv_freq.dtype == torch.float32
    for ours, theirs in zip(model.state_dict().values(), copied.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.data_ptr() != theirs.data_ptr()
    ids = torch.randint(5, 200, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            *(own.model(input_ids=ids).last_hidden_state for own in (model, copied)), rtol=0, atol=0
        )


@pytest.mark.parametrize(("make", "options"), [(sft, {}), (dpo, {}), (grpo, {})])
def test_weights_that_were_frozen_are_not_trained(make, options, tokenizer, tmp_path):
    model = get_peft_model(tiny_llama(tokenizer), lora(target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = make(tokenizer, tmp_path, model=model, anchor_weight=2.0, max_steps=2, learning_rate=0.1, **options)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == {name for name in before if "lora_B" in name}


ADAPTERS = {
    **{str(start): lora(init_lora_weights=start) for start in (True, "gaussian", "orthogonal", "eva")},
    "dora": lora(use_dora=True),
    "rslora": lora(use_rslora=True),
    "token indices": lora(trainable_token_indices=[5, 6]),
    "whole modules": lora(modules_to_save=["lm_head", "embed_tokens"]),
    "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4),
    "vera": VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4),
}


def divergence_at_start(trainer):
    """Train one step at the rate 0, and return the anchor's divergence."""
    trainer.train()
    return next(entry["calibration/anchor"] for entry in trainer.state.log_history if "calibration/anchor" in entry)


STILL = {"learning_rate": 0.0, "max_steps": 1, "logging_steps": 1}


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_anchor_is_zero_where_an_adapter_starts_at_zero(name, tokenizer, tmp_path):
    trainer = dpo(tokenizer, tmp_path, peft_config=ADAPTERS[name], **STILL)
    assert abs(divergence_at_start(trainer)) < 1e-5


CHANGING = ["pissa", "pissa_niter_4", "olora"]


@pytest.mark.parametrize("start", CHANGING)
@pytest.mark.parametrize("make", [dpo, kto])
def test_an_adapter_that_takes_base_weights_needs_a_reference_model(make, start, tokenizer, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match=rf"init_lora_weights='{start}' moves .* pass ref_model="):
        make(tokenizer, tmp_path, peft_config=lora(init_lora_weights=start))
    # The trainer's own loss would still disable the adapter.
    with pytest.raises(ReferenceUnavailableError, match="pass ref_model="):
        make(
            tokenizer, tmp_path, peft_config=lora(init_lora_weights=start),
            calibration_reference_model=tiny_llama(tokenizer),
        )  # fmt: skip
    # TRL's copy of such an adapter takes the base weights a second time.
    with pytest.raises(ReferenceUnavailableError, match="pass ref_model="):
        make(tokenizer, tmp_path, model=get_peft_model(tiny_llama(tokenizer), lora(init_lora_weights=start)))
    trainer = make(
        tokenizer, tmp_path, peft_config=lora(init_lora_weights=start), ref_model=tiny_llama(tokenizer), **STILL
    )
    assert abs(divergence_at_start(trainer)) < 1e-5


@pytest.mark.parametrize("start", CHANGING)
def test_without_a_loss_of_its_own_the_anchors_reference_is_enough(start, tokenizer, tmp_path):
    options = {"anchor_weight": 1.0, "peft_config": lora(init_lora_weights=start)}
    with pytest.raises(ReferenceUnavailableError, match="pass calibration_reference_model= the model that training"):
        sft(tokenizer, tmp_path, **options)
    trainer = sft(tokenizer, tmp_path, calibration_reference_model=tiny_llama(tokenizer), **options, **STILL)
    assert abs(divergence_at_start(trainer)) < 1e-5
    options = {"peft_config": lora(init_lora_weights=start), "calibration_reference_model": tiny_llama(tokenizer)}
    with pytest.raises(ReferenceUnavailableError, match="set beta=0, since the trainer's own reference"):
        grpo(tokenizer, tmp_path, beta=0.1, **options)
    assert abs(divergence_at_start(grpo(tokenizer, tmp_path, beta=0.0, **options, **STILL))) < 1e-5


@pytest.mark.parametrize(
    "config",
    [lora(init_lora_weights=False), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)],
)
def test_an_adapter_that_acts_from_the_start_needs_a_reference(config, tokenizer, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match=r"differs from the model that training starts from \(KL"):
        dpo(tokenizer, tmp_path, peft_config=config)
    dpo(tokenizer, tmp_path, peft_config=config, calibration_reference_model=tiny_llama(tokenizer))


def test_an_adapter_that_was_trained_needs_a_choice_where_trl_keeps_no_copy(tokenizer, tmp_path):
    def trained():
        torch.manual_seed(3)
        return get_peft_model(tiny_llama(tokenizer), lora(init_lora_weights=False))

    with pytest.raises(ReferenceUnavailableError, match=r"hf_calib\.reference_distributions\(model, tokenizer, quest"):
        sft(tokenizer, tmp_path, model=trained(), anchor_weight=1.0)
    asked = reference_distributions(trained(), tokenizer, questions(40))
    trainer = sft(
        tokenizer, tmp_path, model=trained(), anchor_weight=1.0, calibration_reference_model=asked, **STILL
    )  # fmt: skip
    assert abs(divergence_at_start(trainer)) < 1e-5
    assert abs(divergence_at_start(dpo(tokenizer, tmp_path, model=trained(), **STILL))) < 1e-5  # TRL keeps a copy
