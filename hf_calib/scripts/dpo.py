"""Align a model with DPO and keep it calibrated: TRL's `dpo.py` with calibration questions."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareDPOTrainer
    from .data import PREFERENCE_COLUMNS
    from .training import make_trainer, train_and_save

    parsed = script_args, training_args, model_args, dataset_args
    trainer = make_trainer(CalibrationAwareDPOTrainer, PREFERENCE_COLUMNS, *parsed)
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
    from ..trainers import CalibrationAwareDPOConfig
    from .arguments import CalibrationScriptArguments
    from .parser import script_parser

    return script_parser(CalibrationScriptArguments, CalibrationAwareDPOConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
