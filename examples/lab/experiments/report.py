"""The experiment's report: means over seeds, differences from a baseline with paired intervals, figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_calib.lab.names import DOMAINS
from hf_calib.measures import CATALOG, Measure
from hf_calib.measures.sampling import t_quantile
from hf_calib.reports import render_table
from hf_calib.reports.table import Cell

from .claims import claims_table
from .compared import SETTINGS_SEEDS
from .figures import write_figures
from .results import MEASURES, RESULTS_FILE, load_rows, load_runs

REPORT_FILE = "report.md"

_CLAIMS = (
    "The margin is how far the bar is passed, with its 95% interval over seeds; a claim is reached where the mean "
    "over seeds passes it."
)
_TITLES = {
    "in": "In domain: answers to such questions were used",
    "out": "Off domain: only prompts without answers were used",
    "unseen": "Unseen: no prompt of the domain was used",
}
_MEANS = {key: CATALOG[key].short for key in MEASURES}
_DIFFERENCES = {key: CATALOG[key].short for key in ("accuracy", "ece", "tce", "nll", "brier")}
_OF_THE_MODEL = {
    "win_rate": "win rate",
    "win_rate_open": "win rate, open",
    "train_accuracy": "accuracy in training",
    "labels": "labels",
    "seconds": "seconds",
}
LEGEND = (
    "ECE: expected calibration error of the confidence, 10 bins; ECE (true): with the true probability of the\n"
    "answer in place of whether it was right. TCE: mean distance of the confidence from that probability. Win\n"
    "rate: share of held-out preference pairs, multiple-choice and open ones of the domains in and off, in which\n"
    "the chosen answer gets the higher probability. Accuracy in training: on the labeled questions that methods\n"
    "train on. Seconds: of processor time, from the pre-trained model on."
)


def paired_difference(own: dict[int, float], baseline: dict[int, float]) -> Measure:
    """Return the mean over seeds of a method's value minus the baseline's, with the paired 95% t-interval.

    Parameters
    ----------
    own, baseline : dict of int to float
        By seed. Only seeds that both have count; the interval needs at least two.

    Raises
    ------
    ValueError
        If they have none in common.
    """
    seeds = sorted(own.keys() & baseline.keys())
    if not seeds:
        raise ValueError("the method and the baseline have no seed in common")
    values = np.array([own[seed] - baseline[seed] for seed in seeds])
    mean = float(values.mean())
    if len(values) < 2:
        return Measure(mean)
    half = t_quantile(0.95, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Measure(mean, mean - half, mean + half)


def write_report(folder: str | Path, *, baseline: str = "dpo", all_seeds: bool = False) -> str:
    """Write the tables into ``report.md`` in a folder of results, and the figures next to it.

    Parameters
    ----------
    folder : str or Path
        With the ``results.json`` that `run_experiment` writes. Reliability diagrams and the log-odds' sharpening need
        its ``runs/`` too, and are left out without them.
    baseline : str, default "dpo"
        The method to take differences from.
    all_seeds : bool, default False
        Whether to include the seeds that settings were chosen on.

    Returns
    -------
    str
        The report's text.

    Raises
    ------
    FileNotFoundError
        If there are no results.
    ValueError
        If there are no results to report, or none of the baseline.
    """
    folder = Path(folder)
    rows = [row for row in load_rows(folder / RESULTS_FILE) if all_seeds or row["reported"]]
    if not rows:
        chosen_on = ", ".join(map(str, SETTINGS_SEEDS))
        raise ValueError(
            f"{folder / RESULTS_FILE} has only seeds that settings were chosen on ({chosen_on}); run others, or give "
            "--all-seeds (all_seeds=True) to report these"
        )
    lines = ["# The comparison", ""]
    for world in _unique(row["world"] for row in rows):
        lines += _world(world, [row for row in rows if row["world"] == world], baseline)
    lines += [LEGEND.replace("\n", " "), ""]
    used = {(row["world"], row["seed"], row["method"]) for row in rows}
    runs = [
        run
        for run in load_runs(folder)
        if (run["rows"][0]["world"], run["rows"][0]["seed"], run["rows"][0]["method"]) in used
    ]
    figures = write_figures(folder, rows, runs)
    lines += [f"![{title}]({path.name})" for path, title in figures.items()]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    return text


def _world(world: str, rows: Sequence[dict[str, Any]], baseline: str) -> list[str]:
    methods = _unique(row["method"] for row in rows)
    if baseline not in methods:
        raise ValueError(
            f"the baseline {baseline!r} has no result in the {world} world; there are {', '.join(methods)}"
        )
    seeds = sorted({row["seed"] for row in rows})
    chosen_on = [seed for seed in seeds if seed in SETTINGS_SEEDS]
    said = f"Seeds {', '.join(map(str, seeds))}."
    if chosen_on:
        said += (
            f" The settings of DPO, calibration-aware DPO, CFT, RCFT and auto were chosen on "
            f"{', '.join(map(str, chosen_on))} of them; the other methods' are usual values."
        )
    lines = [f"## World with {'options in a fixed order' if world == 'fixed' else 'shuffled options'}", "", said, ""]
    for domain in DOMAINS:
        found = [row for row in rows if row["domain"] == domain]
        lines += [f"### {_TITLES[domain]}", ""]
        lines += _block(_means_table(found, methods, _MEANS))
        lines += [f"Differences from {baseline}, with paired 95% intervals over seeds:", ""]
        lines += _block(_differences_table(found, methods, baseline))
    checked = claims_table(rows)
    if checked:
        lines += ["### What it was to show", "", _CLAIMS, "", *_block(checked)]
    lines += ["### The models", ""]
    lines += _block(_means_table([row for row in rows if row["domain"] == "in"], methods, _OF_THE_MODEL))
    return lines


def _means_table(rows: Sequence[dict[str, Any]], methods: Sequence[str], columns: dict[str, str]) -> str:
    table: list[dict[str, Cell]] = []
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        means: dict[str, Cell] = {
            title: own[0][key] if key == "labels" else float(np.mean([row[key] for row in own]))
            for key, title in columns.items()
        }
        table.append({"method": method, "seeds": len(own), **means})
    return render_table(table)


def _differences_table(rows: Sequence[dict[str, Any]], methods: Sequence[str], baseline: str) -> str:
    def by_seed(method: str, key: str) -> dict[int, float]:
        return {row["seed"]: row[key] for row in rows if row["method"] == method}

    table: list[dict[str, Cell]] = []
    for method in methods:
        if method == baseline:
            continue
        shared = by_seed(method, "n").keys() & by_seed(baseline, "n").keys()
        line: dict[str, Cell] = {"method": method, "seeds": len(shared)}
        for key, title in _DIFFERENCES.items():
            line[title] = paired_difference(by_seed(method, key), by_seed(baseline, key)) if shared else None
        table.append(line)
    return render_table(table)


def _block(table: str) -> list[str]:
    return ["```", table, "```", ""] if table else []


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
