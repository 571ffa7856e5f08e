"""Short runs of the trainers, for tests."""

from __future__ import annotations

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForSequenceClassification

from hf_calib.trainers import (
    CalibrationAwareConfig,
    CalibrationAwareGRPOConfig,
    CalibrationAwareGRPOTrainer,
    CalibrationAwareKTOConfig,
    CalibrationAwareKTOTrainer,
    CalibrationAwareRewardConfig,
    CalibrationAwareRewardTrainer,
    CalibrationAwareRLOOConfig,
    CalibrationAwareRLOOTrainer,
    CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer,
)
from tests.support import pairs, questions, tiny_llama, training_arguments

TRAINER_OPTIONS = (
    "eval_dataset", "eval_calibration_dataset", "em_dataset", "calibration_reference_model", "callbacks",
    "prompt_format", "calibration_dataset", "train_dataset", "ref_model", "reward_funcs",
)  # fmt: skip


def lora(**options):
    return LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **options})


def dpo(tokenizer, folder, *, model=None, peft_config=None, args=None, **options):
    """Return a DPO trainer on 64 pairs and 40 questions; other options go to its config."""
    return _made(
        CalibrationAwareTrainer, CalibrationAwareConfig, tokenizer, folder, pairs(64), model, peft_config, args,
        options,
    )  # fmt: skip


def sft(tokenizer, folder, *, model=None, peft_config=None, args=None, **options):
    """Return an SFT trainer on 40 questions; other options go to its config."""
    given = {key: options.pop(key) for key in TRAINER_OPTIONS if key in options}
    given.setdefault("train_dataset", questions(40))
    torch.manual_seed(1)
    return CalibrationAwareSFTTrainer(
        model=model or tiny_llama(tokenizer),
        args=args or CalibrationAwareSFTConfig(str(folder), **training_arguments(**options)),
        processing_class=tokenizer,
        peft_config=peft_config,
        **given,
    )


def unpaired(n, *, seed=0):
    """Return prompts with one completion each, wanted or not by turns."""
    rows = [
        {"prompt": row["prompt"], "completion": row["rejected" if i % 2 else "chosen"], "label": i % 2 == 0}
        for i, row in enumerate(pairs(n, seed=seed))
    ]
    return Dataset.from_list(rows)


def longer(completions, **kwargs):
    """Reward long completions, or any with other letters."""
    return [len(completion) + len(set(completion)) for completion in completions]


def _made(trainer_class, config_class, tokenizer, folder, data, model, peft_config, args, options):
    given = {key: options.pop(key) for key in TRAINER_OPTIONS if key in options}
    given.setdefault("train_dataset", data)
    given.setdefault("calibration_dataset", questions(40))
    torch.manual_seed(1)
    return trainer_class(
        model=model or tiny_llama(tokenizer),
        args=args or config_class(str(folder), **training_arguments(**options)),
        processing_class=tokenizer,
        peft_config=peft_config,
        **given,
    )


def kto(tokenizer, folder, *, model=None, peft_config=None, args=None, **options):
    """Return a KTO trainer on 64 completions and 40 questions."""
    return _made(
        CalibrationAwareKTOTrainer, CalibrationAwareKTOConfig, tokenizer, folder, unpaired(64), model, peft_config,
        args, options,
    )  # fmt: skip


def _online(trainer_class, config_class, tokenizer, folder, model, peft_config, args, options):
    options = {"num_generations": 2, "max_completion_length": 6, "reward_funcs": longer, **options}
    data = pairs(64).remove_columns(["chosen", "rejected"])
    return _made(trainer_class, config_class, tokenizer, folder, data, model, peft_config, args, options)


def grpo(tokenizer, folder, *, model=None, peft_config=None, args=None, **options):
    """Return a GRPO trainer on 64 prompts and 40 questions."""
    return _online(
        CalibrationAwareGRPOTrainer, CalibrationAwareGRPOConfig, tokenizer, folder, model, peft_config, args, options
    )


def rloo(tokenizer, folder, *, model=None, peft_config=None, args=None, **options):
    """Return an RLOO trainer on 64 prompts and 40 questions."""
    return _online(
        CalibrationAwareRLOOTrainer, CalibrationAwareRLOOConfig, tokenizer, folder, model, peft_config, args, options
    )


def classifier(tokenizer, seed=0):
    """Return a randomly initialized Llama that scores sequences."""
    config = tiny_llama(tokenizer).config
    config.num_labels = 1
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config)


def reward(
    tokenizer, folder, *, kind=CalibrationAwareRewardTrainer, config=CalibrationAwareRewardConfig, peft_config=None,
    **options,
):  # fmt: skip
    """Return a reward trainer on 64 pairs."""
    given = {name: options.pop(name) for name in ("eval_dataset", "train_dataset") if name in options}
    torch.manual_seed(1)
    return kind(
        model=classifier(tokenizer), args=config(str(folder), **training_arguments(**options)),
        processing_class=tokenizer, peft_config=peft_config, **{"train_dataset": pairs(64), **given},
    )  # fmt: skip
