"""Fine-tune on questions to restore an aligned model's calibration (CFT, RCFT), or on text while keeping it."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from ..trainers import CalibrationAwareSFTTrainer
    from .data import text_columns, training_datasets, training_questions
    from .training import question_options, train_and_save, trainer_options

    # Multiple-choice questions, or text in one of TRL's formats
    datasets = None if dataset_args.datasets else training_questions(script_args, training_args)
    train_dataset, eval_dataset = datasets or training_datasets(
        script_args, training_args, dataset_args, text_columns(training_args.dataset_text_field)
    )
    trainer = CalibrationAwareSFTTrainer(
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        **trainer_options(training_args, model_args),
        **question_options(script_args),
    )
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from ..trainers import CalibrationAwareSFTConfig
    from .arguments import CalibrationScriptArguments
    from .parser import script_parser

    return script_parser(CalibrationScriptArguments, CalibrationAwareSFTConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
