"""The reliability diagram: accuracy against confidence, bin by bin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..measures import BinStatistics, CalibrationReport, Measure, calibration_error_interval
from ..measures.sampling import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which is safe for color-blind readers, without its yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.frameon": False,
    # SVG files keep text as text, and have the same element ids in every run.
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_calib",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}

# Size of one diagram with the counts below, in inches.
_WIDTH, _HEIGHT = 2.9, 4.4

# The largest number of diagrams in a row.
_MAX_COLUMNS = 6


@dataclass
class ReliabilityDisplay:
    """Reliability diagrams of one or more models, drawn with matplotlib.

    Create one with `from_predictions`, `from_statistics` or `compare`, which draw it too.

    Attributes
    ----------
    statistics : dict of str to BinStatistics
        The statistics shown, by the model's name.
    errors : dict of str to Measure
        Each model's ECE with its interval.
    confidence_level : float
        Level of the ECE's interval and of the bins' intervals.
    figure_ : matplotlib.figure.Figure
        The figure, once drawn.
    axes_ : list of matplotlib.axes.Axes
        One diagram per model, or a single one where they are overlaid.
    """

    statistics: dict[str, BinStatistics]
    errors: dict[str, Measure]
    confidence_level: float = 0.95
    figure_: Figure | None = None
    axes_: list[Axes] | None = None

    @classmethod
    def from_predictions(
        cls,
        confidences: ArrayLike,
        correct: ArrayLike,
        *,
        n_bins: int = 10,
        weights: ArrayLike | None = None,
        name: str = "model",
        confidence_level: float = 0.95,
        **drawing: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagram of (n,) confidences and whether each answer was right.

        Parameters
        ----------
        confidences, correct, n_bins, weights
            As in `hf_calib.measures.expected_calibration_error`.
        name : str, default "model"
            Name in the diagram.
        confidence_level : float, default 0.95
            Level of the ECE's interval and of the bins' intervals.
        **drawing
            Passed on to `plot`.
        """
        statistics = BinStatistics.from_predictions(confidences, correct, n_bins, weights=weights)
        return cls.from_statistics(statistics, name=name, confidence_level=confidence_level, **drawing)

    @classmethod
    def from_statistics(
        cls,
        statistics: BinStatistics | CalibrationReport,
        *,
        name: str = "model",
        confidence_level: float = 0.95,
        **drawing: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagram of bin statistics, or of a report with its own interval; see `from_predictions`."""
        return cls.compare({name: statistics}, confidence_level=confidence_level, **drawing)

    @classmethod
    def compare(
        cls,
        models: Mapping[str, BinStatistics | CalibrationReport],
        *,
        confidence_level: float = 0.95,
        **drawing: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagrams of several models, side by side or overlaid.

        Parameters
        ----------
        models : mapping of str to BinStatistics or CalibrationReport
            In the order to show them.
        confidence_level : float, default 0.95
            Level of the ECE's intervals and of the bins' intervals.
        **drawing
            Passed on to `plot`.

        Raises
        ------
        ValueError
            If there is no model, or one without samples.
        """
        if not models:
            raise ValueError("models is empty: pass at least one")
        statistics, errors = {}, {}
        for name, model in models.items():
            if isinstance(model, CalibrationReport):
                statistics[name], errors[name] = model.statistics, model.measures["ece"]
            elif model.n == 0:
                raise ValueError(f"models: the statistics of {name!r} hold no samples")
            else:
                interval = calibration_error_interval(model, confidence_level=confidence_level)
                statistics[name], errors[name] = model, Measure(model.error(), *interval)
        display = cls(statistics, errors, confidence_level)
        display.plot(**drawing)
        return display

    def plot(
        self,
        *,
        kind: Literal["bars", "curve"] = "bars",
        overlay: bool = False,
        ax: Axes | None = None,
        title: str | None = None,
    ) -> ReliabilityDisplay:
        """Draw the diagrams again.

        Parameters
        ----------
        kind : {"bars", "curve"}, default "bars"
            Each bin's accuracy as a bar with its gap to the mean confidence, or as points joined by a line, both with
            the accuracy's interval.
        overlay : bool, default False
            Whether to draw all models as curves in one diagram instead of side by side.
        ax : matplotlib.axes.Axes, optional
            Where to draw a single or an overlaid diagram, without the counts below; a new figure by default.
        title : str, optional
            Title above the figure.
        """
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        if kind not in ("bars", "curve"):
            raise ValueError(f'kind must be "bars" or "curve", got {kind!r}')
        panels = [list(self.statistics)] if overlay else [[name] for name in self.statistics]
        if ax is not None and len(panels) > 1:
            raise ValueError(
                f"ax: a single ax can't hold {len(panels)} diagrams side by side; pass overlay=True or no ax"
            )
        # The style applies to this figure only and leaves the user's settings unchanged.
        with rc_context(_STYLE):
            if ax is not None:
                self.figure_, self.axes_ = ax.figure.get_figure(root=True), [ax]
                self._diagram(ax, panels[0], kind)
                ax.set(xlabel="Confidence", ylabel="Accuracy")
            else:
                rows = -(-len(panels) // _MAX_COLUMNS)
                height = _HEIGHT * rows + 0.16 * len(panels[0]) + (0.25 if title else 0)
                width = 0.6 + _WIDTH * -(-len(panels) // rows)
                self.figure_ = Figure(figsize=(width, height), layout="constrained")
                self.axes_ = self._panels(self.figure_, panels, kind)
            if title is not None:
                self.figure_.suptitle(title)
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the figure to a file in the format of its suffix, such as PNG; the same data give the same bytes."""
        from matplotlib import rc_context

        assert self.figure_ is not None
        metadata = {"Date": None} if str(path).endswith(".svg") else None
        with rc_context(_STYLE):
            self.figure_.savefig(path, metadata=metadata)

    def _panels(self, figure: Figure, panels: list[list[str]], kind: str) -> list[Axes]:
        rows = -(-len(panels) // _MAX_COLUMNS)
        columns = -(-len(panels) // rows)
        grid = figure.subplots(
            2 * rows,
            columns,
            sharex=True,
            sharey="row",
            squeeze=False,
            gridspec_kw={"height_ratios": [4, 1] * rows},
        )
        drawn: list[Axes] = []
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            if place >= len(panels):
                upper.set_axis_off()
                lower.set_axis_off()
                continue
            self._diagram(upper, panels[place], kind)
            self._counts(lower, panels[place])
            # Below the last diagram of each column.
            if place + columns >= len(panels):
                lower.set_xlabel("Confidence")
                lower.tick_params(labelbottom=True)
            if column == 0:
                upper.set_ylabel("Accuracy")
                lower.set_ylabel("Share")
            drawn.append(upper)
        if len(panels[0]) == 1:
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, handlelength=1.2)
        return drawn

    def _diagram(self, ax: Axes, names: list[str], kind: str) -> None:
        ax.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color="0.45", linewidth=0.9, zorder=3)
        several = len(names) > 1
        for color, name in zip(_colors(names), names, strict=True):
            if several:
                self._curve(ax, self.statistics[name], color, f"{_shortened(name)}: {self._error(name)}", None)
            elif kind == "curve":
                self._curve(ax, self.statistics[name], color, "accuracy", self._interval)
            else:
                self._bars(ax, self.statistics[name], color)
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
        if several:
            # Above the diagram, since any corner inside it may hold data.
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=7.5, handlelength=1.4, borderaxespad=0.2)
        else:
            heading = self._error(names[0])
            if len(self.statistics) > 1:
                heading = f"{_shortened(names[0])}\n{heading}"
            ax.set_title(heading, loc="left", fontsize=8)

    @property
    def _interval(self) -> str:
        return f"{100 * self.confidence_level:g}% interval"

    def _error(self, name: str) -> str:
        error = self.errors[name]
        text = f"ECE {error.value:.3f}"
        return text if error.low is None else f"{text} [{error.low:.3f}, {error.high:.3f}]"

    def _bars(self, ax: Axes, statistics: BinStatistics, color: str) -> None:
        filled = np.flatnonzero(statistics.weights > 0)
        left, width = statistics.edges[:-1][filled], np.diff(statistics.edges)[filled]
        accuracy, confidence = statistics.accuracy[filled], statistics.mean_confidence[filled]
        ax.bar(
            left,
            accuracy,
            width,
            align="edge",
            color=color,
            alpha=0.75,
            edgecolor="white",
            linewidth=0.6,
            label="accuracy",
        )
        ax.bar(
            left,
            confidence - accuracy,
            width,
            bottom=accuracy,
            align="edge",
            facecolor="none",
            edgecolor=COLORS[1],
            hatch="////",
            linewidth=0.6,
            label="gap to mean confidence",
        )
        self._bands(ax, statistics, filled, left + width / 2, "0.15", self._interval)

    def _curve(self, ax: Axes, statistics: BinStatistics, color: str, label: str, band: str | None) -> None:
        filled = np.flatnonzero(statistics.weights > 0)
        confidence, accuracy = statistics.mean_confidence[filled], statistics.accuracy[filled]
        ax.plot(confidence, accuracy, "o-", markersize=3.5, color=color, label=label, zorder=4, clip_on=False)
        self._bands(ax, statistics, filled, confidence, color, band)

    def _bands(
        self,
        ax: Axes,
        statistics: BinStatistics,
        filled: np.ndarray,
        x: np.ndarray,
        color: str,
        label: str | None,
    ) -> None:
        from scipy.special import ndtri

        critical = float(ndtri((1 + self.confidence_level) / 2))
        effective = statistics.weights[filled] ** 2 / statistics.square_weights[filled]
        accuracy = statistics.accuracy[filled]
        ends = np.array([wilson_interval(a, n, critical) for a, n in zip(accuracy, effective, strict=True)])
        ax.vlines(x, ends[:, 0], ends[:, 1], color=color, linewidth=1.0, zorder=4, label=label or "_bands")

    def _counts(self, ax: Axes, names: list[str]) -> None:
        several = len(names) > 1
        for color, name in zip(_colors(names), names, strict=True):
            statistics = self.statistics[name]
            share = statistics.weights / statistics.weights.sum()
            if several:
                ax.stairs(share, statistics.edges, color=color, linewidth=1.0)
            else:
                ax.bar(
                    statistics.edges[:-1],
                    share,
                    np.diff(statistics.edges),
                    align="edge",
                    color="0.6",
                    edgecolor="white",
                    linewidth=0.6,
                )
        ax.locator_params(axis="y", nbins=3)
        if not several:
            ax.set_title(f"n = {self.statistics[names[0]].n:,}", loc="left", fontsize=7.5)


def _colors(names: list[str]) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(names))]


def _shortened(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
