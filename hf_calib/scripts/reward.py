"""Train a reward model whose probability of the preference is calibrated: TRL's `reward.py`."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareRewardTrainer
    from .data import PREFERENCE_COLUMNS, training_datasets
    from .training import train_and_save, trainer_options

    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, PREFERENCE_COLUMNS)
    trainer = CalibrationAwareRewardTrainer(
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        **trainer_options(training_args, model_args),
    )
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from trl import ScriptArguments

    from ..trainers import CalibrationAwareRewardConfig
    from .parser import script_parser

    return script_parser(ScriptArguments, CalibrationAwareRewardConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
