"""The sweeps' figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_calib.lab.names import DOMAINS
from hf_calib.measures.sampling import t_quantile
from hf_calib.reports.reliability import COLORS

from .sweeps import BASELINES, SWEEPS, compared_methods

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOMAIN_TITLES = {"in": "in domain", "out": "off domain", "unseen": "unseen domain"}
_MARKERS = "osD^vP*X<>"
_GREY, _DASHED, _DOTTED = "0.45", (0, (4, 3)), (0, (1, 2))


def write_sweep_figure(name: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a sweep's figure.

    Parameters
    ----------
    name : str
        Key of `experiments.sweeps.SWEEPS`.
    rows : sequence of dict
        The rows of its results to report.
    path : Path
        Where it is written, as PNG.
    """
    drawn = {"questions": _questions, "self-made": _questions, "weight": _weight, "training": _training}
    figure = drawn.get(name, _comparison)(rows)
    figure.savefig(path, dpi=150)


def _questions(rows: Sequence[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    panels = figure.subplots(1, len(DOMAINS), sharey=True)
    for ax, domain in zip(panels, DOMAINS, strict=True):
        _lines(ax, [row for row in rows if row["domain"] == domain], "ece")
        ax.set(xlabel=SWEEPS[rows[0]["sweep"]].label, yscale="log")
        _title(ax, DOMAIN_TITLES[domain])
        _plain_numbers(ax.yaxis)
    panels[0].set_ylabel("ECE")
    _legend_below(figure, panels[0])
    return figure


def _weight(rows: Sequence[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, len(DOMAINS), sharex=True, sharey="row")
    for place, domain in enumerate(DOMAINS):
        own = [row for row in rows if row["domain"] == domain]
        _lines(panels[0, place], own, "ece")
        _lines(panels[1, place], own, "accuracy")
        panels[0, place].set(yscale="log")
        _plain_numbers(panels[0, place].yaxis)
        _title(panels[0, place], DOMAIN_TITLES[domain])
        panels[1, place].spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("ECE")
    panels[1, 0].set_ylabel("Accuracy")
    panels[1, 1].set_xlabel(SWEEPS["weight"].label)
    _legend_below(figure, panels[0, 0])
    return figure


def _training(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the regimes: ECE on new questions vs. the accuracy in training, and vs. the accuracy on new questions."""
    from matplotlib.figure import Figure

    inside = [row for row in rows if row["domain"] == "in"]
    critical = float(np.mean([row["bayes_accuracy"] for row in inside]))
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    methods = [name for name in dict.fromkeys(row["method"] for row in inside) if name not in BASELINES]
    for ax, key in zip(panels, ("train_accuracy", "accuracy"), strict=True):
        for place, method in enumerate(methods):
            own = [row for row in inside if row["method"] == method]
            color = COLORS[place % len(COLORS)]
            for seed in dict.fromkeys(row["seed"] for row in own):
                points = np.array([(row[key], row["ece"]) for row in own if row["seed"] == seed])
                ax.plot(*points.T, color=color, linewidth=0.6, alpha=0.35)
            steps = sorted({row["x"] for row in own})
            mean = np.array(
                [np.mean([(row[key], row["ece"]) for row in own if row["x"] == step], axis=0) for step in steps]
            )
            marker = _MARKERS[place % len(_MARKERS)]
            ax.plot(*mean.T, color=color, marker=marker, markersize=3.5, linewidth=1.4, label=method)
            ax.annotate(f"{steps[-1]:g} steps", mean[-1], xytext=(5, 4), textcoords="offset points", fontsize=7)
        for name, marker in zip(BASELINES, "*X", strict=True):
            own = [row for row in inside if row["method"] == name]
            if own and (key == "accuracy" or name == "dpo"):
                point = np.mean([(row[key], row["ece"]) for row in own], axis=0)
                ax.plot(*point, color="0.1", marker=marker, markersize=9, linestyle="none", label=name)
        ax.axvline(critical, color=_GREY, linestyle=_DASHED, linewidth=0.9, label="E[max p*]")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0, None)
    left, right = panels[0].get_xlim()
    panels[0].axvspan(left, critical, color="#009E73", alpha=0.07, linewidth=0)
    panels[0].axvspan(critical, right, color="#D55E00", alpha=0.07, linewidth=0)
    panels[0].set_xlim(left, right)
    for x, said in (((left + critical) / 2, "calibratable"), ((critical + right) / 2, "non-calibratable")):
        panels[0].text(
            x, 0.98, said, transform=panels[0].get_xaxis_transform(), ha="center", va="top", fontsize=8, color="0.3"
        )
    _title(panels[0], "against the accuracy in training: the regimes")
    _title(panels[1], "against the accuracy on new questions")
    panels[0].set(xlabel="Accuracy on the questions trained on", ylabel="ECE on new questions")
    panels[1].set_xlabel("Accuracy on new questions")
    _legend_below(figure, panels[1])
    return figure


def _comparison(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw each method's ECE in each domain, one line per method."""
    from matplotlib.figure import Figure

    methods = compared_methods(rows)
    figure = Figure(figsize=(9, 1.4 + 0.34 * len(methods)), layout="constrained")
    ax = figure.subplots()
    for place, domain in enumerate(DOMAINS):
        found = [
            np.array([row["ece"] for row in rows if (row["method"], row["domain"]) == (method, domain)])
            for method in methods
        ]
        means = np.array([column.mean() for column in found])
        half = np.array([_half_width(column) for column in found])
        ax.errorbar(
            means,
            # Side by side, so that one interval doesn't hide another.
            np.arange(len(methods)) + 0.16 * (place - 1),
            xerr=(np.minimum(half, 0.9 * means), half),
            color=COLORS[place],
            marker=_MARKERS[place],
            markersize=4.5,
            linestyle="none",
            elinewidth=0.8,
            capsize=1.5,
            label=DOMAIN_TITLES[domain],
        )
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="ECE")
    _plain_numbers(ax.xaxis)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.4, alpha=0.5)
    _legend_below(figure, ax)
    return figure


def _lines(ax: Axes, rows: Sequence[dict[str, Any]], key: str) -> None:
    """Draw each method's mean over seeds with its 95% interval, and the two baselines as horizontal lines."""
    methods = [name for name in dict.fromkeys(row["method"] for row in rows) if name not in BASELINES]
    for place, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method]
        values = sorted({row["x"] for row in own})
        found = [np.array([row[key] for row in own if row["x"] == x]) for x in values]
        means = np.array([column.mean() for column in found])
        # Side by side, so that one interval doesn't hide another.
        shifted = np.array(values) * 1.03 ** (place - (len(methods) - 1) / 2)
        half = np.array([_half_width(column) for column in found])
        # On the logarithmic axis an interval's lower end stays above 0.
        below = np.minimum(half, 0.9 * means)
        ax.errorbar(
            shifted,
            means,
            yerr=(below, half),
            color=COLORS[place % len(COLORS)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            linestyle="-" if place < len(COLORS) else "--",
            elinewidth=0.7,
            capsize=1.5,
            label=method,
        )
    for name, style in zip(BASELINES, (_DOTTED, _DASHED), strict=True):
        level = [row[key] for row in rows if row["method"] == name]
        if level:
            ax.axhline(float(np.mean(level)), color=_GREY, linestyle=style, linewidth=1, label=name)
    ax.set_xscale("log")
    values = sorted({row["x"] for row in rows if row["method"] not in BASELINES})
    ax.set_xticks(values, [f"{x:,g}" for x in values])
    ax.minorticks_off()


def _half_width(values: np.ndarray) -> float:
    if len(values) < 2:
        return 0.0
    return t_quantile(0.95, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5


def _title(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _plain_numbers(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
