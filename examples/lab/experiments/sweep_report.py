"""The sweeps' report: tables of means over seeds, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_calib.lab.names import DOMAINS
from hf_calib.measures import Measure
from hf_calib.reports import render_table
from hf_calib.reports.table import Cell

from .compared import SETTINGS_SEEDS
from .report import paired_difference
from .results import load_rows
from .sweep_figures import DOMAIN_TITLES, write_sweep_figure
from .sweeps import BASELINES, SWEEP_KEYS, SWEEPS, compared_methods, results_files

REPORT_FILE = "sweeps.md"


def mean_over_seeds(rows: Sequence[dict[str, Any]], key: str) -> Measure:
    """Return the mean of a column over rows of different seeds, with the 95% t-interval if there are at least two.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    return paired_difference({row["seed"]: row[key] for row in rows}, {row["seed"]: 0.0 for row in rows})


def has_sweeps(folder: str | Path) -> bool:
    """Whether a folder holds the results of any sweep."""
    return any(_file(Path(folder), name).is_file() for name in SWEEPS)


def load_sweep_rows(folder: str | Path) -> list[dict[str, Any]]:
    """Read the rows of all sweeps that a folder has results of."""
    paths = (_file(Path(folder), name) for name in SWEEPS)
    return [row for path in paths if path.is_file() for row in load_rows(path, SWEEP_KEYS)]


def write_sweep_report(folder: str | Path, *, all_seeds: bool = False) -> str:
    """Write the tables of all sweeps into ``sweeps.md`` in a folder of results, and their figures next to it.

    Parameters
    ----------
    folder : str or Path
        With the ``sweep_*.json`` that `run_sweep` writes.
    all_seeds : bool, default False
        Whether to include the seeds that settings were chosen on.

    Returns
    -------
    str
        The report's text.

    Raises
    ------
    FileNotFoundError
        If the folder has no results of a sweep.
    ValueError
        If a sweep has no results to report.
    """
    folder = Path(folder)
    if not has_sweeps(folder):
        raise FileNotFoundError(f"{folder} has no sweep_*.json; examples/lab/sweep.py writes them")
    lines = ["# The sweeps", ""]
    for name, sweep in SWEEPS.items():
        path = _file(folder, name)
        if not path.is_file():
            continue
        rows = [row for row in load_rows(path, SWEEP_KEYS) if all_seeds or row["reported"]]
        if not rows:
            chosen_on = ", ".join(map(str, SETTINGS_SEEDS))
            raise ValueError(
                f"{path} has only seeds that settings were chosen on ({chosen_on}); run others, or give --all-seeds "
                "(all_seeds=True) to report these"
            )
        seeds = sorted({row["seed"] for row in rows})
        lines += [f"## {sweep.title}", "", f"Seeds {', '.join(map(str, seeds))}, options in a fixed order.", ""]
        tables = _training_tables if name == "training" else _tables if sweep.values else _comparison
        lines += tables(rows)
        figure = folder / f"sweep_{name}.png"
        write_sweep_figure(name, rows, figure)
        lines += [f"![{sweep.title}]({figure.name})", ""]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    return text


def _file(folder: Path, name: str) -> Path:
    return folder / results_files(name)["file"]


def _tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return tables of the ECE and the accuracy in each domain, with methods as lines and values as columns."""
    lines: list[str] = []
    methods = [name for name in dict.fromkeys(row["method"] for row in rows) if name not in BASELINES]
    values = sorted({row["x"] for row in rows if row["method"] in methods})
    for domain in DOMAINS:
        inside = [row for row in rows if row["domain"] == domain]
        for key, title in (("ece", "ECE"), ("accuracy", "Accuracy")):
            table: list[dict[str, Cell]] = []
            for method in methods:
                at = {x: [row for row in inside if (row["method"], row["x"]) == (method, x)] for x in values}
                cells: dict[str, Cell] = {f"{x:g}": mean_over_seeds(at[x], key) if at[x] else None for x in values}
                table.append({"method": method, **cells})
            own = {name: [row for row in inside if row["method"] == name] for name in BASELINES}
            beside = [f"{name} {mean_over_seeds(own[name], key).value:.3f}" for name in BASELINES if own[name]]
            lines += [f"{title} {DOMAIN_TITLES[domain]} ({', '.join(beside)}), mean and 95% interval over seeds:", ""]
            lines += ["```", render_table(table), "```", ""]
    return lines


def _comparison(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of methods in a sweep without values, one line per method."""
    table: list[dict[str, Cell]] = []
    for method in compared_methods(rows):
        own = {
            domain: [row for row in rows if (row["method"], row["domain"]) == (method, domain)] for domain in DOMAINS
        }
        line: dict[str, Cell] = {"method": method}
        for key, title in (("ece", "ECE"), ("accuracy", "accuracy")):
            line |= {f"{title} {DOMAIN_TITLES[domain]}": mean_over_seeds(own[domain], key) for domain in DOMAINS}
        line |= {
            "win rate": mean_over_seeds(own["in"], "win_rate"),
            "open": mean_over_seeds(own["in"], "win_rate_open"),
        }
        table.append(line)
    return ["Mean and 95% interval over seeds:", "", "```", render_table(table), "```", ""]


def _training_tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of each training in domain, when it passes the critical accuracy and at its end."""
    inside = [row for row in rows if row["domain"] == "in" and row["method"] not in BASELINES]
    critical = float(np.mean([row["bayes_accuracy"] for row in inside]))
    table: list[dict[str, Cell]] = []
    for method in dict.fromkeys(row["method"] for row in inside):
        steps: dict[float, list[dict[str, Any]]] = {}
        for row in inside:
            if row["method"] == method:
                steps.setdefault(row["x"], []).append(row)
        passed = [x for x, own in steps.items() if np.mean([row["train_accuracy"] for row in own]) >= critical]
        places = {"at first": min(steps), "last": max(steps)}
        if passed:
            places["past the critical accuracy"] = min(passed)
        for place, x in sorted(places.items(), key=lambda item: item[1]):
            line: dict[str, Cell] = {"method": method, "when": place, "step": int(x)}
            columns = {"train_accuracy": "accuracy in training", "accuracy": "accuracy", "ece": "ECE"}
            table.append(line | {title: mean_over_seeds(steps[x], key) for key, title in columns.items()})
    said = f"In domain, mean and 95% interval over seeds; the critical accuracy E[max p*] is {critical:.3f}."
    return [said, "", "```", render_table(table), "```", ""]
