"""
Estimate what calibration-aware DPO takes at 8B, 32B and 70B: memory per GPU, GPUs, time, and the anchor's share.

```bash
python examples/paper/plan.py
```

Activations are measured first, on small models in bfloat16 with recomputed activations, as the peak bytes of live
tensors in a forward and backward of the layers; the resulting coefficients are checked on further sizes, and with the
logits' tile on DPO steps. The exit status is 1 if a prediction is off by more than 5%. Then, per GPU:

- state: DeepSpeed's estimator for the trained weights (weights, gradients, Adam in float32: 18 bytes per weight, and 4
  per weight of the largest layer), 2 bytes per frozen weight, divided by the number of GPUs; with full weights also 2
  bytes per weight of the reference. With offload these are in the host's memory, except for the largest layer.
- buffers: the largest number of weights that DeepSpeed keeps gathered (`stage3_max_live_parameters`, a billion), and
  the gradients that it reduces at once (`reduce_bucket_size`, half a billion), 2 bytes each.
- activations: as measured here, per token, and the tile of logits of TRL's fused head: at most 4,096 tokens by 32,768
  entries of the vocabulary, 2 bytes each; with full weights also the output layer's gradient in float32.

The terms' forward and backward run by themselves before DPO's, so they add nothing to the peak unless a batch of
questions has more tokens than a batch of pairs. The number of GPUs is the smallest power of two with which 90% of the
memory of the GPUs and of their hosts suffices. Time counts the arithmetic as gpu_training.py does, recomputation and
output layer apart, at `--share` of the peak in bfloat16; for 1,000 pairs with half as many questions, this package's
default. The anchor's columns are the time that its reference adds: of a live one, and of one computed beforehand once
(`reference_distributions`), over `--epochs` epochs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

# Hidden size, intermediate size, layers, heads, key-value heads, vocabulary; output layers are not tied.
MODELS = {
    "8B": (4096, 14_336, 32, 32, 8, 128_256),  # Llama 3.1
    "32B": (5120, 27_648, 64, 40, 8, 100_352),  # OLMo 2
    "70B": (8192, 28_672, 80, 64, 8, 128_256),  # Llama 3.1
}
TILE = (4096, 32_768)  # tokens and entries of the vocabulary in TRL's fused head
LIVE_PARAMETERS, BUCKET = 1_000_000_000, 500_000_000  # DeepSpeed's defaults
USABLE = 0.9
# Hidden and intermediate size, layers, pairs, tokens of a prompt with one answer.
FITTED = ((128, 384, 2, 2, 192), (128, 384, 6, 2, 192), (128, 1024, 2, 2, 192), (256, 512, 2, 2, 192))
PREDICTED = ((256, 1024, 4, 2, 192), (192, 768, 8, 1, 256), (320, 1280, 3, 2, 128))
STEPS = ((128, 384, 6, 2, 192), (256, 1024, 4, 1, 256))
WORDS = 64  # few, so that the copies of the tile made on CPUs hardly count; a GPU's kernel makes none
WITHIN = 0.05


def layer_weights(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the inputs and outputs of a layer's matrices."""
    hidden, intermediate, _, heads, kv_heads, _ = shape
    kv = hidden // heads * kv_heads
    attention = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    return [*attention, (hidden, intermediate), (hidden, intermediate), (intermediate, hidden)]


def parameters(shape: tuple[int, ...], rank: int) -> dict[str, int]:
    """Return the numbers of weights: in total, of the layers' matrices, of an adapter, and of the largest layer."""
    hidden, _, layers, _, _, vocabulary = shape
    matrices = layers * sum(n_in * n_out for n_in, n_out in layer_weights(shape))
    return {
        "all": matrices + 2 * vocabulary * hidden + (2 * layers + 1) * hidden,
        "matrices": matrices,
        "adapter": layers * sum(rank * (n_in + n_out) for n_in, n_out in layer_weights(shape)),
        "largest": vocabulary * hidden,
    }


def small_model(size: tuple[int, ...]):
    """Return a randomly initialized Llama in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, intermediate, layers, *_ = size
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(torch.bfloat16)


def measured_layers(size: tuple[int, ...]) -> int:
    """Return the peak bytes of live tensors in a forward and backward of the layers, without gradients."""
    import torch
    from live_memory import LiveMemory

    *_, pairs, length = size
    with LiveMemory() as memory:
        model = small_model(size).requires_grad_(False).train()
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
        ids = torch.randint(2, WORDS, (2 * pairs, length))
        memory.reset()
        before = memory.held
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
        states.backward(torch.zeros_like(states))
        return memory.most - before


def measured_step(size: tuple[int, ...]) -> int:
    """Return the peak bytes of live tensors in a DPO step, beyond those between steps."""
    import numpy as np
    import torch
    from datasets import Dataset
    from dpo_step import word_tokenizer
    from live_memory import LiveMemory
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    *_, pairs, length = size
    rng = np.random.default_rng(0)

    def words(n):
        return " ".join(f"w{number}" for number in rng.integers(WORDS - 20, size=n))

    rows = [
        {
            "prompt": words(length // 2),
            **{side: " " + words(length - length // 2 - 1) for side in ("chosen", "rejected")},
        }
        for _ in range(2 * pairs)
    ]
    memory, most = LiveMemory(), []

    class Steps(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.before = memory.held
            memory.reset()

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            most.append(memory.most - self.before)

    with tempfile.TemporaryDirectory() as folder, memory:
        trainer = DPOTrainer(
            model=small_model(size),
            args=DPOConfig(
                folder, per_device_train_batch_size=pairs, max_steps=2, bf16=False, use_cpu=True, report_to="none",
                save_strategy="no", logging_strategy="no", disable_tqdm=True, max_length=length,
            ),
            train_dataset=Dataset.from_list(rows), processing_class=word_tokenizer(WORDS), callbacks=[Steps()],
            peft_config=LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )  # fmt: skip
        trainer.model.to(torch.bfloat16)  # the adapter too, as under DeepSpeed
        trainer.train()
    return most[-1]


def features(size: tuple[int, ...]) -> list[int]:
    """Return the factors of the activations of a batch: its tokens times widths."""
    hidden, intermediate, layers, pairs, length = size
    tokens = 2 * pairs * length
    return [tokens * hidden * layers, tokens * hidden, tokens * intermediate]


def fit_activations() -> tuple[list[float], list[dict]]:
    """Return bytes per token for a hidden unit of all layers, a hidden and an intermediate unit of one; and checks."""
    import numpy as np
    from scipy.optimize import nnls

    measured = {size: measured_layers(size) for size in (*FITTED, *PREDICTED)}
    found = np.array([measured[size] for size in FITTED], dtype=float)
    rows = np.array([features(size) for size in FITTED]) / found[:, None]  # relative errors
    coefficients = nnls(rows, np.ones(len(FITTED)))[0].tolist()
    checks = [
        _check("layers, " + ("fitted" if size in FITTED else "predicted"), size, found, 0.0, coefficients)
        for size, found in measured.items()
    ]
    checks += [_check("DPO step, predicted", size, measured_step(size), head(size), coefficients) for size in STEPS]
    return coefficients, checks


def _check(what: str, size: tuple[int, ...], found: int, logits: float, coefficients: list[float]) -> dict:
    predicted = activations(size, logits, coefficients)
    return {
        "of": what,
        "hidden, intermediate, layers, pairs, tokens": ", ".join(map(str, size)),
        "measured (MB)": found / 1e6,
        "by the coefficients (MB)": predicted / 1e6,
        "ratio": predicted / found,
    }


def head(size: tuple[int, ...]) -> float:
    """Return the bytes of the tile of logits, and of the hidden states' gradient, in TRL's fused head."""
    hidden, *_, pairs, length = size
    tokens = 2 * pairs * length
    return 2 * min(tokens, TILE[0]) * TILE[1] + 4 * tokens * hidden


def activations(size: tuple[int, ...], logits: float, coefficients: list[float]) -> float:
    """Return the peak bytes of activations and logits, which is in the head or in a layer's backward."""
    every, hidden, intermediate = (n * width for n, width in zip(coefficients, features(size), strict=True))
    return every + max(hidden + intermediate, logits)


def states(
    counts: dict[str, int], lora: bool, offload: bool, gpus: int, options: argparse.Namespace
) -> tuple[float, float]:
    """Return the bytes of weights, gradients and optimizer on a GPU, and in the memory of a node's host."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    per_node = min(gpus, options.per_node)
    host, gpu, _ = estimate_zero3_model_states_mem_needs(
        counts["adapter" if lora else "all"], counts["largest"], per_node, gpus // per_node, offload, offload
    )
    # The base of an adapter, or the reference of full weights: in bfloat16, without gradients.
    frozen = 2 * counts["all"]
    return (gpu, host + frozen * per_node / gpus) if offload else (gpu + frozen / gpus, host)


def operations(shape: tuple[int, ...], counts: dict[str, int], lora: bool, tokens: float, length: float) -> tuple:
    """Return the operations of a forward, and of a backward, of sequences of a length."""
    hidden, _, layers, *_ = shape
    attention = 2 * layers * hidden * length * tokens
    trained = counts["adapter"] if lora else counts["matrices"]
    forward = 2 * (counts["matrices"] + (counts["adapter"] if lora else 0)) * tokens + attention
    return forward, forward + 2 * trained * tokens + attention


def plan(name: str, lora: bool, offload: bool, coefficients: list[float], options: argparse.Namespace) -> dict:
    """Return a row of the table."""
    shape = MODELS[name]
    counts = parameters(shape, options.lora_r)
    buffers = 2 * (min(LIVE_PARAMETERS, counts["all"]) + BUCKET)
    size = (*shape[:3], options.pairs, options.length)
    # With full weights the output layer has a gradient, in float32.
    held = activations(size, head(size) + (0 if lora else 4 * counts["largest"]), coefficients)
    for gpus in (2**power for power in range(14)):
        gpu, host = states(counts, lora, offload, gpus, options)
        total = gpu + buffers + held
        if total <= USABLE * options.gpu_memory * 1e9 and host <= USABLE * options.host_memory * 1e9:
            break
    else:
        raise SystemExit(f"--pairs: a batch of {name} fits on no number of GPUs; lower it, or --length")
    pairs, questions = 1000, 500
    own_forward, own_backward = operations(shape, counts, lora, 2 * pairs * options.length, options.length)
    forward, backward = operations(shape, counts, lora, questions * options.question_length, options.question_length)
    # DPO's own reference costs a forward too; without the adapter it is a little cheaper, which is ignored.
    dpo = 2 * own_forward + own_backward
    terms = forward + backward
    speed = options.share * options.peak_tflops * 1e12 * gpus
    return {
        "model": name,
        "weights": "LoRA" if lora else "full",
        "offload": "yes" if offload else "no",
        "GPUs": gpus,
        "state (GB)": gpu / 1e9,
        "buffers": buffers / 1e9,
        "activations": held / 1e9,
        "per GPU (GB)": total / 1e9,
        "per host (GB)": host / 1e9,
        "min/1,000 pairs": (dpo + terms + forward) / speed / 60,
        "terms": f"{terms / dpo:.1%}",
        "anchor, live": f"{forward / dpo:.1%}",
        "anchor, cached": f"{forward / dpo / options.epochs:.1%}",
    }


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1, help="pairs on a GPU at once")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a prompt with one answer, half each")
    parser.add_argument("--question_length", type=int, default=98, help="tokens of a question; MMLU's mean")
    parser.add_argument("--lora_r", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--gpu_memory", type=float, default=80.0, help="gigabytes per GPU")
    parser.add_argument("--host_memory", type=float, default=1000.0, help="gigabytes per node")
    parser.add_argument("--per_node", type=int, default=8, help="GPUs of a node")
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="dense bfloat16; an H100's")
    parser.add_argument("--share", type=float, default=0.4, help="share of the peak")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure and print both tables; the exit status says whether the predictions hold."""
    options = make_parser().parse_args(arguments)
    import torch

    from hf_calib.reports import render_table

    torch.set_num_threads(1)
    coefficients, checks = fit_activations()
    print(render_table(checks))
    every, one, inner = coefficients
    print(
        f"\nBytes per token: {every:.2f} for each layer and hidden unit; once {one:.1f} for each hidden unit and "
        f"{inner:.1f} for each intermediate unit\n"
    )
    rows = [
        plan(name, lora, offload, coefficients, options)
        for name in MODELS
        for lora in (True, False)
        for offload in (False, True)
    ]
    print(render_table(rows))
    return 0 if all(abs(check["ratio"] - 1) <= WITHIN for check in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
