"""A reference that was asked beforehand: what is kept of it, and what it is refused for."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_calib.confidence import NonFiniteLogitsError
from hf_calib.regularizers import anchor_divergence, coarse_anchor_divergence
from hf_calib.tasks import encode_questions
from hf_calib.trainers.reference import ReferenceUnavailableError
from hf_calib.trainers.reference_distributions import (
    ReferenceDistributions,
    ReferenceMismatchError,
    matched_distributions,
    reference_distributions,
)
from tests.support import byte_level_tokenizer, questions, tiny_llama
from tests.trainers.runs import dpo, lora

ASKED = questions(20, choices=(4, 3), answered=False)


def logits_of(model, items):
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([item.input_ids])).logits[0, -1] for item in items])


@pytest.mark.parametrize("top_k", [1, 20, 10_000])
def test_the_divergence_is_short_of_the_whole_by_what_is_said(top_k, tokenizer):
    teacher, policy = tiny_llama(tokenizer, seed=7).eval(), tiny_llama(tokenizer, seed=8).eval()
    kept = reference_distributions(teacher, tokenizer, ASKED, top_k=top_k, batch_size=7)
    items = encode_questions(ASKED, tokenizer).items
    reference, ours = logits_of(teacher, items).double(), logits_of(policy, items).double()
    found = kept.divergence(ours.float(), items)
    whole = anchor_divergence(ours.float(), reference.float())
    for row, item in enumerate(items):
        p, q = reference[row].softmax(-1), ours[row].softmax(-1)
        ids = kept.token_ids[row][kept.token_ids[row] >= 0].long()
        assert set(item.option_ids) <= set(ids.tolist())
        assert len(ids) == min(len(item.option_ids) + top_k, len(p))
        other = torch.ones(len(p), dtype=torch.bool)
        other[ids] = False
        assert float(kept.rest[row]) == pytest.approx(float(p[other].sum()), rel=1e-4, abs=1e-12)
        within = 0.0
        if other.any():
            rest, rest_q = p[other] / p[other].sum(), q[other] / q[other].sum()
            within = float((rest * (rest / rest_q).log()).sum())
            assert within <= float((rest / rest_q).log().max())
        shortfall = float(kept.rest[row]) * within
        assert float(found[row]) == pytest.approx(float(whole[row]) - shortfall, rel=1e-3, abs=1e-4)
    assert f"{len(items)} reference distributions" in str(kept)
    assert f"{float(kept.rest.max()):.2e} at most" in str(kept)


def test_rows_with_fewer_tokens_and_without_a_rest():
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids = torch.tensor([[0, 3, -1, -1, -1, -1], [5, 4, 3, 2, 1, 0]])
    p = torch.tensor([[0.5, 0.2, 0, 0, 0, 0], [0.1, 0.1, 0.1, 0.2, 0.2, 0.3]])
    found = coarse_anchor_divergence(logits, ids, p.log(), torch.tensor([0.3, 0.0]).log())
    q = logits.detach().softmax(-1)
    rest = 1 - q[0, 0] - q[0, 3]
    by_hand = 0.5 * (0.5 / q[0, 0]).log() + 0.2 * (0.2 / q[0, 3]).log() + 0.3 * (0.3 / rest).log()
    assert float(found[0]) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(found[1]) == pytest.approx(float((p[1] * (p[1] / q[1, ids[1]]).log()).sum()), rel=1e-5)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    # The gradient of a KL to a distribution that is known in full is q - p.
    torch.testing.assert_close(logits.grad[1], q[1] - p[1].flip(0), atol=1e-6, rtol=1e-5)


def test_training_with_all_tokens_kept_is_training_with_the_model(tokenizer, tmp_path):
    teacher = tiny_llama(tokenizer, seed=7)
    path = tmp_path / "reference.safetensors"
    reference_distributions(teacher, tokenizer, ASKED, top_k=10_000).save(path)
    logs = {}
    for name, reference in (("model", tiny_llama(tokenizer, seed=7)), ("file", str(path))):
        trainer = dpo(
            tokenizer, tmp_path / name, peft_config=lora(), calibration_dataset=ASKED, logging_steps=1,
            calibration_reference_model=reference,
        )  # fmt: skip
        trainer.train()
        logs[name] = [e["calibration/anchor"] for e in trainer.state.log_history if "calibration/anchor" in e]
    assert len(logs["file"]) == 3
    assert logs["file"] == pytest.approx(logs["model"], rel=1e-4)


def test_a_file_is_read_back_exactly(tokenizer, tmp_path):
    kept = reference_distributions(tiny_llama(tokenizer), tokenizer, ASKED, top_k=3)
    kept.save(tmp_path / "a.safetensors")
    again = ReferenceDistributions.load(tmp_path / "a.safetensors")
    assert again.keys == kept.keys
    for name in ("token_ids", "log_probabilities", "rest"):
        assert torch.equal(getattr(again, name), getattr(kept, name))
    save_file({"x": torch.zeros(1)}, str(tmp_path / "b.safetensors"))
    with pytest.raises(ReferenceMismatchError, match="does not hold reference distributions"):
        ReferenceDistributions.load(tmp_path / "b.safetensors")


def test_other_questions_are_refused(tokenizer, tmp_path):
    kept = reference_distributions(tiny_llama(tokenizer), tokenizer, ASKED[:15], top_k=3)
    with pytest.raises(ReferenceMismatchError, match=r"lack 5 of 20 questions .* row 15"):
        dpo(tokenizer, tmp_path, peft_config=lora(), calibration_dataset=ASKED, calibration_reference_model=kept)


def test_another_tokenizer_is_refused_unless_the_options_are_matched(tokenizer):
    other = byte_level_tokenizer(vocab_size=300)
    teacher = tiny_llama(other, seed=7).eval()
    with pytest.raises(ReferenceMismatchError, match="match_options=True"):
        reference_distributions(teacher, other, ASKED, student_tokenizer=tokenizer)
    kept = reference_distributions(teacher, other, ASKED, student_tokenizer=tokenizer, match_options=True)
    theirs, ours = encode_questions(ASKED, other).items, encode_questions(ASKED, tokenizer).items
    kept.require(ours)
    expected = logits_of(teacher, theirs).log_softmax(-1)
    for row, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        n = len(our.option_ids)
        assert kept.token_ids[row, :n].tolist() == list(our.option_ids)
        torch.testing.assert_close(
            kept.log_probabilities[row, :n], expected[row, list(their.option_ids)], atol=1e-5, rtol=1e-5
        )
        mass = float(kept.log_probabilities[row, :n].exp().sum() + kept.rest[row])
        assert mass == pytest.approx(1.0, abs=1e-5)


def saved_teacher(folder):
    """Save a model whose tokenizer has as many tokens as the others', two of them exchanged."""
    vocabulary = json.loads(byte_level_tokenizer(chat=True).backend_tokenizer.to_str())
    tokens = vocabulary["model"]["vocab"]
    tokens["ĠA"], tokens["ĠB"] = tokens["ĠB"], tokens["ĠA"]
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(vocabulary)), pad_token="<pad>", eos_token="<eos>"
    )
    teacher = tiny_llama(other, seed=7).eval()
    teacher.save_pretrained(folder)
    other.save_pretrained(folder)
    return teacher, other


def test_a_reference_given_by_name_is_asked_with_its_own_tokenizer(tokenizer, tmp_path, caplog):
    """Another tokenizer of the same vocabulary size, which comparing the sizes alone would let pass."""
    teacher, other = saved_teacher(tmp_path / "teacher")
    trainer = dpo(
        tokenizer, tmp_path / "out", peft_config=lora(), calibration_dataset=ASKED,
        calibration_reference_model=str(tmp_path / "teacher"),
    )  # fmt: skip
    assert "has another tokenizer" in caplog.text
    kept = trainer._calibration_term.reference_distributions
    expected = reference_distributions(teacher, other, ASKED, student_tokenizer=tokenizer, match_options=True)
    assert kept.keys == expected.keys
    assert torch.equal(kept.token_ids, expected.token_ids)
    torch.testing.assert_close(kept.log_probabilities, expected.log_probabilities, atol=1e-5, rtol=1e-5)
    trainer.train()


@pytest.mark.parametrize("how", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_with_sharded_weights_another_tokenizer_is_refused_with_a_way_that_works(how, tokenizer, tmp_path):
    teacher, other = saved_teacher(tmp_path / "teacher")
    trainer = dpo(tokenizer, tmp_path / "out", peft_config=lora(), calibration_dataset=ASKED)
    assert not getattr(trainer, how)
    setattr(trainer, how, True)
    with pytest.raises(
        ReferenceMismatchError,
        match=r"beforehand.*student_tokenizer=.*match_options=True.*calibration_reference_model",
    ):
        matched_distributions(trainer, str(tmp_path / "teacher"), ASKED, trainer.processing_class)
    # A file has no tokenizer of its own, so that it is never refused for one.
    file = tmp_path / "reference.safetensors"
    reference_distributions(teacher, other, ASKED, student_tokenizer=tokenizer, match_options=True).save(file)
    dpo(
        tokenizer, tmp_path / "out", peft_config=lora(), calibration_dataset=ASKED,
        calibration_reference_model=str(file),
    ).train()  # fmt: skip


def test_a_reference_whose_options_cannot_be_matched_is_refused(tokenizer, tmp_path):
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tiny_llama(words).save_pretrained(tmp_path / "teacher")
    words.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ReferenceMismatchError, match="cannot be matched"):
        dpo(
            tokenizer, tmp_path / "out", peft_config=lora(), calibration_dataset=ASKED,
            calibration_reference_model=str(tmp_path / "teacher"),
        )  # fmt: skip


@pytest.mark.parametrize("which", ["the trained model", "the reference"])
def test_a_reference_with_more_or_fewer_tokens_of_the_same_family(which, tokenizer, tmp_path):
    """As a padding token that alignment added, or an embedding that is padded to a round size."""
    folder, common = str(tmp_path / "teacher"), len(tokenizer)
    teacher = tiny_llama(tokenizer, seed=7)
    ours = byte_level_tokenizer()
    if which == "the reference":
        teacher.resize_token_embeddings(common + 3, mean_resizing=False)
    else:
        ours.add_tokens(["<more>"])
    teacher.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    options = {"peft_config": lora(), "calibration_reference_model": folder, "logging_steps": 1, "max_steps": 2}
    trainer = dpo(ours, tmp_path / "out", calibration_dataset=ASKED, **options)
    term = trainer._calibration_term
    assert term.reference_distributions is None
    found = term.reference_logits(term.collator(term.questions[:3]))
    expected = logits_of(teacher.eval(), term.questions[:3])[:, :common]
    torch.testing.assert_close(found[:, :common], expected, atol=1e-4, rtol=1e-4)
    assert found.shape == (3, len(ours))
    assert float(found.softmax(-1)[:, common:].sum()) == 0.0
    trainer.train()
    assert trainer.state.log_history[0]["calibration/anchor"] > 0
    if which == "the trained model":
        asked = [replace(question, question=f"<more> {question.question}") for question in ASKED]
        with pytest.raises(
            ReferenceUnavailableError, match=f"the token {common}, but the reference model has {common}"
        ):
            dpo(ours, tmp_path / "out", calibration_dataset=asked, **options).train()


def test_bad_input_is_named(tokenizer):
    model = tiny_llama(tokenizer)
    with pytest.raises(ValueError, match="top_k"):
        reference_distributions(model, tokenizer, ASKED, top_k=0)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError, match="row"):
        reference_distributions(model, tokenizer, ASKED)


def test_permuted_options_need_the_model_itself(tokenizer, tmp_path):
    kept = reference_distributions(tiny_llama(tokenizer, seed=7), tokenizer, ASKED)
    options = {"peft_config": lora(), "calibration_dataset": ASKED, "permute_options": True}
    with pytest.raises(ValueError, match="permute_options: reference distributions hold the options in the order"):
        dpo(tokenizer, tmp_path, calibration_reference_model=kept, **options)
    dpo(tokenizer, tmp_path, calibration_reference_model=tiny_llama(tokenizer, seed=7), **options)
