"""`hf-calib dpo` and the other commands that train."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

TRAINING = {
    "dpo": "align a model with DPO and keep it calibrated",
    "kto": "align a model with KTO and keep it calibrated",
    "grpo": "align a model with GRPO and keep it calibrated",
    "rloo": "align a model with RLOO and keep it calibrated",
    "ppo": "align a model with PPO and keep it calibrated (trl<1.13)",
    "sft": "fine-tune on questions or text: CFT, RCFT",
    "reward": "train a reward model with calibrated preferences",
    "recalibrate": "repair a model that was aligned elsewhere, without labels",
}


def add_training_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the commands' names; their options belong to TRL's parsers, which take seconds to import."""
    for name, help in TRAINING.items():
        commands.add_parser(name, help=help, add_help=False)


def train(command: str, arguments: Sequence[str]) -> None:
    """Run a training command.

    Raises
    ------
    ValueError
        If an option is wrong, or the installed TRL lacks the trainer.
    """
    print("Loading PyTorch and TRL", file=sys.stderr, flush=True)
    from ..scripts.launch import launch
    from ..trainers.trl_compatibility import TrainerUnavailableError

    try:
        launch(command, arguments)
    except TrainerUnavailableError as error:
        raise ValueError(str(error)) from error
