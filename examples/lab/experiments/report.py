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
from .compared import METHODS, SETTINGS_SEEDS
from .figures import write_figures
from .results import MEASURES, RESULTS_FILE, load_rows, load_runs
from .selective import FILES as SELECTIVE_FILES
from .selective import MEASURES as SELECTIVE_MEASURES
from .selective import SELECTIVE_KEYS, legend

REPORT_FILE = "report.md"

_CLAIMS = (
    "The margin is how far the bar is passed, with its 95% interval over seeds; a claim is reached where the mean "
    "over seeds passes it."
)
_SUMMARY = (
    "Means over seeds with the half-widths of their 95% intervals. Time: processor time of training and fitting over "
    "that of plain DPO, the alignment included. Answers: questions with answers that the method uses. Prompts: "
    "whether it also needs multiple-choice prompts without answers. All have the preference pairs."
)
_SUMMARIZED = {
    "ECE, in": ("in", "ece"),
    "ECE, off": ("out", "ece"),
    "ECE, unseen": ("unseen", "ece"),
    "accuracy, in": ("in", "accuracy"),
    "accuracy, off": ("out", "accuracy"),
    "win rate": ("in", "win_rate"),
    "win rate, open": ("in", "win_rate_open"),
}
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
        If the folder has no results.
    ValueError
        If no results can be reported, or the baseline has none.
    """
    folder = Path(folder)
    rows = [row for row in load_rows(folder / RESULTS_FILE) if all_seeds or row["reported"]]
    if not rows:
        chosen_on = ", ".join(map(str, SETTINGS_SEEDS))
        raise ValueError(
            f"{folder / RESULTS_FILE} has only seeds that settings were chosen on ({chosen_on}); run others, or give "
            "--all-seeds (all_seeds=True) to report these"
        )
    selective: list[dict[str, Any]] = []
    if (folder / SELECTIVE_FILES["file"]).exists():
        found = load_rows(folder / SELECTIVE_FILES["file"], SELECTIVE_KEYS)
        selective = [row for row in found if all_seeds or row["reported"]]
    lines = ["# The comparison", ""]
    for world in _unique(row["world"] for row in rows):
        lines += _world(world, [row for row in rows if row["world"] == world], baseline)
        lines += _selective([row for row in selective if row["world"] == world])
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
    run = _unique(row["method"] for row in rows)
    methods = [name for name in METHODS if name in run] + [name for name in run if name not in METHODS]
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
    lines += ["### All methods, and what each needs", "", _SUMMARY, "", *_block(_summary_table(rows, methods))]
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


def _summary_table(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """Return the table that compares all methods: means with the half-widths of their 95% intervals over seeds."""
    table: list[dict[str, Cell]] = []
    seconds = {(row["method"], row["seed"]): row["seconds"] for row in rows}
    for method in methods:
        of_method = [row for row in rows if row["method"] == method]
        own = {domain: [row for row in of_method if row["domain"] == domain] for domain in DOMAINS}
        line: dict[str, Cell] = {"method": method, "seeds": len(own["in"])}
        for title, (domain, key) in _SUMMARIZED.items():
            line[title] = _mean_and_half([row[key] for row in own[domain]])
        ratios = [
            row["seconds"] / seconds["dpo", row["seed"]] for row in own["in"] if seconds.get(("dpo", row["seed"]))
        ]
        line["time over DPO's"] = f"{np.mean(ratios):.2f}" if ratios else ""
        line["answers"] = own["in"][0]["labels"]
        line["prompts"] = "yes" if method in METHODS and METHODS[method].prompts else "no"
        table.append(line)
    return render_table(table)


def _mean_and_half(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    if len(values) < 2:
        return mean
    half = t_quantile(0.95, len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean} ± {half:.3f}"


def _selective(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section on what calibrated confidence is for, if there are rows of it."""
    if not rows:
        return []
    lines = ["### What calibrated confidence is for", "", legend(), ""]
    for domain in DOMAINS:
        table: list[dict[str, Cell]] = []
        run = {row["method"] for row in rows}
        for method in (name for name in METHODS if name in run):
            own = [row for row in rows if (row["method"], row["domain"]) == (method, domain)]
            line: dict[str, Cell] = {"method": method, "seeds": len(own)}
            for key, title in SELECTIVE_MEASURES.items():
                values = [row[key] for row in own if row[key] is not None]
                line[title] = _mean_and_half(values) if values else None
            table.append(line)
        lines += [f"{_TITLES[domain].split(':')[0]}:", "", *_block(render_table(table))]
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
