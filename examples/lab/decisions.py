"""
Measure in the lab whether a decision model that is fine-tuned to a teacher is calibrated to what happens.

A state is an animal of a region. Three types of questions are asked about it: what it eats, fears, ... (choice),
whether it eats a given thing (noul), and a level of a scale (score). The true probabilities p* are known. The gold
distributions are those of a hesitant teacher, p* to the power of 1/2, normalized; the labels are drawn from p*. A
small network is trained from scratch on each seed's cases:

- `to the teacher`: cross-entropy to the gold distributions alone.
- `to the labels`: cross-entropy to the drawn labels.
- `ours`: cross-entropy to the gold distributions, with the Brier score and the ECE regularizer toward the accuracy on
  held-out cases, and one temperature per type fitted on these.

The animals in the training, the held-out and the test cases are different ones. Each arm is also measured with
temperatures; `--report` prints the table over all seeds that are finished. A seed that is finished is not run again.

```bash
python examples/lab/decisions.py --seeds 0-4 --out examples/lab/results/decisions
```
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

SIZES = {"n_species": 12, "n_regions": 12}
TEACHER_POWER = 0.5
CASES = {"train": 2000, "held_out": 500, "test": 500}
ARMS = {
    "to the teacher": {},
    "to the labels": {"labels": True},
    "ours": {"em_weight": 1.0, "brier_weight": 0.5},
}
STEPS = 1500
KINDS = ("choice", "choice", "noul", "noul", "score")


def entities_of(world):
    """Return the animals of each part; a third of the world's training entities is held out."""
    n_held_out = len(world.train_entities) // 3
    order = np.random.default_rng(world.seed).permutation(world.train_entities)
    return {"train": order[n_held_out:], "held_out": order[:n_held_out], "test": world.test_entities}


def make_cases(world, n, part, seed):
    """Return cases with gold distributions of the teacher and labels drawn from p*, and p* of each decision."""
    from hf_calib.lab.world import softmax
    from hf_calib.tasks import TypedDecisions

    pools = entities_of(world)
    rng = np.random.default_rng([world.seed, list(pools).index(part), seed])
    rows, truths = [], []
    for number in range(n):
        species, region = np.divmod(rng.choice(pools[part]), len(world.regions))
        relations = rng.permutation(len(world.relations))[:5]
        questions, gold = {}, {}
        for place, (kind, index) in enumerate(zip(KINDS, relations, strict=True)):
            relation, p = world.relations[index], softmax(world.logits[index, species, region])
            names = list(relation.values)
            if kind == "choice":
                question = {"instructions": f"What do they {relation.verb} ?", "criteria": dict.fromkeys(names)}
            elif kind == "score":
                question = {"instructions": f"How do they {relation.verb} ?", "criteria": names}
                names = list("0123")
            else:
                chosen = int(rng.integers(4))
                question = {"instructions": f"Do they {relation.verb} {names[chosen]} ?"}
                names, p = ["false", "true"], np.array([1 - p[chosen], p[chosen]])
            name = f"q{place}"
            questions[name] = {"type": kind, **question}
            teacher = p**TEACHER_POWER / (p**TEACHER_POWER).sum()
            label = names[int(rng.choice(len(p), p=p))]
            gold[name] = {"probabilities": dict(zip(names, teacher.tolist(), strict=True)), "label": label}
            truths.append(p)
        state = f"{world.regions[region]} {world.species[species]}"
        rows.append({"id": str(number), "state": state, "questions": questions, "gold": gold})
    return TypedDecisions(rows), truths


def make_model(tokenizer, seed):
    """Return a small Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.08,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_tokenizer(cases):
    """Return the lab's tokenizer with the words that typed questions have besides."""
    from hf_calib.lab.tokenizer import make_tokenizer as lab_tokenizer
    from hf_calib.tasks import PromptFormat

    tokenizer = lab_tokenizer()
    words = {word for own in cases for question in own.questions() for word in PromptFormat().render(question).split()}
    tokenizer.add_tokens(sorted(words - set(tokenizer.get_vocab())))
    return tokenizer


def figures(measurement, truths):
    """Return the figures of a measurement with the divergence from the truth, by type too."""
    p = measurement.probabilities
    clipped = [np.maximum(own, 1e-9) for own in p]
    from_truth = [float((t * np.log(np.maximum(t, 1e-300) / q)).sum()) for t, q in zip(truths, clipped, strict=True)]
    confidence = measurement.report.measures["confidence"].value
    return {
        **{name: {"value": own.value, "low": own.low, "high": own.high} for name, own in measurement.figures.items()},
        "confidence": {"value": confidence},
        "kl_from_truth": {"value": float(np.mean(from_truth))},
        **{f"ece_{name}": {"value": own.ece.value} for name, own in measurement.by_type.items()},
    }


def run_seed(seed, steps=STEPS, cases=CASES):
    """Train and measure every arm on one seed."""
    from hf_calib import CalibrationAwareSFTConfig, CalibrationAwareSFTTrainer, measure_decisions
    from hf_calib.lab import World
    from hf_calib.scripts.decisions import decisions_of, fitted_temperatures
    from hf_calib.tasks.questions import DecisionQuestion

    world = World(seed, **SIZES)
    (trained, _), (held_out, _), (test, truths) = (make_cases(world, n, part, seed) for part, n in cases.items())
    tokenizer = make_tokenizer([trained, held_out, test])
    found = {"bayes_accuracy": float(np.mean([own.max() for own in truths]))}
    for name, settings in ARMS.items():
        settings = dict(settings)
        questions = trained.questions()
        if settings.pop("labels", False):
            questions = [DecisionQuestion(q.question, q.choices, q.answer, q.subject, q.context) for q in questions]
        with tempfile.TemporaryDirectory() as folder:
            trainer = CalibrationAwareSFTTrainer(
                model=make_model(tokenizer, seed),
                args=CalibrationAwareSFTConfig(
                    folder,
                    max_steps=steps,
                    per_device_train_batch_size=32,
                    learning_rate=3e-3,
                    lr_scheduler_type="cosine",
                    weight_decay=0.1,
                    seed=seed,
                    report_to=[],
                    use_cpu=True,
                    bf16=False,
                    save_strategy="no",
                    disable_tqdm=True,
                    logging_strategy="no",
                    dataset_num_proc=None,
                    gradient_checkpointing=False,
                    **settings,
                ),
                train_dataset=questions,
                em_dataset=held_out.questions() if "em_weight" in settings else None,
                processing_class=tokenizer,
            )
            trainer.train()
            temperatures = fitted_temperatures(trainer, held_out)
            measured = measure_decisions(decisions_of(trainer), test, seed=seed, progress=False)
            found[name] = figures(measured, truths)
            scaled = measured.calibrated(temperatures)
            found[f"{name}, temperatures"] = figures(scaled, truths) | {"calibrator": scaled.run["calibrator"]}
    return found


SHOWN = ("accuracy", "confidence", "kl_from_gold", "kl_from_truth", "brier", "ece")


def report(folder):
    """Return a table of means over seeds with 95% intervals."""
    from scipy.stats import t

    runs = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("seed*.json"))]
    lines = [f"| {len(runs)} seeds | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name in (key for key in runs[0]["figures"] if key != "bayes_accuracy"):
        cells = []
        for key in SHOWN:
            values = np.array([run["figures"][name][key]["value"] for run in runs])
            cells.append(f"{values.mean():.3f}")
            if len(values) > 1:
                half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
                cells[-1] += f" ± {half:.3f}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    bayes = np.mean([run["figures"]["bayes_accuracy"] for run in runs])
    return "\n".join([*lines, "", f"Accuracy of an answerer that knows p*: {bayes:.3f}."])


def main():
    """Run the seeds that are not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="a number or a range (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--out", default="examples/lab/results/decisions", help="folder (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="print the table of the finished seeds only")
    options = parser.parse_args()
    folder = Path(options.out)
    if not options.report:
        first, _, last = options.seeds.partition("-")
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(int(first), int(last or first) + 1):
            path = folder / f"seed{seed}.json"
            if path.exists():
                continue
            found = run_seed(seed, options.steps)
            settings = {"steps": options.steps, "cases": CASES, "teacher_power": TEACHER_POWER, "arms": ARMS, **SIZES}
            path.write_text(json.dumps({"seed": seed, "settings": settings, "figures": found}, indent=2) + "\n")
            print(f"seed {seed} finished", flush=True)
    print(report(folder))


if __name__ == "__main__":
    main()
