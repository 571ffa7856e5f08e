"""
Restore the calibration of an aligned model by fine-tuning on multiple-choice questions (CFT, RCFT), or keep it while
fine-tuning on text: TRL's `sft.py` with calibration questions.

# CFT: the training data are the questions
```bash
python examples/sft.py \
    --model_name_or_path allenai/OLMo-2-1124-7B-DPO \
    --dataset_name allenai/openbookqa \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --learning_rate 5.0e-6 \
    --lr_scheduler_type cosine \
    --warmup_steps 0.1 \
    --num_train_epochs 5 \
    --output_dir OLMo-2-7B-CFT \
    --use_peft \
    --lora_r 128 \
    --lora_alpha 64 \
    --lora_dropout 0.05
```

# RCFT: the same with the calibration error as a regularizer
```bash
python examples/sft.py ... --em_weight 1
```

# Text, anchored to the model it starts from on questions that need no answers
```bash
python examples/sft.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name trl-lib/Capybara \
    --calibration_dataset questions.jsonl \
    --anchor_weight 5 \
    --learning_rate 2.0e-4 \
    --output_dir Qwen2-0.5B-SFT-calibrated \
    --use_peft
```
"""

import argparse


def main(script_args, training_args, model_args, dataset_args):
    """Train, save, report the calibration before and after, and push where that is asked for."""
    from trl import get_peft_config, get_quantization_config

    from hf_calib import CalibrationAwareSFTTrainer
    from hf_calib.trainers.evaluator import calibration_table
    from hf_calib.trainers.script_data import published_name, text_columns, training_datasets, training_questions

    model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    training_args.model_init_kwargs = model_init_kwargs | (training_args.model_init_kwargs or {})

    # Load the dataset
    # Multiple-choice questions, or text in one of TRL's formats
    datasets = None if dataset_args.datasets else training_questions(script_args, training_args)
    train_dataset, eval_dataset = datasets or training_datasets(
        script_args, training_args, dataset_args, text_columns(training_args.dataset_text_field)
    )

    # Initialize the trainer
    trainer = CalibrationAwareSFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
        calibration_dataset=script_args.calibration_dataset,
        eval_calibration_dataset=script_args.eval_calibration_dataset,
        em_dataset=script_args.em_dataset,
        calibration_reference_model=script_args.calibration_reference_model,
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

    from hf_calib import CalibrationAwareSFTConfig
    from hf_calib.trainers.script_arguments import CalibrationScriptArguments

    dataclass_types = (CalibrationScriptArguments, CalibrationAwareSFTConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("sft", help="Run the SFT training script", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    parser = make_parser()
    script_args, training_args, model_args, dataset_args = parser.parse_args_and_config()
    main(script_args, training_args, model_args, dataset_args)
