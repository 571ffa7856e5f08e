"""What the calibration terms' own forward needs of a step's backward."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator


def check_checkpointing(accelerator: Accelerator, args: Any, *, beside_own_forward: bool = True) -> None:
    """Refuse what fails at the first step, with a message that would not name the reason.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    args : transformers.TrainingArguments
    beside_own_forward : bool, default True
        Whether the trainer's own loss takes a forward with gradient too.

    Raises
    ------
    ValueError
        For reentrant activation checkpointing under DistributedDataParallel, and for any under DeepSpeed ZeRO-3
        where two forwards share a backward.
    """
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
    replicated = accelerator.distributed_type.value.startswith("MULTI_")
    if args.gradient_checkpointing and reentrant and replicated:
        raise ValueError(
            "the calibration terms take a forward of their own, and DistributedDataParallel cannot have two forwards "
            "and one backward with reentrant activation checkpointing; pass "
            'gradient_checkpointing_kwargs={"use_reentrant": False}'
        )
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if args.gradient_checkpointing and beside_own_forward and plugin is not None and plugin.zero_stage == 3:
        raise ValueError(
            "the calibration terms take a forward of their own, and DeepSpeed ZeRO-3 does not get through one "
            "backward of two forwards whose activations are recomputed (an assertion about its gradients' buckets "
            "fails); set gradient_checkpointing=False, with a smaller per_device_train_batch_size and more "
            "gradient_accumulation_steps if memory is short"
        )


def check_separate_backward(accelerator: Accelerator, separate: bool) -> None:
    """Refuse a second backward where a step has one.

    Raises
    ------
    ValueError
        Under DeepSpeed and FSDP.
    """
    kind = accelerator.distributed_type.value
    if separate and kind in ("DEEPSPEED", "FSDP"):
        raise ValueError(
            f"separate_backward takes two backwards a step, and {kind} has one; set it to False, or run with plain "
            "data parallelism"
        )
