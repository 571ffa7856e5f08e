"""The experiment's figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_calib.lab.names import DOMAINS
from hf_calib.measures import BinStatistics
from hf_calib.reports import ReliabilityDisplay
from hf_calib.reports.reliability import COLORS

from .log_odds import draw_collapse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Shown side by side, before and after, if they were run.
RELIABILITY = {
    "pretrained": "pre-trained",
    "dpo": "plain DPO",
    "cft": "plain DPO, then CFT",
    "calibration-aware-dpo-unlabelled": "calibration-aware DPO",
}
_MARKERS = "osD^vP*X<>"
_DOMAIN_TITLES = {"in": "in domain", "out": "off domain", "unseen": "unseen domain"}


def write_figures(folder: Path, rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> dict[Path, str]:
    """Draw all figures that results hold the data for, for each world.

    Parameters
    ----------
    folder : Path
        Where they are written, as PNG.
    rows : sequence of dict
        Of the results file, those to report.
    runs : sequence of dict
        The finished runs of the same rows, if available.

    Returns
    -------
    dict of Path to str
        The files, with a description of each.
    """
    written: dict[Path, str] = {}
    for world in dict.fromkeys(row["world"] for row in rows):
        of_world = [run for run in runs if run["rows"][0]["world"] == world]
        path = folder / f"accuracy_and_ece_{world}.png"
        accuracy_and_ece([row for row in rows if row["world"] == world], of_world, path)
        written[path] = f"Accuracy against ECE of every method, {world} world"
        path = folder / f"reliability_{world}.png"
        if reliability(of_world, path):
            written[path] = f"Reliability in domain before and after, {world} world, all seeds together"
        path = folder / f"sharpening_{world}.png"
        if sharpening(of_world, path):
            written[path] = f"How much further apart each method puts the options' log-odds, {world} world"
        path = folder / f"collapse_{world}.png"
        if draw_collapse(of_world, path):
            written[path] = f"Preference collapse: each option's log-odds in domain, before and after, {world} world"
    return written


def reliability(runs: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw the reliability diagrams of `RELIABILITY` in domain, with merged seeds; return whether there were any."""
    statistics: dict[str, BinStatistics] = {}
    for name, title in RELIABILITY.items():
        for run in runs:
            if run["rows"][0]["method"] == name:
                own = BinStatistics.from_dict(run["statistics"]["in"])
                statistics[title] = statistics[title] + own if title in statistics else own
    if statistics:
        ReliabilityDisplay.compare(statistics).save(path)
    return bool(statistics)


def accuracy_and_ece(rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw each method's accuracy vs. its ECE, with a large mean over seeds and a small mark per seed, by domain."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, len(DOMAINS))
    for ax, domain in zip(panels, DOMAINS, strict=True):
        for place, method in enumerate(methods):
            own = [row for row in rows if row["method"] == method and row["domain"] == domain]
            points = np.array([(row["accuracy"], row["ece"]) for row in own])
            color, marker = COLORS[place % len(COLORS)], _MARKERS[place % len(_MARKERS)]
            ax.plot(*points.T, linestyle="none", marker=marker, markersize=3, color=color, alpha=0.35)
            ax.plot(*points.mean(axis=0), linestyle="none", marker=marker, markersize=8, color=color, label=method)
        bayes = [run["bayes_accuracy"][domain] for run in runs]
        if bayes:
            ax.axvline(float(np.mean(bayes)), color="0.45", linestyle=(0, (4, 3)), linewidth=0.9, label="E[max p*]")
        _plain(ax, _DOMAIN_TITLES[domain])
        ax.set(xlabel="Accuracy", ylim=(0, None))
    panels[0].set_ylabel("ECE")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def sharpening(runs: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw the slope of each model's log-odds vs. the pre-trained model's; return whether any was measured.

    Above 1, a model puts the options further apart than the pre-trained one does: preference collapse.
    """
    from matplotlib.figure import Figure

    measured = [run for run in runs if run["sharpening"]["in"] is not None]
    methods = [name for name in dict.fromkeys(run["rows"][0]["method"] for run in measured) if name != "pretrained"]
    if not methods:
        return False
    figure = Figure(figsize=(11, 0.9 + 0.28 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(DOMAINS), sharey=True)
    for ax, domain in zip(panels, DOMAINS, strict=True):
        for place, method in enumerate(methods):
            slopes = [run["sharpening"][domain]["slope"] for run in measured if run["rows"][0]["method"] == method]
            ax.barh(place, float(np.mean(slopes)), color=COLORS[0], alpha=0.75)
            ax.plot(slopes, [place] * len(slopes), "o", color="0.15", markersize=3)
        ax.axvline(1, color="0.45", linestyle=(0, (4, 3)), linewidth=0.9)
        _plain(ax, _DOMAIN_TITLES[domain])
        ax.set_xlabel("Log-odds over the pre-trained model's")
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    return True


def _plain(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
