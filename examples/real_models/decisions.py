"""
Measure a small real model on typed decisions whose exact probabilities are known, before and after fine-tuning.

Three workflows of 100 cases are made from rules: a state holds a few facts, the rule turns them into the probability
of every answer, and the label is drawn from it. Of each workflow, 60 cases are for training, 15 are held out for the
temperatures and 25 are for testing. Each arm is one file in `--out`, and an arm that is finished is not run again:

- `zero-shot`, and `debiased`: averaged over all rotations of the options
- `fine-tuned`: LoRA on the gold distributions, and `calibrated`: the same with one temperature per type
- `throughput`: seconds per case on one core, with one request per case and with one per question

```bash
python examples/real_models/decisions.py --model HuggingFaceTB/SmolLM2-135M-Instruct --chat --out results
```
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

N = {"train": 60, "held_out": 15, "test": 25}
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


def make_cases(seed=0, only=None):
    """Return the cases of each part: how grave the facts are, on the whole and by fact, decides the probabilities."""
    from hf_calib.tasks import TypedDecisions

    parts = {name: [] for name in N}
    for number, (workflow, facts) in enumerate(FACTS.items()):
        rng = np.random.default_rng([seed, number])
        weights = rng.uniform(0.5, 1.5, len(facts))
        for name, n in N.items():
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
                    names = {"noul": ["false", "true"], "score": list("012")}.get(own["type"], own.get("criteria"))
                    names = list(names)
                    label = names[int(rng.choice(len(p), p=p))]
                    gold[question] = {"probabilities": dict(zip(names, p.tolist(), strict=True)), "label": label}
                row = {"workflow": workflow, "state": state, "questions": QUESTIONS[workflow], "gold": gold}
                parts[name].append(row)
    if only is not None:  # evenly from all workflows
        parts["test"] = parts["test"][:: max(1, len(parts["test"]) // only)]
    return {name: TypedDecisions(rows) for name, rows in parts.items()}


def summary(measurement, seconds):
    """Return an arm's figures as JSON values."""
    found = {**measurement.figures, "option_mass": measurement.report.measures["option_mass"]}
    return {
        "cases": len(measurement.cases),
        "decisions": len(measurement.probabilities),
        "seconds_per_case": seconds / len(measurement.cases),
        **{name: {"value": own.value, "low": own.low, "high": own.high} for name, own in found.items()},
        "by_type": {
            name: {key: own.measures[key].value for key in ("accuracy", "kl_from_gold", "ece")}
            for name, own in measurement.by_type.items()
        },
        "references": {
            name: {key: own.measures[key].value for key in ("accuracy", "kl_from_gold", "brier_from_gold", "ece")}
            for name, own in measurement.references.items()
        },
        "run": {"temperatures": measurement.run.get("temperatures"), "seed": measurement.seed},
    }


class Arms:
    """The arms of one model."""

    def __init__(self, options):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from hf_calib.tasks import PromptFormat

        self.options = options
        self.out = Path(options.out) / Path(options.model).name
        self.out.mkdir(parents=True, exist_ok=True)
        self.parts = make_cases(options.seed, options.test_cases)
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.model = AutoModelForCausalLM.from_pretrained(options.model)
        self.format = PromptFormat(chat=options.chat)

    def backend(self, **settings):
        """Return the model as a source of decisions."""
        from hf_calib.confidence import LocalDecisions, LocalModel

        return LocalDecisions(LocalModel(self.model, self.tokenizer), self.format, **settings)

    def measured(self, part="test", **settings):
        """Return a measurement of one part of the cases, and the seconds it took."""
        from hf_calib import measure_decisions

        start = time.perf_counter()
        result = measure_decisions(
            self.backend(**settings), self.parts[part], prior_from=self.parts["train"], seed=self.options.seed
        )
        return result, time.perf_counter() - start

    def arm(self, name, run):
        """Run an arm and write its file, unless it is there."""
        path = self.out / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(run(), indent=2) + "\n")
            print(f"{self.out.name}: {name} finished", flush=True)

    def throughput(self):
        """Return the seconds per case of one request per case and of one per question."""
        from hf_calib.tasks import Case

        cases = list(self.parts["test"])[:9]
        alone = [Case(case.state, (own,), case.workflow) for case in cases for own in case.decisions]
        backend, seconds = self.backend(), {}
        backend.decide(cases[:1])  # finds out what the model takes
        for name, own in (("one request per case", cases), ("one request per question", alone)):
            start = time.perf_counter()
            for case in own:
                backend.decide([case])
            seconds[name] = (time.perf_counter() - start) / len(cases)
        return {"cases": len(cases), "seconds_per_case": seconds}

    def train(self):
        """Put an adapter on the model and train it on the gold distributions."""
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
                    per_device_train_batch_size=4,
                    learning_rate=5e-4,
                    lr_scheduler_type="cosine",
                    brier_weight=options.brier_weight,
                    em_weight=options.em_weight,
                    seed=options.seed,
                    use_cpu=True,
                    bf16=False,
                    gradient_checkpointing=False,
                    report_to=[],
                    save_strategy="no",
                    logging_steps=5,
                ),
                train_dataset=self.parts["train"],
                em_dataset=self.parts["held_out"].questions() if options.em_weight else None,
                processing_class=self.tokenizer,
                prompt_format=self.format,
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            )
            trainer.train()
            self.model = trainer.calibrated_model

    def run(self):
        """Run all arms."""
        from hf_calib.evaluation import fit_temperatures

        self.arm("throughput", self.throughput)
        self.arm("zero-shot", lambda: summary(*self.measured()))
        self.arm("debiased", lambda: summary(*self.measured(n_orders=3)))
        names = ("fine-tuned", "calibrated")
        if self.options.steps == 0 or all((self.out / f"{name}.json").exists() for name in names):
            return
        self.train()
        self.arm("fine-tuned", lambda: summary(*self.measured()))
        temperatures = fit_temperatures(self.measured("held_out")[0])
        self.arm("calibrated", lambda: summary(*self.measured(temperatures=temperatures)))


def main():
    """Run the arms that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or Hub id")
    parser.add_argument("--chat", action="store_true", help="use the chat template")
    parser.add_argument("--out", default="results", help="folder of the results (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=60, help="steps of 4 questions, 0 for none (default: %(default)s)"
    )
    parser.add_argument("--brier-weight", type=float, default=0.0, help="of the Brier score (default: %(default)s)")
    parser.add_argument("--em-weight", type=float, default=0.0, help="of the ECE regularizer (default: %(default)s)")
    parser.add_argument("--test-cases", type=int, metavar="N", help="only N test cases of all workflows together")
    parser.add_argument("--seed", type=int, default=0, help="of cases, weights and intervals (default: %(default)s)")
    Arms(parser.parse_args()).run()


if __name__ == "__main__":
    main()
