"""
Align a model with PPO and keep it calibrated, where TRL has PPO (`pip install 'hf-calib[ppo]'`, trl<1.13).

```bash
python examples/ppo.py \
    --model_name_or_path EleutherAI/pythia-1b-deduped \
    --reward_model_path my-reward-model \
    --dataset_name prompts.jsonl \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --supervised_weight 0 \
    --learning_rate 3e-6 \
    --total_episodes 10000 \
    --output_dir pythia-1b-PPO-calibrated \
    --use_peft
```

The reward and value models are sequence classifiers with one label; the value model starts from the reward model.
"""

import argparse


def main(script_args, training_args, model_args, dataset_args):
    """Train, save, report the calibration before and after, and push where that is asked for."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import get_peft_config, get_quantization_config

    from hf_calib import CalibrationAwarePPOTrainer
    from hf_calib.trainers.evaluator import calibration_table
    from hf_calib.trainers.script_data import PROMPT_COLUMNS, calibration_questions, published_name, training_datasets
    from hf_calib.trainers.script_rewards import tokenized_prompts

    options = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        "quantization_config": get_quantization_config(model_args),
    }
    name = model_args.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(
        name,
        padding_side="left",
        trust_remote_code=training_args.trust_remote_code,
        revision=model_args.model_revision,
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    scores = {"num_labels": 1, "trust_remote_code": training_args.trust_remote_code, "dtype": model_args.dtype}
    value_model, reward_model = (
        AutoModelForSequenceClassification.from_pretrained(training_args.reward_model_path, **scores) for _ in range(2)
    )
    peft_config = get_peft_config(model_args)
    policy = AutoModelForCausalLM.from_pretrained(name, **options)
    reference = None if peft_config is not None else AutoModelForCausalLM.from_pretrained(name, **options)

    # Load the dataset
    # TRL's loop goes through an evaluation set; without one it takes the training prompts
    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, PROMPT_COLUMNS)
    train_prompts = tokenized_prompts(train_dataset, tokenizer)
    eval_prompts = train_prompts if eval_dataset is None else tokenized_prompts(eval_dataset, tokenizer)

    # Initialize the trainer
    trainer = CalibrationAwarePPOTrainer(
        args=training_args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=train_prompts,
        eval_dataset=eval_prompts,
        peft_config=peft_config,
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

    from hf_calib import CalibrationAwarePPOConfig
    from hf_calib.trainers.script_arguments import CalibrationScriptArguments

    dataclass_types = (CalibrationScriptArguments, CalibrationAwarePPOConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("ppo", help="Run the PPO training script", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    parser = make_parser()
    script_args, training_args, model_args, dataset_args = parser.parse_args_and_config()
    main(script_args, training_args, model_args, dataset_args)
