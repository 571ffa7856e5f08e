"""
Align a model with KTO on completions marked as wanted or not, and keep it calibrated: TRL's `kto.py` with calibration
questions.

# LoRA, anchored to the model it starts from, without labels
```bash
python examples/kto.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name trl-lib/kto-mix-14k \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --supervised_weight 0 \
    --per_device_train_batch_size 16 \
    --num_train_epochs 1 \
    --learning_rate 5.0e-6 \
    --output_dir Qwen2-0.5B-KTO-calibrated \
    --use_peft \
    --lora_r 32 \
    --lora_alpha 16
```
"""

import argparse


def main(script_args, training_args, model_args, dataset_args):
    """Train, save, report the calibration before and after, and push where that is asked for."""
    from trl import get_peft_config, get_quantization_config

    from hf_calib import CalibrationAwareKTOTrainer
    from hf_calib.trainers.evaluator import calibration_table
    from hf_calib.trainers.script_data import (
        UNPAIRED_COLUMNS,
        calibration_questions,
        published_name,
        training_datasets,
    )

    model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    training_args.model_init_kwargs = model_init_kwargs | (training_args.model_init_kwargs or {})

    # Load the dataset
    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, UNPAIRED_COLUMNS)

    # Initialize the trainer
    trainer = CalibrationAwareKTOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
        calibration_reference_model=script_args.calibration_reference_model,
        **calibration_questions(script_args),
    )

    # Train the model
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    # Save it with the card and the prompt that it was calibrated with, and push to Hub
    trainer.save_model(training_args.output_dir)
    trainer.create_model_card(dataset_name=published_name(script_args.dataset_name))
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    if trainer.calibration_reports:
        trainer.accelerator.print(calibration_table(trainer.calibration_reports))
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=published_name(script_args.dataset_name))
        trainer.accelerator.print(f"Model pushed to the Hub as {trainer.hub_model_id}.")

    # Finish the trackers and destroy the process group
    if hasattr(trainer, "end"):  # since transformers 5.18
        trainer.end()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    """Return the parser of TRL's script, with the calibration arguments."""
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    from hf_calib import CalibrationAwareKTOConfig
    from hf_calib.trainers.script_arguments import CalibrationScriptArguments

    dataclass_types = (CalibrationScriptArguments, CalibrationAwareKTOConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("kto", help="Run the KTO training script", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    parser = make_parser()
    script_args, training_args, model_args, dataset_args = parser.parse_args_and_config()
    main(script_args, training_args, model_args, dataset_args)
