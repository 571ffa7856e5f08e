"""A measured value, and the ways to compute its interval."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .binning import BinStatistics, bin_edges, bin_index
from .intervals import (
    NO_WIDTH,
    absolute_sum_interval,
    check_level,
    family_interval,
    gaussian_noise,
    hold_unseen,
    prior_variance,
    unseen_share,
)
from .sampling import (
    MIN_CLUSTERS,
    auroc_interval,
    clustered_covariance,
    influence_error,
    t_quantile,
    wilson_interval,
)
from .scores import weighted_mean

Array = NDArray[np.float64]

# The noise of measures along the confidence is drawn in this many cells.
NOISE_CELLS = 256

# A standard error of at most this is rounding.
_NO_SPREAD = 1e-14


@dataclass(frozen=True)
class Measure:
    """A measured value with its confidence interval.

    `low` and `high` are None if there is no interval; `n_used` is the size of the subsample that was measured, None if
    that is the whole sample.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n_used: int | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Settings:
    """How a sample is measured.

    `n_resamples=0` skips the intervals; `brief` skips the slowest ones: of the smooth, Kolmogorov-Smirnov, kernel,
    classwise, differentiable and local errors, and of the points of the risk-coverage curve.
    """

    n_bins: int = 10
    confidence_level: float = 0.95
    n_resamples: int = 1000
    seed: int = 0
    brief: bool = False

    def __post_init__(self) -> None:
        check_level(self.confidence_level)


class Estimator:
    """Intervals of measures of (n,) checked answers, independent or in clusters."""

    def __init__(
        self,
        confidences: NDArray[np.floating],
        correct: NDArray[np.bool_],
        settings: Settings,
        weights: Array | None = None,
        clusters: NDArray[np.intp] | None = None,
    ) -> None:
        self.confidence, self.correct = confidences.astype(np.float64, copy=False), correct
        self.settings, self.weights = settings, weights
        few = clusters is None or int(clusters.max(initial=0)) + 1 < MIN_CLUSTERS
        self.clusters = None if few else clusters
        counted = len(correct) if weights is None else int(np.count_nonzero(weights))
        self.wanted = settings.n_resamples > 0 and counted > 1

    def smoothly(
        self,
        value: float,
        influence: Callable[[], Array],
        low: float,
        high: float,
        unseen: Callable[[float], tuple[float, float]] | None = None,
        *,
        of_answers: bool = True,
    ) -> Measure:
        """Return an approximately normal estimate, with its interval clipped to the range of the measure.

        Where no sample has an influence, the spread says nothing about the error of the estimate, and where all
        answers are right, or all wrong, it says too little. There `unseen` gives the lowest and highest value that the
        estimate could have if a given share of the samples were different (see `unseen_share`); without it there is no
        interval. Pass `of_answers=False` if the estimate does not depend on the answers. With a few dozen samples, or
        few wrong answers among many, the interval of a skewed estimate covers less than its level.
        """
        error = self._spread(value, influence)
        if error is None:
            return Measure(value)
        lows, highs = [], []
        if error[0] > _NO_SPREAD:
            half = t_quantile(self.settings.confidence_level, error[1]) * error[0]
            lows, highs = [max(low, value - half)], [min(high, value + half)]
        if unseen is not None and (not lows or (of_answers and self.all_the_same)):
            ends = unseen(self.unseen)
            lows, highs = [*lows, ends[0]], [*highs, ends[1]]
        # Rounding can leave the estimate itself outside.
        return Measure(value, min(*lows, value), max(*highs, value)) if lows else Measure(value)

    def mean(self, values: NDArray, low: float = 0.0, high: float = 1.0, *, of_answers: bool = True) -> Measure:
        """Return the mean of (n,) values that lie between `low` and `high`.

        Unseen values may lie at either bound: if one is infinite and all values are the same, there is no interval.
        """
        value = weighted_mean(values, self.weights)
        finite = bool(np.isfinite([low, high]).all())
        return self.smoothly(
            value,
            lambda: values - value,
            low,
            high,
            (lambda share: hold_unseen(value, share, low, high)) if finite else None,
            of_answers=of_answers,
        )

    @cached_property
    def all_the_same(self) -> bool:
        """Whether all answers are right, or all wrong."""
        counted = self.correct if self.weights is None else self.correct[self.weights > 0]
        return bool(counted.all() or not counted.any())

    @property
    def unseen(self) -> float:
        """The share of samples, or of clusters, that may differ from all those seen: see `unseen_share`."""
        return unseen_share(self.effective_size, self.settings.confidence_level)

    @cached_property
    def effective_size(self) -> float:
        """Number of clusters, or of samples; Kish's effective number where they are weighted."""
        if self.clusters is not None:
            weights = np.bincount(self.clusters, self.weights)
            return _effective_size(weights.astype(np.float64)) if self.weights is not None else float(len(weights))
        return float(len(self.correct)) if self.weights is None else _effective_size(self.weights)

    def allowing(self, measure: Measure, n: float | None = None) -> Measure:
        """Return a measure in [0, 1] with its interval widened by unseen samples, where the spread is uninformative.

        That is where all answers are right, or all wrong, and where the interval is a point. `n` is the number of
        samples that the measure depends on, by default all of them.
        """
        if measure.low is None or measure.high is None:
            return measure
        if not self.all_the_same and measure.high - measure.low > NO_WIDTH:
            return measure
        share = unseen_share(self.effective_size if n is None else n, self.settings.confidence_level)
        low, high = hold_unseen(measure.value, share, 0.0, 1.0)
        return replace(measure, low=min(low, measure.low), high=max(high, measure.high))

    def auroc(self, value: float, influence: Callable[[], Array]) -> Measure:
        """Return an AUROC, in [0, 1], with the interval of `auroc_interval`; none where it is NaN."""
        error = self._spread(value, influence)
        if error is None:
            return Measure(value)
        sizes = [
            float(kind.sum()) if self.weights is None else _effective_size(self.weights[kind])
            for kind in (~self.correct, self.correct)
        ]
        critical = t_quantile(self.settings.confidence_level, error[1])
        return Measure(value, *auroc_interval(value, sizes[0], sizes[1], error[0] ** 2, critical))

    def _spread(self, value: float, influence: Callable[[], Array]) -> tuple[float, int] | None:
        if not self.wanted or not np.isfinite(value):
            return None
        return influence_error(influence(), self.weights, self.clusters)

    def share(self, values: NDArray) -> Measure:
        """Return the mean of n truth values or shares in [0, 1], with Wilson's interval."""
        value = weighted_mean(values, self.weights)
        error = influence_error(values - value, self.weights, self.clusters) if self.wanted else None
        if error is None:
            return Measure(value)
        if error[0] > _NO_SPREAD:
            effective = value * (1 - value) / error[0] ** 2
        elif self.weights is not None:
            effective = _effective_size(self.weights)
        else:
            effective = len(values)
        critical = t_quantile(self.settings.confidence_level, error[1])
        return Measure(value, *wilson_interval(value, effective, critical))

    def covariance(self, statistics: BinStatistics, confidences: Array, correct: NDArray) -> Array:
        """Return the covariance of the bins' gaps."""
        if self.clusters is None:
            return statistics.gap_covariance
        return self.stacked_covariance([(bin_index(confidences, statistics.edges), correct - confidences)], statistics)

    def stacked_covariance(
        self,
        parts: Iterable[tuple[NDArray[np.intp], Array]],
        statistics: BinStatistics,
        n_parts: int = 1,
    ) -> Array:
        """Return the covariance of the same samples' gaps in several sets of bins, divided by the number of sets."""
        clusters = np.arange(len(self.correct)) if self.clusters is None else self.clusters
        return clustered_covariance(parts, statistics.n_bins, clusters, self.weights, n_parts=n_parts)

    def absolute_sum(
        self, statistics: Sequence[BinStatistics], covariance: Callable[[], Array], *, prior: bool = True
    ) -> Measure:
        """Return the mean ECE of several sets of bins; `covariance` gives the covariance of all their gaps."""
        n = len(statistics)
        value = sum(s.error() for s in statistics) / n
        if not self.wanted:
            return Measure(value)
        extra = np.concatenate([prior_variance(s) for s in statistics]) / n**2
        interval = absolute_sum_interval(
            np.concatenate([s.gaps for s in statistics]) / n,
            covariance() + np.diag(extra if prior else np.zeros_like(extra)),
            confidence_level=self.settings.confidence_level,
            n_resamples=self.settings.n_resamples,
            seed=self.settings.seed,
        )
        return self.allowing(Measure(value, *interval))

    def family(
        self,
        value: float,
        statistic: Callable[[Array], Array],
        signal: Array,
        noise: Array,
        n: float | None = None,
    ) -> Measure:
        """Return a norm of the signal with the interval of `family_interval`, which always contains the value.

        `n` as in `allowing`.
        """
        low, high = family_interval(statistic, signal, noise, self.settings.confidence_level)
        return self.allowing(Measure(value, min(low, value), max(high, value)), n)

    def along_confidence(
        self, value: float, through: Callable[[Array], Array], norm: Callable[[Array], Array]
    ) -> Measure:
        """Return a measure that is the norm of a linear map of the gaps along the confidence.

        Its interval is computed on 256 cells, and skipped if the settings are brief.
        """
        if not self.wanted or self.settings.brief:
            return Measure(value)
        signal, noise = self.fine
        return self.family(value, norm, through(signal), through(noise))

    def noise(self, covariance: Array) -> Array:
        """Return (n_resamples, m) draws of the sampling error of gaps with an (m, m) covariance."""
        return gaussian_noise(covariance, self.settings.n_resamples, np.random.default_rng(self.settings.seed))

    @cached_property
    def fine(self) -> tuple[Array, Array]:
        """The gaps summed in 256 cells of the confidence, and draws of their noise."""
        statistics = BinStatistics.from_predictions(self.confidence, self.correct, NOISE_CELLS, weights=self.weights)
        return statistics.gaps, self.noise(self.covariance(statistics, self.confidence, self.correct))

    @cached_property
    def resampled_cells(self) -> Array:
        """(n_resamples, 256, 2) shares of wrong and of right answers in cells of the confidence."""
        index = 2 * bin_index(self.confidence, bin_edges(NOISE_CELLS)) + self.correct
        weights, cells = self.weights, 2 * NOISE_CELLS
        n = len(index) if weights is None else weights.sum()
        share = np.bincount(index, weights, cells) / n
        if self.clusters is None:
            # Drawn without a factorization, which would depend on the number of threads where variances are equal.
            # Independent noise in each cell, minus the part that changes the sum of the shares, has their covariance.
            square = share / n if weights is None else np.bincount(index, weights**2, cells) / n**2
            rng = np.random.default_rng(self.settings.seed)
            alone = rng.standard_normal((self.settings.n_resamples, cells)) * np.sqrt(square)
            noise = alone - share * alone.sum(axis=1, keepdims=True)
        else:
            covariance = clustered_covariance([(index, np.ones(len(index)))], cells, self.clusters, weights)
            noise = self.noise(covariance)
        drawn = np.maximum(share + noise, 0)
        return drawn.reshape(-1, NOISE_CELLS, 2)


def _effective_size(weights: Array) -> float:
    """Return Kish's effective number of weighted samples."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
