"""When the terms take a backward of their own, and what it asks of the libraries that wrap a model."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import trl
from accelerate.utils import DistributedType
from packaging.version import Version
from peft import get_peft_model

from hf_calib.trainers import RecalibrationConfig, RecalibrationTrainer, mixin
from hf_calib.trainers.distributed import needs_separate_backward, separate_backward
from tests.support import questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, grpo, kto, lora, rloo, sft

DISTRIBUTED = [kind for kind in DistributedType if kind != DistributedType.NO]


class Wrapped:
    """Stands for an accelerator and the model that it wrapped, and records what is asked of both."""

    def __init__(self, kind):
        self.distributed_type, self.asked = kind, []

    @contextmanager
    def no_sync(self, model):
        self.asked.append("no_sync")
        yield
        self.asked.append("synced")

    def set_gradient_accumulation_boundary(self, is_boundary):
        self.asked.append(("boundary", is_boundary))

    def backward(self, loss, scale_wrt_gas=True):
        self.asked.append(("backward", scale_wrt_gas))
        loss.backward()


@pytest.mark.parametrize("kind", DistributedType)
@pytest.mark.parametrize("recomputed", [False, True])
def test_it_is_needed_for_recomputed_activations_in_distributed_training(kind, recomputed):
    needed = needs_separate_backward(
        SimpleNamespace(distributed_type=kind), SimpleNamespace(gradient_checkpointing=recomputed)
    )
    assert needed == (recomputed and kind in DISTRIBUTED)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (DistributedType.MULTI_GPU, ["no_sync", "forward", ("backward", True), "synced"]),
        (DistributedType.MULTI_CPU, ["no_sync", "forward", ("backward", True), "synced"]),
        (DistributedType.FSDP, ["forward", ("backward", True)]),
        # Neither divided by the accumulation steps, nor the end of a step.
        (DistributedType.DEEPSPEED, ["forward", ("boundary", False), ("backward", False)]),
    ],
)
def test_what_it_asks_of_a_wrapper(kind, asked):
    wrapped = Wrapped(kind)
    weight = torch.tensor(2.0, requires_grad=True)

    def next_term():
        wrapped.asked.append("forward")
        return weight**2

    term = separate_backward(wrapped, wrapped, next_term)
    assert wrapped.asked == asked
    assert (float(term), term.requires_grad, float(weight.grad)) == (4.0, False, 4.0)
    wrapped.asked.clear()
    assert separate_backward(wrapped, wrapped, lambda: None) is None
    assert not any("backward" in step or "boundary" in step for step in wrapped.asked)


@pytest.mark.parametrize("make", [dpo, kto, grpo, rloo, sft])
def test_the_trainers_take_it_where_it_is_needed(make, tokenizer, tmp_path, monkeypatch):
    options = {"peft_config": lora(), "em_weight": 1.0}
    assert not make(tokenizer, tmp_path, **options)._separate_backward
    assert make(tokenizer, tmp_path, separate_backward=True, **options)._separate_backward
    monkeypatch.setattr(mixin, "needs_separate_backward", lambda accelerator, args: True)
    assert make(tokenizer, tmp_path, **options)._separate_backward


def test_a_repair_has_no_other_backward_to_part_from(tokenizer, tmp_path):
    model = get_peft_model(tiny_llama(tokenizer), lora())
    config = RecalibrationConfig(str(tmp_path), separate_backward=True, **training_arguments(max_steps=1))
    trainer = RecalibrationTrainer(model, config, questions(8), tiny_llama(tokenizer, seed=1), tokenizer)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    trainer.train()
    weights = dict(model.named_parameters())
    assert any(not torch.equal(value, weights[name]) for name, value in before.items())


def test_the_terms_get_logits_though_the_trainers_own_loss_is_fused(tokenizer, tmp_path):
    trainer = dpo(tokenizer, tmp_path, peft_config=lora(), max_steps=1)
    calls, logits = [], []

    def record(model, args, kwargs, output):
        calls.append(kwargs)
        if "logits_to_keep" in kwargs:
            logits.append(output.logits.shape[-1])

    trainer.model.register_forward_hook(record, with_kwargs=True)
    trainer.train()
    asked = [call for call in calls if "logits_to_keep" in call]
    assert asked
    # With labels, Liger's forward and TRL's fused head return no logits.
    assert not any("labels" in call or "fused_lm_head" in call for call in asked)
    assert set(logits) == {len(tokenizer)}
    if Version(trl.__version__) >= Version("1.15"):
        assert any(call.get("fused_lm_head") for call in calls)
