"""
Repair the calibration of an aligned language model in several ways, and measure each.

```bash
python examples/real_models/repair.py --model HuggingFaceTB/SmolLM2-135M-Instruct --seeds 0 1 2
```

Arms, for confidence in the options' letters and in their texts:

- as it is; with the chat template;
- calibrators: temperature, vector, isotonic, auto, fitted on training questions that no arm trains on;
- CFT; RCFT; long fine-tuning, which is CFT for four times the steps; long + temperature.

All are measured on the same questions: ARC-Easy, a mixture of the training sets' own test questions (in domain), and
MMLU (out of domain). Each row is written to a file of its own below `--out` when it is complete. A run that was
stopped continues where it was, from the last checkpoint of a training, when it is started again. Set
`OMP_NUM_THREADS` to limit the cores it uses. `report.py` makes tables and figures from the rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import (
    TRAIN,
    Rows,
    calibrated,
    device,
    digest,
    figures,
    fine_tune,
    positive,
    read,
    source_of,
    test_sets,
)

CALIBRATORS = ("temperature", "vector", "isotonic", "auto")
# Optimizer steps, as a multiple of --steps, and the trainer's method.
TRAINED = {"cft": (1, "cft"), "rcft": (1, "rcft"), "long": (4, "cft")}
AFTERWARDS = "long + temperature"
ARMS = ("as it is", "chat template", *CALIBRATORS, *TRAINED, AFTERWARDS)
# Letters are learned from more questions than texts, which the model knows already.
STEPS = {"letters": 200, "text": 100, "text-characters": 100, "text-tokens": 100}


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--data", type=Path, help="folder of question files; by default the sets come from the Hub")
    parser.add_argument("--readings", nargs="+", default=["letters", "text-tokens"], choices=list(STEPS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trained arms (default 0 1 2)")
    parser.add_argument(
        "--steps", type=positive, help="optimizer steps of CFT (default 200 for letters, 100 for texts)"
    )
    parser.add_argument("--batch_size", type=positive, default=8, help="questions per step (default 8)")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="default 2e-4, cosine decay")
    parser.add_argument(
        "--lora_r", type=positive, default=16, help="rank of the adapter (default 16), alpha is twice that"
    )
    parser.add_argument(
        "--n_test", type=positive, default=1000, help="questions of each test set, at most (default 1000)"
    )
    parser.add_argument("--n_fit", type=positive, default=500, help="questions to fit calibrators on (default 500)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of measuring")
    parser.add_argument("--out", type=Path, default=Path("repaired"), help="folder of the rows (default repaired)")
    parser.add_argument("--work", type=Path, help="folder of adapters and answers (default OUT/work)")
    return parser


def main(argv=None):
    """Compute the rows that are missing."""
    options = make_parser().parse_args(argv)
    experiment = Experiment(options)
    for reading in options.readings:
        for arm in ("as it is", "chat template", *CALIBRATORS):
            if arm in options.arms:
                experiment.untrained(reading, arm)
    for seed in options.seeds:
        for reading in options.readings:
            for arm in (*TRAINED, AFTERWARDS):
                if arm in options.arms:
                    experiment.trained(reading, arm, seed)


class Experiment:
    """The arms of one model."""

    def __init__(self, options):
        self.options = options
        self.rows = Rows(options.out)
        self.source = source_of(options.model)
        self.work = options.work or options.out / "work"
        self.tests = test_sets(options.data, options.n_test)
        questions = read(TRAIN, options.data)
        self.fit, self.train = questions[: options.n_fit], questions[options.n_fit :]
        if not self.train:
            raise SystemExit(f"--n_fit: the training sets have only {len(questions):,} questions; lower --n_fit")
        self.asked, self.trained_on = digest(self.tests, self.fit), digest(self.train)

    def settings(self, reading, trained=None):
        """Return what a row depends on."""
        own = self.options
        settings = {
            "model": Path(own.model).name,
            "source": self.source,
            "n_test": own.n_test,
            "n_fit": own.n_fit,
            "dtype": own.dtype,
            "asked": self.asked,
        }
        if trained is not None:
            times, method = TRAINED[trained]
            settings |= {
                "method": method,
                "steps": times * (own.steps or STEPS[reading]),
                "batch_size": own.batch_size,
                "learning_rate": own.learning_rate,
                "lora_r": own.lora_r,
                "n_train": len(self.train),
                "trained_on": self.trained_on,
            }
        return settings

    def ask(self, model, folder, **how):
        """Return the predictions of all test sets and of the calibrators' questions, which are kept in a folder."""
        import hf_calib

        sets = {**self.tests, "fit": self.fit}
        found = hf_calib.measure(model, sets, out=self.work / folder, progress=True, batch_size="auto", **how)
        return {name: own.predictions for name, own in found.datasets.items()}

    def untrained(self, reading, arm):
        """Measure the model as it is, with its chat template, or with a calibrator."""
        settings = self.settings(reading)
        if not self.rows.missing(reading, arm, None, settings):
            return
        how = {"method": reading, "dtype": self.options.dtype}
        if arm == "chat template":
            how["chat_template"] = True
        name = "chat" if arm == "chat template" else "plain"
        answers = self.ask(self.options.model, f"{name}-{reading}", **how)
        values = {}
        if arm in CALIBRATORS:
            answers, values["calibrator"] = calibrated(answers, arm)
        self.add(reading, arm, None, settings, answers, **values)

    def trained(self, reading, arm, seed):
        """Train an adapter unless it is there, and measure it."""
        import torch

        import hf_calib

        training = "long" if arm == AFTERWARDS else arm
        settings = self.settings(reading, training)
        if not self.rows.missing(reading, arm, seed, settings):
            return
        folder = self.work / f"{training}-{reading}-seed{seed}"
        # The adapters that are published report the calibration before and after on their cards.
        own = {"eval_calibration_dataset": self.tests["in domain"]} if training == "cft" else {}
        seconds = fine_tune(self.options.model, self.train, folder, reading, seed, settings, **own)
        model = hf_calib.load(folder)
        model.model = model.model.merge_and_unload().to(device(), getattr(torch, self.options.dtype))
        # PyTorch multiplies bfloat16 weights without gradients four times as slowly on processors.
        model.model.requires_grad_(True)
        answers = self.ask(model, f"{folder.name}-answers")
        values = {"training_seconds": seconds}
        if arm == AFTERWARDS:
            answers, values["calibrator"] = calibrated(answers, "temperature")
        self.add(reading, arm, seed, settings, answers, **values)

    def add(self, reading, arm, seed, settings, answers, **values):
        """Write a row with the figures of all sets; those of the fitting questions can choose settings."""
        measured = {name: figures(own) for name, own in answers.items()}
        self.rows.add(reading, arm, seed, settings, **values, measured=measured)
        shown = ", ".join(
            f"{name} {own['accuracy']['value']:.3f} ECE {own['ece']['value']:.3f}" for name, own in measured.items()
        )
        print(f"{reading} {arm} {'' if seed is None else seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
