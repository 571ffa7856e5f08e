"""
Measure SFT, RCFT, DPO and calibration-aware DPO on a GPU, with a model that needs no download.

```bash
python examples/benchmarks/gpu_training.py
```

The model is a randomly initialized Llama-3.1-8B in bfloat16 with a LoRA adapter of rank 128 on all linear layers; the
questions are as long as MMLU's. Each method runs in its own process. SFT and RCFT train on the same questions and
answers, in the same batches; both kinds of DPO on the same pairs.

- tokens/s: training tokens per second; padding and forward passes without a gradient do not count.
- share of peak: the arithmetic that the method needs, divided by the time and the chip's peak in dense bfloat16. A
  token costs two operations per decoder weight in the forward and two in the backward, and two more per adapter
  weight, the only ones with a gradient; attention is added. Padding, recomputed activations and the output layer are
  not counted; forwards of the reference and of E-steps are.
- peak memory: the largest amount allocated on the device during training.
- ms/step: median over the timed steps.

Without a GPU, `--size tiny --steps 2 --warmup 1` tries the script on the CPU; its figures are meaningless.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

METHODS = ("SFT", "RCFT", "DPO", "calibration-aware DPO")
# Dense bfloat16 TFLOP/s from the data sheets, by a part of the driver's name for a chip; the first match counts.
PEAKS = {
    "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "GH200": 989, "B200": 2250, "A100": 312, "A800": 312,
    "A10G": 70, "A10": 125, "A40": 150, "A6000": 155, "L40S": 362, "L40": 181, "L4": 121, "4090": 165, "3090": 71,
    "MI300X": 1307, "MI250X": 383,
}  # fmt: skip


def peak_of(name: str) -> float | None:
    """Return a chip's peak in TFLOP/s, or None for one that is not in the table."""
    return next((float(peak) for part, peak in PEAKS.items() if part in name), None)


def make_model(size: str, device: str):
    """Return a randomly initialized model: "8b" as Llama-3.1-8B, or "tiny"."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131_072, rms_norm_eps=1e-5, pad_token_id=0, eos_token_id=1,
        bos_token_id=None, tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    if size == "tiny":
        config.vocab_size, config.hidden_size, config.intermediate_size = 256, 32, 64
        config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads = 2, 4, 2
        config.head_dim = 8
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):  # created on the device: eight billion weights take long on the CPU
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def pairs(n: int, length: int, seed: int):
    """Return preference pairs with `length` tokens for a prompt with one answer, two fifths of them in the prompt."""
    import numpy as np
    from datasets import Dataset
    from mmlu_lengths import WORDS

    rng = np.random.default_rng(seed)
    prompt = 2 * length // 5

    def words(count):
        return " ".join(rng.choice(WORDS, size=count))

    rows = [
        # The end-of-sequence token completes the length.
        {"prompt": words(prompt), **{side: " " + words(length - prompt - 1) for side in ("chosen", "rejected")}}
        for _ in range(n)
    ]
    return Dataset.from_list(rows)


def answered_text(asked):
    """Return questions as prompts with the right option as completion, as plain SFT takes them."""
    from datasets import Dataset

    from hf_calib import PromptFormat

    put = PromptFormat()
    return Dataset.from_list(
        [{"prompt": put.render(question), "completion": " " + question.letters[question.answer]} for question in asked]
    )


def make_trainer(method: str, options: argparse.Namespace, folder: str):
    """Return the trainer of a method, with its own model."""
    from mmlu_lengths import questions, tokenizer
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from hf_calib import (
        CalibrationAwareConfig,
        CalibrationAwareSFTConfig,
        CalibrationAwareSFTTrainer,
        CalibrationAwareTrainer,
    )

    preference = "DPO" in method
    steps = options.warmup + options.steps
    batch = options.pairs if preference else options.questions
    arguments = {
        "output_dir": folder, "per_device_train_batch_size": batch, "max_steps": steps, "learning_rate": 5e-6,
        "bf16": True, "use_cpu": options.device == "cpu", "gradient_checkpointing": options.recompute,
        "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    common = {
        "model": make_model(options.size, options.device), "processing_class": tokenizer(),
        "peft_config": LoraConfig(
            r=options.lora_r, lora_alpha=options.lora_r // 2, lora_dropout=0.05, target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    }  # fmt: skip
    asked = questions(max(steps * batch, 64), 0)
    if method == "SFT":
        return SFTTrainer(args=SFTConfig(**arguments), train_dataset=answered_text(asked), **common)
    if method == "RCFT":
        config = CalibrationAwareSFTConfig(**arguments, method="rcft")
        return CalibrationAwareSFTTrainer(args=config, train_dataset=asked, em_dataset=questions(64, 1), **common)
    data = pairs(steps * batch, options.pair_length, 0)
    if method == "DPO":
        return DPOTrainer(args=DPOConfig(**arguments), train_dataset=data, **common)
    config = CalibrationAwareConfig(**arguments)
    return CalibrationAwareTrainer(args=config, train_dataset=data, calibration_dataset=asked, **common)


class Arithmetic:
    """Counts the tokens of a decoder's forwards, and the arithmetic that the method needs for them."""

    def __init__(self, model) -> None:
        decoder = model.get_base_model().model
        self.config = decoder.config
        # Weights of the layers' matrices, including an adapter's, without the output layer.
        matrices = [p for layer in decoder.layers for p in layer.parameters() if p.dim() == 2]
        self.weights = sum(p.numel() for p in matrices)
        self.adapter = sum(p.numel() for p in matrices if p.requires_grad)
        self.trained = self.operations = 0
        decoder.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs) -> None:
        import torch

        ids = kwargs.get("input_ids")
        given = args[0] if ids is None and args else ids if ids is not None else kwargs["inputs_embeds"]
        mask = kwargs.get("attention_mask")
        if mask is None or mask.dim() != 2:
            sizes = [given.shape[1]] * given.shape[0]
        else:
            sizes = mask.sum(dim=1).tolist()
        tokens = sum(sizes)
        # A causal token attends to half of its sequence on average: two products of two operations each.
        attention = 2 * self.config.num_hidden_layers * self.config.hidden_size * sum(size**2 for size in sizes)
        forward = 2 * self.weights * tokens + attention
        # Frozen weights only pass the gradient on; the adapter's weights and attention cost two forwards.
        backward = torch.is_grad_enabled() and module.training
        self.operations += forward + (forward + 2 * self.adapter * tokens + attention if backward else 0)
        self.trained += tokens if backward else 0


def measure(method: str, options: argparse.Namespace) -> dict:
    """Train for some steps, and return the figures of the timed ones."""
    import torch
    from transformers import TrainerCallback

    gpu = options.device == "cuda"

    def now() -> float:
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(method, options, folder)
        counted = Arithmetic(trainer.model)

        class Timed(TrainerCallback):
            def __init__(self) -> None:
                self.seconds: list[float] = []

            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == options.warmup:
                    counted.trained = counted.operations = 0
                    if gpu:
                        torch.cuda.reset_peak_memory_stats()
                self.start = now()

            def on_step_end(self, args, state, control, **kwargs):
                self.seconds.append(now() - self.start)

        timed = Timed()
        trainer.add_callback(timed)
        trainer.train()
    seconds = timed.seconds[options.warmup :]
    return {
        "method": method,
        "ms/step": 1000 * statistics.median(seconds),
        "tokens/s": counted.trained / sum(seconds),
        "TFLOP/s": counted.operations / sum(seconds) / 1e12,
        "peak memory (GB)": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
    }


def in_its_own_process(method: str, options: argparse.Namespace) -> dict:
    """Return the result of `measure` from a process that has nothing else on the device."""
    given = {name: value for name, value in vars(options).items() if name not in ("methods", "only", "recompute")}
    command = [sys.executable, __file__, "--only", method, "--recompute" if options.recompute else "--no-recompute"]
    command += [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def describe(options: argparse.Namespace) -> str:
    """Return a description of the hardware and the settings."""
    import torch

    chip = torch.cuda.get_device_name() if options.device == "cuda" else "processor"
    peak = f"{options.peak_tflops:g} TFLOP/s" if options.peak_tflops else "peak unknown: pass --peak_tflops"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    return (
        f"{datetime.date.today().isoformat()}, {chip} ({peak}), {libraries}\n"
        f"{options.size} Llama, bfloat16, LoRA r = {options.lora_r}, "
        f"activations {'recomputed' if options.recompute else 'kept'}; {options.questions} questions per step, or "
        f"{options.pairs} pairs of 2 x {options.pair_length} tokens; {options.steps} steps after {options.warmup}"
    )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["8b", "tiny"], default="8b")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda if there is one")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--only", choices=METHODS, help="one method, in this process; prints JSON")
    parser.add_argument("--lora_r", type=int, default=128)
    parser.add_argument("--questions", type=int, default=16, help="questions per step of SFT and RCFT")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step of DPO")
    parser.add_argument("--pair_length", type=int, default=512, help="tokens of a prompt with one answer")
    parser.add_argument("--steps", type=int, default=20, help="timed steps; a multiple of 5, for the E-step")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--recompute", action=argparse.BooleanOptionalAction, default=True, help="checkpointing")
    parser.add_argument("--peak_tflops", type=float, help="the chip's, dense bfloat16; known for common ones")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure the methods and print the table."""
    options = make_parser().parse_args(arguments)
    import torch

    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cpu" and options.size != "tiny":
        raise SystemExit("no GPU found; to try the script on the CPU, pass --size tiny")
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    if options.peak_tflops is None and options.device == "cuda":
        options.peak_tflops = peak_of(torch.cuda.get_device_name())

    from hf_calib.reports import render_table

    rows = [in_its_own_process(method, options) for method in options.methods]
    for row in rows:
        row["share of peak"] = row["TFLOP/s"] / options.peak_tflops if options.peak_tflops else None
    print(describe(options))
    print(render_table(rows))


if __name__ == "__main__":
    main()
