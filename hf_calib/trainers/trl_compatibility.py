"""All uses of TRL beyond its documented interface, so that a new version can be checked in one place.

Present in TRL 1.8.0, 1.12.0 and 1.16.0; PPO only up to 1.12.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
import trl
from accelerate.utils import is_peft_model
from datasets import Dataset

_OWN_TAGS = ["hf_calib", "calibration"]


class TrainerUnavailableError(ImportError):
    """The installed TRL lacks a trainer; the message names the versions that have it."""


@contextmanager
def initial_adapter_weights(model: Any) -> Iterator[None]:
    """Let a model with an adapter behave as before training.

    A new adapter is disabled; one that was already trained is replaced by TRL's copy of its initial weights.
    """
    from trl.trainer.utils import use_adapter

    if not is_peft_model(model):
        yield
        return
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            yield
    finally:
        # PEFT makes all weights of an adapter trainable when it enables it again, also those that were frozen.
        for parameter, was_trained in trained:
            parameter.requires_grad_(was_trained)


def prepared_for_inference(model: Any, trainer: Any) -> Any:
    """Place a frozen model as TRL places its reference models: sharded if the trained model is."""
    from trl.models.utils import prepare_deepspeed, prepare_fsdp

    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(model, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(model, trainer.accelerator)
    return trainer.accelerator.prepare_model(model, evaluation_mode=True)


class TaggedTrainer:
    """Adds this package's tags for the Hub to those of the extended trainer."""

    _tag_names: list[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._tag_names = tag_names(cls)


def tag_names(trainer_class: type) -> list[str]:
    """Return a trainer's tags for the Hub: those of the extended trainer, and this package's."""
    declared = (vars(base)["_tag_names"] for base in trainer_class.__mro__ if "_tag_names" in vars(base))
    foreign = next((tags for tags in declared if tags != _OWN_TAGS), ())
    return list(dict.fromkeys([*foreign, *_OWN_TAGS]))


def takes_reference_model(trainer: Any) -> bool:
    """Whether a trainer has the argument `ref_model`."""
    return isinstance(trainer, trl.DPOTrainer | trl.KTOTrainer)


def dataset_kind(trainer: Any) -> str | None:
    """Return the kind of dataset that a TRL trainer reads, in `as_trl_dataset`'s terms, or None for other trainers."""
    kinds = {
        "DPOTrainer": "preference",
        "RewardTrainer": "preference",
        "KTOTrainer": "unpaired_preference",
        "SFTTrainer": "text",
        "GRPOTrainer": "prompt_only",
        "RLOOTrainer": "prompt_only",
    }
    return next((kind for name, kind in kinds.items() if isinstance(trainer, getattr(trl, name))), None)


def tokenized_pairs(trainer: Any) -> Dataset | None:
    """Return the token ids that a DPO trainer trains on, in the columns "prompt" and "chosen".

    Returns None for other trainers, streamed data, and images, which TRL processes batch by batch.
    """
    columns = {"prompt_ids": "prompt", "chosen_ids": "chosen"}
    rows = getattr(trainer, "train_dataset", None)
    if not isinstance(rows, Dataset) or not columns.keys() <= set(rows.column_names):
        return None
    return rows.select_columns(list(columns)).rename_columns(columns)


def trainer_name(trainer_class: type) -> str:
    """Return a trainer's method as TRL's model cards name it; for other trainers, the class's name."""
    return getattr(trainer_class, "_name", None) or trainer_class.__name__.removesuffix("Trainer") or "Trainer"


def log_supervised_metrics(
    trainer: Any, metrics: Mapping[str, float], n_tokens: torch.Tensor, *, n_labels: int = 1
) -> None:
    """Record metrics as TRL's SFT trainer does with its own loss, for one batch.

    Parameters
    ----------
    trainer : trl.SFTTrainer
    metrics : mapping from str to float
        Means over the labels of all processes.
    n_tokens : torch.Tensor of int64, shape ()
        Of this process's batch.
    n_labels : int, default 1
        Number of labels, the batch's weight in the logged mean; by default all batches weigh the same, as in TRL.
    """
    mode = "train" if trainer.model.training else "eval"
    for name, value in metrics.items():
        trainer._metrics[mode][name].extend([value] * n_labels)
    if mode == "train":
        trainer._total_train_tokens += trainer.accelerator.gather_for_metrics(n_tokens).sum().item()
    trainer._metrics[mode]["num_tokens"] = [trainer._total_train_tokens]


def has_ppo() -> bool:
    """Return whether the installed TRL has PPO."""
    return find_spec("trl.experimental.ppo") is not None


def ppo_classes() -> tuple[type, type]:
    """Return TRL's PPO trainer and its config.

    Raises
    ------
    TrainerUnavailableError
        If the installed TRL has no PPO.
    """
    if not has_ppo():
        raise TrainerUnavailableError(
            f"TRL {trl.__version__} has no PPO, which was removed in 1.13.0; install a version that has it, "
            "`pip install 'hf-calib[ppo]'` (trl<1.13), or use CalibrationAwareRLOOTrainer or "
            "CalibrationAwareGRPOTrainer, the policy-gradient trainers that TRL still has"
        )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    return PPOTrainer, PPOConfig


class UnavailablePPO:
    """Replaces TRL's PPO classes if they are missing, and says what to do when one is constructed."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise the `TrainerUnavailableError` of `ppo_classes`."""
        return ppo_classes()
