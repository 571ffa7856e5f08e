"""The mean of a run's last weights as the final model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .interruption import last_complete_checkpoint

logger = logging.get_logger(__name__)

FILE = "weight_average.safetensors"


class WeightAveragingCallback(TrainerCallback):
    """Averages the trained weights over the last steps, and puts the mean into the model when training ends.

    TRL's `BEMACallback` averages full weights only, and saves the mean separately instead of as the model.

    Parameters
    ----------
    share : float
        Share of the run's optimizer steps, at its end, to average over, in (0, 1].

    References
    ----------
    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.resumed_from: Path | None = None
        self._weights: dict[str, torch.Tensor] = {}
        self._means: dict[str, torch.Tensor] = {}
        self._count = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Find the trained weights, and restore the mean of a resumed run."""
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._means, self._count = {}, 0
        if state.global_step >= self._first(state):
            self._load(state.global_step)

    def _first(self, state: Any) -> int:
        # Rounded, since 1 - 0.9 is less than 0.1. A run of one step averages over that step.
        return min(state.max_steps, math.floor(round(state.max_steps * (1 - self.share), 6)) + 1)

    def on_step_end(self, args, state, control, **kwargs):
        """Add the step's weights to the mean, if it is one of the last steps."""
        if state.global_step < self._first(state):
            return
        self._count += 1
        with torch.no_grad():
            for name, weight in self._weights.items():
                if name not in self._means:
                    self._means[name] = weight.detach().float().clone()
                else:
                    self._means[name].lerp_(weight.detach().float(), 1 / self._count)

    def on_save(self, args, state, control, **kwargs):
        """Put the mean so far into the checkpoint."""
        if self._count and state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            means = {name: mean.cpu().contiguous() for name, mean in self._means.items()}
            save_file(means, folder / FILE, metadata={"count": str(self._count)})

    def _load(self, step: int) -> None:
        path = None if self.resumed_from is None else self.resumed_from / FILE
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"average_weights: the run was averaging its weights at step {step}, but the checkpoint has no "
                f"{FILE}; resume from an earlier checkpoint"
            )
        with safe_open(path, framework="pt") as file:
            self._count = int(file.metadata()["count"])
            self._means = {name: file.get_tensor(name).to(weight.device) for name, weight in self._weights.items()}

    def on_train_end(self, args, state, control, **kwargs):
        """Put the mean into the model."""
        if not self._count:
            logger.warning("training ended before the steps to average over; the model has the last step's weights")
        with torch.no_grad():
            for name, mean in self._means.items():
                self._weights[name].copy_(mean)


def check_averaging(accelerator: Accelerator, args: Any) -> None:
    """Raise if the weights are sharded, or if the best step is to be loaded.

    Raises
    ------
    ValueError
        Under DeepSpeed ZeRO-3 and FSDP, and with `load_best_model_at_end`.
    """
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if (plugin is not None and plugin.zero_stage == 3) or getattr(accelerator.state, "fsdp_plugin", None) is not None:
        raise ValueError(
            "average_weights: it needs the full weights on every process; use DeepSpeed ZeRO-2 or plain data "
            "parallelism, or set average_weights=0"
        )
    if args.load_best_model_at_end:
        raise ValueError(
            "average_weights: load_best_model_at_end keeps one step's weights, average_weights the mean of many; "
            "set only one of them"
        )


def resumed_folder(resume: Any, output_dir: str) -> Path | None:
    """Return the checkpoint that `Trainer.train` resumes from, given its argument; None if it does not resume."""
    if resume is None or resume is False:
        return None
    return Path(last_complete_checkpoint(output_dir) if resume is True else resume)
