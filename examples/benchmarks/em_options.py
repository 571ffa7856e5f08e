"""
Compare values of the ECE regularizer's options with the defaults, in a world whose true probabilities are known.

```bash
python examples/benchmarks/em_options.py --out em_options.jsonl
```

The lab's miniature is aligned with plain DPO, and the aligned model is fine-tuned on answers with the regularizer
(RCFT) until it starts to memorize them. One option at a time is changed from its default. In calibration-aware DPO on
answers, training with and without the regularizer is compared too. The table has accuracy, ECE and log-loss on new
questions of the same domain, and how much ECE and log-loss differ from the default's, paired over seeds, with 95%
intervals (Student's t). A stopped run resumes from the file.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

# The defaults come first.
OPTIONS = {
    "em_steps": (5, 1, 20),
    "em_momentum": (0.9, 0.0, 0.7, 0.97),
    "em_bins": (10, 5, 20),
    "em_sharing": ("proportional", "tanh", "uniform"),
    "em_fraction": (0.2, 0.1, 0.4),
}
WEIGHTS = (5.0, 0.0, 1.0)  # of the regularizer, the first one with the options above
MEASURES = ("accuracy", "ece", "nll")


def cases():
    """Return (method, option, value) of every run; the default is run once."""
    found = [("RCFT", "default", None)]
    found += [("RCFT", name, value) for name, values in OPTIONS.items() for value in values[1:]]
    found += [("RCFT", "em_weight", value) for value in WEIGHTS[1:]]
    return [*found, ("DPO", "default", None), ("DPO", "em_weight", 0.0)]


def prepare(seed: int, folder: Path):
    """Return one seed's bench of the lab, pre-trained, and the folder of its aligned model."""
    from hf_calib.lab import PRESETS, make_bench, plain_dpo, pretrained_folder

    preset = replace(PRESETS["mini"], n_test_questions=4000)
    bench = make_bench(preset, seed, pretrained_folder(preset, seed, progress=False), folder, progress=False)
    plain_dpo(bench).model.save_pretrained(folder / "aligned")
    return bench, folder / "aligned"


def trained(bench, aligned: Path, options: argparse.Namespace, method: str, terms: dict):
    """Return the model that a method trains with these terms."""
    import torch
    from transformers import AutoModelForCausalLM

    from hf_calib import (
        CalibrationAwareConfig,
        CalibrationAwareSFTConfig,
        CalibrationAwareSFTTrainer,
        CalibrationAwareTrainer,
    )
    from hf_calib.lab import adapter_config, alignment_arguments

    torch.manual_seed(bench.seed)
    answered = [*bench.data.calibration.to_questions(), *bench.data.held_out.to_questions()]
    if method == "DPO":
        arguments = alignment_arguments(bench.preset.alignment, bench.work_dir / "dpo", bench.seed, progress=False)
        trainer = CalibrationAwareTrainer(
            model=bench.pretrained(), ref_model=bench.pretrained(), processing_class=bench.tokenizer,
            args=CalibrationAwareConfig(
                **arguments, anchor_weight=0.0, supervised_weight=2.0,
                calibration_batch_size=bench.preset.calibration_batch_size, **terms,
            ),
            train_dataset=bench.data.pairs, calibration_dataset=answered,
        )  # fmt: skip
    else:
        trainer = CalibrationAwareSFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(aligned), processing_class=bench.tokenizer,
            args=CalibrationAwareSFTConfig(
                str(bench.work_dir / "rcft"), max_steps=options.steps, per_device_train_batch_size=64,
                learning_rate=2e-3, seed=bench.seed, use_cpu=True, bf16=False, gradient_checkpointing=False,
                save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no", **terms,
            ),
            peft_config=adapter_config(16), train_dataset=answered,
        )  # fmt: skip
    trainer.train()
    return trainer.model


def run(options: argparse.Namespace) -> list[dict]:
    """Run what is missing in the file; return all of its rows."""
    import torch
    from transformers.utils import logging

    from hf_calib import predict

    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    path = Path(options.out)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    steps = [row["steps"] for row in rows if row["steps"] != options.steps]
    if steps:
        raise SystemExit(f"--out: {path} has runs of {steps[0]} steps, not of {options.steps}; give another file")
    done = {(row["seed"], row["method"], row["option"], row["value"]) for row in rows}
    for seed in range(options.seeds):
        missing = [case for case in cases() if (seed, *case) not in done]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench, aligned = prepare(seed, Path(folder))
            for method, option, value in missing:
                terms = {"em_weight": WEIGHTS[0]} | ({} if option == "default" else {option: value})
                model = trained(bench, aligned, options, method, terms)
                asked = bench.data.test["in"].to_questions()
                report = predict(model, bench.tokenizer, asked, batch_size=512).report(n_resamples=0)
                row = {"seed": seed, "steps": options.steps, "method": method, "option": option, "value": value}
                row |= {name: report.measures[name].value for name in MEASURES}
                rows.append(row)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                del model
                gc.collect()
    return rows


def difference(own: dict[int, float], default: dict[int, float]) -> str:
    """Return the mean over seeds of a measure minus the default's, with its 95% interval."""
    from scipy import stats

    differences = [own[seed] - default[seed] for seed in sorted(own)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.3f}"
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def table(rows: list[dict]) -> list[dict]:
    """Return a row for each value of each option, with means over seeds."""
    made = []
    for method, option, value in cases():

        def by_seed(name, what=option, at=value, of=method):
            wanted = (of, what, at)
            return {row["seed"]: row[name] for row in rows if (row["method"], row["option"], row["value"]) == wanted}

        own = {name: by_seed(name) for name in MEASURES}
        made.append({"method": method, "option": option, "value": "" if value is None else str(value)})
        made[-1] |= {name: statistics.fmean(values.values()) for name, values in own.items()}
        for name in ("ece", "nll"):
            default = by_seed(name, "default", None)
            made[-1][f"{name} less the default's"] = "" if option == "default" else difference(own[name], default)
    return made


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="em_options.jsonl", help="a row for each run; the file may exist")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--steps", type=int, default=120, help="of RCFT, 64 questions each")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    options = make_parser().parse_args(arguments)
    rows = run(options)

    from hf_calib.reports import render_table

    print(f"means over seeds 0 to {options.seeds - 1}; RCFT of {options.steps} steps; 4,000 new questions")
    print(render_table(table(rows)))


if __name__ == "__main__":
    main()
