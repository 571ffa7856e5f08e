"""
Compare the time of a calibration-aware DPO step with plain DPO's, and with the cost of its additional arithmetic.

```bash
python examples/benchmarks/dpo_step.py --threads 2
```

Arithmetic is counted in forwards of one token: a forward is 1, a backward 2 with full weights and 1 with LoRA, and one
more if activations are recomputed. A token of a pair costs the policy's forward and backward and the reference's
forward; a token of a training question costs the same if it is anchored; one of an E-step's question costs one forward
every `em_steps` steps. A case is within the bound if (step time ratio - 1) <= 1.15 * extra / DPO's own. Plain and
calibration-aware runs alternate, and the times are medians over steps. The E-steps' share of the time must be under 5%
in calibration-aware DPO, and under 15% in RCFT with as many questions per step. The exit status is 1 if a case is out
of bounds.

On a shared machine, `--threads 1 --clock cpu` counts only the time of this process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

MARGIN = 1.15
E_STEP_SHARES = {"DPO": 0.05, "RCFT": 0.15}
CASES = {
    "anchor": {"supervised_weight": 0.0},
    "anchor, supervised": {},
    "anchor, supervised, EM": {"em_weight": 1.0},
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def word_tokenizer(n_words):
    """Return a tokenizer with one token per word, so that lengths in tokens are as requested."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "Question:", "Answer:", *"ABCD", "A.", "B.", "C.", "D."]
    words += [f"w{number}" for number in range(n_words - len(words))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def save_model(folder, options):
    """Save a randomly initialized Llama with its tokenizer, and return its number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(options.vocabulary)
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=options.vocabulary,
            hidden_size=options.hidden_size,
            intermediate_size=8 * options.hidden_size // 3,
            num_hidden_layers=options.layers,
            num_attention_heads=options.hidden_size // 64,
            max_position_embeddings=1024,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def make_data(options):
    """Return pairs and questions of the lengths asked for, in tokens."""
    import numpy as np
    from datasets import Dataset

    from hf_calib.tasks import Question

    rng = np.random.default_rng(options.seed)

    def words(n):
        return " ".join(f"w{number}" for number in rng.integers(options.vocabulary - 100, size=n))

    half = options.pair_length // 2
    pairs = [
        # The end-of-sequence token completes the length.
        {
            "prompt": words(half),
            **{side: " " + words(options.pair_length - half - 1) for side in ("chosen", "rejected")},
        }
        for _ in range(options.pairs * (options.steps + 1))
    ]
    # "Question:", "Answer:" and four options of two words each are the rest.
    questions = [
        Question(words(options.question_length - 10), tuple(f"w{number}" for number in range(4)), int(rng.integers(4)))
        for _ in range(16 * options.questions)
    ]
    return Dataset.from_list(pairs), questions


def make_trainer(folder, output_dir, options, data, lora, case, **settings):
    """Return the trainer of a case: plain DPO for `None`, RCFT for "RCFT", otherwise calibration-aware DPO."""
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from hf_calib import (
        CalibrationAwareConfig,
        CalibrationAwareSFTConfig,
        CalibrationAwareSFTTrainer,
        CalibrationAwareTrainer,
    )

    pairs, questions = data
    arguments = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": options.pairs,
        "max_steps": options.steps + 1,
        "learning_rate": 1e-6,
        "gradient_checkpointing": options.recompute,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": options.seed,
    }
    peft_config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    common = {"model": str(folder), "train_dataset": pairs, "peft_config": peft_config}
    if case == "RCFT":
        config = CalibrationAwareSFTConfig(**arguments, method="rcft")
        return CalibrationAwareSFTTrainer(args=config, **{**common, "train_dataset": questions})
    if case is None:
        return DPOTrainer(args=DPOConfig(**arguments), **common)
    settings = {"calibration_batch_size": options.questions, **CASES[case], **settings}
    return CalibrationAwareTrainer(
        args=CalibrationAwareConfig(**arguments, **settings), calibration_dataset=questions, **common
    )


def extra_over_own(plain, aware, lora, recompute):
    """Return the calibration terms' arithmetic as a share of DPO's own, from the tokens of their batches."""
    trained = 1 + (1 if lora else 2) + recompute
    own = next(iter(plain.get_train_dataloader()))["input_ids"].numel() * (trained + 1)
    term = aware._calibration_term
    settings = term.arguments

    def tokens(items, n):
        return term.collator(items[:n]).input_ids.numel()

    extra = tokens(term.questions, settings.calibration_batch_size) * (trained + (settings.anchor_weight > 0))
    if term.held_out:
        count = min(settings.em_batch_size, len(term.held_out))
        extra += tokens(term.held_out, count) * settings.em_batch_size / count / settings.em_steps
    return extra / own


def timed_run(trainer, clock):
    """Train; return the seconds of each step after the first, which warms up, and the E-steps' share of them."""
    from transformers import TrainerCallback

    class StepTimes(TrainerCallback):
        def __init__(self):
            self.seconds, self.refreshes, self.inside = [], [], 0.0

        def on_step_begin(self, args, state, control, **kwargs):
            self.start, self.inside = clock(), 0.0

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds.append(clock() - self.start)
            self.refreshes.append(self.inside)

    times = StepTimes()
    term = getattr(trainer, "_calibration_term", None)
    if term is not None:
        refresh = type(term).expectation_step

        def timed_refresh(*args):
            start = clock()
            refresh(term, *args)
            times.inside = clock() - start

        term.expectation_step = timed_refresh
    trainer.add_callback(times)
    trainer.train()
    trainer.remove_callback(times)
    return times.seconds[1:], times.refreshes[1:]


def average_step(seconds, period):
    """Return the mean over the steps of an E-step's period, each the median over the periods."""
    return statistics.fmean(statistics.median(seconds[place::period]) for place in range(period))


def measure(folder, options, data, lora, case):
    """Return a row of the table for one case."""
    plain = make_trainer(folder, folder / "plain", options, data, lora, None)
    aware = make_trainer(folder, folder / "aware", options, data, lora, case)
    share = extra_over_own(plain, aware, lora, options.recompute)
    seconds, refreshes = {"plain": [], "aware": []}, []
    for _ in range(options.rounds):
        seconds["plain"] += timed_run(plain, CLOCKS[options.clock])[0]
        steps, inside = timed_run(aware, CLOCKS[options.clock])
        seconds["aware"] += steps
        refreshes += inside
    # A run has a whole number of periods; step 0, with an E-step, is the warm-up.
    period = aware.args.em_steps if aware._calibration_term.held_out else 1
    own, with_terms = (average_step(values, period) for values in seconds.values())
    ratio = with_terms / own
    refreshed = average_step(refreshes, period) / with_terms if period > 1 else None
    within = ratio - 1 <= MARGIN * share and (refreshed or 0.0) < E_STEP_SHARES["DPO"]
    return {
        "weights": "LoRA" if lora else "full",
        "terms": case,
        "DPO step (s)": own,
        "with terms (s)": with_terms,
        "time ratio - 1": ratio - 1,
        "extra / own": share,
        "bound": MARGIN * share,
        "E-steps": refreshed,
        "within": "yes" if within else "NO",
    }


def measure_rcft(folder, options, data, lora):
    """Return a row for RCFT, for which the E-steps' share of the time is measured."""
    trainer = make_trainer(folder, folder / "rcft", options, data, lora, "RCFT")
    runs = [timed_run(trainer, CLOCKS[options.clock]) for _ in range(options.rounds)]
    period = trainer.args.em_steps
    seconds, refreshes = ([value for run in runs for value in run[part]] for part in (0, 1))
    own = average_step(seconds, period)
    share = average_step(refreshes, period) / own
    return {
        "weights": "LoRA" if lora else "full",
        "terms": "RCFT",
        "with terms (s)": own,
        "E-steps": share,
        "within": "yes" if share < E_STEP_SHARES["RCFT"] else "NO",
    }


def parse_arguments(description=__doc__):
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=512, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=8, help="pairs a step")
    parser.add_argument("--pair_length", type=int, default=64, help="tokens of a prompt with one answer")
    parser.add_argument("--questions", type=int, default=4, help="questions per step")
    parser.add_argument("--question_length", type=int, default=64, help="tokens of a question")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per run; a multiple of 5, for the E-step")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each trainer, in turn")
    parser.add_argument("--recompute", action="store_true", help="recompute activations (gradient checkpointing)")
    parser.add_argument("--terms", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    parser.add_argument("--rcft", action=argparse.BooleanOptionalAction, default=True, help="measure RCFT too")
    parser.add_argument("--weights", nargs="+", choices=["full", "LoRA"], default=["full", "LoRA"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: with one thread only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.steps % 5:
        parser.error(f"--steps must be a multiple of 5, the steps from one E-step to the next; got {options.steps}")
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu: this adds up the time of all threads, also of waiting ones; pass --threads 1")
    return options


def main():
    """Measure all cases and print the table; the exit status says whether all are within the bound."""
    options = parse_arguments()
    import torch

    from hf_calib.reports import render_table

    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_parameters = save_model(folder, options)
        data = make_data(options)
        for weights in options.weights:
            rows += [measure(folder, options, data, weights == "LoRA", case) for case in options.terms]
            if options.rcft:
                rows.append(measure_rcft(folder, options, data, weights == "LoRA"))
    print(
        f"{n_parameters:,} parameters, {options.pairs} pairs of 2 x {options.pair_length} tokens and "
        f"{options.questions} questions of {options.question_length} per step"
        f"{', activations recomputed' if options.recompute else ''}"
    )
    print(f"{options.threads} thread(s), {options.clock} time, medians of {options.rounds * options.steps} steps")
    print(render_table(rows))
    return 0 if all(row["within"] == "yes" for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
