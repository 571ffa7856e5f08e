"""What the terms' own forward pass requires of distributed training and of memory-saving options."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn


def register_output_layer(model: nn.Module, accelerator: Accelerator) -> None:
    """Tell DeepSpeed ZeRO-3 that the model's forward may read its output layer's weight directly.

    TRL's trainers fuse the output layer with the loss, so they read its weight outside the layer. DeepSpeed detects
    this if the weight is not gathered at the first read. After a forward that does use the layer, as measuring before
    the first step does, the weight has been gathered beforehand, the read goes undetected, and the weight is gone
    when the backward pass needs it.
    """
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if plugin is None or plugin.zero_stage != 3:
        return
    from deepspeed.runtime.zero import register_external_parameter

    inner: Any = accelerator.unwrap_model(model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    layer = inner.get_output_embeddings()
    for module in (layer, getattr(layer, "base_layer", None)):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and hasattr(weight, "ds_id"):
            register_external_parameter(inner, weight)


def needs_separate_backward(accelerator: Accelerator, args: Any) -> bool:
    """Whether the terms' forward and the trainer's own need separate backward passes.

    With recomputed activations, DistributedDataParallel, DeepSpeed and FSDP expect each weight's gradient once per
    backward, and a weight's shards to be gathered for one recomputation at a time.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    args : transformers.TrainingArguments
    """
    return bool(args.gradient_checkpointing) and accelerator.distributed_type != DistributedType.NO


def separate_backward(
    accelerator: Accelerator, model: nn.Module, next_term: Callable[[], torch.Tensor | None]
) -> torch.Tensor | None:
    """Add the gradient of the terms to the weights, before a backward of the trainer's own that ends the step.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    model : torch.nn.Module
        As the trainer's `compute_loss` gets it, wrapped.
    next_term : callable
        Runs the terms' forward and returns the loss.

    Returns
    -------
    torch.Tensor of float32, shape (), without gradient, or None if there is no question.
    """
    kind = accelerator.distributed_type
    # Replicated gradients are averaged over the processes in the trainer's own backward. Sharded ones are averaged and
    # added up in each; FSDP's `no_sync` would keep whole gradients, and FSDP2's would end one around it.
    sharded = kind in (DistributedType.DEEPSPEED, DistributedType.FSDP)
    with nullcontext() if sharded else accelerator.no_sync(model):
        term = next_term()
        if term is None:
            return None
        if kind == DistributedType.DEEPSPEED:
            # The accelerator's backward would end the step, which clips, updates and resets the gradients.
            engine: Any = model
            engine.set_gradient_accumulation_boundary(is_boundary=False)
            engine.backward(term, scale_wrt_gas=False)
        else:
            accelerator.backward(term)
    return term.detach()
