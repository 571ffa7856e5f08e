"""Align a model with GRPO and keep it calibrated: TRL's `grpo.py` with calibration questions."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareGRPOTrainer
    from .data import PROMPT_COLUMNS
    from .rewards import reward_functions
    from .training import make_trainer, train_and_save

    parsed = script_args, training_args, model_args, dataset_args
    trainer = make_trainer(
        CalibrationAwareGRPOTrainer, PROMPT_COLUMNS, *parsed, reward_funcs=reward_functions(script_args)
    )
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from ..trainers import CalibrationAwareGRPOConfig
    from .arguments import RewardedScriptArguments
    from .parser import script_parser

    return script_parser(RewardedScriptArguments, CalibrationAwareGRPOConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
