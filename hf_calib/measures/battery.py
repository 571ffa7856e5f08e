"""Every measure of one sample, each with its interval, as a report shows them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from . import ranking
from .binning import BinStatistics, bin_index
from .classwise import classwise_statistics, option_gaps
from .dece import soft_bins
from .distributions import kl_terms, score_terms, squared_distance, variation_terms
from .estimates import NOISE_CELLS, Array, Estimator, Measure, Settings
from .intervals import absolute_sum_interval, prior_variance
from .kernels import KERNEL_WIDTH, kernel_error_from_blocks, local_map, local_subsample
from .samples import Sample
from .scores import brier_terms, nll_terms
from .smooth import absolute_integral, gap_grid, smooth_cells, smooth_ece_from_gaps
from .validation import Floats

#: The share of the most confident answers whose accuracy a report gives.
COVERAGE = 0.8

#: The accuracy for which a report gives the largest share of the most confident answers that reaches it.
ACCURACY = 0.9

#: If the options' mean total probability is below this, a report also gives the ECE of the raw probabilities.
LOW_MASS = 0.9

# A report measures the local calibration error on at most this many samples.
_LOCAL_SAMPLES = 2000


class Battery:
    """The measures of one sample, one method each; results that several of them need are computed once.

    Methods return None where the sample lacks what the measure needs.

    Parameters
    ----------
    sample : Sample
    settings : Settings
    statistics : BinStatistics
        Of the sample's confidences over the settings' bins.
    """

    def __init__(self, sample: Sample, settings: Settings, statistics: BinStatistics) -> None:
        self.sample, self.settings, self.statistics = sample, settings, statistics
        self.estimator = Estimator(sample.confidences, sample.correct, settings, sample.weights, sample.clusters)
        self.confidences = self.estimator.confidence
        self.blocks, self._block = ranking.ranked_blocks(self.confidences, sample.correct, sample.weights)

    # Means over the samples.

    def accuracy(self) -> Measure:
        return self.estimator.share(self.sample.correct)

    def confidence(self) -> Measure:
        return self.estimator.mean(self.confidences, of_answers=False)

    def signed_gap(self) -> Measure:
        return self.estimator.mean(self.confidences - self.sample.correct, -1.0)

    def nll(self) -> Measure:
        return self.estimator.mean(nll_terms(self.sample.probabilities, self.sample.labels), 0.0, np.inf)

    def brier(self) -> Measure:
        return self.estimator.mean(brier_terms(self.sample.probabilities, self.sample.labels), 0.0, 2.0)

    def option_mass(self) -> Measure | None:
        mass = self.sample.option_mass
        return None if mass is None else self.estimator.mean(mass, of_answers=False)

    def flip_rate(self) -> Measure | None:
        flips = self.sample.flips
        return None if flips is None else self.estimator.mean(flips, of_answers=False)

    def confidence_at_k(self) -> Measure | None:
        correct = self.sample.most_confident_correct
        return None if correct is None else self.estimator.share(correct)

    def tce(self) -> Measure | None:
        if self.sample.true_probabilities is None:
            return None
        return self.estimator.mean(np.abs(self.sample.true_confidences - self.confidences), of_answers=False)

    # Distances from gold distributions.

    def kl_from_gold(self) -> Measure | None:
        return self._from_gold(kl_terms, np.inf)

    def brier_from_gold(self) -> Measure | None:
        return self._from_gold(squared_distance, 2.0)

    def total_variation(self) -> Measure | None:
        return self._from_gold(variation_terms, 1.0)

    def score_error(self) -> Measure | None:
        sample = self.sample
        if sample.gold is None or sample.ordered is None or not sample.ordered.any():
            return None
        chosen = sample.ordered
        clusters = None if sample.clusters is None else np.unique(sample.clusters[chosen], return_inverse=True)[1]
        weights = None if sample.weights is None else sample.weights[chosen]
        if weights is not None and not weights.any():
            return None
        estimator = Estimator(self.confidences[chosen], sample.correct[chosen], self.settings, weights, clusters)
        values = score_terms(sample.probabilities[chosen], sample.gold[chosen])
        return estimator.mean(values, 0.0, np.inf, of_answers=False)

    def _from_gold(self, terms: Callable[[Floats, Floats], Array], most: float) -> Measure | None:
        gold = self.sample.gold
        return (
            None
            if gold is None
            else self.estimator.mean(terms(self.sample.probabilities, gold), 0.0, most, of_answers=False)
        )

    # Norms of the gaps of equal-width bins.

    def ece(self) -> Measure:
        return self.estimator.absolute_sum([self.statistics], lambda: self._covariance)

    def ece_raw(self) -> Measure | None:
        mass = self.sample.option_mass
        if mass is None or mass.mean() >= LOW_MASS:
            return None
        raw = self.confidences * mass
        statistics = BinStatistics.from_predictions(
            raw, self.sample.correct, self.settings.n_bins, weights=self.sample.weights
        )
        return self.estimator.absolute_sum(
            [statistics], lambda: self.estimator.covariance(statistics, raw, self.sample.correct)
        )

    def overconfidence(self) -> Measure:
        over, _ = self.statistics.over_and_underconfidence()
        return self._of_gaps(over, lambda d: np.maximum(-d, 0).sum(-1))

    def underconfidence(self) -> Measure:
        _, under = self.statistics.over_and_underconfidence()
        return self._of_gaps(under, lambda d: np.maximum(d, 0).sum(-1))

    def mce(self) -> Measure:
        return self._of_gaps(
            self.statistics.error("max"), lambda d: np.abs(d / self._rate).max(-1), self._smallest_bin
        )

    def rms_ce(self) -> Measure:
        return self._rms

    def rms_ce_debiased(self) -> Measure:
        debiased, plain = self.statistics.error(2, debias=True), self._rms
        if plain.low is None or plain.high is None:
            return Measure(debiased)
        # Both estimate the same quantity of the population.
        return Measure(debiased, min(plain.low, debiased), max(plain.high, debiased))

    def ece_true(self) -> Measure | None:
        if self.sample.true_probabilities is None:
            return None
        truth = self.sample.true_confidences
        statistics = BinStatistics.from_predictions(
            self.confidences, truth, self.settings.n_bins, weights=self.sample.weights
        )
        return self.estimator.absolute_sum(
            [statistics], lambda: self.estimator.covariance(statistics, self.confidences, truth), prior=False
        )

    @cached_property
    def _covariance(self) -> Array:
        return self.estimator.covariance(self.statistics, self.confidences, self.sample.correct)

    @cached_property
    def _noise(self) -> Array:
        return self.estimator.noise(self._covariance + np.diag(prior_variance(self.statistics)))

    @cached_property
    def _share(self) -> Array:
        return self.statistics.weights / self.statistics.weights.sum()

    @property
    def _rate(self) -> Array:
        return np.where(self._share > 0, self._share, np.inf)

    @property
    def _smallest_bin(self) -> float:
        # Unseen samples may all be in the smallest bin.
        return float(self._share[self._share > 0].min()) * self.estimator.effective_size

    @cached_property
    def _rms(self) -> Measure:
        return self._of_gaps(
            self.statistics.error(2), lambda d: np.sqrt((np.square(d) / self._rate).sum(-1)), self._smallest_bin
        )

    def _of_gaps(self, value: float, norm: Callable[[Array], Array], n: float | None = None) -> Measure:
        if not self.estimator.wanted:
            return Measure(value)
        return self.estimator.family(value, norm, self.statistics.gaps, self._noise, n)

    # Other bins.

    def ece_equal_mass(self) -> Measure:
        edges = ranking.edges_from_blocks(self.blocks.confidences, self.blocks.weights, self.settings.n_bins)
        c, correct = self.confidences, self.sample.correct
        statistics = BinStatistics.from_predictions(c, correct, weights=self.sample.weights, edges=edges)
        return self.estimator.absolute_sum([statistics], lambda: self.estimator.covariance(statistics, c, correct))

    def cw_ece(self) -> Measure:
        p, y = self.sample.probabilities, self.sample.labels
        return self._classwise(classwise_statistics(p, y, self.settings.n_bins, weights=self.sample.weights))

    def ace(self) -> Measure:
        p, y, weights = self.sample.probabilities, self.sample.labels, self.sample.weights
        return self._classwise(classwise_statistics(p, y, self.settings.n_bins, weights=weights, equal_mass=True))

    def _classwise(self, sets: list[BinStatistics]) -> Measure:
        """Return the mean of the options' errors; its interval takes one question's gaps of all options together."""
        if self.settings.brief:
            return Measure(sum(s.error() for s in sets) / len(sets))
        parts = (self.sample.probabilities, self.sample.labels, sets)
        return self.estimator.absolute_sum(
            sets, lambda: self.estimator.stacked_covariance(option_gaps(*parts), sets[0], len(sets))
        )

    def dece(self) -> Measure:
        settings = self.settings
        gaps, covariance = soft_bins(
            self.sample.probabilities,
            self.sample.labels,
            weights=self.sample.weights,
            clusters=self.estimator.clusters,
        )
        value = float(np.abs(gaps).sum())
        if not self.estimator.wanted or settings.brief:
            return Measure(value)
        interval = absolute_sum_interval(
            gaps,
            covariance,
            confidence_level=settings.confidence_level,
            n_resamples=settings.n_resamples,
            seed=settings.seed,
        )
        return self.estimator.allowing(Measure(value, *interval))

    # Murphy's parts of the confidence's Brier score, with intervals by the delta method.

    def brier_reliability(self) -> Measure:
        accuracy, confidence, _ = self._bin_means
        value = float(self._share @ (accuracy - confidence) ** 2)

        def influence() -> Array:
            gap = (accuracy - confidence)[self._bin]
            return 2 * gap * (self.sample.correct - self.confidences) - gap**2 - value

        def unseen(share: float) -> tuple[float, float]:
            return float(max(0.0, np.sqrt(value) - share) ** 2), value + share * (1 - value)

        return self.estimator.smoothly(value, influence, 0.0, 1.0, unseen)

    def brier_resolution(self) -> Measure:
        accuracy, _, base = self._bin_means
        value = float(self._share @ np.where(self._share > 0, accuracy - base, 0) ** 2)

        def influence() -> Array:
            lift = (accuracy - base)[self._bin]
            return 2 * lift * (self.sample.correct - accuracy[self._bin]) + lift**2 - value

        def unseen(share: float) -> tuple[float, float]:
            # The resolution's root is a distance, and a share q moves it by √(q (1 - q)) at most.
            root, most = np.sqrt(value), np.sqrt(min(share, 0.5) * (1 - min(share, 0.5)))
            return float(max(0.0, root - most) ** 2), float(min(0.25, (root + most) ** 2))

        return self.estimator.smoothly(value, influence, 0.0, 0.25, unseen)

    def brier_uncertainty(self) -> Measure:
        """Return the accuracy's variance, with the range that it has over the accuracy's interval."""
        base = self._bin_means[2]
        value, accuracy = base * (1 - base), self.accuracy()
        if accuracy.low is None or accuracy.high is None:
            return Measure(value)
        ends = [end * (1 - end) for end in (accuracy.low, accuracy.high)]
        return Measure(value, min(*ends, value), 0.25 if accuracy.low <= 0.5 <= accuracy.high else max(*ends, value))

    @cached_property
    def _bin_means(self) -> tuple[Array, Array, float]:
        """The bins' accuracies and mean confidences, 0 where empty, and the accuracy of the whole."""
        accuracy, confidence = np.nan_to_num(self.statistics.accuracy), np.nan_to_num(self.statistics.mean_confidence)
        return accuracy, confidence, float(self._share @ accuracy)

    @cached_property
    def _bin(self) -> NDArray[np.intp]:
        return bin_index(self.confidences, self.statistics.edges)

    # The order of the answers by confidence.

    def auroc(self) -> Measure:
        return self.estimator.auroc(
            ranking.auroc_from_blocks(self.blocks), lambda: self._of_samples(ranking.auroc_influence(self.blocks))
        )

    def aurc(self) -> Measure:
        area = ranking.aurc_from_blocks(self.blocks)
        return self.estimator.smoothly(
            area,
            lambda: self._of_samples(ranking.aurc_influence(self.blocks)),
            0.0,
            1.0,
            lambda unseen: ranking.aurc_of_unseen(area, unseen),
        )

    def excess_aurc(self) -> Measure:
        error_rate = float(1 - self.blocks.correct.sum() / self.blocks.weights.sum())
        excess = ranking.aurc_from_blocks(self.blocks) - ranking.best_aurc(error_rate)

        def influence() -> Array:
            right = self.sample.correct
            # The best area, r + (1 - r) ln(1 - r), rises with the error rate r by -ln(1 - r).
            if error_rate == 1:
                return np.zeros(len(right))
            return self._of_samples(ranking.aurc_influence(self.blocks)) + np.log1p(-error_rate) * (
                ~right - error_rate
            )

        return self.estimator.smoothly(excess, influence, 0.0, 1.0, ranking.excess_of_unseen)

    def accuracy_at_coverage(self) -> Measure:
        return self._on_the_curve["accuracy_at_coverage"]

    def coverage_at_accuracy(self) -> Measure:
        return self._on_the_curve["coverage_at_accuracy"]

    def _of_samples(self, influence: tuple[Array, Array]) -> Array:
        return ranking.of_samples(influence, self._block, self.sample.correct)

    @cached_property
    def _on_the_curve(self) -> dict[str, Measure]:
        """Two points of the risk-coverage curve, with percentiles of resampled cells around them."""
        estimator, curve = self.estimator, ranking.curve_from_blocks(self.blocks)
        values = {
            "accuracy_at_coverage": ranking.accuracy_at(curve, COVERAGE),
            "coverage_at_accuracy": ranking.coverage_at(curve, ACCURACY),
        }
        if not estimator.wanted or self.settings.brief:
            return {name: Measure(value) for name, value in values.items()}
        cells = estimator.resampled_cells[:, ::-1]
        answered, right = np.cumsum(cells.sum(axis=2), axis=1), np.cumsum(cells[:, :, 1], axis=1)
        coverage = answered / answered[:, -1:]
        accuracy = np.divide(right, answered, out=np.zeros_like(right), where=answered > 0)
        first = (coverage >= COVERAGE * (1 - 1e-12)).argmax(axis=1)
        good = (accuracy >= ACCURACY) & (answered > 0)
        drawn = {
            "accuracy_at_coverage": np.take_along_axis(accuracy, first[:, None], axis=1)[:, 0],
            "coverage_at_accuracy": np.where(good, coverage, 0).max(axis=1),
        }
        tail = (1 - self.settings.confidence_level) / 2
        measures = {}
        for name, value in values.items():
            low, high = np.quantile(drawn[name], [tail, 1 - tail])
            measure = Measure(value, min(float(low), value), max(float(high), value))
            measures[name] = estimator.allowing(measure, COVERAGE * estimator.effective_size)
        of_coverage, of_accuracy = measures["coverage_at_accuracy"], self.accuracy()
        if estimator.all_the_same and of_coverage.value == 1 and (of_accuracy.low or 0.0) < ACCURACY:
            # With so few answers the accuracy is not known, and possibly no threshold reaches it.
            measures["coverage_at_accuracy"] = replace(of_coverage, low=0.0)
        return measures

    # The gaps along the confidence, without bins.

    def smooth_ece(self) -> Measure:
        smooth = smooth_ece_from_gaps(gap_grid(self.confidences, self.sample.correct, self.sample.weights))
        return self.estimator.along_confidence(
            smooth.value, lambda d: smooth_cells(d, smooth.bandwidth), absolute_integral
        )

    def ks(self) -> Measure:
        return self.estimator.along_confidence(
            ranking.ks_from_blocks(self.blocks), lambda d: np.cumsum(d, axis=-1), lambda d: np.abs(d).max(axis=-1)
        )

    def kernel_ce(self) -> Measure:
        centers = (np.arange(NOISE_CELLS) + 0.5) / NOISE_CELLS
        similarity = np.exp(-np.abs(centers[:, None] - centers) / KERNEL_WIDTH)
        return self.estimator.along_confidence(
            kernel_error_from_blocks(self.blocks),
            lambda d: d @ np.linalg.cholesky(similarity),
            lambda d: np.sqrt(np.square(d).sum(axis=-1)),
        )

    def lce(self) -> Measure | None:
        sample, settings = self.sample, self.settings
        if sample.features is None:
            return None
        chosen = local_subsample(len(sample), sample.weights, _LOCAL_SAMPLES, settings.seed)
        weights = np.ones(len(chosen)) if sample.weights is None else sample.weights[chosen]
        gaps = (self.confidences - sample.correct)[chosen]
        around = local_map(self.confidences[chosen], sample.features[chosen], weights)
        value = float(np.average(np.abs(around(gaps)), weights=weights))
        n_used = len(chosen) if len(chosen) < len(sample) else None
        if not self.estimator.wanted or settings.brief:
            return Measure(value, n_used=n_used)
        # A wild bootstrap: each sample's gap, or those of a cluster together, with a new random sign and size.
        clusters = self.estimator.clusters
        unit = np.arange(len(gaps)) if clusters is None else clusters[chosen]
        rng = np.random.default_rng(settings.seed)
        drawn = rng.standard_normal((settings.n_resamples, int(unit.max()) + 1))[:, unit] * gaps
        measure = self.estimator.family(
            value, lambda d: np.average(np.abs(d), axis=-1, weights=weights), around(gaps), around(drawn)
        )
        return replace(measure, n_used=n_used)
