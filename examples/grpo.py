"""
Align a model with GRPO and keep it calibrated: TRL's `grpo.py` with calibration questions.

```bash
python examples/grpo.py \
    --model_name_or_path Qwen/Qwen2-0.5B-Instruct \
    --dataset_name trl-lib/DeepMath-103K \
    --reward_funcs accuracy_reward \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --calibration_prompt chat \
    --supervised_weight 0 \
    --learning_rate 1.0e-5 \
    --output_dir Qwen2-0.5B-GRPO-calibrated \
    --use_peft
```

`--reward_funcs` takes names of TRL's own rewards and `package.module.function`; `--reward_model_name_or_path` a reward
model.
"""

import argparse


def main(script_args, training_args, model_args, dataset_args):
    """Train, save, report the calibration before and after, and push where that is asked for."""
    from trl import get_peft_config, get_quantization_config

    from hf_calib import CalibrationAwareGRPOTrainer
    from hf_calib.trainers.evaluator import calibration_table
    from hf_calib.trainers.script_data import PROMPT_COLUMNS, calibration_questions, published_name, training_datasets
    from hf_calib.trainers.script_rewards import reward_functions

    model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    training_args.model_init_kwargs = model_init_kwargs | (training_args.model_init_kwargs or {})

    # Load the dataset
    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, PROMPT_COLUMNS)

    # Initialize the trainer
    trainer = CalibrationAwareGRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=reward_functions(script_args),
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

    from hf_calib import CalibrationAwareGRPOConfig
    from hf_calib.trainers.script_arguments import RewardedScriptArguments

    dataclass_types = (RewardedScriptArguments, CalibrationAwareGRPOConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("grpo", help="Run the GRPO training script", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    parser = make_parser()
    script_args, training_args, model_args, dataset_args = parser.parse_args_and_config()
    main(script_args, training_args, model_args, dataset_args)
