"""Binned calibration: mergeable statistics of equal-width bins, and the calibration errors computed from them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import Floats, check_answers, check_n_bins

# Small enough that a chunk's temporaries stay in the processor's second-level cache.
_CHUNK = 32_768

# The rows of `BinStatistics._sums`. r = correct - confidence is a sample's gap, w its weight.
_WEIGHT, _CONFIDENCE, _CORRECT, _WEIGHT2, _GAP_WEIGHT2, _GAP2_WEIGHT2 = range(6)


def bin_edges(n_bins: int) -> NDArray[np.float64]:
    """Return the n_bins + 1 edges k / n_bins of equal-width bins on [0, 1], each correctly rounded.

    `numpy.linspace` gives 0.30000000000000004 for the third of ten, which puts a confidence of 0.3 into [0.2, 0.3).
    """
    return np.arange(check_n_bins(n_bins) + 1) / n_bins


def bin_index(confidences: Floats, edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each confidence: edges[i] <= c < edges[i + 1], and 1.0 in the last bin.

    Parameters
    ----------
    confidences : ndarray of shape (n,)
        Values in [0, 1].
    edges : ndarray of shape (n_bins + 1,)
        Ascending, from 0 to 1.
    """
    return np.searchsorted(edges[1:-1], confidences, side="right").astype(np.intp, copy=False)


def _equal_width_index(confidences: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return what `bin_index` returns for the edges of `bin_edges`, without a search."""
    n_bins = len(edges) - 1
    # Multiplying by slightly more than n_bins never moves a value at or above an edge to below it. The comparison
    # undoes the opposite case, a value just below an edge that is moved up to it.
    index = (confidences * np.nextafter(n_bins, np.inf)).astype(np.intp)
    np.minimum(index, n_bins - 1, out=index)
    index -= confidences < edges.take(index)
    return index


class BinStatistics:
    """Sums over equal-width (or other fixed) bins of a stream of confidences, sufficient for every binned measure.

    Counts are exact whole numbers, and sums are compensated: the same samples give the same counts, and the same sums
    up to rounding, whether they are added at once, in parts, in any order or merged from several processes. Memory is
    a few numbers per bin, however many samples are added.

    Parameters
    ----------
    n_bins : int, default 10
        Number of equal-width bins on [0, 1]: [0, 1/n_bins), ..., [1 - 1/n_bins, 1]. Each is closed on the left, the
        last one on both sides.
    edges : array_like of shape (n_bins + 1,), optional
        Other edges, ascending from 0 to 1, in place of `n_bins`.

    Examples
    --------
    >>> statistics = BinStatistics(n_bins=2).update([0.25, 0.75, 1.0], [False, True, True])
    >>> statistics.counts
    array([1, 2])
    >>> statistics.error()
    0.16666666666666666
    """

    def __init__(self, n_bins: int = 10, *, edges: ArrayLike | None = None) -> None:
        self._equal_width = edges is None
        self.edges: NDArray[np.float64] = bin_edges(n_bins) if edges is None else _check_edges(edges)
        n_bins = len(self.edges) - 1
        self.counts: NDArray[np.int64] = np.zeros(n_bins, dtype=np.int64)
        self._sums = np.zeros((6, n_bins))
        self._compensation = np.zeros((6, n_bins))

    @classmethod
    def from_predictions(
        cls,
        confidences: ArrayLike,
        correct: ArrayLike,
        n_bins: int = 10,
        *,
        weights: ArrayLike | None = None,
        edges: ArrayLike | None = None,
    ) -> "BinStatistics":
        """Return the statistics of (n,) confidences and whether each answer was right; see `update`."""
        return cls(n_bins, edges=edges).update(confidences, correct, weights)

    def update(self, confidences: ArrayLike, correct: ArrayLike, weights: ArrayLike | None = None) -> "BinStatistics":
        """Add samples, and return the statistics themselves.

        Parameters
        ----------
        confidences : array_like of shape (n,)
            Probability of the given answer, in [0, 1].
        correct : array_like of shape (n,)
            Whether the answer is right: booleans, 0 and 1, or the probability that it is right where that is known.
        weights : array_like of shape (n,), optional
            Weight of each sample: finite, not negative. All one if left out.

        Raises
        ------
        TypeError, ValueError
            If the input is invalid; nothing has been added then.
        """
        confidence, right, weight = check_answers(confidences, correct, weights)
        for start in range(0, len(confidence), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._add_chunk(
                confidence[part].astype(np.float64, copy=False), right[part], None if weight is None else weight[part]
            )
        return self

    def _add_chunk(self, confidence: NDArray[np.float64], right: NDArray, weight: NDArray | None) -> None:
        n_bins = self.n_bins
        if self._equal_width:
            index = _equal_width_index(confidence, self.edges)
        else:
            index = bin_index(confidence, self.edges)
        gap = right - confidence
        if right.dtype == np.bool_ and weight is None:
            # Counting wrong and right answers separately gives the counts and the right answers in one pass.
            index = 2 * index + right
            counts = np.bincount(index, minlength=2 * n_bins).reshape(n_bins, 2)
            sums = np.empty((6, n_bins))
            sums[_WEIGHT] = sums[_WEIGHT2] = counts.sum(axis=1)
            sums[_CORRECT] = counts[:, 1]
            sums[_CONFIDENCE] = np.bincount(index, confidence, 2 * n_bins).reshape(n_bins, 2).sum(axis=1)
            sums[_GAP_WEIGHT2] = sums[_CORRECT] - sums[_CONFIDENCE]
            sums[_GAP2_WEIGHT2] = np.bincount(index, gap * gap, 2 * n_bins).reshape(n_bins, 2).sum(axis=1)
            self.counts += counts.sum(axis=1)
        else:
            w = np.ones(len(gap)) if weight is None else weight
            terms = (w, w * confidence, w * right, w * w, w * w * gap, (w * gap) ** 2)
            sums = np.stack([np.bincount(index, term, n_bins) for term in terms])
            self.counts += np.bincount(index, minlength=n_bins)
        self._add_sums(sums)

    def _add_sums(self, sums: NDArray[np.float64]) -> None:
        # Knuth's two-sum: the rounding error of the total is kept separately.
        total = self._sums + sums
        part = total - self._sums
        self._compensation += (self._sums - (total - part)) + (sums - part)
        self._sums = total

    def merge(self, other: "BinStatistics") -> "BinStatistics":
        """Add another stream's statistics to these, and return these.

        Raises
        ------
        ValueError
            If the two have different bins.
        """
        if not np.array_equal(self.edges, other.edges):
            raise ValueError(
                f"statistics over {self.n_bins} and {other.n_bins} bins can't be merged: their edges differ"
            )
        self.counts = self.counts + other.counts
        self._add_sums(other._sums)
        self._compensation = self._compensation + other._compensation
        return self

    def __add__(self, other: "BinStatistics") -> "BinStatistics":
        """Return the statistics of both streams together."""
        if not isinstance(other, BinStatistics):
            return NotImplemented
        return self.copy().merge(other)

    def copy(self) -> "BinStatistics":
        """Return a copy that can be updated on its own."""
        return BinStatistics.from_dict(self.to_dict())

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    def _row(self, row: int) -> NDArray[np.float64]:
        return self._sums[row] + self._compensation[row]

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n_bins,) sums of the weights; the counts where no weights were given."""
        return self._row(_WEIGHT)

    @property
    def square_weights(self) -> NDArray[np.float64]:
        """(n_bins,) sums of the squared weights; the counts where no weights were given."""
        return self._row(_WEIGHT2)

    @property
    def confidence_sums(self) -> NDArray[np.float64]:
        """(n_bins,) weighted sums of the confidences."""
        return self._row(_CONFIDENCE)

    @property
    def correct_sums(self) -> NDArray[np.float64]:
        """(n_bins,) weighted numbers of right answers."""
        return self._row(_CORRECT)

    @property
    def mean_confidence(self) -> NDArray[np.float64]:
        """(n_bins,) mean confidence of each bin, NaN for a bin without weight."""
        return _mean(self.confidence_sums, self.weights)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(n_bins,) share of right answers in each bin, NaN for a bin without weight."""
        return _mean(self.correct_sums, self.weights)

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(n_bins,) weighted sums of correct - confidence over the total weight: E[(y - c) 1[c in bin]]."""
        return (self.correct_sums - self.confidence_sums) / self._total()

    @property
    def gap_covariance(self) -> NDArray[np.float64]:
        """(n_bins, n_bins) estimated sampling covariance of `gaps` for independent samples (delta method)."""
        total, gaps = self._total(), self.gaps
        square, gap_square = self.square_weights.sum(), self._row(_GAP_WEIGHT2)
        cross = np.outer(gaps, gap_square)
        covariance = square * np.outer(gaps, gaps) - cross - cross.T
        covariance[np.diag_indices(self.n_bins)] += self._row(_GAP2_WEIGHT2)
        return covariance / total**2

    def _total(self) -> float:
        total = float(self.weights.sum())
        if total == 0:
            raise ValueError("the statistics hold no samples: call update first")
        return total

    def error(self, norm: int | str = 1, *, debias: bool = False) -> float:
        """Return the calibration error over the bins, each bin weighted by its share of the samples.

        Parameters
        ----------
        norm : {1, 2, "max"}, default 1
            1: expected calibration error, Σ_b w_b |acc_b - conf_b|, in [0, 1] (Naeini et al. 2015; Guo et al. 2017).
            2: root mean square calibration error, (Σ_b w_b (acc_b - conf_b)²)^½, in [0, 1] (Kumar et al. 2019).
            "max": maximum calibration error, the largest |acc_b - conf_b| of a nonempty bin (Guo et al. 2017).
        debias : bool, default False
            For norm 2: subtract each bin's estimated sampling variance acc_b (1 - acc_b) / (n_b - 1) from its squared
            gap, with bins of one sample counting zero, and return 0 for a negative sum (Kumar et al. 2019, Def. 4.1).

        Raises
        ------
        ValueError
            If the norm is unknown, `debias` is used with a norm other than 2, or there are no samples.
        """
        if debias and norm != 2:
            raise ValueError(f"debias needs norm=2, got norm={norm!r}")
        total = self._total()
        if norm == 1:
            return float(np.abs(self.gaps).sum())
        filled = self.weights > 0
        weight, accuracy = self.weights[filled], self.accuracy[filled]
        gap = accuracy - self.mean_confidence[filled]
        if norm == "max":
            return float(np.abs(gap).max())
        if norm != 2:
            raise ValueError(f'norm must be 1, 2 or "max", got {norm!r}')
        squares = gap**2
        if debias:
            square_weight = self.square_weights[filled]
            spread = weight**2 - square_weight
            # Two samples of which one has no weight count as one.
            several = (self.counts[filled] > 1) & (spread > 0)
            # With weights of one this is acc (1 - acc) / (n_b - 1).
            squares[several] -= (accuracy * (1 - accuracy) * square_weight)[several] / spread[several]
            squares[~several] = 0
        return float(np.sqrt(max(0.0, float(squares @ weight) / total)))

    def signed_gap(self) -> float:
        """Return mean confidence - accuracy, in [-1, 1]: positive for overconfidence."""
        return float(-self.gaps.sum())

    def over_and_underconfidence(self) -> tuple[float, float]:
        """Return the parts of the ECE from bins whose confidence is above, and below, their accuracy.

        The two add up to the ECE, and their difference is `signed_gap`.
        """
        gaps = self.gaps
        return float(np.abs(gaps[gaps < 0]).sum()), float(gaps[gaps > 0].sum())

    def rows(self) -> Iterator[dict[str, float | int | None]]:
        """Yield each bin as a dict: lower, upper, count, accuracy and confidence (the last two None if empty)."""
        for i in range(self.n_bins):
            empty = self.weights[i] == 0
            yield {
                "lower": float(self.edges[i]),
                "upper": float(self.edges[i + 1]),
                "count": int(self.counts[i]),
                "accuracy": None if empty else float(self.accuracy[i]),
                "confidence": None if empty else float(self.mean_confidence[i]),
            }

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists that JSON can hold; `from_dict` restores the statistics exactly."""
        return {
            "edges": None if self._equal_width else self.edges.tolist(),
            "counts": self.counts.tolist(),
            "sums": self._sums.tolist(),
            "compensation": self._compensation.tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "BinStatistics":
        """Return the statistics that `to_dict` wrote.

        Raises
        ------
        ValueError
            If a key is missing or the arrays' shapes don't agree.
        """
        missing = {"edges", "counts", "sums", "compensation"} - set(state)
        if missing:
            raise ValueError(f"invalid state of BinStatistics: {', '.join(sorted(missing))} missing")
        counts = np.array(state["counts"], dtype=np.int64)
        statistics = cls(max(counts.size, 1), edges=state["edges"])
        sums, compensation = np.array(state["sums"], dtype=float), np.array(state["compensation"], dtype=float)
        if counts.shape != statistics.counts.shape or not sums.shape == compensation.shape == (6, counts.size):
            raise ValueError(
                f"invalid state of BinStatistics: counts {counts.shape}, sums {sums.shape}, compensation "
                f"{compensation.shape} and {statistics.n_bins} bins don't agree"
            )
        statistics.counts, statistics._sums, statistics._compensation = counts, sums, compensation
        return statistics

    def __repr__(self) -> str:
        return f"BinStatistics(n_bins={self.n_bins}, n={self.n})"


def _check_edges(edges: ArrayLike) -> NDArray[np.float64]:
    array = np.array(edges, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or array[0] != 0 or array[-1] != 1 or not (np.diff(array) >= 0).all():
        raise ValueError(f"edges must ascend from 0 to 1, got {edges!r}")
    return array


def _mean(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(sums, weights, out=np.full(len(sums), np.nan), where=weights > 0)
