"""
Measure a small real model on typed decisions whose exact probabilities are known, before and after fine-tuning.

Three workflows of 100 cases are made from rules: a state holds a few facts, the rule turns them into the probability
of every answer, and the label is drawn from it. The cases are cross-validated in five folds: each case is tested once,
by a model that was fine-tuned on 60% of the cases, with temperatures that were fitted on another 20%. The arms:

- `prior`: the mean answer in the training cases, without a model
- `zero-shot`, and `debiased`: averaged over all rotations of the options
- `fine-tuned`: LoRA on the gold distributions, in mixed bfloat16 precision
- `calibration-aware`: the same with the Brier score and the ECE regularizer
- each of these but the prior with one temperature per type: `zero-shot, temperatures` and so on

Each fold of an arm is one file in `--out`; a finished one is not computed again, and one that was made with other
settings or another model is an error. `--report` writes summary.json and prints a table of the finished folds with 95%
intervals, clustered by case.

```bash
python examples/real_models/decisions.py --model HuggingFaceTB/SmolLM2-135M-Instruct --chat --out results/smollm2
python examples/real_models/decisions.py --out results/smollm2 --report
```

`--throughput N` instead measures the processor time per case of N cases, with one request per case and with one per
question, on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from common import check_settings, positive, source_of, versions, write

N_CASES = 100  # of each workflow
FOLDS = 5
TRAINED = {"fine-tuned": {}, "calibration-aware": {"em_weight": 1.0, "brier_weight": 0.5}}
MODELS = ("zero-shot", "debiased", *TRAINED)
ARMS = ("prior", *(arm for name in MODELS for arm in (name, f"{name}, temperatures")))
FACTS = {
    "customer_service": {
        "plan": ("free", "team", "enterprise"),
        "tone": ("calm", "annoyed", "furious"),
        "days_waiting": (0, 2, 9),
        "topic": ("refund", "outage", "how-to"),
    },
    "invoice_processing": {
        "amount": (40, 900, 25000),
        "purchase_order": ("present", "missing", "mismatch"),
        "vendor": ("known", "new", "blocked"),
        "due_in_days": (30, 3, -5),
    },
    "security_incidents": {
        "source": ("internal", "partner", "unknown"),
        "failed_logins": (1, 8, 400),
        "asset": ("laptop", "database", "domain controller"),
        "data_left": ("no", "unclear", "yes"),
    },
}
QUESTIONS = {
    "customer_service": {
        "route": {
            "type": "choice",
            "instructions": "Which team should take this ticket?",
            "criteria": {"billing": "Payments and refunds", "engineering": "Outages and bugs", "support": "Questions"},
        },
        "escalate": {"type": "noul", "instructions": "Should a manager be told?"},
        "urgency": {"type": "score", "instructions": "How urgent is it?", "criteria": ["low", "medium", "high"]},
    },
    "invoice_processing": {
        "action": {
            "type": "choice",
            "instructions": "What should be done with this invoice?",
            "criteria": {"pay": None, "ask the buyer": None, "reject": None},
        },
        "review": {"type": "noul", "instructions": "Does a person need to review it?"},
        "risk": {"type": "score", "instructions": "How risky is it?", "criteria": ["low", "medium", "high"]},
    },
    "security_incidents": {
        "verdict": {
            "type": "choice",
            "instructions": "What is this?",
            "criteria": {"false alarm": None, "misuse": None, "attack": None},
        },
        "isolate": {"type": "noul", "instructions": "Should the asset be isolated now?"},
        "severity": {"type": "score", "instructions": "How severe is it?", "criteria": ["low", "medium", "high"]},
    },
}
SHOWN = ("accuracy", "kl_from_gold", "brier", "ece")


def make_cases(seed=0, n=N_CASES):
    """Return `n` cases of each workflow: how grave the facts are, on the whole and by fact, sets the probabilities."""
    from hf_calib.tasks import TypedDecisions

    rows = []
    for number, (workflow, facts) in enumerate(FACTS.items()):
        rng = np.random.default_rng([seed, number])
        weights = rng.uniform(0.5, 1.5, len(facts))
        for _ in range(n):
            levels = rng.integers(3, size=len(facts))
            state = {fact: values[level] for (fact, values), level in zip(facts.items(), levels, strict=True)}
            grave = float((levels - 1) @ weights)
            # The last fact decides the topic; the first options are the harmless ones.
            logits = {
                "choice": np.where(np.arange(3) == levels[-1], 2.0, 0.0) + 0.5 * grave * (np.arange(3) - 1),
                "noul": np.array([0.0, 1.2 * grave]),
                "score": -((np.arange(3) - 1 - 0.7 * grave) ** 2),
            }
            gold = {}
            for question, own in QUESTIONS[workflow].items():
                p = np.exp(logits[own["type"]] - logits[own["type"]].max())
                p /= p.sum()
                names = list({"noul": ("false", "true"), "score": "012"}.get(own["type"]) or own["criteria"])
                label = names[int(rng.choice(len(p), p=p))]
                gold[question] = {"probabilities": dict(zip(names, p.tolist(), strict=True)), "label": label}
            rows.append({"workflow": workflow, "state": state, "questions": QUESTIONS[workflow], "gold": gold})
    return TypedDecisions(rows)


def places_of(fold, n_cases):
    """Return the places of a fold's training, held-out and test cases; all workflows are in each."""
    turn = (np.arange(n_cases) - fold) % FOLDS
    parts = {"train": turn > 1, "held_out": turn == 1, "test": turn == 0}
    return {name: np.flatnonzero(chosen).tolist() for name, chosen in parts.items()}


class Fold:
    """The arms of one fold."""

    def __init__(self, options, number):
        from hf_calib.tasks import PromptFormat

        self.options = options
        self.out = Path(options.out) / f"fold{number}"
        cases = make_cases(options.seed, options.cases)
        self.parts = {name: cases.at(places) for name, places in places_of(number, len(cases)).items()}
        self.format = PromptFormat(chat=options.chat)
        self.settings = {key: getattr(options, key) for key in ("cases", "seed", "steps", "batch_size", "chat")}
        self.settings["source"] = source_of(options.model)

    def load(self):
        """Load the model, on a GPU if there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.options.model)
        self.model = AutoModelForCausalLM.from_pretrained(self.options.model, dtype="float32")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    def backend(self, **settings):
        """Return the model as a source of decisions."""
        from hf_calib.confidence import LocalDecisions, LocalModel

        return LocalDecisions(LocalModel(self.model, self.tokenizer), self.format, **settings)

    def train(self, weights):
        """Put an adapter on the model, and train it on the gold distributions."""
        import tempfile

        from peft import LoraConfig

        from hf_calib import CalibrationAwareSFTConfig, CalibrationAwareSFTTrainer

        options = self.options
        with tempfile.TemporaryDirectory() as folder:
            trainer = CalibrationAwareSFTTrainer(
                model=self.model,
                args=CalibrationAwareSFTConfig(
                    folder,
                    max_steps=options.steps,
                    per_device_train_batch_size=options.batch_size,
                    learning_rate=5e-4,
                    lr_scheduler_type="cosine",
                    seed=options.seed,
                    use_cpu=self.model.device.type == "cpu",
                    bf16=True,
                    gradient_checkpointing=False,
                    report_to=[],
                    save_strategy="no",
                    logging_steps=25,
                    disable_tqdm=True,
                    **weights,
                ),
                train_dataset=self.parts["train"],
                em_dataset=self.parts["held_out"].questions() if weights else None,
                processing_class=self.tokenizer,
                prompt_format=self.format,
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            )
            trainer.train()
            # Remove the wrapper that computes in bfloat16, so that all arms are measured in float32.
            self.model = trainer.accelerator.unwrap_model(trainer.calibrated_model, keep_fp32_wrapper=False)

    def keep(self, name, probabilities, **more):
        """Write an arm's answers."""
        content = {"settings": self.settings, "versions": versions(), "probabilities": probabilities, **more}
        write(self.out / f"{name}.json", json.dumps(content) + "\n")
        print(f"{self.out}: {name} finished", flush=True)

    def missing(self, name):
        """Return whether an arm has to be computed; exit with an error if it is there with other settings."""
        path = self.out / f"{name}.json"
        if not path.exists():
            return True
        check_settings(path, json.loads(path.read_text())["settings"], self.settings)
        return False

    def run(self):
        """Compute the arms that are missing."""
        from hf_calib import measure_decisions
        from hf_calib.evaluation import fit_temperatures
        from hf_calib.evaluation.decisions import prior_answers

        if self.missing("prior"):
            self.keep("prior", prior_answers(self.parts["train"], self.parts["test"]))
        for name in MODELS:
            arms = (name, f"{name}, temperatures")
            missing = [arm for arm in arms if self.missing(arm)]
            if not missing:
                continue
            self.load()
            if name in TRAINED:
                self.train(TRAINED[name])
            asked = {"n_orders": 3 if name == "debiased" else 1}
            found = measure_decisions(self.backend(**asked), self.parts["test"])
            more = {"masses": found.masses, "device": found.run["device"]}
            self.keep(arms[0], found.probabilities, **more)
            fitted = fit_temperatures(measure_decisions(self.backend(**asked), self.parts["held_out"]))
            self.keep(arms[1], found.calibrated(fitted).probabilities, **more, temperatures=fitted.parameters())


def throughput(options):
    """Return the seconds per case of one request per case and of one per question, in processor time of one core."""
    import torch

    from hf_calib.tasks import Case

    torch.set_num_threads(1)
    fold = Fold(options, 0)
    fold.load()
    cases = list(fold.parts["test"])[: options.throughput]
    alone = [Case(case.state, (own,), case.workflow) for case in cases for own in case.decisions]
    backend, seconds = fold.backend(), {}
    backend.decide(cases[:1])  # finds out what the model takes
    for name, own in (("one request per case", cases), ("one request per question", alone)):
        start = time.process_time()
        for case in own:
            backend.decide([case])
        seconds[name] = (time.process_time() - start) / len(cases)
    return {"cases": len(cases), "questions": len(alone), "seconds_per_case": seconds}


def merged(folder, arm):
    """Return the measurement of an arm over its finished folds, and its temperatures in each; None without a fold."""
    from hf_calib.reports import DecisionMeasurement

    paths = {number: folder / f"fold{number}" / f"{arm}.json" for number in range(FOLDS)}
    found = {number: json.loads(path.read_text()) for number, path in paths.items() if path.exists()}
    if not found:
        return None
    settings = next(iter(found.values()))["settings"]
    if any(own["settings"] != settings for own in found.values()):
        raise SystemExit(f"--out: the folds of {arm} in {folder} have different settings; remove them and run again")
    cases = make_cases(settings["seed"], settings["cases"])
    places = [place for number in found for place in places_of(number, len(cases))["test"]]
    answers = [tuple(own) for fold in found.values() for own in fold["probabilities"]]
    masses = [mass for fold in found.values() for mass in fold.get("masses", [None] * len(fold["probabilities"]))]
    measurement = DecisionMeasurement(folder.name, cases.at(places), answers, masses, settings, settings["seed"])
    return measurement, [own.get("temperatures") for own in found.values()]


def report(folder):
    """Write the figures of all arms into summary.json, and return them as a table."""
    lines = [f"| {folder.name} | cases | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    summary = {}
    for arm, found in ((arm, merged(folder, arm)) for arm in ARMS):
        if found is None:
            continue
        measurement, temperatures = found
        figures = measurement.figures
        summary[arm] = {
            "settings": measurement.run,
            "cases": len(measurement.cases),
            "decisions": len(measurement.probabilities),
            **{name: {"value": own.value, "low": own.low, "high": own.high} for name, own in figures.items()},
            "by_type": {
                name: {key: own.measures[key].value for key in ("accuracy", "kl_from_gold", "brier_from_gold", "ece")}
                for name, own in measurement.by_type.items()
            },
            "temperatures": temperatures,
        }
        summary[arm]["exact_accuracy"] = float(np.mean([max(own.gold) for own in measurement.cases.decisions]))
        cells = [str(len(measurement.cases)), *(_cell(figures[key]) for key in SHOWN)]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    if not summary:
        raise SystemExit(f"--out: {folder} has no finished fold; run the same command without --report first")
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    exact = summary[ARMS[0]]["exact_accuracy"]
    return "\n".join([*lines, "", f"Accuracy expected with the exact probabilities: {exact:.3f}."])


def _cell(measure):
    interval = "" if measure.low is None else f" [{measure.low:.3f}, {measure.high:.3f}]"
    return f"{measure.value:.3f}{interval}"


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or Hub id")
    parser.add_argument("--chat", action="store_true", help="use the chat template")
    parser.add_argument("--out", default="results", help="folder of the results (default: %(default)s)")
    parser.add_argument(
        "--folds", type=int, nargs="+", default=range(FOLDS), choices=range(FOLDS), help="which folds (default: all)"
    )
    parser.add_argument(
        "--cases", type=positive, default=N_CASES, help="cases of each workflow (default: %(default)s)"
    )
    parser.add_argument("--steps", type=positive, default=150, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=16, help="questions per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of cases, weights and intervals (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="only report on the finished folds")
    parser.add_argument(
        "--throughput", type=positive, metavar="N", help="only measure the time of N cases, on one core"
    )
    return parser


def main(arguments=None):
    """Compute the arms of the requested folds, or report on them."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.report:
        print(report(Path(options.out)))
        return
    if options.model is None:
        parser.error("--model: give a folder or Hub id")
    if options.throughput:
        print(json.dumps(throughput(options), indent=2))
        return
    for number in options.folds:
        Fold(options, number).run()


if __name__ == "__main__":
    main()
