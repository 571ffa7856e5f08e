"""The training arguments that the lab's alignment runs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .presets import AlignmentSettings

if TYPE_CHECKING:
    from peft import LoraConfig


def alignment_arguments(
    settings: AlignmentSettings, output_dir: str | Path, seed: int = 0, *, progress: bool = True
) -> dict[str, Any]:
    """Return the arguments of a `trl.DPOConfig`, or of a config derived from it, that suit a model of the lab's size.

    Parameters
    ----------
    settings
        How to align.
    output_dir
        Where the trainer may write.
    seed
        Seed of the pairs' order. The initial weights of adapters need a seed of their own.
    progress
        Whether to show a progress bar.
    """
    from transformers import TrainingArguments

    # transformers renamed it, and warns about the old name, which TRL sets by default, unless the new one is given.
    renamed = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    return {
        "output_dir": str(output_dir),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "beta": settings.beta,
        "warmup_steps": 0.1,
        "seed": seed,
        "use_cpu": True,
        # With a model this small, recomputing activations or halving their precision takes time and saves nothing.
        "bf16": False,
        "activation_checkpointing" if renamed else "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 50,
        "report_to": "none",
        "disable_tqdm": not progress,
    }


def adapter_config(rank: int) -> LoraConfig | None:
    """Return LoRA adapters of a rank on all linear layers, without dropout; None for rank 0, full weights."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
