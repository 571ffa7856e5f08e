"""Compare this package's time with lm-evaluation-harness's on the same model, questions, prompts and batch size.

    python examples/benchmarks/lm_eval_throughput.py --dataset arc_challenge_test.jsonl --limit 48

The model is randomly initialized and has over 50 million parameters and a vocabulary of 128,256 tokens. Requires the
extra `lm_eval`. Each line shows, for one setting, the seconds of both, their ratio, and the largest difference between
the options' probabilities. On a CPU, seconds are CPU time of the process, so other processes do not count.

Measured with lm_eval 0.4.13 on one thread of a busy machine, 6 questions of ARC-Challenge in batches of 8, one run:

    letters            harness     5.3 s   here     1.0 s     5.4 times   largest difference 2.0e-06
    letters, 3 shots   harness    17.8 s   here     2.1 s     8.5 times   largest difference 1.4e-06
    texts              harness    13.8 s   here     2.5 s     5.5 times   largest difference 2.2e-16
    texts, 3 shots     harness    47.3 s   here     3.5 s    13.7 times   largest difference 1.4e-24

Since the weights are random, texts of several tokens get probabilities near 0 and 1, so the differences for texts say
little here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hf_calib.confidence import Asking, LocalModel, OptionLetters, OptionTexts
from hf_calib.tasks import FewShotFormat, PromptFormat, load_questions, write_lm_eval_task

VOCABULARY = 128_256


def seconds() -> float:
    """Return the CPU time, or the wall-clock time if a GPU computes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def make_model() -> LlamaForCausalLM:
    """Return a model with over 50 million parameters, most of them in its embedding."""
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
    """Return a byte-level tokenizer, for machines without a model's tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<eos>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def by_harness(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str, batch_size: int
) -> tuple[float, list[np.ndarray]]:
    """Return the seconds that the harness takes for its requests, and each question's probabilities."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class Timed(HFLM):
        seconds = 0.0

        def loglikelihood(self, *arguments, **options):
            start = seconds()
            try:
                return super().loglikelihood(*arguments, **options)
            finally:
                Timed.seconds += seconds() - start

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
    return Timed.seconds, found


def main() -> None:
    """Run the requested settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--only", choices=("letters", "texts"), help="skip the other settings")
    parser.add_argument("--only-shots", action="store_true", help="skip the settings without examples")
    parser.add_argument("--tokenizer", help="a name or folder (default: one of bytes)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    every = load_questions(options.dataset, limit=options.limit + options.shots)
    pool = [replace(question, subject=None) for question in every[: options.shots]]
    asked = every[options.shots :]
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer) if options.tokenizer else byte_tokenizer()
    model = make_model().to(options.device)
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
        start = seconds()
        method = OptionTexts() if texts else OptionLetters()
        source = LocalModel(model, tokenizer)
        found = method.predict(source, asked, prompt_format, Asking(options.batch_size)).probabilities
        ours = seconds() - start
        worst = max(float(np.abs(own[: len(p)] - p).max()) for own, p in zip(found, expected, strict=True))
        print(
            f"{setting:<18} harness {theirs:7.1f} s   here {ours:7.1f} s   {theirs / ours:5.1f} times   "
            f"largest difference {worst:.1e}"
        )


if __name__ == "__main__":
    main()
