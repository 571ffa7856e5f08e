"""Measuring a stream of predictions in constant memory, mergeable across parts and processes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import ranking
from .binning import BinStatistics
from .kernels import KERNEL_WIDTH, kernel_error_from_blocks
from .scores import brier_terms, nll_terms
from .smooth import GRID_CELLS, smooth_ece_from_gaps
from .validation import check_labeled, check_n_bins, top_prediction


class StreamedMeasure(NamedTuple):
    """A measure of a stream, and a bound on its difference from the measure of the whole data.

    The bound is 0 for measures that are exact to rounding.
    """

    value: float
    bound: float


class CalibrationStream:
    """Measures of predictions that arrive in parts, in constant memory.

    Means and the errors over equal-width bins are exact: the counts and, up to rounding, the sums are those of the
    whole data, however it is split and ordered, and also if merged from several processes. Measures that need ranks
    (AUROC, AURC, equal-mass bins, Kolmogorov-Smirnov) or a kernel (smooth ECE) use a fine histogram of the confidence
    that treats the samples of a cell as equal, and come with a bound on the resulting error. Memory depends only on
    the number of bins, cells and options.

    Parameters
    ----------
    n_bins : int, default 10
        Number of equal-width bins.
    n_cells : int, default 65536
        Number of cells of the fine histogram, a multiple of 4096.

    Examples
    --------
    >>> stream = CalibrationStream().update([[0.75, 0.25]], [0]).update([[0.75, 0.25]], [1])
    >>> stream.measures()["ece"]
    StreamedMeasure(value=0.25, bound=0.0)
    """

    def __init__(self, n_bins: int = 10, *, n_cells: int = 65_536) -> None:
        if n_cells % GRID_CELLS or n_cells <= 0:
            raise ValueError(f"n_cells must be a multiple of {GRID_CELLS}, got {n_cells}")
        self.statistics = BinStatistics(check_n_bins(n_bins))
        self.cells = BinStatistics(n_cells)
        self.options: list[BinStatistics] = []
        # Sums of the weight, NLL and Brier score, and the rounding errors of these sums.
        self._sums, self._compensation = np.zeros(3), np.zeros(3)

    def update(
        self, probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
    ) -> "CalibrationStream":
        """Add predictions, and return the stream itself.

        Parameters
        ----------
        probabilities : array_like of shape (n, K)
            Each row a distribution over a question's options, padded with exact zeros on the right. K may differ from
            part to part.
        labels : array_like of shape (n,)
            Index of each question's right option.
        weights : array_like of shape (n,), optional
            Weight of each sample, finite and not negative.
        """
        p, y, w = check_labeled(probabilities, labels, weights)
        confidences, _, correct = top_prediction(p, y)
        self.statistics.update(confidences, correct, w)
        self.cells.update(confidences, correct, w)
        self._reach(p.shape[1])
        for option, statistics in enumerate(self.options):
            if option < p.shape[1]:
                statistics.update(p[:, option], y == option, w)
            else:
                statistics.update(np.zeros(len(p)), np.zeros(len(p), dtype=bool), w)
        weight = np.ones(len(p)) if w is None else w
        counted = weight > 0
        nll = nll_terms(p[counted], y[counted]) @ weight[counted]
        self._add(np.array([weight.sum(), nll, brier_terms(p, y) @ weight]))
        return self

    def merge(self, other: "CalibrationStream") -> "CalibrationStream":
        """Add another stream to this one, and return this one.

        Raises
        ------
        ValueError
            If the two have different bins or cells.
        """
        self.statistics.merge(other.statistics)
        self.cells.merge(other.cells)
        self._reach(len(other.options))
        for option, statistics in enumerate(self.options):
            statistics.merge(other.options[option] if option < len(other.options) else other._absent())
        self._add(other._sums)
        self._compensation = self._compensation + other._compensation
        return self

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.statistics.n

    def measures(self) -> dict[str, StreamedMeasure]:
        """Return each measure with a bound on its error."""
        statistics = self.statistics
        blocks = self._blocks()
        total, nll, brier = self._sums + self._compensation
        accuracy = float(statistics.correct_sums.sum() / total)
        exact = {
            "accuracy": accuracy,
            "confidence": float(statistics.confidence_sums.sum() / total),
            "signed_gap": statistics.signed_gap(),
            "ece": statistics.error(),
            "mce": statistics.error("max"),
            "rms_ce": statistics.error(2),
            "rms_ce_debiased": statistics.error(2, debias=True),
            "cw_ece": float(np.mean([option.error() for option in self.options])),
            "nll": float(nll / total),
            "brier": float(brier / total),
        }
        measures = {name: StreamedMeasure(value, 0.0) for name, value in exact.items()}
        measures.update(_ranked(blocks, self.cells, statistics.n_bins, accuracy))
        return measures

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists that JSON can hold."""
        return {
            "statistics": self.statistics.to_dict(),
            "cells": self.cells.to_dict(),
            "options": [option.to_dict() for option in self.options],
            "sums": self._sums.tolist(),
            "compensation": self._compensation.tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "CalibrationStream":
        """Return the stream that `to_dict` wrote."""
        statistics, cells = BinStatistics.from_dict(state["statistics"]), BinStatistics.from_dict(state["cells"])
        stream = cls(statistics.n_bins, n_cells=cells.n_bins)
        stream.statistics, stream.cells = statistics, cells
        stream.options = [BinStatistics.from_dict(option) for option in state["options"]]
        stream._sums, stream._compensation = np.array(state["sums"]), np.array(state["compensation"])
        return stream

    def _add(self, sums: NDArray[np.float64]) -> None:
        total = self._sums + sums
        with np.errstate(invalid="ignore"):
            part = total - self._sums
            lost = (self._sums - (total - part)) + (sums - part)
        # An infinite sum has no rounding error.
        self._compensation = self._compensation + np.where(np.isfinite(total), lost, 0)
        self._sums = total

    def _reach(self, n_options: int) -> None:
        """Add statistics for new options, which had probability 0 in all questions so far."""
        while len(self.options) < n_options:
            self.options.append(self._absent() if self.options else BinStatistics(self.statistics.n_bins))

    def _absent(self) -> BinStatistics:
        """Return the statistics of an option that no question so far has."""
        if not self.options:
            return BinStatistics(self.statistics.n_bins)
        state = self.options[0].to_dict()
        absent = BinStatistics(self.statistics.n_bins)
        first = np.zeros_like(absent.counts)
        first[0] = self.options[0].n
        absent.counts = first
        sums, compensation = np.array(state["sums"]), np.array(state["compensation"])
        for row in (0, 3):
            absent._sums[row, 0] = sums[row].sum()
            absent._compensation[row, 0] = compensation[row].sum()
        return absent

    def _blocks(self) -> ranking.RankedBlocks:
        filled = np.flatnonzero(self.cells.weights > 0)
        return ranking.RankedBlocks(
            self.cells.mean_confidence[filled], self.cells.weights[filled], self.cells.correct_sums[filled]
        )


def _ranked(
    blocks: ranking.RankedBlocks, cells: BinStatistics, n_bins: int, accuracy: float
) -> dict[str, StreamedMeasure]:
    total = blocks.weights.sum()
    share = blocks.weights / total
    wrong = blocks.weights - blocks.correct
    pairs = float(wrong.sum() * blocks.correct.sum())
    # Pairs within a cell count half, and could count zero or one.
    auroc_bound = float(wrong @ blocks.correct) / 2 / pairs if pairs else 0.0
    above = np.cumsum(share[::-1])[::-1]
    # Within a cell the risk changes by at most the cell's share of the accepted answers.
    aurc_bound = float(share @ (share / above))
    area = ranking.aurc_from_blocks(blocks)
    edges = ranking.edges_from_blocks(blocks.confidences, blocks.weights, n_bins)
    index = np.searchsorted(edges[1:-1], blocks.confidences, side="right")
    gaps = np.bincount(index, blocks.correct - blocks.weights * blocks.confidences, n_bins) / total
    starts = np.unique(np.searchsorted(blocks.confidences, edges[1:-1]))
    adjacent = np.unique(np.concatenate([starts, starts - 1]))
    adjacent = adjacent[(adjacent >= 0) & (adjacent < len(share))]
    smooth = smooth_ece_from_gaps(_points(cells))
    return {
        "auroc": StreamedMeasure(ranking.auroc_from_blocks(blocks), auroc_bound),
        "aurc": StreamedMeasure(area, aurc_bound),
        "excess_aurc": StreamedMeasure(area - ranking.best_aurc(1 - accuracy), aurc_bound),
        "ks": StreamedMeasure(ranking.ks_from_blocks(blocks), float(share.max())),
        "ece_equal_mass": StreamedMeasure(float(np.abs(gaps).sum()), float(2 * share[adjacent].sum())),
        "smooth_ece": StreamedMeasure(
            smooth.value, float(min(1.0, np.sqrt(2 / np.pi) / (cells.n_bins * smooth.bandwidth)))
        ),
        "kernel_ce": StreamedMeasure(
            kernel_error_from_blocks(blocks), float(np.sqrt(2 / (KERNEL_WIDTH * cells.n_bins)))
        ),
    }


def _points(cells: BinStatistics) -> NDArray[np.float64]:
    """Return the cells' gaps on the smooth ECE's grid, split linearly by their mean confidence."""
    filled = np.flatnonzero(cells.weights > 0)
    position = cells.mean_confidence[filled] * GRID_CELLS
    point = np.minimum(position.astype(np.intp), GRID_CELLS - 1)
    gaps = cells.gaps[filled]
    upper = gaps * (position - point)
    lower_part = np.bincount(point, gaps - upper, GRID_CELLS + 1).astype(np.float64)
    return lower_part + np.bincount(point + 1, upper, GRID_CELLS + 1)
