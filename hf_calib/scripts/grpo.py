"""Align a model with GRPO and keep it calibrated: TRL's `grpo.py` with calibration questions."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareGRPOTrainer
    from .data import PROMPT_COLUMNS, training_datasets
    from .rewards import reward_functions
    from .training import question_options, train_and_save, trainer_options

    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, PROMPT_COLUMNS)
    trainer = CalibrationAwareGRPOTrainer(
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        reward_funcs=reward_functions(script_args),
        **trainer_options(training_args, model_args),
        **question_options(script_args),
    )
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from trl import DatasetMixtureConfig, ModelConfig

    from ..trainers import CalibrationAwareGRPOConfig
    from .arguments import RewardedScriptArguments
    from .parser import ScriptParser

    return ScriptParser(
        RewardedScriptArguments,
        CalibrationAwareGRPOConfig,
        ModelConfig,
        DatasetMixtureConfig,
        description=__doc__,
        prog=prog,
    )


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
