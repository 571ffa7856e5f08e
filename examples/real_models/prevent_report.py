"""
Make tables and a figure from the rows of `prevent.py`.

```bash
python examples/real_models/prevent_report.py prevented
```

Writes `report.md` next to the rows, and `reward_and_ece.png` if trainings were measured more than once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import Rows
from prevent import ARMS, FOLLOWED, READINGS, SETS
from report import cell

from hf_calib.measures import CATALOG

COLUMNS = ("accuracy", "confidence", "ece", "nll")
PICTURE = "reward_and_ece.png"
# What an arm takes in addition to the pairs, by its prompts or by what it does after DPO.
FURTHER_DATA = {
    "questions": "{n_prompts} prompts",
    "answers": "{n_prompts} answered questions",
    "temperature": "{n_fit} answered questions",
    "daca": "{n_fit} prompts",
}
PREFERENCES = {"reward_accuracy": "reward accuracy", "reward_margin": "reward margin", "win_rate": "win rate"}


def main(argv=None):
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out of prevent.py")
    folder = parser.parse_args(argv).folder
    rows = Rows(folder, "model").load()
    if not rows:
        raise SystemExit(f"folder: {folder} holds no rows; run prevent.py --out {folder} first")
    (folder / "report.md").write_text(report(rows), encoding="utf-8")
    if followed(rows):
        draw(rows, folder / PICTURE)
    print(f"Wrote {folder / 'report.md'}")


def arms_of(rows):
    """Return the rows of each arm in the order of `ARMS`, those of the anchor by its weight."""
    found = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)

    def place(arm):
        return list(ARMS).index(kind(found[arm][0])), found[arm][0]["settings"].get("anchor_weight", 0)

    return {arm: found[arm] for arm in sorted(found, key=place)}


def kind(row):
    """Return the name of a row's arm in `ARMS`, without the anchor's weight."""
    weight = row["settings"].get("anchor_weight")
    return row["arm"] if weight is None else row["arm"].removesuffix(f" {weight:g}")


def further_data(row):
    """Return the data that a row's arm needs in addition to the pairs, with their number."""
    arm = ARMS[kind(row)]
    return FURTHER_DATA.get(arm.prompts, FURTHER_DATA.get(arm.after, "none")).format(**row["settings"])


def report(rows):
    """Return the tables: one of preferences, and one of calibration for each reading and set."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        arms = arms_of([row for row in rows if row["model"] == model])
        sizes = next(iter(arms.values()))[0]["preferences"]["pairs_per_prompt"]
        lines += [f"# {model}", "", f"## Held-out preferences, {sum(sizes)} pairs of {len(sizes)} prompts", ""]
        lines += header(
            ("seeds", *PREFERENCES.values(), "reward accuracy, difference from dpo", "seconds", "further data")
        )
        for arm, own in arms.items():
            # Without training all rewards are 0.
            shown = {key: arm != "before" or key == "win_rate" for key in PREFERENCES}
            cells = [over_seeds([row["preferences"][key] for row in own]) if shown[key] else "" for key in PREFERENCES]
            if shown["reward_accuracy"]:
                mean = np.mean([row["preferences"]["reward_accuracy"] for row in own])
                cells[0] = f"{mean:.3f} {over_prompts([right(row) for row in own], sizes)}"
            cells += [
                difference(own, arms.get("dpo", []), sizes),
                over_seeds([row.get("seconds", 0) for row in own], 0),
            ]
            cells.append(further_data(own[0]))
            lines.append(f"| {arm} | {len(own)} | " + " | ".join(cells) + " |")
        lines.append("")
        for reading in READINGS:
            # `--sets` of prevent.py may have left out some.
            first = next(iter(arms.values()))[0]["measured"][reading]
            for name in (name for name in SETS if name in first):
                lines += calibration(arms, reading, name)
    lines += [
        "Square brackets: 95% interval over questions, of one seed; for the reward accuracy and its difference from",
        "dpo, a bootstrap interval over prompts of the mean over seeds. The difference is paired over seeds and",
        "pairs. ±: 95% interval of the mean over seeds.",
        "Further data: what an arm needs in addition to the pairs.",
        *(["", f"![Reward accuracy and ECE during training]({PICTURE})"] if followed(rows) else []),
    ]
    return "\n".join(lines) + "\n"


def header(columns):
    """Return the first two lines of a table."""
    return ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]


def calibration(arms, reading, name):
    """Return the table of a reading and a set of questions."""
    first = next(iter(arms.values()))[0]["measured"][reading][name]
    lines = [f"## {reading}, {name}, {first['n']} questions", ""]
    lines += header((*(CATALOG[key].short for key in COLUMNS), "ECE if calibrated", "added ECE kept away"))
    base = mean_ece(arms.get("before"), reading, name)
    for arm, own in arms.items():
        seeds = {row["seed"] for row in own}
        broken = mean_ece([row for row in arms.get("dpo", []) if row["seed"] in seeds], reading, name)
        measured = [row["measured"][reading][name] for row in own]
        cells = [cell([found[key] for found in measured]) for key in COLUMNS]
        cells.append(f"{np.mean([found['ece_if_calibrated'] for found in measured]):.3f}")
        added = None if base is None or broken is None else broken - base
        # A share of less is a share of noise.
        known = added is not None and added >= 0.03 and arm not in ("before", "dpo")
        cells.append(f"{(broken - mean_ece(own, reading, name)) / added:.0%}" if known else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def followed(rows):
    """Return whether a training was measured more than once, so that it can be drawn."""
    return any(len(row.get("looks", ())) > 1 for row in rows)


def mean_ece(rows, reading, name):
    """Return an arm's ECE, as the mean over its seeds, or None without rows."""
    return None if not rows else float(np.mean([row["measured"][reading][name]["ece"]["value"] for row in rows]))


def over_seeds(values, digits=3):
    """Return a mean over seeds with its interval."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    found = cell([{"value": value} for value in values])
    return found if digits == 3 else f"{np.mean(values):.{digits}f}"


def difference(own, plain, sizes):
    """Return the difference in reward accuracy from plain DPO of the same seeds, with its interval."""
    others = {row["seed"]: row for row in plain}
    both = [(row, others[row["seed"]]) for row in own if row["seed"] in others and row is not others[row["seed"]]]
    gains = [right(row) - right(other) for row, other in both]
    return f"{np.mean(gains):+.3f} {over_prompts(gains, sizes, '+')}" if both else ""


def over_prompts(values, sizes, sign="", resamples=2000):
    """Return the bootstrap interval over prompts of the mean of values over seeds and pairs.

    Parameters
    ----------
    values : array-like of shape (n_seeds, n_pairs)
        The pairs of a prompt follow each other.
    sizes : list of int
        Number of pairs of each prompt.
    sign : {"", "+"}
        With "+", positive numbers are shown with their sign.
    resamples : int, default 2000
    """
    values = np.mean(values, axis=0)
    counts = np.array(sizes)
    sums = np.add.reduceat(values, np.cumsum(counts) - counts)
    draws = np.random.default_rng(0).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), [0.025, 0.975])
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def right(row):
    """Return for each held-out pair whether the chosen answer gets the higher reward."""
    return (np.array(row["preferences"]["margins"]) > 0).astype(float)


def draw(rows, path):
    """Draw how the ECE and the held-out reward accuracy and margin develop, as means over seeds."""
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = plt.subplots(len(models), 2, figsize=(10, 4 * len(models)), squeeze=False, layout="constrained")
    name, reading = FOLLOWED
    for model, line in zip(models, axes, strict=True):
        arms = arms_of([row for row in rows if row["model"] == model])
        for arm, own in arms.items():
            looks = [looked for row in own if (looked := row.get("looks"))]
            if not looks:
                continue
            at = [{key: np.mean([look[i]["preferences"][key] for look in looks]) for key in PREFERENCES}
                  for i in range(min(map(len, looks)))]  # fmt: skip
            ece = [np.mean([look[i]["measured"]["ece"]["value"] for look in looks]) for i in range(len(at))]
            for axis, key in zip(line, ("reward_margin", "reward_accuracy"), strict=True):
                axis.plot([found[key] for found in at], ece, marker="o", markersize=3, label=arm)
                axis.set(title=model, xlabel=f"held-out {PREFERENCES[key]}", ylabel=f"ECE, {name}, {reading}")
        line[0].legend(fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
