"""
Compare DPO and CFT steps of a real model with TRL's own steps, and show where the time goes.

```bash
python examples/benchmarks/trl_step.py --model HuggingFaceTB/SmolLM2-135M-Instruct --pairs pairs.jsonl \
    --questions allenai/openbookqa:main:train
```

TRL's `DPOTrainer` and ours train on the same pairs. TRL's `SFTTrainer` and ours train on the same questions, which
TRL's receives as prompts with the right letter as completion. All train LoRA adapters of rank 16 on all linear layers
in float32 on one thread. The runs alternate, and the times are medians over steps, in processor time.

The stack is sampled every few milliseconds to divide the time among the model's forward pass, the backward pass, the
optimizer, TRL's fused head, and the Python packages that call them.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from dpo_step import extra_over_own, timed_run

# Time counts for the place of the innermost frame that lies in one of these files, the first place if several match.
PLACES = {
    "backward": ("torch/autograd/graph.py",),
    "optimizer": ("torch/optim/", "accelerate/optimizer.py"),
    "fused head": ("trl/kernels/",),
    "model": ("transformers/models/", "peft/tuners/"),
    "hf_calib": ("hf_calib/",),
    "TRL": ("trl/",),
    "transformers, accelerate": ("transformers/", "accelerate/"),
}
ARMS = {
    "DPO": ("DPOTrainer", "anchor", "anchor, supervised"),
    "CFT": ("SFTTrainer", "letters", "text-tokens"),
}
WEIGHTS = {"anchor": {"supervised_weight": 0.0}, "anchor, supervised": {}}


class Samples(threading.Thread):
    """Samples the place of the main thread every few milliseconds between `start` and `stop`."""

    def __init__(self, seconds=0.005):
        super().__init__(daemon=True)
        self.seconds, self.found, self.ended = seconds, collections.Counter(), threading.Event()
        self.main = threading.main_thread().ident

    def run(self):
        """Sample until `stop`."""
        while not self.ended.wait(self.seconds):
            self.found[place_of(sys._current_frames()[self.main])] += 1

    def stop(self):
        """End sampling, and return each place's share of the samples."""
        self.ended.set()
        self.join()
        return {place: self.found[place] / max(1, self.found.total()) for place in (*PLACES, "other")}


def place_of(frame):
    """Return the place of `PLACES` that a stack is in, from its innermost frame outward."""
    while frame is not None:
        # Without the folders above the packages: the environment may lie in a checkout named hf_calib.
        file = "/" + frame.f_code.co_filename.rpartition("-packages/")[2]
        for place, parts in PLACES.items():
            if any(f"/{part}" in file for part in parts):
                return place
        frame = frame.f_back
    return "other"


def make_trainer(arm, folder, options, pairs, questions):
    """Return the trainer of an arm."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    import hf_calib

    arguments = {
        "output_dir": str(folder / "out"),
        "max_steps": options.steps + 1,
        "learning_rate": 1e-6,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": options.seed,
    }
    own = {
        "model": options.model,
        "peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    }
    if arm in ARMS["DPO"]:
        arguments["per_device_train_batch_size"] = options.batch_size
        own["train_dataset"] = Dataset.from_list(pairs)
        if arm == "DPOTrainer":
            return DPOTrainer(args=DPOConfig(**arguments), **own)
        args = hf_calib.CalibrationAwareConfig(**arguments, **WEIGHTS[arm])
        return hf_calib.CalibrationAwareTrainer(args=args, calibration_dataset=questions, **own)
    arguments["per_device_train_batch_size"] = options.questions_per_step
    if arm == "SFTTrainer":
        prompts = [hf_calib.PromptFormat().render(question) for question in questions]
        letters = [" " + "ABCDEFGH"[question.answer] for question in questions]
        rows = [{"prompt": p, "completion": c} for p, c in zip(prompts, letters, strict=True)]
        return SFTTrainer(args=SFTConfig(**arguments), **{**own, "train_dataset": Dataset.from_list(rows)})
    args = hf_calib.CalibrationAwareSFTConfig(**arguments, calibration_confidence=arm)
    return hf_calib.CalibrationAwareSFTTrainer(args=args, **{**own, "train_dataset": questions})


def measure(kind, folder, options, pairs, questions):
    """Return a row of the table for each arm of a kind of training."""
    trainers = {arm: make_trainer(arm, folder, options, pairs, questions) for arm in ARMS[kind]}
    seconds, shares = {arm: [] for arm in trainers}, {arm: [] for arm in trainers}
    for _ in range(options.rounds):
        for arm, trainer in trainers.items():
            samples = Samples()
            samples.start()
            seconds[arm] += timed_run(trainer, time.process_time)[0]
            shares[arm].append(samples.stop())
    plain = ARMS[kind][0]
    middle = {arm: statistics.median(values) for arm, values in seconds.items()}
    rows = []
    for arm, trainer in trainers.items():
        row = {"step of": f"{kind}, {arm}", "s": middle[arm], "ratio": middle[arm] / middle[plain]}
        aware = kind == "DPO" and arm != plain
        row["extra / own"] = extra_over_own(trainers[plain], trainer, True, False) if aware else None
        row |= {place: f"{statistics.fmean(own[place] for own in shares[arm]):.1%}" for place in (*PLACES, "other")}
        rows.append(row)
    return rows


def parse_arguments():
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--pairs", type=Path, required=True, help="file with the columns prompt, chosen and rejected")
    parser.add_argument("--questions", required=True, help="a dataset of questions with answers")
    parser.add_argument("--max_characters", type=int, default=400, help="longest prompt with completion (default 400)")
    parser.add_argument("--batch_size", type=int, default=4, help="pairs per step (default 4)")
    parser.add_argument("--questions_per_step", type=int, default=8, help="questions per CFT step (default 8)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps per run (default 4)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each trainer, in turn (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    """Measure, and print the table."""
    options = parse_arguments()
    import json

    import torch

    import hf_calib
    from hf_calib.reports import render_table

    torch.set_num_threads(1)
    lines = options.pairs.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line]
    fits = [
        {key: row[key] for key in ("prompt", "chosen", "rejected")}
        for row in rows
        if len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) <= options.max_characters
    ]
    pairs = fits[: options.batch_size * (options.steps + 1)]
    if len(pairs) < options.batch_size * (options.steps + 1):
        raise SystemExit(
            f"--pairs: only {len(pairs)} pairs have at most {options.max_characters} characters; raise "
            "--max_characters or lower --steps or --batch_size"
        )
    questions = hf_calib.load_questions(options.questions)[: 16 * options.questions_per_step]
    with tempfile.TemporaryDirectory() as name:
        table = [row for kind in ARMS for row in measure(kind, Path(name), options, pairs, questions)]
    n_steps = options.rounds * options.steps
    size = f"{options.batch_size} pairs or {options.questions_per_step} questions"
    print(f"{Path(options.model).name}, one thread, processor time, medians of {n_steps} steps; {size} per step")
    print(render_table(table))


if __name__ == "__main__":
    main()
