"""Align a model with PPO and keep it calibrated; needs `pip install 'hf-calib[ppo]'` (trl<1.13)."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any, dataset_args: Any) -> None:
    """Train, save, report the calibration before and after, and push if requested."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import get_peft_config, get_quantization_config

    from ..trainers import CalibrationAwarePPOTrainer
    from .data import PROMPT_COLUMNS, training_datasets
    from .rewards import tokenized_prompts
    from .training import model_options, question_options, train_and_save

    name, trusted = model_args.model_name_or_path, training_args.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(
        name, padding_side="left", trust_remote_code=trusted, revision=model_args.model_revision
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    scores = {"num_labels": 1, "trust_remote_code": trusted, "dtype": model_args.dtype}
    value_model, reward_model = (
        AutoModelForSequenceClassification.from_pretrained(training_args.reward_model_path, **scores) for _ in range(2)
    )
    options = model_options(model_args, training_args) | {"quantization_config": get_quantization_config(model_args)}
    peft_config = get_peft_config(model_args)

    train_dataset, eval_dataset = training_datasets(script_args, training_args, dataset_args, PROMPT_COLUMNS)
    train_prompts = tokenized_prompts(train_dataset, tokenizer)
    trainer = CalibrationAwarePPOTrainer(
        args=training_args,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(name, **options),
        ref_model=None if peft_config is not None else AutoModelForCausalLM.from_pretrained(name, **options),
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=train_prompts,
        # TRL's loop goes through an evaluation set; without one it takes the training prompts.
        eval_dataset=train_prompts if eval_dataset is None else tokenized_prompts(eval_dataset, tokenizer),
        peft_config=peft_config,
        **question_options(script_args),
    )
    train_and_save(trainer, script_args.dataset_name)


def make_parser(prog: str | None = None):
    """Return the parser of TRL's script, with the calibration options."""
    from ..trainers import CalibrationAwarePPOConfig
    from ..trainers.trl_compatibility import ppo_classes
    from .arguments import CalibrationScriptArguments
    from .parser import script_parser

    ppo_classes()  # raises before any option is read where the installed TRL has no PPO
    return script_parser(CalibrationScriptArguments, CalibrationAwarePPOConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
