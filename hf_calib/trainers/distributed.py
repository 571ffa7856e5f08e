"""What the terms' own forward pass requires of distributed training and of memory-saving options."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
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


def check_checkpointing(accelerator: Accelerator, args: Any, *, beside_own_forward: bool = True) -> None:
    """Raise for combinations that would fail at the first step with an unrelated message.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    args : transformers.TrainingArguments
    beside_own_forward : bool, default True
        Whether the trainer's own loss takes a forward with gradient too.

    Raises
    ------
    ValueError
        For reentrant activation checkpointing under DistributedDataParallel, and for any activation checkpointing
        under DeepSpeed ZeRO-3 if two forwards share a backward.
    """
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
    replicated = accelerator.distributed_type.value.startswith("MULTI_")
    if args.gradient_checkpointing and reentrant and replicated:
        raise ValueError(
            "gradient_checkpointing_kwargs: the calibration terms take a forward of their own, and "
            "DistributedDataParallel does not support two forwards and one backward with reentrant checkpointing; "
            'pass gradient_checkpointing_kwargs={"use_reentrant": False}'
        )
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if args.gradient_checkpointing and beside_own_forward and plugin is not None and plugin.zero_stage == 3:
        raise ValueError(
            "gradient_checkpointing: the calibration terms take a forward of their own, and DeepSpeed ZeRO-3 fails "
            "on one backward through two forwards whose activations are recomputed; set gradient_checkpointing=False, "
            "with a smaller per_device_train_batch_size and more gradient_accumulation_steps if memory is short"
        )


def check_separate_backward(accelerator: Accelerator, separate: bool) -> None:
    """Raise if the terms are to have a backward of their own and a step allows only one.

    Raises
    ------
    ValueError
        Under DeepSpeed and FSDP.
    """
    kind = accelerator.distributed_type.value
    if separate and kind in ("DEEPSPEED", "FSDP"):
        raise ValueError(
            f"separate_backward: it takes two backward passes per step, and {kind} allows one; set "
            "separate_backward=False, or run with plain data parallelism"
        )
