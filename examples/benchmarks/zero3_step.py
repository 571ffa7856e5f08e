"""
Measure a calibration-aware DPO step under ZeRO-3 with recomputed activations, next to plain DPO's, in each process.

```bash
accelerate launch --config_file examples/accelerate_configs/zero3_cpu.yaml examples/benchmarks/zero3_step.py \
    --hidden_size 256 --layers 4 --vocabulary 2048 --pairs 2 --questions 1
```

The columns show the largest value of any process:

- all-gathers: number per step without gradient accumulation, and the megabytes that they gather.
- ms/step: median wall-clock time of a step.
- between steps: megabytes of live tensors between steps: the shards of weights, gradients and optimizer.
- peak: the additional megabytes at the peak of a step.
- questions alone: the peak of the terms' own forward and backward.

The peak with the terms may exceed plain DPO's by at most that of the questions alone. The exit status is 1 if a
case is out of bounds. The sizes are those of dpo_step.py, whose options it takes; activations are recomputed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

MARGIN = 1.01


def recorded(trainer, memory):
    """Train; return each step's peak beyond what was held before it, its all-gathers, and what was held."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def __init__(self):
            self.rows = []

        def on_step_begin(self, args, state, control, **kwargs):
            self.before = memory.held
            memory.reset()

        def on_step_end(self, args, state, control, **kwargs):
            self.rows.append((memory.most - self.before, memory.gathers, memory.gathered, self.before))

    steps = Steps()
    trainer.add_callback(steps)
    trainer.train()
    return steps.rows[1:]  # the first creates the optimizer's state


def measure(folder, options, data, lora, case):
    """Return the figures of this process for one case: `None` is plain DPO."""
    from dpo_step import CLOCKS, make_trainer, timed_run
    from live_memory import LiveMemory

    from hf_calib.trainers import distributed, mixin

    seconds, _ = timed_run(make_trainer(folder, folder / "out", options, data, lora, case), CLOCKS["wall"])
    memory, alone = LiveMemory(), []

    def watched(accelerator, model, next_term):
        before = memory.held
        value = distributed.separate_backward(accelerator, model, next_term)
        alone.append(memory.most - before)
        return value

    mixin.separate_backward = watched
    try:
        with memory:
            rows = recorded(make_trainer(folder, folder / "out", options, data, lora, case), memory)
    finally:
        mixin.separate_backward = distributed.separate_backward
    peaks, gathers, gathered, held = (max(column) for column in zip(*rows, strict=True))
    return {
        "seconds": statistics.median(seconds), "peak": peaks, "gathers": gathers, "gathered": gathered, "held": held,
        "alone": max(alone, default=0),
    }  # fmt: skip


def main() -> int:
    """Measure and print the table in the first process; the exit status says whether all are within bounds."""
    from dpo_step import CASES, make_data, parse_arguments, save_model

    options = parse_arguments(__doc__)
    options.recompute = True
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from hf_calib.reports import render_table

    torch.set_num_threads(options.threads)
    state = PartialState(cpu=True)
    rows, within = [], True
    with tempfile.TemporaryDirectory() as name:
        [name] = gather_object([name])[:1]
        folder = Path(name)
        if state.is_main_process:
            save_model(folder, options)
        state.wait_for_everyone()
        data = make_data(options)
        for weights in options.weights:
            plain = None
            for case in (None, *(case for case in CASES if case in options.terms)):
                everyone = gather_object([measure(folder, options, data, weights == "LoRA", case)])
                most = {key: max(figures[key] for figures in everyone) for key in everyone[0]}
                plain = plain or most
                fits = most["peak"] <= MARGIN * (plain["peak"] + most["alone"])
                within &= fits
                rows.append(
                    {
                        "weights": weights,
                        "method": "DPO" if case is None else f"with {case}",
                        "all-gathers": most["gathers"],
                        "gathered (MB)": most["gathered"] / 1e6,
                        "ms/step": 1000 * most["seconds"],
                        "between steps (MB)": most["held"] / 1e6,
                        "peak (MB)": most["peak"] / 1e6,
                        "questions alone (MB)": most["alone"] / 1e6 if case else None,
                        "within": "yes" if fits else "NO",
                    }
                )
        state.wait_for_everyone()
    if state.is_main_process:
        print(f"{state.num_processes} processes, {state.distributed_type.value}")
        print(render_table(rows))
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
