"""Small tokenizers, models and data, made in memory from a seed."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RwkvConfig,
    RwkvForCausalLM,
)

from hf_calib.tasks import LETTERS, Question

NOUNS = ("apple", "river", "stone", "candle", "engine", "window", "garden", "violin", "bridge", "planet")
COLOURS = ("red", "green", "blue", "yellow", "black", "white")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def questions(n: int, *, seed: int = 0, choices: tuple[int, ...] = (4,), answered: bool = True) -> list[Question]:
    """Return questions of varying lengths; `choices` is the cycle of option counts."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(n):
        n_choices = choices[row % len(choices)]
        words = " and the ".join(rng.choice(NOUNS, size=int(rng.integers(1, 6))))
        answer = int(rng.integers(n_choices)) if answered else None
        options = tuple(f"{colour} {row}" for colour in rng.permutation(COLOURS)[:n_choices])
        made.append(Question(f"What colour is the {words}?", options, answer, f"subject {row % 3}"))
    return made


def question_rows(*args, **kwargs) -> list[dict]:
    """Return `questions` as rows of a dataset."""
    return [
        {"question": q.question, "choices": list(q.choices), "answer": q.answer, "subject": q.subject}
        for q in questions(*args, **kwargs)
    ]


def pairs(n: int, *, seed: int = 0) -> Dataset:
    """Return preference pairs."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        noun, (good, bad) = rng.choice(NOUNS), rng.permutation(COLOURS)[:2]
        rows.append(
            {"prompt": f"Tell me about the {noun}.", "chosen": f" It is {good}.", "rejected": f" Is it {bad}?"}
        )
    return Dataset.from_list(rows)


def on_disk(dataset: Dataset, folder) -> Dataset:
    """Return a dataset read back from a folder, in which results computed from it are cached."""
    dataset.save_to_disk(str(folder))
    return Dataset.load_from_disk(str(folder))


def byte_level_tokenizer(*, chat: bool = False, vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on this file's own words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [f"Question: What colour is the {noun}?\nA. {colour}\n" for noun in NOUNS for colour in COLOURS]
    texts += [f"Answer: {letter}" for letter in LETTERS] * 20
    special = ["<pad>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama(tokenizer, *, seed: int = 0, hidden_size: int = 32, layers: int = 2, positions: int = 512, **options):
    """Return a randomly initialised Llama; rotary positions."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=positions,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            # Larger than usual, so that an untrained model's answers differ from question to question.
            initializer_range=0.3,
            **options,
        )
    )


def tiny_gpt2(tokenizer, *, seed: int = 0):
    """Return a randomly initialised GPT-2; learnt absolute positions."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        )
    )


def tiny_rwkv(tokenizer, *, seed: int = 0):
    """Return a randomly initialised RWKV, which ignores the attention mask."""
    torch.manual_seed(seed)
    model = RwkvForCausalLM(
        RwkvConfig(vocab_size=len(tokenizer), hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def training_arguments(**options) -> dict:
    """Return arguments of a TRL config that make a short, quiet run on the CPU."""
    return {
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        **options,
    }
