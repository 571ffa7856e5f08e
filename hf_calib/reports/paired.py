"""Differences of two models' measures on the same questions, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..confidence.predictions import Predictions
from ..measures import CATALOG, BinStatistics, Measure, shown_in
from ..measures.battery import Battery
from ..measures.binning import bin_edges, bin_index
from ..measures.classwise import classwise_statistics, option_gaps
from ..measures.estimates import Settings
from ..measures.intervals import hold_unseen, unseen_share
from ..measures.ranking import auroc_from_blocks, auroc_influence, of_samples, ranked_blocks
from ..measures.samples import Sample
from ..measures.sampling import MIN_CLUSTERS, influence_error, t_quantile
from ..measures.scores import brier_terms, nll_terms

Array = NDArray[np.float64]
# Each question's bin and gap, one pair of arrays for each set of bins.
_Gaps: TypeAlias = Iterable[tuple[NDArray[np.intp], Array]]

# The largest table of resamples by questions that is held in memory.
_CELLS = 20_000_000


@dataclass(frozen=True)
class Difference:
    """The difference of a model's measure from the base's on the same questions.

    Attributes
    ----------
    measure : str
        Key in the catalog of measures.
    base, other : float
        Values of the two models.
    difference : Measure
        other - base, with its paired interval.
    verdict : str
        "better", "worse", "higher", "lower", or "not significantly different".
    """

    measure: str
    base: float
    other: float
    difference: Measure
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for NaN."""
        return plain(asdict(self))


@dataclass(frozen=True)
class Sharpening:
    """How much sharper a model's distributions are than the base's: log-odds ≈ slope · the base's log-odds.

    Attributes
    ----------
    slope : Measure
        Least-squares slope through the origin, with an interval over questions: 1 without a change, above 1 if the
        model is sharper.
    r_squared : float
        Share of the sum of squared log-odds that the slope explains, at most 1.
    """

    slope: Measure
    r_squared: float


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for JSON, with None for NaN and infinity."""
    return {
        key: plain(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and not np.isfinite(value)
        else value
        for key, value in values.items()
    }


def paired(base: Predictions, other: Predictions) -> tuple[Predictions, Predictions]:
    """Return both models' predictions of the questions that both answered.

    Raises
    ------
    ValueError
        If they have no question in common, or differ in a question's right answer or number of options, so that their
        datasets differ.
    """
    rows = np.intersect1d(base.rows, other.rows)
    if not len(rows):
        raise ValueError("the models have no question in common; measure both on the same dataset")
    one, two = base.subset(np.isin(base.rows, rows)), other.subset(np.isin(other.rows, rows))
    differing = np.flatnonzero((one.answers != two.answers) | (one.n_choices != two.n_choices))
    if len(differing):
        raise ValueError(
            f"row {rows[differing[0]]}: the models differ in the right answer or the number of options, as in "
            f"{len(differing)} of {len(rows)} questions; measure both on the same dataset"
        )
    # A question that only one of them was asked may have more options; class-wise measures average over the columns.
    width = max(_width(one), _width(two))
    return _with_width(one, width), _with_width(two, width)


def _width(predictions: Predictions) -> int:
    """Return the number of columns that hold options."""
    last = int(np.flatnonzero(predictions.probabilities.any(axis=0))[-1])
    return max(int(predictions.n_choices.max()), last + 1)


def _with_width(predictions: Predictions, width: int) -> Predictions:
    values = predictions.option_log_probabilities
    padded = np.pad(values, ((0, 0), (0, max(0, width - values.shape[1]))), constant_values=-np.inf)
    return replace(predictions, option_log_probabilities=padded[:, :width])


def differences(
    base: Predictions,
    other: Predictions,
    *,
    n_bins: int = 10,
    seed: int = 0,
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
) -> list[Difference]:
    """Return every measure's difference between two models on the same questions.

    Both models answer every question, so their errors are correlated, and the intervals are those of the paired
    difference. With ten subjects or more they allow for dependence within subjects. The intervals of the binned errors
    are computed from each error's own interval, which is valid near zero too, and from their correlation over
    resamples (MOVER); the others are t intervals of the influences.

    Parameters
    ----------
    base, other : Predictions
        All right answers are known; only questions that both models answered count.
    n_bins : int, default 10
    seed : int, default 0
        Seed of the bootstrap.
    n_resamples : int, default 1000
    confidence_level : float, default 0.95

    Raises
    ------
    ValueError
        As `paired`, and if a right answer is unknown.

    References
    ----------
    Zou, Donner, *Construction of confidence limits about effect measures: a general approach*, Statistics in Medicine
    27 (2008).
    """
    one, two = paired(base, other)
    clusters = _clusters(one)
    settings = Settings(n_bins, confidence_level, n_resamples, seed)
    return [
        _binned_difference(info.key, one, two, settings, clusters)
        if info.key in _BINNED
        else _smooth_difference(info.key, one, two, confidence_level, clusters)
        for info in shown_in("models")
    ]


def sharpening(base: Predictions, other: Predictions, *, confidence_level: float = 0.95) -> Sharpening:
    """Return how much sharper a model's distributions are than the base's.

    Each question's log-probabilities are centered over its options.

    Raises
    ------
    ValueError
        As `paired`; if a model gives an option a probability of zero, or the base gives all options of every question
        the same probability.
    """
    one, two = paired(base, other)
    exists = np.arange(one.option_log_probabilities.shape[1]) < one.n_choices[:, None]
    x, y = (_centered(own.option_log_probabilities, exists) for own in (one, two))
    power = float((x * x).sum())
    if power == 0:
        raise ValueError("base: all options of every question have the same probability, so a slope is undefined")
    slope = float((x * y).sum()) / power
    residual = y - slope * x
    influence = (x * residual).sum(axis=1) * len(x) / power
    error = influence_error(influence, None, _clusters(one))
    total = float((y * y).sum())
    r_squared = 1 - float((residual**2).sum()) / total if total else float("nan")
    if error is None:
        return Sharpening(Measure(slope), r_squared)
    half = t_quantile(confidence_level, error[1]) * error[0]
    return Sharpening(Measure(slope, slope - half, slope + half), r_squared)


def _centered(values: Array, exists: NDArray[np.bool_]) -> Array:
    if not np.isfinite(values[exists]).all():
        raise ValueError("a model gives an option a probability of zero, so its log-odds are undefined")
    values = np.where(exists, values, 0.0)
    return np.where(exists, values - values.sum(axis=1, keepdims=True) / exists.sum(axis=1, keepdims=True), 0.0)


def _difference(name: str, base: float, other: float, difference: Measure) -> Difference:
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        verdict = "not significantly different"
    else:
        change, better = "higher" if low > 0 else "lower", CATALOG[name].direction
        verdict = change if better is None else "better" if change == better else "worse"
    return Difference(name, base, other, difference, verdict)


def _clusters(predictions: Predictions) -> NDArray[np.intp] | None:
    if all(subject is None for subject in predictions.subjects):
        return None
    names, codes = np.unique(np.array([str(subject) for subject in predictions.subjects]), return_inverse=True)
    return codes if len(names) >= MIN_CLUSTERS else None


def _smooth_difference(
    name: str, one: Predictions, two: Predictions, confidence_level: float, clusters: NDArray[np.intp] | None
) -> Difference:
    """Return the difference of a mean over the questions, or of the AUROC, with a t interval of the influences."""
    (base, base_influence), (other, other_influence) = (_smooth_measure(name, own) for own in (one, two))
    with np.errstate(invalid="ignore"):
        value, influence = other - base, other_influence - base_influence
    error = influence_error(influence, None, clusters) if np.isfinite(influence).all() else None
    if error is None or np.isnan(value):
        return _difference(name, base, other, Measure(value))
    half = t_quantile(confidence_level, error[1]) * error[0]
    low, high = value - half, value + half
    if name == "accuracy" and not influence.any():
        # All questions seen have the same difference, so it has no spread; new questions may still differ.
        n = len(influence) if clusters is None else int(clusters.max()) + 1
        low, high = hold_unseen(value, unseen_share(n, confidence_level), -1.0, 1.0)
    return _difference(name, base, other, _within(name, value, low, high))


def _within(name: str, value: float, low: float, high: float) -> Measure:
    """Return a difference with its interval clipped to the range of the measure's differences."""
    largest = _LARGEST.get(name, 1.0)
    return Measure(value, max(low, -largest), min(high, largest))


def _smooth_measure(name: str, own: Predictions) -> tuple[float, Array]:
    """Return a measure and each question's influence on it."""
    if name == "auroc":
        blocks, block = ranked_blocks(own.confidences, own.correct)
        area = auroc_from_blocks(blocks)
        if np.isnan(area):
            return area, np.full(len(own), np.nan)
        return area, of_samples(auroc_influence(blocks), block, own.correct)
    terms = _TERMS[name](own)
    mean = float(terms.mean())
    with np.errstate(invalid="ignore"):
        return mean, terms - mean


# The largest difference of a measure whose range is not [0, 1].
_LARGEST = {"nll": float("inf"), "brier": 2.0}

_TERMS: dict[str, Callable[[Predictions], Array]] = {
    "accuracy": lambda own: own.correct.astype(np.float64),
    "confidence": lambda own: own.confidences,
    "nll": lambda own: nll_terms(own.probabilities, own.answers),
    "brier": lambda own: brier_terms(own.probabilities, own.answers),
}


def _binned_difference(
    name: str, one: Predictions, two: Predictions, settings: Settings, clusters: NDArray[np.intp] | None
) -> Difference:
    """Return the difference of a binned error, with an interval from the two errors' intervals and correlation."""
    error, gaps = _BINNED[name]
    base, other = (error(_battery(own, settings, clusters)) for own in (one, two))
    # Where an error may be zero, its estimate is mostly a bias that comes from noise, and the bias of one model does
    # not cancel the noise of the other.
    away_from_zero = all(own.low is not None and own.low > 0 for own in (base, other))
    correlation = _correlation(gaps, one, two, settings, clusters) if away_from_zero else -1.0
    return _difference(name, base.value, other.value, _recovered(name, base, other, correlation))


def _battery(own: Predictions, settings: Settings, clusters: NDArray[np.intp] | None) -> Battery:
    sample = Sample(own.probabilities, own.answers, clusters=clusters, chosen=own.predicted)
    statistics = BinStatistics.from_predictions(sample.confidences, sample.correct, settings.n_bins)
    return Battery(sample, settings, statistics)


def _top_gaps(own: Predictions, n_bins: int) -> _Gaps:
    return [(bin_index(own.confidences, bin_edges(n_bins)), own.correct - own.confidences)]


def _option_gaps(own: Predictions, n_bins: int) -> _Gaps:
    p, y = own.probabilities, own.answers
    return option_gaps(p, y, classwise_statistics(p, y, n_bins))


_BINNED: dict[str, tuple[Callable[[Battery], Measure], Callable[[Predictions, int], _Gaps]]] = {
    "ece": (Battery.ece, _top_gaps),
    "cw_ece": (Battery.cw_ece, _option_gaps),
}


def _recovered(name: str, base: Measure, other: Measure, correlation: float) -> Measure:
    """Return other - base with the interval that the two intervals and the correlation make, if both have one."""
    value = other.value - base.value
    if base.low is None or base.high is None or other.low is None or other.high is None:
        return Measure(value)

    def reach(first: float, second: float) -> float:
        return float(np.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0.0)))

    down = reach(other.value - other.low, base.high - base.value)
    up = reach(other.high - other.value, base.value - base.low)
    return _within(name, value, value - down, value + up)


def _correlation(
    gaps_of: Callable[[Predictions, int], _Gaps],
    one: Predictions,
    two: Predictions,
    settings: Settings,
    clusters: NDArray[np.intp] | None,
) -> float:
    """Return the correlation of two models' errors over resamples of the questions, or of the subjects."""
    n_bins, n_resamples = settings.n_bins, settings.n_resamples
    groups = np.arange(len(one)) if clusters is None else clusters
    n_groups = int(groups.max()) + 1
    sums = []
    for own in (one, two):
        parts = [
            np.bincount(groups * n_bins + index, gaps, n_groups * n_bins).reshape(n_groups, n_bins)
            for index, gaps in gaps_of(own, n_bins)
        ]
        sums.append(np.concatenate(parts, axis=1))
    sizes = np.bincount(groups, minlength=n_groups).astype(np.float64)
    rng = np.random.default_rng(settings.seed)
    errors = []
    step = max(1, _CELLS // n_groups)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=size).astype(np.float64)
        errors.append(np.stack([np.abs(weights @ own).sum(axis=1) for own in sums]) / (weights @ sizes))
    drawn = np.concatenate(errors, axis=1)
    if not drawn.std(axis=1).all():
        return 0.0
    return float(np.corrcoef(drawn[0], drawn[1])[0, 1])
