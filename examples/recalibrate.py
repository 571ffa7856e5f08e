"""
Repair the calibration of a model that was aligned elsewhere, without labels: keep its answers to multiple-choice
questions to those of the model it was aligned from.

```bash
python examples/recalibrate.py \
    --model_name_or_path allenai/OLMo-2-1124-7B-DPO \
    --calibration_reference_model allenai/OLMo-2-1124-7B \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --learning_rate 1.0e-4 \
    --num_train_epochs 3 \
    --output_dir OLMo-2-7B-DPO-recalibrated \
    --use_peft \
    --lora_r 16 \
    --lora_alpha 32
```

A large reference needs to be loaded once for any number of runs: `hf_calib.reference_distributions(...).save(
"reference.safetensors")`, then `--calibration_reference_model reference.safetensors`.
"""

import argparse


def main(script_args, training_args, model_args):
    """Repair, save, report the calibration before and after, and push where that is asked for."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import get_peft_config, get_quantization_config

    from hf_calib import RecalibrationTrainer
    from hf_calib.trainers.evaluator import calibration_table
    from hf_calib.trainers.script_data import calibration_questions

    for name in ("calibration_dataset", "calibration_reference_model"):
        if getattr(script_args, name) is None:
            raise ValueError(f"give --{name}: the repair keeps the model to a reference on questions")

    # Load the model
    options = {"revision": model_args.model_revision, "trust_remote_code": training_args.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, **options)
    model = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=get_quantization_config(model_args),
        **options,
    )
    peft_config = get_peft_config(model_args)
    if peft_config is not None:
        model = get_peft_model(model, peft_config)

    # Initialize the trainer
    questions = calibration_questions(script_args)
    trainer = RecalibrationTrainer(
        model,
        training_args,
        questions.pop("calibration_dataset"),
        script_args.calibration_reference_model,
        tokenizer,
        **questions,
    )

    # Train the model
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    # Save it with the card and the prompt that it was calibrated with, and push to Hub
    trainer.save_model(training_args.output_dir)
    trainer.create_model_card()
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    if trainer.calibration_reports:
        trainer.accelerator.print(calibration_table(trainer.calibration_reports))
    if training_args.push_to_hub:
        trainer.push_to_hub()
        trainer.accelerator.print(f"Model pushed to the Hub as {trainer.hub_model_id}.")

    # Finish the trackers and destroy the process group
    if hasattr(trainer, "end"):  # since transformers 5.18
        trainer.end()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    """Return the parser of the script."""
    from trl import ModelConfig, TrlParser

    from hf_calib import RecalibrationConfig
    from hf_calib.trainers.script_arguments import QuestionArguments

    dataclass_types = (QuestionArguments, RecalibrationConfig, ModelConfig)
    if subparsers is not None:
        return subparsers.add_parser("recalibrate", help="Repair calibration", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    parser = make_parser()
    script_args, training_args, model_args = parser.parse_args_and_config()
    main(script_args, training_args, model_args)
