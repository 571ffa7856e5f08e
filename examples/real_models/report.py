"""
Make tables and reliability diagrams from the rows of `repair.py`.

```bash
python examples/real_models/report.py repaired
```

Writes `report.md` and `reliability_diagram.png` next to the rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import TEST, Rows
from repair import ARMS
from scipy import stats

from hf_calib.measures import CATALOG

COLUMNS = ("accuracy", "confidence", "ece", "nll", "brier")


def main(argv=None):
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of repair.py")
    folder = parser.parse_args(argv).folder
    rows = Rows(folder).load()
    if not rows:
        raise SystemExit(f"folder: {folder} holds no rows; run repair.py --out {folder} first")
    (folder / "report.md").write_text(report(rows), encoding="utf-8")
    draw(rows, folder / "reliability_diagram.png")
    print(f"Wrote {folder / 'report.md'}")


def report(rows):
    """Return the tables, one for each reading and test set."""
    settings = rows[0]["settings"]
    lines = [f"# {settings['model']}", ""]
    for reading in dict.fromkeys(row["reading"] for row in rows):
        for test in TEST:
            measured = [row["measured"][test] for row in rows if row["reading"] == reading]
            n = {own["n"] for own in measured}
            expected = [own["ece_if_calibrated"] for own in measured]
            lines += [
                f"## {reading}, {test}",
                "",
                f"{', '.join(map(str, sorted(n)))} questions. A calibrated model with these confidences would score "
                f"an ECE of {min(expected):.3f} to {max(expected):.3f}.",
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
        "![Reliability diagrams](reliability_diagram.png)",
    ]
    return "\n".join(lines) + "\n"


def cell(measures):
    """Return one measure's value: with its interval, or over several seeds the mean."""
    if len(measures) == 1:
        own = measures[0]
        return f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]"
    values = [own["value"] for own in measures]
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def draw(rows, path):
    """Draw the in-domain reliability diagrams of the model as it is and of the trained arms, of their first seeds."""
    import matplotlib.pyplot as plt

    readings = list(dict.fromkeys(row["reading"] for row in rows))
    arms = [arm for arm in ARMS if arm in ("as it is", "temperature", "cft", "rcft", "long")]
    arms = [arm for arm in arms if any(row["arm"] == arm for row in rows)]
    size = (2.6 * len(arms), 2.9 * len(readings))
    figure, axes = plt.subplots(len(readings), len(arms), figsize=size, squeeze=False, layout="constrained")
    for reading, line in zip(readings, axes, strict=True):
        for arm, axis in zip(arms, line, strict=True):
            axis.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
            axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
            own = next((row for row in rows if (row["reading"], row["arm"]) == (reading, arm)), None)
            if own is None:
                continue
            measured = own["measured"]["in domain"]
            bins = [found for found in measured["bins"] if found["count"]]
            axis.bar([found["confidence"] for found in bins], [found["accuracy"] for found in bins], width=0.06)
            axis.set_title(f"{arm}, {reading}\nECE {measured['ece']['value']:.3f}", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
