r"""Time and compare this package with lm-evaluation-harness on the same model, questions, prompts and batch size.

    python examples/benchmarks/lm_eval_throughput.py --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --dataset allenai/ai2_arc:ARC-Challenge:test --limit 200 --shots 5

Without `--model` the model is randomly initialized, of 50 million parameters, with a vocabulary of 128,256 tokens and
a tokenizer of bytes. Requires the extra `lm_eval`. For each setting it prints, of both, the processor's seconds, the
clock's seconds and the tokens that went through the model, padding included, and the largest difference of the
options' probabilities. The limit is the number of tokens that have to be computed: what all prompts share, the rest of
each prompt, and each option's tokens but the last, once each.

Measured figures are in `examples/benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hf_calib.confidence import Asking, LocalModel, OptionLetters, OptionTexts
from hf_calib.confidence.batching import common_prefix
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, load_questions, write_lm_eval_task

VOCABULARY = 128_256


class Cost:
    """What a piece of work took: seconds of the processor and of the clock, and tokens through the model."""

    def __init__(self, model: nn.Module) -> None:
        self.processor = self.clock = 0.0
        self.tokens = 0
        self._model = model

    def __enter__(self) -> Self:
        self._hook = self._model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._start = self._now()
        return self

    def __exit__(self, *raised: object) -> None:
        end = self._now()
        self._hook.remove()
        self.processor += end[0] - self._start[0]
        self.clock += end[1] - self._start[1]

    def _count(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.tokens += (named["input_ids"] if "input_ids" in named else given[0]).numel()

    @staticmethod
    def _now() -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()


def least_tokens(source: LocalModel, asked: Sequence[Question], prompt_format: PromptFormat, texts: bool) -> int:
    """Return how many tokens have to go through the model."""
    encoder = source.encoder
    items = encoder.texts(asked, prompt_format, list_options=False) if texts else encoder.letters(asked, prompt_format)
    prompts = [item.input_ids for item in items]
    shared = min(common_prefix(prompts[0], prompt) for prompt in prompts)
    options = sum(len(ids) - 1 for item in items for ids in item.options)
    return shared + sum(len(prompt) - shared for prompt in prompts) + options


def make_model() -> LlamaForCausalLM:
    """Return a model of over 50 million parameters, most of them in its embedding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=5,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of bytes, for machines without any model's own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<eos>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def by_harness(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str, batch_size: int
) -> tuple[Cost, list[np.ndarray]]:
    """Return what the harness takes for its requests, and each question's probabilities."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    cost = Cost(model)

    class Timed(HFLM):
        def loglikelihood(self, *arguments, **options):
            with cost:
                return super().loglikelihood(*arguments, **options)

    harness = Timed(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    results = simple_evaluate(
        model=harness, tasks=[name], task_manager=manager, log_samples=True, bootstrap_iters=0, cache_requests=False
    )
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    found = []
    for sample in samples:
        scores = np.array([float(response[0]) for response in sample["filtered_resps"]])
        p = np.exp(scores - scores.max())
        found.append(p / p.sum())
    return cost, found


def main() -> None:
    """Run the settings that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a name or folder (default: a random model)")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--only", choices=("letters", "texts"), help="leave the other settings out")
    parser.add_argument("--only-shots", action="store_true", help="leave the settings without examples out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    every = load_questions(options.dataset, limit=options.limit + options.shots)
    pool = [replace(question, subject=None) for question in every[: options.shots]]
    asked = every[options.shots :]
    if options.model:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval().to(options.device)
    else:
        tokenizer, model = byte_tokenizer(), make_model().to(options.device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(asked)} questions, {options.device}")
    settings = {
        "letters": (PromptFormat(), False),
        f"letters, {options.shots} shots": (FewShotFormat.choose(pool, options.shots), False),
        "texts": (PromptFormat(), True),
        f"texts, {options.shots} shots": (FewShotFormat.choose(pool, options.shots), True),
    }
    for setting, (prompt_format, texts) in settings.items():
        if options.only not in (None, setting.split(",")[0]) or (options.only_shots and "shots" not in setting):
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_lm_eval_task(asked, folder, "own", prompt_format=prompt_format, texts=texts)
            theirs, expected = by_harness(model, tokenizer, Path(folder), "own", options.batch_size)
        method = OptionTexts() if texts else OptionLetters()
        source = LocalModel(model, tokenizer)
        ours = Cost(model)
        with ours:
            found = method.predict(source, asked, prompt_format, Asking(options.batch_size)).probabilities
        worst = max(float(np.abs(own[: len(p)] - p).max()) for own, p in zip(found, expected, strict=True))
        limit = least_tokens(source, asked, prompt_format, texts)
        print(setting)
        for name, cost in (("harness", theirs), ("hf_calib", ours)):
            print(
                f"    {name:<8} {cost.processor:8.1f} s of the processor, {cost.clock:8.1f} s of the clock, "
                f"{cost.tokens:9,} tokens, {cost.tokens / limit:5.2f} times the limit"
            )
        ratios = (
            f"{theirs.processor / ours.processor:.2f} by the processor, {theirs.clock / ours.clock:.2f} by the clock"
        )
        print(f"    ratio {ratios}; largest difference {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
