"""Mixed precision, activation checkpointing and the side of padding leave the terms what they are."""

import copy

import pytest
import torch

from hf_calib.trainers.calibration_term import CalibrationTerm
from tests.support import on_disk, pairs, questions, tiny_gpt2, tiny_llama
from tests.trainers.runs import dpo, lora, sft


def first_gradients(trainer):
    """Train a step; return the gradients that its optimizer was given and the logs."""
    gradients = {}
    backward = trainer.accelerator.backward

    def spy(loss, **kwargs):
        backward(loss, **kwargs)
        gradients.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})

    trainer.accelerator.backward = spy
    trainer.train()
    return gradients, trainer.state.log_history[0]


@pytest.mark.parametrize("make", [dpo, sft])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full weights"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(make, adapter, reentrant, tokenizer, tmp_path):
    def gradients(**options):
        reference = {} if adapter else {"calibration_reference_model": tiny_llama(tokenizer, seed=3)}
        if make is dpo and not adapter:
            reference["ref_model"] = tiny_llama(tokenizer)
        return first_gradients(
            make(
                tokenizer, tmp_path, peft_config=lora() if adapter else None, max_steps=1, logging_steps=1,
                anchor_weight=1.0, em_weight=1.0, max_grad_norm=0.0, **reference, **options,
            )
        )  # fmt: skip

    plain, plain_logs = gradients()
    checkpointed, logs = gradients(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        assert torch.allclose(plain[name], checkpointed[name], atol=1e-6)
    assert logs["calibration/loss"] == pytest.approx(plain_logs["calibration/loss"], rel=1e-6)


@pytest.mark.parametrize("make", [dpo, sft])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_separate_backward_gives_the_same_update(make, accumulation, tokenizer, tmp_path):
    def update(separate):
        trainer = make(
            tokenizer, tmp_path, peft_config=lora(), max_steps=1, logging_steps=1, anchor_weight=1.0, em_weight=1.0,
            supervised_weight=1.0, max_grad_norm=0.0, gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=8 // accumulation, calibration_batch_size=6, separate_backward=separate,
        )  # fmt: skip
        return first_gradients(trainer)

    together, together_logs = update(False)
    apart, logs = update(True)
    assert together.keys() == apart.keys()
    for name in together:
        assert torch.allclose(together[name], apart[name], atol=1e-6)
    assert logs["loss"] == pytest.approx(together_logs["loss"], rel=1e-5)
    assert logs["calibration/loss"] == pytest.approx(together_logs["calibration/loss"], rel=1e-5)


def test_with_a_separate_backward_fewer_activations_are_held(tokenizer, tmp_path):
    def most_held(separate):
        trainer = dpo(
            tokenizer, tmp_path, peft_config=lora(), max_steps=1, per_device_train_batch_size=8,
            calibration_batch_size=8, separate_backward=separate,
        )  # fmt: skip
        held, most = {}, 0

        class Saved:
            def __init__(self, tensor):
                nonlocal most
                self.tensor = tensor
                held[id(self)] = tensor.untyped_storage().nbytes()
                most = max(most, sum(held.values()))

            def __del__(self):
                held.pop(id(self))

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            trainer.train()
        return most

    without = most_held(True)
    assert most_held(False) > 1.2 * without


@pytest.mark.parametrize("make", [dpo, sft])
def test_bfloat16_keeps_the_terms_in_float32(make, tokenizer, tmp_path, monkeypatch):
    losses = []
    loss = CalibrationTerm.loss

    def spy(*args):
        losses.append(loss(*args))
        return losses[-1]

    monkeypatch.setattr(CalibrationTerm, "loss", spy)

    def logs(**options):
        trainer = make(
            tokenizer, tmp_path, peft_config=lora(), max_steps=1, logging_steps=1, anchor_weight=1.0, em_weight=1.0,
            eval_calibration_dataset=questions(20, seed=5), **options,
        )  # fmt: skip
        metrics = trainer.evaluate()
        trainer.train()
        return trainer, next(entry for entry in trainer.state.log_history if "loss" in entry), metrics

    _, exact, exact_metrics = logs()
    trainer, rounded, metrics = logs(bf16=True)
    assert trainer.accelerator.mixed_precision == "bf16"
    assert losses[-1].dtype == torch.float32
    assert trainer._calibration_term.targets.counts.dtype == torch.float64
    assert trainer._calibration_term.targets.counts.sum() == trainer._calibration_term.arguments.em_batch_size
    for name in ("calibration/loss", "calibration/confidence"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.05)
        assert rounded[name] != exact[name]  # it was computed in the other format
    assert metrics["eval_calibration/nll"] == pytest.approx(exact_metrics["eval_calibration/nll"], rel=0.05)


@pytest.mark.parametrize("make", [dpo, pytest.param(sft, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("tiny", [tiny_llama, tiny_gpt2])
def test_the_side_of_padding_changes_nothing(make, tiny, tokenizer, tmp_path):
    def gradients(side):
        own = copy.deepcopy(tokenizer)
        own.padding_side = side
        trainer = make(
            own, tmp_path, model=tiny(own), peft_config=lora(target_modules="all-linear"), max_steps=1,
            logging_steps=1, anchor_weight=1.0, em_weight=1.0,
            eval_calibration_dataset=questions(9, seed=5, choices=(2, 4)),
        )  # fmt: skip
        metrics = trainer.evaluate()
        return {name: value for name, value in metrics.items() if "calibration" in name}, first_gradients(trainer)[0]

    left, right = gradients("left"), gradients("right")
    assert left[0] == pytest.approx(right[0], abs=1e-5)
    for name in left[1]:
        assert torch.allclose(left[1][name], right[1][name], atol=1e-4)


def test_tied_embeddings_and_dora(tokenizer, tmp_path):
    trainer = dpo(
        tokenizer, tmp_path, model=tiny_llama(tokenizer, tie_word_embeddings=True), logging_steps=1,
        peft_config=lora(use_dora=True), train_dataset=pairs(16), max_steps=2,
    )  # fmt: skip
    trainer.train()
    anchors = [entry["calibration/anchor"] for entry in trainer.state.log_history if "calibration/anchor" in entry]
    assert anchors[0] == pytest.approx(0.0, abs=1e-6)
    assert anchors[1] > 1e-7


def test_precomputed_reference_log_probabilities(tokenizer, tmp_path):
    """TRL then keeps no log-probabilities of the reference at hand; the anchor still asks the disabled adapter."""
    data = on_disk(pairs(64), tmp_path / "pairs")  # TRL 1.8 precomputes nothing for a dataset in memory
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), precompute_ref_log_probs=True, logging_steps=1, max_steps=2,
        train_dataset=data,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.log_history[1]["calibration/anchor"] > 0


def test_streamed_pairs(tokenizer, tmp_path):
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), train_dataset=pairs(64).to_iterable_dataset(), max_steps=2,
        logging_steps=1,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.log_history[1]["calibration/anchor"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [pytest.param(dpo, marks=pytest.mark.nightly), sft])
def test_a_compiled_model_trains_the_same(make, tokenizer, tmp_path, monkeypatch):
    # The arguments set these for the process, which outlives the test.
    for name in ("BACKEND", "MODE"):
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "")
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")

    def trained(**options):
        trainer = make(
            tokenizer, tmp_path, peft_config=lora(), max_steps=2, logging_steps=1, anchor_weight=1.0, em_weight=1.0,
            eval_calibration_dataset=questions(9, seed=5), **options,
        )  # fmt: skip
        trainer.train()
        return trainer, [entry for entry in trainer.state.log_history if "loss" in entry]

    _, plain = trained()
    # The backend that runs the captured graphs as they are: a compiler in earnest takes minutes on a processor.
    trainer, compiled = trained(torch_compile=True, torch_compile_backend="eager")
    assert isinstance(trainer.model_wrapped, torch._dynamo.eval_frame.OptimizedModule)
    for ours, theirs in zip(compiled, plain, strict=True):
        for name in ("loss", "calibration/loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
