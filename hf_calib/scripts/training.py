"""Steps that the training scripts share."""

from __future__ import annotations

from typing import Any

from ..trainers.evaluator import calibration_table
from .data import calibration_questions, published_name, training_datasets


def model_options(model_args: Any, training_args: Any) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained` that a script's options ask for."""
    return {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }


def trainer_options(training_args: Any, model_args: Any) -> dict[str, Any]:
    """Return the keyword arguments of a trainer that loads its model by name."""
    from trl import get_peft_config, get_quantization_config

    given = training_args.model_init_kwargs or {}
    training_args.model_init_kwargs = model_options(model_args, training_args) | given
    return {
        "model": model_args.model_name_or_path,
        "args": training_args,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }


def question_options(script_args: Any) -> dict[str, Any]:
    """Return the keyword arguments of a calibration-aware trainer that name its questions and its reference."""
    return {
        **calibration_questions(script_args),
        "calibration_reference_model": script_args.calibration_reference_model,
    }


def make_trainer(
    trainer_class: Any,
    columns: Any,
    script_args: Any,
    training_args: Any,
    model_args: Any,
    dataset_args: Any,
    **options: Any,
) -> Any:
    """Return a trainer with a script's model, datasets and questions.

    Parameters
    ----------
    trainer_class : type
        A calibration-aware trainer that loads its model by name.
    columns : iterable of tuple of str
        The sets of columns that the dataset may have.
    script_args, training_args, model_args, dataset_args
        The parsed options.
    **options
        Further arguments of the trainer.
    """
    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, columns)
    return trainer_class(
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        **trainer_options(training_args, model_args),
        **question_options(script_args),
        **options,
    )


def train_and_save(trainer: Any, dataset_name: str | None = None) -> None:
    """Train, save, write the card, print the calibration before and after, and push if requested.

    Parameters
    ----------
    trainer : transformers.Trainer
    dataset_name : str, optional
        The dataset of the trainer's own loss; a local path is shortened to its last part.
    """
    args = trainer.args
    named = {} if dataset_name is None else {"dataset_name": published_name(dataset_name)}
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    trainer.save_model(args.output_dir)
    trainer.create_model_card(**named)
    trainer.accelerator.print(f"Model saved to {args.output_dir}.")
    reports = getattr(trainer, "calibration_reports", None)  # a reward model answers no questions
    if reports:
        trainer.accelerator.print(calibration_table(reports))
    if args.push_to_hub:
        trainer.push_to_hub(**named)
        trainer.accelerator.print(f"Model pushed to the Hub as {trainer.hub_model_id}.")

    # Finish the trackers and destroy the process group
    if hasattr(trainer, "end"):  # since transformers 5.18
        trainer.end()
