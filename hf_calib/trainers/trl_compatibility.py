"""All that is used of TRL beside its documented interface, so that a new version is checked in one place.

Found in TRL 1.8.0, 1.12.0 and 1.16.0; PPO only up to 1.12.0.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import trl
from accelerate.utils import is_peft_model


class TrainerUnavailableError(ImportError):
    """The installed TRL does not have a trainer; the message says which does."""


def initial_adapter_weights(model: Any) -> AbstractContextManager:
    """Return a context in which an adapter's model is as it was before training.

    A new adapter is disabled; one that was trained before is replaced by the copy that TRL keeps of it.
    """
    from trl.trainer.utils import use_adapter

    if not is_peft_model(model):
        return nullcontext()
    return use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None)


def prepared_for_inference(model: Any, trainer: Any) -> Any:
    """Place a frozen model as TRL places its reference models: sharded where the trained one is."""
    from trl.models.utils import prepare_deepspeed, prepare_fsdp

    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(model, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(model, trainer.accelerator)
    return trainer.accelerator.prepare_model(model, evaluation_mode=True)


def tag_names(trainer_class: type) -> list[str]:
    """Return a trainer's tags for the Hub with this package's."""
    return [*getattr(trainer_class, "_tag_names", ()), "hf_calib", "calibration"]


def takes_reference_model(trainer: Any) -> bool:
    """Whether a trainer has the argument `ref_model`."""
    return isinstance(trainer, trl.DPOTrainer | trl.KTOTrainer)


def dataset_kind(trainer: Any) -> str | None:
    """Return the kind of dataset that a trainer of TRL reads, as `as_trl_dataset` calls it, or None for others."""
    kinds = {
        "DPOTrainer": "preference",
        "RewardTrainer": "preference",
        "KTOTrainer": "unpaired_preference",
        "SFTTrainer": "text",
        "GRPOTrainer": "prompt_only",
        "RLOOTrainer": "prompt_only",
    }
    return next((kind for name, kind in kinds.items() if isinstance(trainer, getattr(trl, name))), None)


def trainer_name(trainer_class: type) -> str:
    """Return what TRL calls a trainer's method in model cards; of a foreign trainer the name of its class."""
    return getattr(trainer_class, "_name", None) or trainer_class.__name__.removesuffix("Trainer") or "Trainer"


def has_ppo() -> bool:
    """Whether the installed TRL has PPO."""
    return find_spec("trl.experimental.ppo") is not None


def ppo_classes() -> tuple[type, type]:
    """Return TRL's PPO trainer and its config.

    Raises
    ------
    TrainerUnavailableError
        If the installed TRL has none.
    """
    if not has_ppo():
        raise TrainerUnavailableError(
            f"TRL {trl.__version__} has no PPO: 1.13.0 removed it. Either install the last version that has it, "
            "`pip install 'hf-calib[ppo]'` (trl<1.13), or use CalibrationAwareRLOOTrainer or "
            "CalibrationAwareGRPOTrainer, the policy-gradient trainers that TRL keeps"
        )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    return PPOTrainer, PPOConfig


class UnavailablePPO:
    """Stands where TRL's PPO classes would, and says what to do when it is made."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise the `TrainerUnavailableError` of `ppo_classes`."""
        return ppo_classes()
