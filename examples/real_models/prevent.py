"""
Align a language model with DPO in several ways, and measure what each does to its preferences and its calibration.

```bash
python examples/real_models/prevent.py --model HuggingFaceTB/SmolLM2-135M-Instruct --pairs pairs.jsonl --seeds 0 1 2
```

The pairs have the columns `prompt`, `chosen` and `rejected`; those of some prompts are held out. Arms:

- the model before alignment, plain DPO, and its loss variants: label smoothing, robust DPO, IPO, and RPO (with SFT);
- CATTO, DPO with the binary cross-entropy of each token, and CDPO, which also prefers a high stated confidence after
  chosen answers and a low one after rejected answers (so it trains on twice as many pairs per step);
- the anchor, without answers: at the letters (for each of `--anchor_weights`) or at the options' texts of OpenBookQA
  training questions, with `--answers` of these, at questions that the reference writes itself, or at tokens of the
  pairs' own replies;
- after plain DPO: a temperature fitted on answers, DACA's temperature, the pre-trained model's probability of the
  aligned model's answer (BaseCal-ReEval), weights averaged with the reference's, and label-free repair.

Measured before, during and after training: how often the chosen of two held-out completions gets the higher implicit
reward (the log-ratio to the reference), the reward margin, how often it is the likelier one (win rate), and the
calibration of letters and texts on OpenBookQA, ARC-Easy and MMLU. Each arm is written to a file of its own below
`--out`, and a run that was stopped continues. `prevent_report.py` makes tables from the rows.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from common import (
    Rows,
    calibrated,
    check_settings,
    device,
    digest,
    figures,
    first,
    positive,
    read,
    read_pairs,
    source_of,
    write,
)

SETS = {"OpenBookQA": "openbookqa_test", "ARC-Easy": "arc_easy_test", "MMLU": "mmlu_test"}
READINGS = ("letters", "text-tokens")
# What is measured during training: a set and a reading.
FOLLOWED = ("ARC-Easy", "text-tokens")
# Of the arms with the anchor that do not take `--anchor_weights`, and of the repair.
WEIGHT = {"anchor_weight": 5.0}

# Settings that affect only what is measured, not the training.
MEASURING = ("held_out_tokens", "pairs_per_prompt", "sets", "n_test", "n_followed", "asked")


@dataclass(frozen=True)
class Arm:
    """One way to train, or a change of the model that plain DPO made."""

    config: dict = field(default_factory=dict)  # of CalibrationAwareConfig
    prompts: str = "none"  # none, questions, answers, self or pairs
    catto: str | None = None  # the distance of CATTO's term
    stated: bool = False  # whether CDPO's pairs of stated confidences are added
    after: str | None = None  # what is done to plain DPO's model


ARMS = {
    "before": Arm(after="before"),
    "dpo": Arm(),
    # TRL's plain loss ignores `label_smoothing`; this sum with the robust loss is DPO with smoothed labels.
    "label smoothing": Arm({"label_smoothing": 0.1, "loss_type": ["sigmoid", "robust"], "loss_weights": [1.8, -0.8]}),
    "robust": Arm({"label_smoothing": 0.1, "loss_type": ["robust"]}),
    "ipo": Arm({"loss_type": ["ipo"]}),
    "rpo": Arm({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}),
    "catto": Arm(catto="absolute"),
    "dpo bce": Arm(catto="bce"),
    "cdpo": Arm(stated=True),
    "anchor": Arm(prompts="questions"),
    "anchor texts": Arm({"calibration_confidence": "text-tokens", **WEIGHT}, prompts="questions"),
    "anchor answers": Arm({"calibration_confidence": "text-tokens", **WEIGHT}, prompts="answers"),
    "anchor self": Arm({"self_made_questions": 200, **WEIGHT}, prompts="self"),
    "anchor pairs": Arm(WEIGHT, prompts="pairs"),
    "temperature": Arm(after="temperature"),
    "daca": Arm(after="daca"),
    "basecal": Arm(after="basecal"),
    "averaged 0.25": Arm(after="averaged"),
    "averaged 0.5": Arm(after="averaged"),
    "averaged 0.75": Arm(after="averaged"),
    "repair": Arm(prompts="questions", after="repair"),
}


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--pairs", type=Path, required=True, help="file with the columns prompt, chosen and rejected")
    parser.add_argument("--data", type=Path, help="folder of question files; by default the sets come from the Hub")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help="default: all")
    parser.add_argument("--anchor_weights", nargs="+", type=float, default=[1.0], help="of the arm anchor (default 1)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the training (default 0 1 2)")
    parser.add_argument("--steps", type=positive, default=200, help="optimizer steps (default 200)")
    parser.add_argument("--batch_size", type=positive, default=16, help="pairs per step (default 16)")
    parser.add_argument("--micro_batch_size", type=positive, help="pairs per forward (default: all of a step)")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="default 2e-4, cosine decay")
    parser.add_argument(
        "--max_tokens", type=positive, help="leave out pairs with a longer prompt and answer (default: none)"
    )
    parser.add_argument("--bf16", action="store_true", help="compute pairs in bfloat16 (default on GPUs)")
    parser.add_argument("--beta", type=float, default=0.1, help="of DPO (default 0.1)")
    parser.add_argument(
        "--lora_r", type=positive, default=16, help="rank of the adapter (default 16), alpha is twice that"
    )
    parser.add_argument("--n_pairs", type=positive, default=500, help="pairs to hold out, at least (default 500)")
    parser.add_argument(
        "--held_out_tokens",
        type=positive,
        help="measure preferences on all prompts that are not trained on, with pairs of at most this many tokens "
        "(default: on the prompts that --n_pairs and --max_tokens hold out)",
    )
    parser.add_argument(
        "--pairs_per_prompt", type=positive, help="maximum number of held-out pairs per prompt (default: all)"
    )
    parser.add_argument(
        "--n_prompts", type=positive, default=1000, help="OpenBookQA questions to train on, at most (default 1000)"
    )
    parser.add_argument("--n_fit", type=positive, default=500, help="questions to fit temperatures on (default 500)")
    parser.add_argument(
        "--n_test", type=positive, default=1000, help="questions of each test set, at most (default 1000)"
    )
    parser.add_argument(
        "--sets", nargs="*", choices=SETS, default=list(SETS), metavar="SET", help="to test (default: all)"
    )
    parser.add_argument(
        "--n_followed", type=positive, default=500, help="questions asked during training, at most (default 500)"
    )
    parser.add_argument("--looks", type=int, default=4, help="measurements during training (default 4)")
    parser.add_argument("--out", type=Path, default=Path("prevented"), help="folder of the rows (default prevented)")
    parser.add_argument("--work", type=Path, help="folder of adapters (default OUT/work)")
    return parser


def main(argv=None):
    """Compute the rows that are missing."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.looks and FOLLOWED[0] not in options.sets:
        parser.error(f"--sets: {FOLLOWED[0]} is missing, but is measured during training; add it, or pass --looks 0")
    if options.batch_size % (options.micro_batch_size or 1):
        parser.error(f"--micro_batch_size: must divide --batch_size, {options.batch_size}")
    experiment = Experiment(options)
    for seed in options.seeds:
        for arm in options.arms:
            for weight in options.anchor_weights if arm == "anchor" else [None]:
                experiment.run(arm, seed, weight)


class Experiment:
    """The arms of one model."""

    def __init__(self, options):
        from transformers import AutoTokenizer

        self.options = options
        self.pairs = read_pairs(options.pairs)
        self.rows = Rows(options.out, "model")
        self.name = Path(options.model).name
        self.source = source_of(options.model)
        self.work = (options.work or options.out / "work") / self.name
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.tests = {
            name: first(read((SETS[name],), options.data), options.n_test, "--n_test", name) for name in options.sets
        }
        questions = read(("openbookqa_train",), options.data)
        self.fit, others = questions[: options.n_fit], questions[options.n_fit :]
        if not others:
            raise SystemExit(f"--n_fit: openbookqa_train has only {len(questions):,} questions; lower --n_fit")
        self.questions = first(others, options.n_prompts, "--n_prompts", "openbookqa_train after --n_fit")
        self.train, self.held_out = self.split()
        self._reference = None

    def split(self):
        """Return the pairs to train on and those that are held out, which share no prompt."""
        options = self.options
        rows = self.pairs
        short = [row for row in rows if self.fits(row, options.max_tokens)]
        prompts = sorted({row["prompt"] for row in short})
        random.Random(0).shuffle(prompts)
        held_out = []
        while prompts and len(held_out) < options.n_pairs:
            prompt = prompts.pop()
            held_out += [row for row in short if row["prompt"] == prompt]
        kept = set(prompts)
        train = [row for row in short if row["prompt"] in kept]
        if not train:
            limit = "" if options.max_tokens is None else f" of at most {options.max_tokens} tokens"
            raise SystemExit(
                f"--n_pairs: {options.pairs} has {len(short)} pairs{limit}, so none is left to train on; lower "
                "--n_pairs" + (" or raise --max_tokens" if limit else "")
            )
        if options.held_out_tokens is not None:
            others = [row for row in rows if row["prompt"] not in kept and self.fits(row, options.held_out_tokens)]
            held_out = sorted(others, key=lambda row: row["prompt"])
        if options.pairs_per_prompt is not None:
            rng = random.Random(0)
            of_prompts = [list(own) for _, own in groupby(held_out, key=lambda row: row["prompt"])]
            held_out = [row for own in of_prompts for row in rng.sample(own, min(len(own), options.pairs_per_prompt))]
        return [self.rendered(row) for row in train], [self.rendered(row) for row in held_out]

    def fits(self, row, max_tokens):
        """Return whether a pair has at most `max_tokens` tokens; None means no limit."""
        if max_tokens is None:
            return True
        row = self.rendered(row)
        texts = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
        return max(map(len, self.tokenizer(texts)["input_ids"])) <= max_tokens

    def rendered(self, row):
        """Return a pair as text, in the tokenizer's chat template if there is one."""
        prompt = row["prompt"].strip()
        if self.tokenizer.chat_template is None:
            prompt = f"Instruction: {prompt}\nResponse:\n"
        else:
            message = [{"role": "user", "content": prompt}]
            prompt = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return {"prompt": prompt, "chosen": row["chosen"].strip(), "rejected": row["rejected"].strip()}

    def settings(self, weight=None):
        """Return what a row depends on."""
        left_out = ("model", "pairs", "data", "arms", "seeds", "anchor_weights", "out", "work", "micro_batch_size")
        settings = {name: value for name, value in vars(self.options).items() if name not in left_out}
        settings |= {
            "model": self.name,
            "source": self.source,
            "pairs": self.options.pairs.name,
            "n_train": len(self.train),
            "trained_on": digest(self.train, self.fit, self.questions),
            "asked": digest(self.tests, self.held_out),
        }
        return settings | ({} if weight is None else {"anchor_weight": weight})

    def training_settings(self, weight):
        """Return the settings that affect a training and the measurements during it."""
        settings = self.settings(weight)
        return {name: value for name, value in settings.items() if self.options.looks or name not in MEASURING}

    def run(self, name, seed, weight):
        """Compute a row unless it is there."""
        arm = ARMS[name]
        seed = None if name == "before" else seed
        settings = self.settings(weight)
        name = name if weight is None else f"{name} {weight:g}"
        if not self.rows.missing(self.name, name, seed, settings):
            return
        row = self.trained(name, arm, seed, weight) if arm.after is None else self.changed(name, arm, seed)
        self.rows.add(self.name, name, seed, settings, **row)
        shown = self.summary(row)
        print(f"{name} {'' if seed is None else seed}: {shown}", flush=True)

    def base(self):
        """Return the model before alignment, in float32."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.options.model, dtype="float32").to(device())

    def config(self, folder, seed, kind, batch_size=None, **own):
        """Return the training arguments that all arms share."""
        options = self.options
        batch_size = batch_size or options.batch_size
        micro = options.micro_batch_size or batch_size
        return kind(
            str(folder),
            max_steps=options.steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch_size // micro,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=options.steps // 20,
            seed=seed,
            use_cpu=device() == "cpu",
            bf16=self.options.bf16 or device() == "cuda",
            gradient_checkpointing=False,
            logging_steps=max(1, options.steps // 20),
            save_strategy="no",
            report_to="none",
            **own,
        )

    def adapter(self):
        """Return the adapter to train."""
        from peft import LoraConfig

        rank = self.options.lora_r
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")

    def prompts(self, arm):
        """Return an arm's calibration questions."""
        if arm.prompts == "questions":
            return [replace(question, answer=None) for question in self.questions]
        return {"none": None, "self": "self", "pairs": "pairs", "answers": self.questions}[arm.prompts]

    def trained(self, name, arm, seed, weight):
        """Train unless an earlier run has finished the training, and return the row."""
        from peft import PeftModel

        folder = self.work / f"{name.replace(' ', '-')}-seed{seed}"
        kept = folder / "training.json"
        settings = self.training_settings(weight)
        if kept.exists():
            check_settings(kept, json.loads(kept.read_text())["settings"], settings, "--work")
        else:
            training = self.train_adapter(folder, name, arm, seed, weight)
            write(kept, json.dumps({"settings": settings, "training": training}))
        training = json.loads(kept.read_text())["training"]
        return {**training, **self.measured(PeftModel.from_pretrained(self.base(), folder))}

    def train_adapter(self, folder, name, arm, seed, weight):
        """Train and save an adapter, and return the training's record."""
        from datasets import Dataset, concatenate_datasets

        import hf_calib

        config = dict(arm.config) if weight is None else {**arm.config, "anchor_weight": weight}
        pairs = Dataset.from_list(self.train)
        if arm.catto is not None or arm.stated:
            sys.path.append(str(Path(__file__).resolve().parents[1] / "lab"))
            from experiments.catto import CATTODPOTrainer
            from experiments.rivals import stated_pairs
        if arm.stated:
            pairs = concatenate_datasets([pairs, stated_pairs(pairs, seed)])
            config["batch_size"] = 2 * self.options.batch_size
        args = self.config(folder, seed, hf_calib.CalibrationAwareConfig, beta=self.options.beta, **config)
        trainer_class, own = hf_calib.CalibrationAwareTrainer, {}
        if arm.catto is not None:
            trainer_class, own = CATTODPOTrainer, {"catto_distance": arm.catto}
        trainer = trainer_class(
            self.base(),
            args=args,
            train_dataset=pairs,
            processing_class=self.tokenizer,
            peft_config=self.adapter(),
            calibration_dataset=self.prompts(arm),
            **own,
        )
        look = Look(self, trainer)
        trainer.add_callback(look.callback())
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start - look.seconds
        trainer.save_model()
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        return {"seconds": round(seconds, 1), "looks": look.taken, "log": log}

    def changed(self, name, arm, seed):
        """Change the model that plain DPO made, and return the row."""
        from peft import PeftModel
        from peft.helpers import rescale_adapter_scale

        if arm.after == "before":
            return self.measured(self.base())
        folder = self.work / f"dpo-seed{seed}"
        kept = folder / "training.json"
        if not kept.exists():
            raise SystemExit(f"--arms: {name} changes plain DPO's model; run the arm dpo with seed {seed} first")
        check_settings(kept, json.loads(kept.read_text())["settings"], self.training_settings(None), "--work")
        model = PeftModel.from_pretrained(self.base(), folder)
        if arm.after == "repair":
            return self.repaired(model.merge_and_unload(), arm, seed)
        share = 1 - float(name.split()[1]) if arm.after == "averaged" else 1.0
        with nullcontext() if share == 1.0 else rescale_adapter_scale(model, share):
            return self.measured(model, arm.after)

    def repaired(self, model, arm, seed):
        """Repair a model without labels, with as many steps as alignment had."""
        import hf_calib

        folder = self.work / f"repair-seed{seed}"
        args = self.config(folder, seed, hf_calib.RecalibrationConfig, **WEIGHT)
        start = time.perf_counter()
        trainer = hf_calib.recalibrate(
            model, self.base(), self.prompts(arm), tokenizer=self.tokenizer, args=args, peft_config=self.adapter()
        )
        return {"seconds": round(time.perf_counter() - start, 1), **self.measured(trainer.model)}

    def measured(self, model, calibrator=None):
        """Return a model's preferences and calibration."""
        row = {"preferences": self.preferences(model), "measured": {}}
        for reading in READINGS:
            sets = dict(self.tests)
            if calibrator in ("temperature", "daca"):
                sets["fit"] = self.fit
            answers = self.ask(model, sets, reading)
            if calibrator == "temperature":
                answers, row[f"calibrator of {reading}"] = calibrated(answers, "temperature")
            elif calibrator == "daca":
                reference = self.ask(self.base(), {"fit": self.fit}, reading)["fit"].logits
                answers, row[f"calibrator of {reading}"] = calibrated(answers, "reference_agreement", reference)
            elif calibrator == "basecal":
                base = self.ask(self.base(), sets, reading)
                answers = {name: replace(base[name], chosen=own.predicted) for name, own in answers.items()}
            row["measured"][reading] = {name: figures(answers[name]) for name in self.tests}
        return row

    def ask(self, model, sets, reading):
        """Return a model's predictions of several sets of questions."""
        import hf_calib

        if not sets:
            return {}
        found = hf_calib.measure((model, self.tokenizer), sets, method=reading, batch_size="auto")
        return {name: own.predictions for name, own in found.datasets.items()}

    def preferences(self, model):
        """Return how a model's preferences agree with the held-out pairs, and each pair's reward margin."""
        completions, reference = self.reference()
        scores = self.scored(completions, model)
        margins = self.options.beta * np.subtract(*(scores - reference).reshape(2, -1))
        wins = np.greater(*scores.reshape(2, -1))
        return {
            "reward_accuracy": float((margins > 0).mean()),
            "reward_margin": float(margins.mean()),
            "win_rate": float(wins.mean()),
            "margins": [float(f"{margin:.4g}") for margin in margins],
            # Pairs of one prompt, which follow each other, are not independent.
            "pairs_per_prompt": list(Counter(row["prompt"] for row in self.held_out).values()),
        }

    def reference(self):
        """Return the held-out completions, and the reference's log-probabilities of these."""
        from hf_calib.lab.win_rate import TokenizedCompletions

        if self._reference is None:
            texts = [(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in self.held_out]
            completions = TokenizedCompletions.of(self.tokenizer, texts)
            self._reference = completions, self.scored(completions, self.base())
        return self._reference

    def scored(self, completions, model):
        """Return the completions' log-probabilities, with as many rows per forward as the logits' memory allows."""
        import torch

        logits = 2**29 if model.device.type == "cuda" else 2**26
        rows = logits // (completions.input_ids.shape[1] * len(self.tokenizer))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.options.bf16):
            return completions.log_probabilities(model, batch_size=max(1, rows))

    def summary(self, row):
        """Return a row in a line."""
        own = row["preferences"]
        shown = [f"reward accuracy {own['reward_accuracy']:.3f}, margin {own['reward_margin']:.3f}"]
        for name, found in row["measured"][FOLLOWED[1]].items():
            keys = ("accuracy", "confidence", "ece", "nll")
            shown.append(f"{name} " + ", ".join(f"{key} {found[key]['value']:.3f}" for key in keys))
        return "; ".join(shown)


class Look:
    """Measurements during a training, and the seconds that they took."""

    def __init__(self, experiment, trainer):
        self.experiment, self.trainer = experiment, trainer
        self.taken, self.seconds = [], 0.0

    def callback(self):
        """Return the callback that measures."""
        from transformers import TrainerCallback

        options = self.experiment.options
        at = {round(options.steps * (number + 1) / options.looks) for number in range(options.looks)}
        look = self

        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step in at:
                    look.take(state.global_step)

        return Callback()

    def take(self, step):
        """Measure the model that is being trained."""
        start, experiment = time.perf_counter(), self.experiment
        name, reading = FOLLOWED
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        questions = experiment.tests[name][: experiment.options.n_followed]
        answers = experiment.ask(model, {name: questions}, reading)[name]
        preferences = experiment.preferences(model)
        del preferences["margins"], preferences["pairs_per_prompt"]
        self.taken.append({"step": step, "preferences": preferences, "measured": figures(answers)})
        self.seconds += time.perf_counter() - start


if __name__ == "__main__":
    main()
