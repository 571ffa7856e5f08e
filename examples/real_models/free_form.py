"""
Train P(True) and stated confidence on a model's own graded answers, and measure both before and after.

```bash
python examples/real_models/free_form.py \
    --model HuggingFaceTB/SmolLM2-135M-Instruct --questions triviaqa.jsonl --out free-form
```

The questions have the columns `question` and `answers`. Some are shown as solved examples; the others are answered
once, greedily, and graded. For each reading, P(True) and the stated level of confidence, the model is measured before
training, with a temperature fitted on answers that are set aside, and after training an adapter. The answers are
written before and not trained, so their accuracy stays the same. `--out` gets the answers, the readings,
`results.json`, and the table as `report.md`. A run that was stopped continues when it is started again with the same
settings. Set `OMP_NUM_THREADS` to limit the cores it uses.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import time
from pathlib import Path

import numpy as np
from common import check_settings, device, digest, last_checkpoint, positive, read_questions, source_of, write

READINGS = ("p-true", "stated-levels")
STAGES = ("before", "before, temperature", "trained")
SHOWN = ("ece", "brier", "nll", "auroc")
COVERAGES = (0.2, 0.5)
RESAMPLES = 2000
VERSIONS_OF = ("hf-calib", "torch", "transformers", "trl", "peft")


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--questions", type=Path, required=True, help="file with the columns question and answers")
    parser.add_argument("--readings", nargs="+", default=READINGS, choices=READINGS, help="default: both")
    parser.add_argument("--shots", type=positive, default=5, help="solved examples before each question (default 5)")
    parser.add_argument("--n_train", type=positive, default=900, help="answers to train on (default 900)")
    parser.add_argument("--n_fit", type=positive, default=100, help="answers to fit the temperature on (default 100)")
    parser.add_argument("--n_test", type=positive, default=490, help="answers to measure on (default 490)")
    parser.add_argument("--matcher", default="exact", help="exact, contains or numeric (default exact)")
    parser.add_argument("--max_new_tokens", type=positive, default=16, help="of an answer (default 16)")
    parser.add_argument("--steps", type=positive, default=100, help="optimizer steps of each reading (default 100)")
    parser.add_argument("--batch_size", type=positive, default=8, help="answers per step (default 8)")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="default 1e-4, linear decay")
    parser.add_argument("--anchor_weight", type=float, default=0.1, help="weight of the anchor (default 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of the questions' order and of the training (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    return parser


def main(argv=None):
    """Do what is not done yet, and print the table."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = make_parser().parse_args(argv)
    run = Run(options)
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def model():
        return AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").to(device())

    test, train, fit = answered(options, model, tokenizer)
    run.values["answers"] = {name: counts(part) for name, part in (("test", test), ("train", train), ("fit", fit))}
    run.right = np.array([answer.right for answer in test.answers])
    for reading in options.readings:
        if run.missing(reading, "before"):
            run.add(reading, "before", read(reading, model(), tokenizer, test))
        if run.missing(reading, "before, temperature"):
            on_fit = read(reading, model(), tokenizer, fit)
            run.add(reading, "before, temperature", tempered(run, reading, on_fit, fit))
        if run.missing(reading, "trained"):
            start = time.perf_counter()
            trainer = trained(options, reading, model(), tokenizer, train)
            run.values.setdefault("seconds", {})[reading] = round(time.perf_counter() - start, 1)
            run.add(reading, "trained", read(reading, trainer.model, tokenizer, test))
    run.save()
    table = run.table()
    (options.out / "report.md").write_text(f"# Seed {options.seed}\n\n{table}\n", encoding="utf-8")
    print(table)


def answered(options, model, tokenizer):
    """Return the graded answers to test, train and fit a temperature on, answered now where no file has them."""
    from hf_calib import Question, SelfEvaluationQuestions, self_evaluation_questions
    from hf_calib.tasks import FewShotFormat, QuestionList

    questions = read_questions(options.questions)
    random.Random(options.seed).shuffle(questions)
    needed = options.shots + options.n_test + options.n_train + options.n_fit
    if len(questions) < needed:
        raise SystemExit(
            f"--questions: {options.questions} has {len(questions)} questions, and {needed} are needed; "
            "lower --n_test, --n_train or --n_fit"
        )
    # An example shows its right option only; it has another since a question needs two.
    examples = tuple(Question(own.question, (own.answers[0], "unknown"), 0) for own in questions[: options.shots])
    start, end = options.shots, options.shots + options.n_test
    parts = {"test": questions[start:end], "train": questions[end:needed]}
    found = {}
    for name, part in parts.items():
        found[name] = self_evaluation_questions(
            model(),
            tokenizer,
            QuestionList(part, source=options.questions.name),
            matcher=options.matcher,
            max_new_tokens=options.max_new_tokens,
            prompt_format=FewShotFormat(examples=examples),
            out=options.out / f"answers_{name}.parquet",
        )
    train, provenance = found["train"].answers, found["train"].provenance
    parts = (train[: -options.n_fit], train[-options.n_fit :])
    return found["test"], *(SelfEvaluationQuestions(part, {**provenance, "n_questions": len(part)}) for part in parts)


def counts(graded):
    """Return how many answers there are, how many are right, and how many the token limit cuts off."""
    answers = graded.answers
    cut_off = sum(not answer.ended for answer in answers)
    return {"n": len(answers), "right": sum(answer.right for answer in answers), "cut_off": cut_off}


def read(reading, model, tokenizer, graded):
    """Return the model's confidence in each graded answer."""
    import hf_calib
    from hf_calib.confidence import Asking, LocalModel
    from hf_calib.confidence.stated_levels import find_levels, level_predictions
    from hf_calib.trainers.stated_confidence import level_questions

    if reading == "p-true":
        found = hf_calib.predict(model, tokenizer, graded, prompt_format=graded.prompt_format)
        return found.probabilities[:, 0]
    asked_in = hf_calib.PromptFormat.from_dict(graded.provenance["prompt_format"])
    questions = level_questions(graded, find_levels(tokenizer, asked_in))
    return level_predictions(LocalModel(model, tokenizer), questions, asked_in, Asking(progress=True)).confidences


def tempered(run, reading, on_fit, fit):
    """Return the confidence before training with the temperature that fits best."""
    from hf_calib.calibrators import by_name

    right = [0 if answer.right else 1 for answer in fit.answers]
    calibrator = by_name("temperature").fit(two_options(on_fit), right, kind="probabilities")
    run.values.setdefault("temperature", {})[reading] = calibrator.parameters()
    return calibrator.transform(two_options(run.confidences(reading, "before")), kind="probabilities")[:, 0]


def two_options(confidences):
    """Return the probabilities that answers are right, and that they are not."""
    return np.stack([confidences, 1 - np.asarray(confidences)], axis=1)


def trained(options, reading, model, tokenizer, graded):
    """Train an adapter from the last checkpoint on, and return its trainer."""
    from peft import LoraConfig, get_peft_model

    from hf_calib import RecalibrationConfig, RecalibrationTrainer, StatedConfidenceConfig, StatedConfidenceTrainer

    folder = options.out / reading
    settings = {
        "supervised_weight": 1.0,
        "anchor_weight": options.anchor_weight,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "logging_steps": 5,
        "save_steps": 10,
        "save_total_limit": 1,
        "report_to": "none",
    }
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    if reading == "p-true":
        args = RecalibrationConfig(str(folder), **settings)
        trainer = RecalibrationTrainer(model, args, graded, None, tokenizer, prompt_format=graded.prompt_format)
    else:
        trainer = StatedConfidenceTrainer(model, StatedConfidenceConfig(str(folder), **settings), graded, tokenizer)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return trainer


class Run:
    """What is known of a run, in `readings.json` and `results.json`."""

    def __init__(self, options):
        self.options = options
        self.right = None
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "readings")}
        settings["questions"] = options.questions.name
        settings["asked"] = digest(options.questions.read_bytes())
        settings["model"] = Path(options.model).name if Path(options.model).exists() else options.model
        settings["source"] = source_of(options.model)
        versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}
        self.values = {"settings": settings, "versions": versions}
        self.path = options.out / "readings.json"
        if self.path.exists():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
            check_settings(self.path, self.values["settings"], settings)

    def missing(self, reading, stage):
        """Return whether a stage of a reading has not been measured."""
        return stage not in self.values.get("confidences", {}).get(reading, {})

    def confidences(self, reading, stage):
        """Return what was measured."""
        return np.array(self.values["confidences"][reading][stage])

    def add(self, reading, stage, confidences):
        """Keep what was measured."""
        self.values.setdefault("confidences", {}).setdefault(reading, {})[stage] = [float(c) for c in confidences]
        write(self.path, json.dumps(self.values) + "\n")

    def figures(self, reading, stage):
        """Return the figures of a stage, each with its 95% interval."""
        from hf_calib.confidence import Predictions
        from hf_calib.measures import accuracy_at_coverage

        c, right, n = self.confidences(reading, stage), self.right, len(self.right)
        answers = np.where(right, 0, 1)
        made = Predictions.from_answers(np.zeros(n, int), c, np.full(n, 2), answers, (None,) * n, np.arange(n))
        report = made.report(seed=self.options.seed)
        found = {
            name: interval(*(getattr(report.measures[name], k) for k in ("value", "low", "high"))) for name in SHOWN
        }
        rng = np.random.default_rng(self.options.seed)
        draws = [rows for rows in rng.integers(n, size=(RESAMPLES, n)) if 0 < right[rows].sum() < n]
        for coverage in COVERAGES:
            values = [accuracy_at_coverage(c[rows], right[rows], coverage=coverage) for rows in draws]
            value = accuracy_at_coverage(c, right, coverage=coverage)
            found[f"accuracy at {coverage:.0%}"] = interval(value, *np.quantile(values, [0.025, 0.975]))
        found["confidence"] = interval(c.mean())
        if stage == "trained":
            from hf_calib.measures import auroc

            before = self.confidences(reading, "before")
            gains = [auroc(c[rows], right[rows]) - auroc(before[rows], right[rows]) for rows in draws]
            gain = auroc(c, right) - auroc(before, right)
            found["auroc gain"] = interval(gain, *np.quantile(gains, [0.025, 0.975]))
        return found

    def save(self):
        """Write `results.json`."""
        results = {name: value for name, value in self.values.items() if name != "confidences"}
        accuracy = float(self.right.mean())
        # What a constant confidence would score that is right on average.
        results["accuracy"], results["brier_of_constant"] = accuracy, 2 * accuracy * (1 - accuracy)
        results["measured"] = {
            reading: {stage: self.figures(reading, stage) for stage in STAGES} for reading in self.options.readings
        }
        text = json.dumps(results, indent=2) + "\n"
        (self.options.out / "results.json").write_text(text, encoding="utf-8")
        self.results = results

    def table(self):
        """Return the figures as a Markdown table."""
        names = ("confidence", *SHOWN, *(f"accuracy at {coverage:.0%}" for coverage in COVERAGES))
        lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for reading, stages in self.results["measured"].items():
            for stage, figures in stages.items():
                lines.append(f"| {reading}, {stage} | {' | '.join(shown(figures[name]) for name in names)} |")
        return "\n".join(lines)


def interval(value, low=None, high=None):
    """Return a figure with its interval, as JSON values."""
    ends = {} if low is None else {"low": float(low), "high": float(high)}
    return {"value": float(value), **ends}


def shown(figure):
    """Return a figure for a table."""
    ends = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if "low" in figure else ""
    return f"{figure['value']:.3f}{ends}"


if __name__ == "__main__":
    main()
