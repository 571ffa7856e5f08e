"""
Read an aligned model's confidence in free-form answers off its base model (BaseCal-ReEval).

```bash
python examples/real_models/base_tokens.py --model google/gemma-3-270m --pairs pairs.jsonl --questions triviaqa.jsonl \
    --out base-tokens
```

Aligns a pre-trained model with plain DPO on preference pairs, and asks it questions. The confidence in the same greedy
answers is read as P(True), as the mean probability of the answer's tokens under the aligned model, and under the model
as it was before. The pre-trained model's confidence in its own answers is shown too. Writes `results.json` to `--out`.
A run that was stopped continues when it is started again; only an unfinished alignment starts over.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

from common import (
    check_settings,
    device,
    digest,
    figures,
    positive,
    read_pairs,
    read_questions,
    source_of,
    versions,
    write,
)

COLUMNS = ("accuracy", "confidence", "ece", "brier", "auroc")


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a pre-trained model, a folder or a Hub id")
    parser.add_argument("--pairs", type=Path, required=True, help="file with the columns prompt, chosen and rejected")
    parser.add_argument("--questions", type=Path, required=True, help="file with the columns question and answers")
    parser.add_argument("--steps", type=positive, default=60, help="optimizer steps of DPO (default 60)")
    parser.add_argument("--batch_size", type=positive, default=4, help="pairs per step (default 4)")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="default 2e-4, linear decay")
    parser.add_argument(
        "--longest", type=positive, default=64, help="leave out pairs with longer texts (default 64 tokens)"
    )
    parser.add_argument("--shots", type=positive, default=5, help="solved examples before each question (default 5)")
    parser.add_argument("--n_test", type=positive, default=1000, help="questions to measure on (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs' order and the questions' (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    return parser


def main(argv=None):
    """Align, measure, and print the table."""
    own = make_parser().parse_args(argv)
    adapter = own.out / "adapter"
    pairs, questions = read_pairs(own.pairs), shuffled(own)
    kept = adapter / "training.json"
    training = {name: getattr(own, name) for name in ("steps", "batch_size", "learning_rate", "longest", "seed")}
    training |= {"source": source_of(own.model), "pairs": digest(pairs)}
    if kept.exists():
        check_settings(kept, json.loads(kept.read_text(encoding="utf-8")), training)
    else:
        align(own, pairs, adapter)
        write(kept, json.dumps(training, indent=1) + "\n")
    aligned = {"adapter": str(adapter)}
    arms = {
        "pre-trained: its own tokens": ({}, {"method": "base-tokens", "base_model": own.model}),
        "aligned: P(True)": (aligned, {"method": "p-true"}),
        "aligned: its own tokens": (aligned, {"method": "base-tokens", "base_model": str(adapter)}),
        "aligned: `base-tokens`": (aligned, {"method": "base-tokens"}),
    }
    settings = {key: value for key, value in vars(own).items() if key not in ("model", "pairs", "questions", "out")}
    results = {"model": Path(own.model).name, "settings": settings, "versions": versions()}
    results["arms"] = {name: measured(own, questions, name, {**model, **how}) for name, (model, how) in arms.items()}
    write(own.out / "results.json", json.dumps(results, indent=1) + "\n")
    print(table(results["arms"]))


def shuffled(own):
    """Return the questions: first those that are shown as solved examples, then those that are asked."""
    questions = read_questions(own.questions)
    random.Random(own.seed).shuffle(questions)
    needed = own.shots + own.n_test
    if len(questions) < needed:
        raise SystemExit(
            f"--questions: {own.questions} has {len(questions)} questions, and {needed} are needed; lower --n_test"
        )
    return questions[:needed]


def align(own, rows, folder):
    """Train an adapter with plain DPO."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(own.model)
    columns = ("prompt", "chosen", "rejected")
    pairs = [{name: row[name] for name in columns} for row in rows]
    pairs = [row for row in pairs if max(len(tokenizer(text)["input_ids"]) for text in row.values()) <= own.longest]
    random.Random(own.seed).shuffle(pairs)
    print(f"{len(pairs)} of {len(rows)} pairs have texts of at most {own.longest} tokens")
    if not pairs:
        raise SystemExit("--longest: leaves no pair to train on; raise it")
    args = DPOConfig(
        str(folder),
        max_steps=own.steps,
        per_device_train_batch_size=own.batch_size,
        learning_rate=own.learning_rate,
        seed=own.seed,
        bf16=True,
        use_cpu=device() == "cpu",
        gradient_checkpointing=False,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(own.model, dtype="float32"),
        args=args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()


def measured(own, questions, arm, how):
    """Return the figures of one reading, measured once."""
    import hf_calib
    from hf_calib import Question
    from hf_calib.tasks import FewShotFormat

    # An example shows its right option only; it has another since a question needs two.
    examples = tuple(Question(shown.question, (shown.answers[0], "unknown"), 0) for shown in questions[: own.shots])
    asked = {"questions": list(questions[own.shots :])}
    found = hf_calib.measure(
        own.model,
        asked,
        free_form="exact",
        prompt=FewShotFormat(examples=examples),
        dtype="float32",
        batch_size="auto",
        out=own.out / re.sub("[^a-z]+", "-", arm.lower()).strip("-"),
        **how,
    )
    return figures(found.predictions)


def table(arms):
    """Return the main figures as a Markdown table."""
    from hf_calib.measures import CATALOG

    lines = ["| | " + " | ".join(CATALOG[key].short for key in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, own in arms.items():
        lines.append(f"| {name} | " + " | ".join(cell(own.get(key)) for key in COLUMNS) + " |")
    return "\n".join(lines)


def cell(measure):
    """Return a value with its interval; empty for a measure that is undefined, such as AUROC without right answers."""
    if measure is None or measure["low"] is None:
        return ""
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**measure)


if __name__ == "__main__":
    main()
