"""Align a model with DPO and keep it calibrated: TRL's `dpo.py` with calibration questions."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareDPOTrainer
    from .data import PREFERENCE_COLUMNS, training_datasets
    from .training import question_options, train_and_save, trainer_options

    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, PREFERENCE_COLUMNS)
    trainer = CalibrationAwareDPOTrainer(
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        **trainer_options(training_args, model_args),
        **question_options(script_args),
    )
    if script_args.ignore_bias_buffers:
        import torch

        # DistributedDataParallel cannot broadcast these.
        model: Any = trainer.model
        model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in model.named_buffers() if buffer.dtype == torch.bool
        ]
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from trl import DatasetMixtureConfig, ModelConfig

    from ..trainers import CalibrationAwareDPOConfig
    from .arguments import CalibrationScriptArguments
    from .parser import ScriptParser

    return ScriptParser(
        CalibrationScriptArguments,
        CalibrationAwareDPOConfig,
        ModelConfig,
        DatasetMixtureConfig,
        description=__doc__,
        prog=prog,
    )


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
