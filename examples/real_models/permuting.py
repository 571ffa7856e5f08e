"""
Measure what `permute_options=True` changes in training.

```bash
python examples/real_models/permuting.py --model HuggingFaceTB/SmolLM2-135M-Instruct --seeds 0 1 2 --out permuting
```

Fine-tunes a model with CFT on the options' letters, once with the options in their own order and once in a random
order, in mixed bfloat16 precision. Asks the test questions of `repair.py` in one more, random order each, for the flip
rate. Each row is written to a file of its own below `--out`, and a run that was stopped continues when it is started
again. Prints a table of all rows in `--out`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import TEST, TRAIN, Rows, digest, figures, fine_tune, positive, read, source_of, test_sets

BEFORE = "as it is"
ARMS = {"own order": False, "random order": True}
COLUMNS = ("accuracy", "ece", "brier", "flip_rate")


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--data", type=Path, help="folder of question files; by default the sets come from the Hub")
    parser.add_argument(
        "--arms", nargs="+", default=[BEFORE, *ARMS], choices=[BEFORE, *ARMS], metavar="ARM", help="default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trained arms (default 0 1 2)")
    parser.add_argument("--steps", type=positive, default=200, help="optimizer steps (default 200)")
    parser.add_argument("--batch_size", type=positive, default=8, help="questions per step (default 8)")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="default 2e-4, cosine decay")
    parser.add_argument(
        "--lora_r", type=positive, default=16, help="rank of the adapter (default 16), alpha is twice that"
    )
    parser.add_argument(
        "--n_test", type=positive, default=1000, help="questions of each test set, at most (default 1000)"
    )
    parser.add_argument("--out", type=Path, default=Path("permuting"), help="folder of the rows (default permuting)")
    return parser


def main(argv=None):
    """Compute the rows that are missing, and print the table."""
    own = make_parser().parse_args(argv)
    rows, tests, train = Rows(own.out), test_sets(own.data, own.n_test), read(TRAIN, own.data)
    shared = {
        "model": Path(own.model).name,
        "source": source_of(own.model),
        "n_test": own.n_test,
        "asked": digest(tests),
    }
    for arm in own.arms:
        for seed in [None] if arm == BEFORE else own.seeds:
            settings = shared
            if seed is not None:
                settings = shared | {
                    "method": "cft",
                    "steps": own.steps,
                    "batch_size": own.batch_size,
                    "learning_rate": own.learning_rate,
                    "lora_r": own.lora_r,
                    "n_train": len(train),
                    "trained_on": digest(train),
                    "permute_options": ARMS[arm],
                    "bf16": True,
                }
            if not rows.missing("letters", arm, seed, settings):
                continue
            asked = own.model
            if seed is not None:
                asked = own.out / "work" / f"{arm.replace(' ', '-')}-seed{seed}"
                fine_tune(own.model, train, asked, "letters", seed, settings)
            rows.add("letters", arm, seed, settings, measured=measured(asked, tests))
    print(table(rows.load()))


def measured(model, tests):
    """Return the figures of each test set."""
    import hf_calib

    found = hf_calib.measure(str(model), tests, method="letters", dtype="float32", batch_size="auto", check_order=1)
    return {name: figures(own.predictions) for name, own in found.datasets.items()}


def table(rows):
    """Return a Markdown table of means over seeds, with standard deviations where there are several."""
    from hf_calib.measures import CATALOG

    lines = [
        "| questions | training | seeds | " + " | ".join(CATALOG[key].short for key in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for test in TEST:
        for arm in (BEFORE, *ARMS):
            own = [row["measured"][test] for row in rows if row["arm"] == arm]
            if own:
                cells = [cell([found[key]["value"] for found in own]) for key in COLUMNS]
                lines.append(f"| {test} | {arm} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values):
    """Return a mean over seeds with its standard deviation."""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
