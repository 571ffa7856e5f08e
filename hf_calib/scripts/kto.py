"""Align a model with KTO on completions marked as wanted or unwanted, and keep it calibrated."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareKTOTrainer
    from .data import UNPAIRED_COLUMNS, training_datasets
    from .training import question_options, train_and_save, trainer_options

    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, UNPAIRED_COLUMNS)
    trainer = CalibrationAwareKTOTrainer(
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        **trainer_options(training_args, model_args),
        **question_options(script_args),
    )
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from trl import DatasetMixtureConfig, ModelConfig

    from ..trainers import CalibrationAwareKTOConfig
    from .arguments import CalibrationScriptArguments
    from .parser import ScriptParser

    return ScriptParser(
        CalibrationScriptArguments,
        CalibrationAwareKTOConfig,
        ModelConfig,
        DatasetMixtureConfig,
        description=__doc__,
        prog=prog,
    )


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
