"""
Fine-tune a language model on multiple-choice questions to repair its calibration, and measure it before and after.

```bash
python examples/real_models/repair.py \
    --model HuggingFaceTB/SmolLM2-135M-Instruct \
    --train allenai/openbookqa:main:train allenai/ai2_arc:ARC-Easy:train allenai/ai2_arc:ARC-Challenge:train \
    --test allenai/ai2_arc:ARC-Easy:test \
    --confidence text-tokens --steps 75 --out repaired
```

`--out` gets `results.json` with every figure and setting, and the adapter with its card in `model/`. In addition to
the model before and after training, the model before with a temperature is measured; the temperature is fitted on
questions that are set aside from those to train on. A run that was stopped continues when it is started again with
the same settings. Set `OMP_NUM_THREADS` to limit the cores it uses.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import time
from pathlib import Path

RESULTS = "results.json"
SHOWN = ("accuracy", "confidence", "ece", "smooth_ece", "nll", "brier", "auroc")
VERSIONS_OF = ("hf-calib", "torch", "transformers", "trl", "peft")


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--train", nargs="+", required=True, help="question files or Hub datasets to train on")
    parser.add_argument("--test", nargs="+", required=True, help="question files or Hub datasets to measure on")
    parser.add_argument(
        "--confidence", default="text-tokens", help="what confidence is read off (default text-tokens)"
    )
    parser.add_argument("--steps", type=int, default=75, help="optimizer steps (default 75)")
    parser.add_argument("--batch_size", type=int, default=4, help="questions per step (default 4)")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="default 3e-4, linear decay")
    parser.add_argument("--lora_r", type=int, default=16, help="rank of the adapter (default 16), alpha is twice that")
    parser.add_argument("--n_test", type=int, default=200, help="questions to measure on (default 200)")
    parser.add_argument("--n_fit", type=int, default=200, help="questions to fit the temperature on (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the questions' order and of the training (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results and the model")
    return parser


def main(argv=None):
    """Do what is not done yet, and print the table."""
    import hf_calib

    options = make_parser().parse_args(argv)
    results = Results(options)
    rng = random.Random(options.seed)
    test, train = (read(names, rng) for names in (options.test, options.train))
    test, fit, train = test[: options.n_test], train[: options.n_fit], train[options.n_fit :]
    results.values["n"] = {"test": len(test), "temperature": len(fit), "train": len(train)}
    how = {"method": options.confidence, "seed": options.seed, "progress": True}
    before = options.out / "before"
    if "before" not in results:
        found = hf_calib.measure(options.model, {"test": test}, out=before, dtype="float32", **how)
        results.add("before", found.report)
    if "before, temperature" not in results:
        folder = options.out / "temperature"
        calibrator = hf_calib.calibrate(options.model, {"fit": fit}, out=folder, dtype="float32", **how).calibrator
        results.values["temperature"] = calibrator.parameters()
        predictions = hf_calib.Measurement.load(before).predictions
        results.add("before, temperature", predictions.calibrated(calibrator).report(seed=options.seed))
    folder = options.out / "model"
    if "training" not in results.values:
        results.values["training"] = trained(options, train, folder)
        results.save()
    if "after" not in results:
        # The folder says what confidence is read off.
        model = hf_calib.load(folder)
        found = hf_calib.measure(model, {"test": test}, out=options.out / "after", seed=options.seed, progress=True)
        results.add("after", found.report)
    print(results.table())


def read(names, rng):
    """Return the questions of several sets in a random order."""
    import hf_calib

    questions = [question for name in names for question in hf_calib.load_questions(name)]
    rng.shuffle(questions)
    return questions


def trained(options, questions, folder):
    """Train an adapter from the last checkpoint on, save it with its card, and return how it went."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_utils import get_last_checkpoint

    import hf_calib

    config = hf_calib.CalibrationAwareSFTConfig(
        str(folder),
        calibration_confidence=options.confidence,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=5,
        save_steps=10,
        save_total_limit=1,
        report_to="none",
    )
    trainer = hf_calib.CalibrationAwareSFTTrainer(
        AutoModelForCausalLM.from_pretrained(options.model, dtype="float32"),
        args=config,
        train_dataset=questions,
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(
            r=options.lora_r, lora_alpha=2 * options.lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = round(time.perf_counter() - start, 1)
    trainer.save_model()
    trainer.create_model_card()
    losses = [{"step": log["step"], "loss": log["loss"]} for log in trainer.state.log_history if "loss" in log]
    return {"seconds_since_last_checkpoint": seconds, "losses": losses}


class Results:
    """The content of `results.json`, written whenever a figure is added."""

    def __init__(self, options):
        self.path = options.out / RESULTS
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        for name in ("train", "test"):
            settings[name] = [Path(source).name if Path(source).exists() else source for source in settings[name]]
        settings["model"] = Path(options.model).name if Path(options.model).exists() else options.model
        versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}
        self.values = {"settings": settings, "versions": versions, "measured": {}}
        if self.path.exists():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
            if self.values["settings"] != settings:
                raise SystemExit(
                    f"--out: {self.path} is of a run with other settings, {self.values['settings']}; "
                    "give another folder"
                )

    def __contains__(self, stage):
        return stage in self.values["measured"]

    def add(self, stage, report):
        """Add a report's figures, each with its 95% interval."""
        found = {name: report.measures[name] for name in SHOWN if name in report.measures}
        figures = {name: {"value": m.value, "low": m.low, "high": m.high} for name, m in found.items()}
        expected = report.test.expected_error
        self.values["measured"][stage] = {"n": report.n, **figures, "ece_if_calibrated": expected}
        self.save()

    def save(self):
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")

    def table(self):
        """Return the figures as a Markdown table."""
        lines = ["| | n | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
        for stage, figures in self.values["measured"].items():
            cells = [f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for m in (figures[name] for name in SHOWN)]
            lines.append(f"| {stage} | {figures['n']} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


if __name__ == "__main__":
    main()
