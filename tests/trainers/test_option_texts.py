"""Training and evaluating on option texts: the numbers of `measure`, with the gradients of a computation by hand."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from trl import DPOTrainer

import hf_calib
from hf_calib import CalibrationAwareConfig, CalibrationAwareSFTConfig, CalibrationCallback, RecalibrationConfig
from hf_calib.calibrators.differentiable_ece import differentiable_ece
from hf_calib.confidence import Asking, LocalModel, NonFiniteLogitsError, confidence_method
from hf_calib.confidence.cached import exact_collator
from hf_calib.confidence.encoded import encode_texts
from hf_calib.confidence.forward import answer_scores
from hf_calib.confidence.packing import TextCollator
from hf_calib.regularizers import em_loss
from hf_calib.tasks import PromptFormat, Question, QuestionError
from hf_calib.trainers import recalibrate
from hf_calib.trainers.calibration_arguments import TRAINABLE
from hf_calib.trainers.reference import ReferenceUnavailableError
from hf_calib.trainers.reference_distributions import (
    ReferenceDistributions,
    ReferenceMismatchError,
    reference_distributions,
)
from tests.support import byte_level_tokenizer, pairs, questions, tiny_gpt2, tiny_llama, tiny_rwkv, training_arguments
from tests.trainers.runs import dpo, grpo, kto, lora, rloo, sft
from tests.trainers.test_identity import run

TEXTS = TRAINABLE[1:]
SEVERAL = Question("What do you see?", ("a green apple and a river", "stone", "the white window of the garden"), 2)
ASKED = [*questions(9, choices=(4, 2, 3)), SEVERAL]
LAYOUTS = {
    "packed": {"packs_up_to": 1000, "padding_side": "left"},
    "left": {"padding_side": "left"},
    "right": {"padding_side": "right"},
}


def encoded(tokenizer, asked=ASKED, name="text-tokens"):
    return encode_texts(asked, tokenizer, confidence_method(name), PromptFormat())


def measured(model, tokenizer, asked=ASKED, name="text-tokens"):
    """Return the options' scores as `measure` gets them."""
    backend = LocalModel(model, tokenizer)
    return confidence_method(name).predict(backend, asked, PromptFormat(), Asking(3)).option_log_probabilities


def tiny_gemma(tokenizer, window):
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=window, initializer_range=0.3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Gemma3ForCausalLM(config).eval()


def moved(model, seed=3):
    """Move adapters away from zero, where the policy is the reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def scores_by_hand(model, items):
    """One text at a time, without padding, with gradient."""
    rows = []
    for item in items:
        scores = []
        for option, divisor in zip(item.options, item.divisors, strict=True):
            n, ids = len(item.input_ids), torch.tensor([[*item.input_ids, *option]])
            logits = model(input_ids=ids).logits[0, n - 1 : -1].float().log_softmax(-1)
            scores.append(logits.gather(1, ids[0, n:, None]).sum() / divisor)
        rows.append(torch.stack(scores))
    return rows


# The numbers of `measure`


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tiny", [tiny_llama, tiny_gpt2])
def test_every_layout_gives_the_scores_of_measure(tiny, layout, name, tokenizer):
    model = tiny(tokenizer).eval()
    batch = TextCollator(tokenizer.pad_token_id, **LAYOUTS[layout])(encoded(tokenizer, name=name))
    assert (batch.attention_mask.dim() == 4) == (layout == "packed")
    with torch.no_grad():
        found = answer_scores(model, batch)
    expected = measured(model, tokenizer, name=name)
    assert np.array_equal(batch.option_mask.numpy(), np.isfinite(expected))
    np.testing.assert_allclose(found[batch.option_mask].numpy(), expected[np.isfinite(expected)], atol=2e-4)
    assert (found[~batch.option_mask] == -1e4).all()


def test_a_packed_prompt_is_computed_once(tokenizer):
    items = encoded(tokenizer)
    packed, plain = (TextCollator(0, **LAYOUTS[name])(items) for name in ("packed", "right"))
    assert len(packed.input_ids) == len(ASKED)
    assert len(plain.input_ids) == sum(len(question.choices) for question in ASKED)
    assert packed.input_ids.numel() < plain.input_ids.numel() / 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_texts_are_packed_where_the_model_says_the_same(attention, tokenizer):
    model = tiny_llama(tokenizer, attn_implementation=attention).eval()
    items = encoded(tokenizer)
    collator = exact_collator([model], items, TextCollator(tokenizer.pad_token_id), "cpu")
    assert collator.packs_up_to == max(item.length for item in items)
    # A longer question was not tried.
    longer = encoded(tokenizer, [Question("What colour is the " + "river " * 40 + "?", ("red", "green"), 0)])
    assert collator([*items, *longer]).attention_mask.dim() == 2


@pytest.mark.parametrize(("window", "packed"), [(4, False), (512, True)])
def test_sliding_windows_are_packed_only_within_the_window(window, packed, tokenizer):
    model, items = tiny_gemma(tokenizer, window), encoded(tokenizer)
    collator = exact_collator([model], items, TextCollator(tokenizer.pad_token_id), "cpu")
    assert (collator.packs_up_to > 0) == packed
    with torch.no_grad():
        batch = collator(items)
        found = answer_scores(model, batch)
    expected = measured(model, tokenizer)
    np.testing.assert_allclose(found[batch.option_mask].numpy(), expected[np.isfinite(expected)], atol=1e-3)


def test_a_recurrent_model_reads_one_text_a_row_before_the_padding(tokenizer):
    model, items = tiny_rwkv(tokenizer).eval(), encoded(tokenizer)
    collator = exact_collator([model], items, TextCollator(tokenizer.pad_token_id), "cpu")
    assert (collator.packs_up_to, collator.padding_side) == (0, "right")
    with torch.no_grad():
        batch = collator(items)
        found = answer_scores(model, batch)
    expected = measured(model, tokenizer)
    np.testing.assert_allclose(found[batch.option_mask].numpy(), expected[np.isfinite(expected)], atol=1e-3)


def test_an_adapters_virtual_tokens_stand_before_each_text(tokenizer):
    torch.manual_seed(0)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model, items = get_peft_model(tiny_llama(tokenizer), config).eval(), encoded(tokenizer)
    collator = exact_collator([model], items, TextCollator(tokenizer.pad_token_id), "cpu")
    assert (collator.packs_up_to, collator.padding_side) == (0, "right")
    with torch.no_grad():
        batch = collator(items)
        found = answer_scores(model, batch)
    expected = measured(model, tokenizer)
    np.testing.assert_allclose(found[batch.option_mask].numpy(), expected[np.isfinite(expected)], atol=1e-3)


def test_a_layout_is_exact_for_the_reference_too(tokenizer):
    items, plain = encoded(tokenizer), TextCollator(tokenizer.pad_token_id)
    models = [tiny_llama(tokenizer).eval(), tiny_rwkv(tokenizer).eval()]
    assert exact_collator(models, items, plain, "cpu").padding_side == "right"


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("make", [dpo, sft])
def test_evaluate_agrees_with_measure(make, name, tokenizer, tmp_path):
    new = questions(20, seed=5, choices=(2, 4))
    trainer = make(tokenizer, tmp_path, peft_config=lora(), calibration_confidence=name, eval_calibration_dataset=new)
    moved(trainer.model)
    metrics, report = trainer.evaluate(), hf_calib.measure((trainer.model, tokenizer), new, method=name).report
    for key in ("accuracy", "confidence", "ece", "nll", "brier"):
        assert metrics[f"eval_calibration/{key}"] == pytest.approx(report.measures[key].value, abs=1e-5)
    assert ("eval_calibration/option_mass" in metrics) == (name == "text")
    letters = hf_calib.measure((trainer.model, tokenizer), new).report
    assert metrics["eval_calibration/nll"] != pytest.approx(letters.measures["nll"].value, abs=1e-3)


def test_the_callback_agrees_with_measure(tokenizer, tmp_path):
    new = questions(20, seed=5, choices=(2, 4))
    callback = CalibrationCallback(new, confidence="text-tokens")
    trainer = DPOTrainer(
        model=tiny_llama(tokenizer), args=CalibrationAwareConfig(str(tmp_path), **training_arguments()),
        train_dataset=pairs(8), processing_class=tokenizer, peft_config=lora(), callbacks=[callback],
    )  # fmt: skip
    expected = hf_calib.measure((trainer.model, tokenizer), new, method="text-tokens").report
    assert callback.measure().measures["nll"].value == pytest.approx(expected.measures["nll"].value, abs=1e-5)
    with pytest.raises(ValueError, match=r"^confidence must be one of letters, text"):
        CalibrationCallback(new, confidence="stated")


# The terms


@pytest.mark.parametrize("name", TEXTS)
def test_the_terms_and_their_gradients_are_what_their_formulas_say(name, tokenizer, tmp_path):
    asked = [*ASKED, *questions(4, seed=9, answered=False)]
    weights = {"anchor_weight": 2.0, "supervised_weight": 3.0, "em_weight": 4.0, "dece_weight": 0.5}
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), calibration_dataset=asked, calibration_batch_size=14,
        em_dataset=questions(6, seed=4), calibration_confidence=name, **weights,
    )  # fmt: skip
    model, term = moved(trainer.model).eval(), trainer._calibration_term
    term.loss(model, 0, 0, 1).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    logs = term.pop_logs()
    assert term.collator.packs_up_to > 0

    model.zero_grad()
    items = encoded(tokenizer, asked, name)
    policy = [scores.log_softmax(0) for scores in scores_by_hand(model, items)]
    with torch.no_grad(), model.disable_adapter():
        reference = [scores.log_softmax(0) for scores in scores_by_hand(model, items)]
    answered = list(zip(policy, items, strict=True))[: len(ASKED)]
    scores = torch.stack([F.pad(p, (0, 4 - len(p)), value=-torch.inf) for p, _ in answered])
    values = {
        "anchor": torch.stack([(r.exp() * (r - p)).sum() for p, r in zip(policy, reference, strict=True)]).mean(),
        "supervised": -torch.stack([p[item.answer] for p, item in answered]).mean(),
        "em": em_loss(scores.softmax(-1), scores.isfinite(), term.targets).mean(),
        "dece": differentiable_ece(scores, torch.tensor([item.answer for _, item in answered])),
    }
    for key, value in values.items():
        assert logs[f"calibration/{key}"] == pytest.approx(value.item(), rel=1e-3, abs=1e-5), key
        assert value.item() > 1e-3
    sum(weights[f"{key}_weight"] * value for key, value in values.items()).backward()
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert by_hand.keys() == found.keys()
    for n, gradient in by_hand.items():
        torch.testing.assert_close(found[n], gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_gradient_of_a_computation_by_hand(layout, tokenizer):
    def gradients(loss_of):
        model = tiny_llama(tokenizer).eval()
        loss_of(model).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    items = encoded(tokenizer)
    batch = TextCollator(tokenizer.pad_token_id, **LAYOUTS[layout])(items)
    found = gradients(lambda model: F.cross_entropy(answer_scores(model, batch), batch.answers))
    expected = gradients(
        lambda model: (
            -torch.stack(
                [s.log_softmax(0)[item.answer] for s, item in zip(scores_by_hand(model, items), items, strict=True)]
            ).mean()
        )
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-6, rtol=2e-3)


@pytest.mark.parametrize("make", [dpo, kto, grpo, rloo])
def test_every_trainer_takes_texts(make, tokenizer, tmp_path):
    trainer = make(
        tokenizer, tmp_path, peft_config=lora(), calibration_confidence="text-tokens", logging_steps=1, max_steps=2,
        em_weight=1.0, eval_calibration_dataset=questions(6, seed=5),
    )  # fmt: skip
    trainer.train()
    logs = [log for log in trainer.state.log_history if "calibration/anchor" in log]
    assert logs[0]["calibration/anchor"] == pytest.approx(0, abs=1e-6)
    assert logs[1]["calibration/anchor"] > 1e-8
    assert set(trainer.calibration_reports) == {"before", "after"}


def test_an_adapter_that_acts_from_the_start_needs_a_reference(tokenizer, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="differs from the model that training starts from"):
        dpo(tokenizer, tmp_path, peft_config=lora(init_lora_weights=False), calibration_confidence="text-tokens")


def test_a_repair_pulls_the_texts_back_to_the_reference(tokenizer, tmp_path):
    model, reference, asked = tiny_llama(tokenizer), tiny_llama(tokenizer, seed=3), questions(16, answered=False)

    def distance():
        ours, theirs = (F.log_softmax(torch.tensor(measured(m, tokenizer, asked)), -1) for m in (model, reference))
        return float((theirs.exp() * (theirs - ours)).sum(-1).mean())

    before = distance()
    args = RecalibrationConfig(
        str(tmp_path), calibration_confidence="text-tokens", **training_arguments(max_steps=30, learning_rate=3e-2)
    )
    model = recalibrate(model, reference, asked, tokenizer=tokenizer, args=args).model.eval()
    assert distance() < before / 3


def test_without_terms_it_is_the_extended_trainer_to_the_last_bit(tokenizer, tmp_path):
    settings = training_arguments(max_steps=4, logging_steps=1)
    runs = []
    for number, (kind, options) in enumerate(
        [
            (DPOTrainer, {}),
            (hf_calib.CalibrationAwareTrainer, {}),
            (hf_calib.CalibrationAwareTrainer, {"calibration_dataset": questions(8)}),
        ]
    ):
        args = CalibrationAwareConfig(
            str(tmp_path / str(number)), anchor_weight=0.0, supervised_weight=0.0,
            calibration_confidence="text-tokens", **settings,
        )  # fmt: skip
        runs.append(run(kind, args, tmp_path / str(number), tokenizer, lora=True, data=pairs(32), **options))
    for losses, _, weights in runs[1:]:
        assert losses == runs[0][0]
        assert all(torch.equal(weights[name], runs[0][2][name]) for name in runs[0][2])


def test_a_model_whose_scores_are_not_finite_stops_the_run(tokenizer, tmp_path):
    model = tiny_llama(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    trainer = dpo(
        tokenizer, tmp_path, model=model, peft_config=lora(), calibration_confidence="text", anchor_weight=0.0
    )
    with pytest.raises(NonFiniteLogitsError, match="at step 0, the model gave logits that are not finite"):
        trainer.train()


# Fine-tuning on questions


@pytest.mark.parametrize("name", TEXTS)
def test_the_loss_of_sft_is_the_cross_entropy_over_the_options(name, tokenizer, tmp_path):
    trainer = sft(
        tokenizer, tmp_path, peft_config=lora(), train_dataset=ASKED, eval_dataset=ASKED, max_steps=1, logging_steps=1,
        per_device_train_batch_size=10, per_device_eval_batch_size=3, calibration_confidence=name, learning_rate=0.0,
    )  # fmt: skip
    moved(trainer.model)
    scores = scores_by_hand(trainer.model.eval(), encoded(tokenizer, name=name))
    losses = [-s.log_softmax(0)[q.answer] for s, q in zip(scores, ASKED, strict=True)]
    expected = float(torch.stack(losses).mean())
    accuracy = np.mean([int(s.argmax()) == q.answer for s, q in zip(scores, ASKED, strict=True)])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    # The last batch is a smaller one.
    assert trainer.state.log_history[-1]["eval_option_accuracy"] == pytest.approx(accuracy)
    assert trainer.evaluate(ASKED[:4])["eval_loss"] == pytest.approx(float(torch.stack(losses[:4]).mean()), rel=1e-4)
    trainer.train()
    log = next(log for log in trainer.state.log_history if "loss" in log)
    assert log["loss"] == pytest.approx(expected, rel=1e-4)
    assert log["option_accuracy"] == pytest.approx(accuracy)
    assert trainer.calibration_run.method == "Calibration-aware fine-tuning (CFT)"


def test_accumulation_changes_no_update_of_sft(tokenizer, tmp_path):
    def trained(folder, size, parts):
        trainer = sft(
            tokenizer, tmp_path / folder, peft_config=lora(), train_dataset=ASKED[:8], max_steps=3,
            per_device_train_batch_size=size, gradient_accumulation_steps=parts, calibration_confidence="text-tokens",
        )  # fmt: skip
        trainer.train()
        trainer.save_model()
        return load_file(tmp_path / folder / "adapter_model.safetensors")

    whole, parts = trained("a", 8, 1), trained("b", 2, 4)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-4, rtol=1e-3)


def test_texts_are_learned_and_an_sft_run_resumes(tokenizer, tmp_path):
    colours = ("red", "green", "blue", "yellow")
    asked = [Question(f"What colour is the {noun}?", colours, i % 4) for i, noun in enumerate(("apple", "river") * 8)]
    options = {
        "peft_config": lora(target_modules="all-linear"), "train_dataset": asked, "max_steps": 40,
        "save_strategy": "steps", "save_steps": 20, "logging_steps": 20, "calibration_confidence": "text-tokens",
        "anchor_weight": 0.1, "lr_scheduler_type": "constant",
    }  # fmt: skip
    trainer = sft(tokenizer, tmp_path / "a", **copy.deepcopy(options))
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    resumed = sft(tokenizer, tmp_path / "b", **copy.deepcopy(options))
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-20"))
    for ours, theirs in zip(resumed.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supervised_on": "question_and_answer"}, 'supervised_on="question_and_answer" needs .*"letters"'),
        ({"label_smoothing_factor": 0.1}, "calibration_confidence: .* label smoothing"),
        ({"loss_type": "dft"}, "calibration_confidence: .* another loss_type"),
        ({"calibration_confidence": "marginalized"}, "calibration_confidence must be one of letters, text"),
    ],
)
def test_what_does_not_go_with_texts_is_refused(options, message, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        sft(tokenizer, tmp_path, peft_config=lora(), **{"calibration_confidence": "text-tokens", **options})


def test_prompts_that_are_too_long_with_their_texts_are_refused(tokenizer, tmp_path):
    with pytest.raises(QuestionError, match="prompts with their answers are longer than 24 tokens"):
        sft(tokenizer, tmp_path, train_dataset=ASKED, calibration_confidence="text", calibration_max_length=24)


def test_text_rows_may_stand_beside_texts_of_another_kind(tokenizer, tmp_path):
    plain = pairs(6).rename_column("chosen", "completion").remove_columns("rejected")
    trainer = sft(
        tokenizer, tmp_path, peft_config=lora(), calibration_confidence="text-tokens", anchor_weight=0.0,
        eval_dataset={"asked": ASKED, "plain": plain},
    )  # fmt: skip
    expected = sft(tokenizer, tmp_path, peft_config=lora(), eval_dataset={"plain": plain})
    metrics = trainer.evaluate()
    assert metrics["eval_plain_loss"] == pytest.approx(expected.evaluate()["eval_plain_loss"], rel=1e-5)
    assert metrics["eval_asked_loss"] != metrics["eval_plain_loss"]


# References asked beforehand


def test_distributions_computed_beforehand_are_the_reference(tokenizer, tmp_path):
    teacher = tiny_llama(tokenizer, seed=7)
    kept = reference_distributions(teacher, tokenizer, ASKED, confidence="text-tokens", batch_size=3)
    kept.save(tmp_path / "kept.safetensors")
    options = {
        "peft_config": lora(), "calibration_dataset": ASKED, "logging_steps": 1, "supervised_weight": 0.0,
        "calibration_confidence": "text-tokens", "calibration_batch_size": 10,
    }  # fmt: skip
    found = []
    for reference in (teacher, kept, str(tmp_path / "kept.safetensors")):
        trainer = dpo(tokenizer, tmp_path / "out", calibration_reference_model=reference, **options)
        trainer.train()
        found.append([log["calibration/anchor"] for log in trainer.state.log_history if "calibration/anchor" in log])
    assert found[0][0] > 0.01
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == found[1]
    assert str(ReferenceDistributions.load(tmp_path / "kept.safetensors")).endswith("confidence read by text-tokens")


@pytest.mark.parametrize("other", ["letters", "text"])
def test_distributions_of_another_way_to_read_are_refused(other, tokenizer, tmp_path):
    kept = reference_distributions(tiny_llama(tokenizer, seed=7), tokenizer, ASKED, confidence=other)
    with pytest.raises(ReferenceMismatchError, match=rf"confidence read in another way \(theirs: {other}\)"):
        dpo(
            tokenizer, tmp_path, peft_config=lora(), calibration_dataset=ASKED, calibration_reference_model=kept,
            calibration_confidence="text-tokens",
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"^confidence must be one of letters, text"):
        reference_distributions(tiny_llama(tokenizer), tokenizer, ASKED, confidence="consistency")


def test_a_reference_with_another_tokenizer_needs_no_matching(tokenizer, tmp_path):
    theirs = byte_level_tokenizer(vocab_size=300)
    teacher = tiny_llama(theirs, seed=7)
    teacher.save_pretrained(tmp_path / "teacher")
    theirs.save_pretrained(tmp_path / "teacher")
    trainer = dpo(
        tokenizer, tmp_path / "out", peft_config=lora(), calibration_dataset=ASKED, max_steps=1, logging_steps=1,
        calibration_reference_model=str(tmp_path / "teacher"), calibration_confidence="text-tokens",
        calibration_batch_size=10,
    )  # fmt: skip
    policy, reference = (
        torch.tensor(measured(model, own)).log_softmax(-1)
        for model, own in ((trainer.model, tokenizer), (teacher, theirs))
    )
    expected = F.kl_div(policy.clamp(min=-1e4), reference.clamp(min=-1e4), log_target=True, reduction="batchmean")
    trainer.train()
    assert trainer.state.log_history[0]["calibration/anchor"] == pytest.approx(float(expected), rel=1e-3)


# What is said and kept


@pytest.mark.parametrize("name", ["letters", "text-tokens"])
def test_a_model_is_loaded_with_the_way_that_it_was_calibrated_with(name, tokenizer, tmp_path):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    new = questions(20, seed=5, choices=(2, 4))
    trainer = hf_calib.CalibrationAwareSFTTrainer(
        str(tmp_path / "base"),
        args=CalibrationAwareSFTConfig(
            str(tmp_path / "model"), calibration_confidence=name, **training_arguments(max_steps=2)
        ),
        train_dataset=questions(8, choices=(2, 4)),
        processing_class=tokenizer,
        peft_config=lora(),
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert json.loads((tmp_path / "model" / "hf_calib.json").read_text())["confidence"] == name
    loaded = hf_calib.load(tmp_path / "model")
    expected = hf_calib.measure((trainer.model, tokenizer), new, method=name).report.measures["nll"].value
    other = "text" if name == "letters" else "letters"
    for report in (loaded.report(new), hf_calib.measure(loaded, new).report):
        assert report.measures["nll"].value == pytest.approx(expected, abs=1e-5)
    assert hf_calib.measure(loaded, new, method=other).report.measures["nll"].value != pytest.approx(
        expected, abs=1e-3
    )
    answer = loaded.confidence(new[:2])[0]
    assert (answer.option_mass is None) == (name != "letters")
    assert sum(answer.probabilities) == pytest.approx(1)
    read_off = {"letters": "letters", "text-tokens": "texts, mean log-probability per token"}[name]
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"The confidence is read off the options' {read_off};" in card


def test_a_card_with_figures_says_how_they_were_read(tokenizer, tmp_path):
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), calibration_confidence="text", max_steps=1,
        eval_calibration_dataset=questions(20, seed=5),
    )  # fmt: skip
    trainer.train()
    trainer.create_model_card()
    assert "with confidence read off the options' texts: a calibrated model" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "calibration_report.json").read_text())["confidence"] == "text"
