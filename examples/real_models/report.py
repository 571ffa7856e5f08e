"""
Make tables and reliability diagrams from the rows of `repair.py`.

```bash
python examples/real_models/report.py repaired
```

Writes `report.md` and `reliability_READING.png` for each reading next to the rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import TEST, Rows
from repair import ARMS
from scipy import stats

from hf_calib.measures import CATALOG

COLUMNS = ("accuracy", "confidence", "ece", "smooth_ece", "nll", "brier", "auroc")
# Calibrators are fitted on held-out questions of the training mixture.
SETS = {**{name: name for name in TEST}, "fit": "the training mixture"}


def main(argv=None):
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of repair.py")
    folder = parser.parse_args(argv).folder
    rows = Rows(folder).load()
    if not rows:
        raise SystemExit(f"folder: {folder} holds no rows; run repair.py --out {folder} first")
    (folder / "report.md").write_text(report(rows), encoding="utf-8")
    for reading in readings_of(rows):
        draw([row for row in rows if row["reading"] == reading], folder / f"reliability_{reading}.png")
    print(f"Wrote {folder / 'report.md'}")


def report(rows):
    """Return the tables, one for each reading and set of questions."""
    settings = rows[0]["settings"]
    lines = [f"# {settings['model']}", ""]
    for reading in readings_of(rows):
        for test, title in SETS.items():
            measured = [row["measured"][test] for row in rows if row["reading"] == reading]
            n = {own["n"] for own in measured}
            expected = [own["ece_if_calibrated"] for own in measured]
            lines += [
                f"## {reading}, {title}",
                "",
                f"{', '.join(map(str, sorted(n)))} questions. A calibrated model with these confidences would score "
                f"an ECE of {min(expected):.3f} to {max(expected):.3f}."
                + (" Calibrators are fitted on these very questions; no arm trains on them." if test == "fit" else ""),
                "",
                "| | seeds | " + " | ".join(CATALOG[key].short for key in COLUMNS) + " |",
                "|---" * (len(COLUMNS) + 2) + "|",
            ]
            for arm in ARMS:
                own = [row for row in rows if (row["reading"], row["arm"]) == (reading, arm)]
                if own:
                    cells = [cell([row["measured"][test][key] for row in own]) for key in COLUMNS]
                    lines.append(f"| {arm} | {len(own)} | " + " | ".join(cells) + " |")
            lines.append("")
    lines += [
        "Square brackets: 95% interval over questions, of one seed. ±: 95% interval of the mean over seeds.",
        "",
        *(f"![Reliability diagrams, {reading}](reliability_{reading}.png)" for reading in readings_of(rows)),
    ]
    return "\n".join(lines) + "\n"


def cell(measures):
    """Return one measure's value: with its interval, or over several seeds the mean; empty if any is undefined."""
    if any(own["value"] is None for own in measures):  # the AUROC, if all answers are right or all are wrong
        return ""
    if len(measures) == 1:
        own = measures[0]
        # Few samples of a kind have an AUROC without an interval.
        interval = "" if own["low"] is None else f" [{own['low']:.3f}, {own['high']:.3f}]"
        return f"{own['value']:.3f}{interval}"
    values = [own["value"] for own in measures]
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def readings_of(rows):
    """Return what confidence was read off."""
    return list(dict.fromkeys(row["reading"] for row in rows))


def draw(rows, path):
    """Draw a reading's in-domain reliability diagrams, of the model as it is and of the trained arms' first seeds."""
    import matplotlib.pyplot as plt

    own = {row["arm"]: row for row in reversed(rows)}
    arms = [arm for arm in ("as it is", "temperature", "cft", "rcft", "long") if arm in own]
    figure, axes = plt.subplots(1, len(arms), figsize=(2.6 * len(arms), 2.9), squeeze=False, layout="constrained")
    for arm, axis in zip(arms, axes[0], strict=True):
        measured = own[arm]["measured"]["in domain"]
        bins = [found for found in measured["bins"] if found["count"]]
        axis.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
        axis.bar([found["confidence"] for found in bins], [found["accuracy"] for found in bins], width=0.06)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
        axis.set_title(
            f"{arm}\naccuracy {measured['accuracy']['value']:.2f}, ECE {measured['ece']['value']:.3f}", fontsize=9
        )
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
