"""Preference collapse for each option: a model's log-odds vs. the pre-trained model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hf_calib.confidence import Predictions

# Of a cell, in nats.
WIDTH = 0.25
SHOWN = ("dpo", "cft", "calibration-aware-dpo-unlabelled")


def log_odds(said: Predictions) -> np.ndarray:
    """Return each option's log-probability minus the mean over its question's options, shape (n, K), in nats."""
    scores = said.option_log_probabilities
    return scores - scores.mean(axis=1, keepdims=True)


def log_odds_histogram(base: Predictions, other: Predictions) -> dict[str, Any]:
    """Count options by their log-odds under two models.

    Parameters
    ----------
    base, other : Predictions
        Of the same questions, all with equally many options.

    Returns
    -------
    dict
        ``width``, of a cell, in nats; and ``cells``, those that aren't empty, as [i, j, count]: the options whose
        log-odds are in [i, i + 1) widths under the base and in [j, j + 1) widths under the other.
    """
    places = [np.floor(log_odds(said) / WIDTH).astype(int).ravel() for said in (base, other)]
    cells, counts = np.unique(np.stack(places, axis=1), axis=0, return_counts=True)
    return {"width": WIDTH, "cells": np.column_stack((cells, counts)).tolist()}


def draw_collapse(runs: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw models' log-odds in domain vs. the pre-trained model's, for all seeds; return whether any was kept.

    Parameters
    ----------
    runs : sequence of dict
        Finished runs; of those of `SHOWN`, ``log_odds`` and ``sharpening`` are used.
    path : Path
        Where the figure is written, as PNG.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    kept = {name: [run for run in runs if run["rows"][0]["method"] == name and _is_kept(run)] for name in SHOWN}
    kept = {name: own for name, own in kept.items() if own}
    if not kept:
        return False
    cells = {name: np.concatenate([run["log_odds"]["in"]["cells"] for run in own]) for name, own in kept.items()}
    farthest = max(int(np.abs(found[:, :2]).max()) for found in cells.values()) + 1
    counts = {name: np.zeros((2 * farthest, 2 * farthest)) for name in cells}
    for name, found in cells.items():
        np.add.at(counts[name], (found[:, 1] + farthest, found[:, 0] + farthest), found[:, 2])
    figure = Figure(figsize=(0.9 + 3.4 * len(kept), 3.7), layout="constrained")
    panels = figure.subplots(1, len(kept), sharex=True, sharey=True, squeeze=False)[0]
    edges = np.arange(-farthest, farthest + 1) * WIDTH
    scale = LogNorm(1, max(found.max() for found in counts.values()))
    for ax, (name, own) in zip(panels, kept.items(), strict=True):
        image = ax.pcolormesh(edges, edges, np.ma.masked_equal(counts[name], 0), norm=scale, cmap="cividis_r")
        slope = float(np.mean([run["sharpening"]["in"]["slope"] for run in own]))
        ends = edges[[0, -1]]
        ax.plot(ends, ends, color="0.45", linestyle=(0, (4, 3)), linewidth=1, label="as before")
        ax.plot(ends, slope * ends, color="#D55E00", linewidth=1.2, label=f"slope {slope:.2f}")
        ax.set_title(name, loc="left", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlim=ends, ylim=ends, box_aspect=1, xlabel="Log-odds, pre-trained")
        ax.legend(loc="upper left", fontsize=8, frameon=False)
    panels[0].set_ylabel("Log-odds after")
    figure.colorbar(image, ax=list(panels), label="Options", shrink=0.85)
    figure.savefig(path, dpi=150)
    return True


def _is_kept(run: dict[str, Any]) -> bool:
    return "log_odds" in run and run["log_odds"]["in"]["width"] == WIDTH
