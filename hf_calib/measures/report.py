"""The calibration report: every measure of a model's predictions with its interval, as a table and as JSON."""

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .battery import Battery
from .binning import BinStatistics
from .catalog import CATALOG, shown_in
from .consistency import CalibrationTest, calibration_test
from .estimates import Measure, Settings
from .intervals import check_resampling
from .kernels import check_features
from .report_table import bins_table, calibration_test_lines, groups_table, measures_table
from .samples import Sample, group_codes, of_length
from .sampling import MIN_CLUSTERS
from .thresholds import SHOWN_ACCURACIES, AccuracyThreshold, accuracy_threshold
from .validation import (
    check_correct,
    check_distributions,
    check_labels,
    check_n_bins,
    check_probabilities,
    check_unit_interval,
    check_weights,
)
from .verdict import Finding, convention_note, verdict

_FORMAT = 1


@dataclass(frozen=True)
class GroupReport:
    """The measures of one group's samples; `weight` is the sum of their weights, None if none were given."""

    n: int
    measures: dict[str, Measure]
    weight: float | None = None


@dataclass(frozen=True)
class CalibrationReport:
    """Every measure of a set of predictions; create one with `from_predictions`.

    Attributes
    ----------
    n : int
        Number of questions.
    measures : dict of str to Measure
        Value, low and high of each measure in `CATALOG`, by its key. option_mass requires the raw masses, tce and
        ece_true the true probabilities, lce features, flip_rate the flips, confidence_at_k the sampled answers,
        the distances from gold the gold distributions. The AUROC is NaN if all answers are right, or all wrong. There
        is no interval for a single sample, for an AUROC of NaN, or for an NLL or divergence from gold that is infinite
        or the same for every sample, since unseen samples may have any loss.
    statistics : BinStatistics
        Statistics of the confidences over equal-width bins.
    groups : dict of str to GroupReport
        The groups' measures, sorted by name; empty without groups.
    confidence_level : float
        Level of the intervals.
    test : CalibrationTest or None
        The test of calibration by consistency resampling; None without intervals.
    clustered : bool
        Whether the intervals allow for dependence within groups, as they do with ten groups or more.
    warnings : tuple of Finding
        Reasons to doubt the reading, the most serious first; empty if there are none, and for reports made from
        numbers alone, which `hf_calib.reports.checks` has not seen.
    thresholds : tuple of AccuracyThreshold
        The confidences above which answers reach 80%, 90% and 95% accuracy, each with a guarantee at the confidence
        level; empty with weights and without intervals.

    Each measure is also an attribute by its key: `report.ece`, `report.accuracy`, ... with `value`, `low` and `high`.

    Examples
    --------
    >>> report = CalibrationReport.from_predictions([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 1, 1])
    >>> report.n, round(report.measures["accuracy"].value, 3)
    (3, 0.667)
    >>> report.ece.value == report.measures["ece"].value
    True
    """

    n: int
    measures: dict[str, Measure]
    statistics: BinStatistics
    groups: dict[str, GroupReport]
    confidence_level: float = 0.95
    clustered: bool = False
    test: CalibrationTest | None = None
    warnings: tuple[Finding, ...] = ()
    thresholds: tuple[AccuracyThreshold, ...] = ()

    def __getattr__(self, name: str) -> Measure:
        measures = self.__dict__.get("measures", {})
        if name in measures:
            return measures[name]
        missing = " was not measured here" if name in CATALOG else " is not an attribute of a CalibrationReport"
        raise AttributeError(f"{name!r}{missing}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.measures]

    def __repr__(self) -> str:
        shown = ", ".join(f"{info.key}={self.measures[info.key]}" for info in shown_in("calibrators"))
        return f"CalibrationReport(n={self.n}, {shown})"

    @classmethod
    def from_predictions(
        cls,
        probabilities: ArrayLike,
        labels: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        n_bins: int = 10,
        weights: ArrayLike | None = None,
        option_mass: ArrayLike | None = None,
        true_probabilities: ArrayLike | None = None,
        features: ArrayLike | None = None,
        chosen: ArrayLike | None = None,
        flips: ArrayLike | None = None,
        gold: ArrayLike | None = None,
        ordered: ArrayLike | None = None,
        clusters: ArrayLike | None = None,
        most_confident_correct: ArrayLike | None = None,
        seed: int = 0,
        confidence_level: float = 0.95,
        n_resamples: int = 1000,
        all_group_intervals: bool = False,
    ) -> "CalibrationReport":
        """Measure predictions.

        Parameters
        ----------
        probabilities : array_like of shape (n, K)
            Each row a distribution over a question's options, padded with exact zeros on the right where it has fewer
            than K.
        labels : array_like of shape (n,)
            Index of each question's right option.
        groups : array_like of shape (n,), optional
            Each question's group, such as its subject. Every group gets its own measures, and with ten groups or more
            the overall intervals allow for dependence within groups.
        n_bins : int, default 10
            Number of bins of the binned errors.
        weights : array_like of shape (n,), optional
            Weight of each question, finite and not negative.
        option_mass : array_like of shape (n,), optional
            The full softmax's total probability on the question's options, in [0, 1].
        true_probabilities : array_like of shape (n, K), optional
            The true distribution of each question's answer, if known.
        features : array_like of shape (n, d), optional
            A representation of each question, for the local calibration error; it is measured on at most 2,000
            samples, and `n_used` is their number.
        chosen : array_like of shape (n,), optional
            Index of the chosen option, where it may not be the most probable one, as with a stated confidence below
            one half. Its probability is the confidence.
        flips : array_like of shape (n,), optional
            Share of other orders of each question's options in which another option was answered, in [0, 1].
        gold : array_like of shape (n, K), optional
            Distributions to compare the predicted ones with, such as a teacher's.
        ordered : array_like of bool, shape (n,), optional
            Which questions have ordered levels as options, whose expected level is compared with the gold one.
        clusters : array_like of shape (n,), optional
            Which questions may depend on each other, such as those about one case; by default those of a group.
        most_confident_correct : array_like of shape (n,), optional
            Whether the most confident of each question's sampled answers is correct, in [0, 1]. If several are equally
            confident, the share of them that is correct.
        seed : int, default 0
            Seed of the intervals' resamples.
        confidence_level : float, default 0.95
            Level of the intervals, in (0, 1).
        n_resamples : int, default 1000
            Number of resamples for the intervals, at least 100, or 0 to skip the intervals.
        all_group_intervals : bool, default False
            Whether groups get the intervals of all measures. By default the slowest ones are skipped for groups:
            classwise, smooth, Kolmogorov-Smirnov, kernel, differentiable, local, and points of the risk-coverage
            curve. With them, the report of 14,000 questions in 57 groups takes about seven times as long.

        Raises
        ------
        TypeError, ValueError
            If the input is invalid; the message names what is wrong and where.
        """
        p = check_probabilities(probabilities)
        n = len(p)
        if n_resamples:
            check_resampling(confidence_level, n_resamples)
        truth, own = (
            None if values is None else check_distributions(values, p.shape, name)
            for name, values in (("true_probabilities", true_probabilities), ("gold", gold))
        )
        mass, turned, confident = (
            None if values is None else of_length(check_unit_interval(values, name), n, name)
            for name, values in (
                ("option_mass", option_mass), ("flips", flips), ("most_confident_correct", most_confident_correct)
            )
        )  # fmt: skip
        phi = None if features is None else check_features(features, n)
        names, of_group = group_codes(groups, n)
        cluster_names, of_cluster = (names, of_group) if clusters is None else group_codes(clusters, n, "clusters")
        w = check_weights(weights, n)
        if of_group is not None and w is not None:
            _check_group_weights(names, of_group, w)
        given = None if chosen is None else check_labels(chosen, p.shape[0], p.shape[1], name="chosen")
        y = check_labels(labels, *p.shape)
        levels = None if ordered is None else check_correct(ordered, n, "ordered").astype(bool)
        sample = Sample(p, y, w, mass, truth, phi, of_cluster, given, turned, own, levels, confident)
        settings = Settings(check_n_bins(n_bins), confidence_level, n_resamples, seed)
        of_groups = replace(settings, brief=not all_group_intervals)
        statistics, measures = _measure(sample, settings)
        return cls(
            n=n,
            measures=measures,
            statistics=statistics,
            groups={}
            if of_group is None
            else {name: _group(sample, of_group == code, of_groups) for code, name in enumerate(names)},
            confidence_level=confidence_level,
            clustered=len(cluster_names) >= MIN_CLUSTERS,
            test=_test(sample, settings) if n_resamples else None,
            thresholds=()
            if w is not None or not n_resamples
            else tuple(
                accuracy_threshold(sample.confidences, sample.correct, accuracy, level=confidence_level)
                for accuracy in SHOWN_ACCURACIES
            ),
        )

    @property
    def verdict(self) -> str:
        """Whether the confidence can be trusted, in a few sentences."""
        return verdict(self.measures, self.test, self.n, self.confidence_level, self.warnings)

    @property
    def ece_convention(self) -> dict[str, Any]:
        """How the ECE was computed, and what a perfectly calibrated model would score (None without intervals).

        `in_sample` tells whether a calibrator was fitted on these questions, as far as that is known.
        """
        return {
            "n_bins": len(self.statistics.weights),
            "bins": "equal width",
            "norm": 1,
            "pooling": "all questions",
            "n": self.n,
            "calibrated_model": None if self.test is None else self.test.expected_error,
            "in_sample": any(finding.code == "calibrator_in_sample" for finding in self.warnings),
        }

    @property
    def ece_note(self) -> str:
        """The convention of the ECE in a sentence."""
        return convention_note({"": self.ece_convention})

    @property
    def further_warnings(self) -> tuple[Finding, ...]:
        """The warnings without the one that the verdict leads with."""
        return self.warnings[1:] if self.warnings and self.warnings[0].serious else self.warnings

    @property
    def bins(self) -> list[dict[str, float | int | None]]:
        """Each bin's lower and upper edge, count, accuracy and mean confidence (the last two None if it is empty)."""
        return list(self.statistics.rows())

    @property
    def macro(self) -> dict[str, float]:
        """Mean of each measure over the groups, with equal weights; groups where it is NaN are skipped."""
        return _average(self.groups.values(), lambda group: 1)

    @property
    def micro(self) -> dict[str, float]:
        """Mean of each measure over the groups, weighted by their number of questions or sum of weights."""
        return _average(self.groups.values(), lambda group: group.n if group.weight is None else group.weight)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; `from_dict` reads them back."""
        return {
            "format": _FORMAT,
            "n": self.n,
            "confidence_level": self.confidence_level,
            "clustered": self.clustered,
            "test": None if self.test is None else self.test._asdict(),
            "measures": _measures_to_dict(self.measures),
            "ece_convention": self.ece_convention,
            "bins": self.bins,
            "statistics": self.statistics.to_dict(),
            "groups": {
                name: {"n": group.n, "measures": _measures_to_dict(group.measures)}
                | ({} if group.weight is None else {"weight": group.weight})
                for name, group in self.groups.items()
            },
            "verdict": self.verdict,
            "warnings": [finding.to_dict() for finding in self.warnings],
            "thresholds": [threshold.to_dict() for threshold in self.thresholds],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "CalibrationReport":
        """Return the report of a `to_dict` state.

        Raises
        ------
        ValueError
            If the state is not a report, or has another format.
        """
        missing = {"format", "n", "confidence_level", "clustered", "measures", "statistics", "groups", "test"} - set(
            state
        )
        if missing:
            raise ValueError(f"invalid calibration report: {', '.join(sorted(missing))} missing")
        if state["format"] != _FORMAT:
            raise ValueError(
                f"calibration report of format {state['format']}; this version of hf_calib reads format {_FORMAT}"
            )
        return cls(
            n=int(state["n"]),
            measures=_measures_from_dict(state["measures"]),
            statistics=BinStatistics.from_dict(state["statistics"]),
            groups={
                name: GroupReport(int(group["n"]), _measures_from_dict(group["measures"]), group.get("weight"))
                for name, group in state["groups"].items()
            },
            confidence_level=float(state["confidence_level"]),
            clustered=bool(state["clustered"]),
            test=None if state["test"] is None else CalibrationTest(**state["test"]),
            warnings=tuple(map(Finding.from_dict, state.get("warnings", ()))),
            thresholds=tuple(map(AccuracyThreshold.from_dict, state.get("thresholds", ()))),
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to a JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "CalibrationReport":
        """Read a report that `save` wrote.

        Raises
        ------
        ValueError
            If the file is invalid JSON, or not a report.
        """
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not a calibration report: {error}") from error
        if not isinstance(state, dict):
            raise ValueError(
                f"{path} is not a calibration report: it contains a {type(state).__name__}, not an object"
            )
        return cls.from_dict(state)

    def __str__(self) -> str:
        """Return the report as a table."""
        lines = [f"{self.n:,} question{'' if self.n == 1 else 's'}", ""]
        lines += [*measures_table(self.measures, self.confidence_level), "", *textwrap.wrap(self.ece_note, 80)]
        if self.test is not None:
            lines += ["", *calibration_test_lines(self.test)]
        lines += ["", *bins_table(self.bins)]
        if self.groups:
            rows = {name: (group.n, _values(group.measures)) for name, group in self.groups.items()}
            lines += ["", *groups_table(rows, {"macro average": self.macro, "micro average": self.micro})]
        return "\n".join(lines)


def _values(measures: Mapping[str, Measure]) -> dict[str, float]:
    return {name: measure.value for name, measure in measures.items()}


def _measure(sample: Sample, settings: Settings) -> tuple[BinStatistics, dict[str, Measure]]:
    statistics = BinStatistics.from_predictions(
        sample.confidences, sample.correct, settings.n_bins, weights=sample.weights
    )
    battery = Battery(sample, settings, statistics)
    measures = {key: info.compute(battery) for key, info in CATALOG.items()}
    return statistics, {key: measure for key, measure in measures.items() if measure is not None}


def _test(sample: Sample, settings: Settings) -> CalibrationTest:
    return calibration_test(
        sample.confidences,
        sample.correct,
        settings.n_bins,
        weights=sample.weights,
        n_resamples=settings.n_resamples,
        seed=settings.seed,
    )


def _group(sample: Sample, chosen: NDArray[np.bool_], settings: Settings) -> GroupReport:
    part = sample.part(chosen)
    return GroupReport(
        len(part), _measure(part, settings)[1], None if part.weights is None else float(part.weights.sum())
    )


def _check_group_weights(names: Sequence[str], clusters: NDArray[np.intp], weights: NDArray[np.float64]) -> None:
    empty = np.flatnonzero(np.bincount(clusters, weights, len(names)) == 0)
    if empty.size:
        rows = np.flatnonzero(clusters == empty[0])
        raise ValueError(
            f"weights: the weights of group {names[empty[0]]!r} are all zero ({len(rows)} questions, the first in row "
            f"{rows[0]}); give one of them a positive weight, or leave the group out"
        )


def _average(groups: Iterable[GroupReport], weight: Callable[[GroupReport], float]) -> dict[str, float]:
    totals: dict[str, list[float]] = {}
    for group in groups:
        for name, measure in group.measures.items():
            if not np.isnan(measure.value):
                total = totals.setdefault(name, [0.0, 0.0])
                total[0] += weight(group) * measure.value
                total[1] += weight(group)
    return {name: value / size for name, (value, size) in totals.items()}


# JSON has neither NaN nor infinity: NaN is written as null, and infinity, which only the NLL can have, as a string.
def _measures_to_dict(measures: Mapping[str, Measure]) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": _number(m.value), "low": _number(m.low), "high": _number(m.high)}
        | ({} if m.n_used is None else {"n_used": m.n_used})
        for name, m in measures.items()
    }


def _number(value: float | None) -> float | str | None:
    if value is None or np.isnan(value):
        return None
    return "inf" if np.isinf(value) else float(value)


def _measures_from_dict(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Measure]:
    return {
        name: Measure(
            float("nan") if m["value"] is None else float(m["value"]),
            None if m["low"] is None else float(m["low"]),
            None if m["high"] is None else float(m["high"]),
            m.get("n_used"),
        )
        for name, m in measures.items()
    }
