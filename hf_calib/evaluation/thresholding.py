"""Find the confidence above which a model's answers reach an accuracy, and check it on new questions."""

from __future__ import annotations

import json
import os
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..measures import AccuracyThreshold, Finding, accuracy_threshold
from ..measures.thresholds import answers_needed
from ..reports import Measurement
from .fitted import check_fits, fitted_on
from .grouping import groups_of
from .keeping import save_result
from .measuring import as_calibrator, calibrated, measure
from .models import COMMITS
from .settings import AskOptions

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator
    from ..confidence import ConfidenceMethod
    from ..confidence.predictions import Predictions
    from .asking import Datasets
    from .models import Model

THRESHOLD_FILE = "threshold.json"

# What the group of all questions is called.
ALL = ""


@dataclass(frozen=True)
class ThresholdCheck:
    """How a threshold performs on new questions.

    Attributes
    ----------
    n, n_accepted, n_correct : int
        Number of answers, of those above the threshold, and of the right ones among these.
    low, high : float
        95% interval of the accuracy above the threshold (Clopper-Pearson); 0 and 1 if no answer is above it.
    accuracy : float
        The accuracy to reach.
    """

    n: int
    n_accepted: int
    n_correct: int
    low: float
    high: float
    accuracy: float

    @property
    def coverage(self) -> float:
        """Share of the answers above the threshold, in [0, 1]."""
        return self.n_accepted / self.n

    @property
    def accuracy_accepted(self) -> float:
        """Accuracy of the answers above the threshold; NaN if there are none."""
        return self.n_correct / self.n_accepted if self.n_accepted else float("nan")

    @property
    def missed(self) -> bool:
        """Whether the accuracy is significantly below the one to reach: the interval ends below it."""
        return self.high < self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "n": self.n,
            "n_accepted": self.n_accepted,
            "coverage": self.coverage,
            "accuracy": self.accuracy_accepted if self.n_accepted else None,
            "low": self.low,
            "high": self.high,
            "missed": self.missed,
        }


@dataclass(frozen=True)
class ConfidenceThreshold:
    """The confidence above which a model's answers reach an accuracy, over all questions or for each group.

    Attributes
    ----------
    accuracy, level : float
        The accuracy to reach, and the probability that it is reached on new questions, in all groups at once.
    by : str or None
        What the questions are grouped by; None for one threshold over all.
    thresholds : mapping of str to AccuracyThreshold
        By the groups' names; the name is `""` for one threshold over all questions.
    checks : mapping of str to ThresholdCheck
        How the thresholds perform on new questions, if any were given.
    run : mapping
        The settings of the run whose answers the thresholds were found on.
    warnings : tuple of Finding
        Reasons not to trust the answers that the thresholds were found on.
    """

    accuracy: float
    level: float
    by: str | None
    thresholds: Mapping[str, AccuracyThreshold]
    checks: Mapping[str, ThresholdCheck] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()

    @property
    def n(self) -> int:
        """Number of answers that the thresholds were found on."""
        return sum(own.n for own in self.thresholds.values())

    @property
    def coverage(self) -> float:
        """Share of these answers above their thresholds, in [0, 1]."""
        return sum(own.n_accepted for own in self.thresholds.values()) / self.n

    def accepts(self, measurement: Measurement) -> np.ndarray:
        """Return which of a measurement's answers are above their thresholds, as a mask of shape (n,).

        Raises
        ------
        ValueError
            If a question's group lacks a threshold, or the measurement is known to come from a different model,
            prompt, reading or calibrator.
        """
        self._check_applies(measurement, "measurement")
        return self._accepted(measurement)

    def _check_applies(self, measurement: Measurement, argument: str) -> None:
        """Raise if the measurement is known to differ in what its confidences mean; warn if its calibrator may."""
        own, other = (fitted_on(_without_commits(run)) for run in (self.run, measurement.run))
        differing = own.mismatches(other)
        mine, theirs = (_calibrator(run) for run in (self.run, measurement.run))
        if self.run and measurement.run and mine != theirs:
            differs = f"its calibrator is {theirs:.100}, not {mine:.100}"
            if "confidence" in self.run and "confidence" in measurement.run:
                differing.append(differs)
            else:  # predictions in a file may have been calibrated before they were written
                warnings.warn(f"{argument}: the threshold may not apply to it: {differs}", UserWarning, stacklevel=3)
        if differing:
            raise ValueError(
                f"{argument}: the threshold does not apply to it: {'; '.join(differing)}. Measure as for the "
                "threshold, or find a new threshold"
            )

    def _accepted(self, measurement: Measurement) -> np.ndarray:
        predictions = measurement.predictions
        accepted = np.zeros(len(predictions), dtype=bool)
        for name, rows in _rows(measurement, self.by).items():
            if name not in self.thresholds:
                is_file = self.by == "dataset"
                rename = "rename the dataset (its file, or its column 'dataset') to match, " if is_file else ""
                raise ValueError(
                    f"by: no threshold for the {self.by} {name!r}, only for {', '.join(self.thresholds)}; {rename}"
                    "find thresholds on questions of every group, or leave these questions out"
                )
            accepted[rows] = self.thresholds[name].accepts(predictions.confidences[rows])
        return accepted

    def check(self, measurement: Measurement) -> dict[str, ThresholdCheck]:
        """Return how the thresholds perform on new questions, by group; errors as of `accepts`."""
        self._check_applies(measurement, "new")
        accepted, correct = self._accepted(measurement), measurement.predictions.correct
        found = {}
        for name, rows in _rows(measurement, self.by).items():
            size, hits = int(accepted[rows].sum()), int(correct[rows][accepted[rows]].sum())
            found[name] = ThresholdCheck(len(rows), size, hits, *_clopper_pearson(hits, size), self.accuracy)
        return found

    def values(self) -> dict[str, dict[str, float]]:
        """Return the numbers by name for each group; a group without a threshold has a coverage of 0."""
        found = {}
        for name, own in self.thresholds.items():
            values = {
                "coverage": own.coverage,
                "accuracy": own.accuracy_accepted,
                "n": own.n,
                "threshold": float("nan") if own.threshold is None else own.threshold,
                "accuracy_low": float("nan") if own.accuracy_low is None else own.accuracy_low,
            }
            if name in self.checks:
                check = self.checks[name]
                values |= {"check.coverage": check.coverage, "check.accuracy": check.accuracy_accepted}
                values |= {"check.low": check.low, "check.high": check.high, "check.n": check.n}
            found[name] = values
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "accuracy": self.accuracy,
            "level": self.level,
            "by": self.by,
            "n": self.n,
            "coverage": self.coverage,
            "thresholds": {name: own.to_dict() for name, own in self.thresholds.items()},
            "checks": {name: own.to_dict() for name, own in self.checks.items()},
            "warnings": [finding.to_dict() for finding in self.warnings],
            "run": dict(self.run),
        }

    def __str__(self) -> str:
        """Return a table with a line for each group, and what the guarantee is."""
        from ..reports import render_table

        def group(name: str) -> dict[str, Any]:
            return {} if self.by is None else {self.by: name}

        rows = [
            group(name)
            | {
                "n": own.n,
                "confidence above": own.shown(4),
                "coverage": own.coverage,
                "accuracy": own.accuracy_accepted,
                "at least": own.accuracy_low,
            }
            for name, own in self.thresholds.items()
        ]
        new = [
            group(name) | {"new n": own.n, "coverage": own.coverage, "accuracy": own.accuracy_accepted}
            for name, own in self.checks.items()
        ]
        groups = "" if self.by is None else ", in all groups at once"
        found = [own for own in self.thresholds.values() if own.threshold is not None]
        lines = []
        if found:
            lines.append(
                f"With {_percent(self.level)} probability, answers to new questions of the same kind whose confidence "
                f"is above the threshold are right at least {_percent(self.accuracy)} of the time{groups}."
            )
        if len(found) < len(self.thresholds):
            needed = answers_needed(self.accuracy, _level_of_each(self.level, len(self.thresholds)))
            which = "Some groups have no threshold: for these" if found else "There is no threshold:"
            lines.append(
                f"{which} an accuracy of {_percent(self.accuracy)} cannot be guaranteed. That takes at least {needed} "
                "answers, with the most confident ones right often enough. A lower --accuracy or --level, or more "
                "questions, can help."
            )
        unchecked = [name for name in self.thresholds if self.checks and name not in self.checks]
        if unchecked:
            lines.append(f"! No new questions for {', '.join(unchecked)}, so the threshold is not checked there.")
        for name, check in self.checks.items():
            if check.missed:
                place = f" in {name}" if name else ""
                lines.append(
                    f"! On the new questions{place} the accuracy is significantly lower: at most {check.high:.3f} "
                    f"with 95% confidence. These questions differ from those that the threshold was found on."
                )
        wrapped = (textwrap.fill(line, 80, break_on_hyphens=False) for line in lines)
        tables = [part for own in (rows, new) if own for part in (render_table(own, digits=4), "")]
        return "\n".join([*tables, *wrapped])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write threshold.json into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / THRESHOLD_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ConfidenceThreshold:
        """Read what `save` wrote, without the checks.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it holds something else.
        """
        path = Path(folder) / THRESHOLD_FILE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            thresholds = {name: AccuracyThreshold.from_dict(own) for name, own in state["thresholds"].items()}
            return cls(state["accuracy"], state["level"], state["by"], thresholds, run=state["run"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not what hf-calib threshold wrote: {error}") from None


def find_threshold(
    model: Model | Measurement,
    dataset: Datasets | None = None,
    *,
    accuracy: float = 0.95,
    level: float = 0.95,
    by: str | None = None,
    new: Datasets | Measurement | None = None,
    method: str | ConfidenceMethod | None = None,
    calibrator: BaseCalibrator | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> ConfidenceThreshold:
    """Find the confidence above which a model's answers to new questions reach an accuracy, with a guarantee.

    Parameters
    ----------
    model : as in `hf_calib.measure`, or Measurement or path
        A model; or a measurement, the folder that it was saved into, or a file of predictions.
    dataset : optional
        Held-out questions like the ones to expect, as in `hf_calib.measure`; left out with a measurement.
    accuracy : float, default 0.95
        The accuracy to reach, in (0, 1).
    level : float, default 0.95
        Probability that it is reached, in (0, 1); see `hf_calib.measures.accuracy_threshold`.
    by : {"subject", "type", "n_options", "dataset"}, optional
        Find a threshold for each group; the guarantee then holds in all groups at once (Bonferroni).
    new : datasets, Measurement or path, optional
        More questions to check the thresholds on; with recorded predictions as `model`, the predictions for them.
    method, calibrator
        As in `hf_calib.measure`. The calibrator must not have been fitted on the same questions.
    out : path, optional
        A folder for threshold.json.
    seed : int, default 0
        As in `hf_calib.measure`.
    **options
        As in `hf_calib.measure`.

    Returns
    -------
    ConfidenceThreshold
        With `.thresholds`, `.coverage`, `.accepts(measurement)` and `.save(folder)`.

    Raises
    ------
    ValueError
        If a number is outside its range, questions are missing or not needed, or the calibrator was fitted on the same
        questions, so that nothing is guaranteed.

    Examples
    --------
    >>> import hf_calib
    >>> found = hf_calib.find_threshold("your/model", "held_out.jsonl", accuracy=0.95)  # doctest: +SKIP
    >>> found.coverage, found.accepts(hf_calib.measure("your/model", "new.jsonl"))  # doctest: +SKIP
    """
    recorded = isinstance(model, Measurement) or Measurement.is_saved(model)
    if recorded and (dataset is not None or set(options) - {"progress"} or method is not None):
        raise ValueError("dataset: predictions that exist already need none, and no options; leave them out")
    if not recorded and dataset is None:
        raise ValueError("dataset: a model needs questions to find a threshold on")

    fitted = None if calibrator is None else as_calibrator(calibrator)

    def measured(source: Any) -> Measurement:
        if not recorded and not isinstance(source, Measurement):
            return measure(model, source, method=method, calibrator=fitted, seed=seed, **options)  # type: ignore[arg-type]
        found = source if isinstance(source, Measurement) else Measurement.load(source, seed=seed)
        if fitted is None:
            return found
        check_fits(fitted, found.run)
        return calibrated(found, fitted)

    measurement = measured(model if recorded else dataset)
    same = measurement.run.get("calibrator", {}).get("fitted_on_same_questions")
    if same:
        raise ValueError(
            f"calibrator: it was fitted on the same questions ({', '.join(same)}), so nothing would be guaranteed; "
            "use other questions"
        )
    predictions = measurement.predictions
    rows = _rows(measurement, by)
    own_level = _level_of_each(level, len(rows))
    thresholds = {name: _threshold(predictions, own, accuracy, own_level) for name, own in rows.items()}
    found = ConfidenceThreshold(
        accuracy, level, by, thresholds, run=dict(measurement.run), warnings=tuple(measurement.warnings)
    )
    if new is not None:
        checked = measured(new)
        if _digests(checked) & _digests(measurement):
            raise ValueError(
                "new: these are the questions on which the threshold was found; give other questions to check it"
            )
        checks = found.check(checked)
        found = ConfidenceThreshold(accuracy, level, by, thresholds, checks, found.run, found.warnings)
    save_result(found, out, options.get("device"))
    return found


def _rows(measurement: Measurement, by: str | None) -> dict[str, np.ndarray]:
    """Return the positions of each group's questions."""
    if by is None:
        return {ALL: np.arange(len(measurement.predictions))}
    names = groups_of(measurement, by)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _percent(share: float) -> str:
    """Return a share as a percentage with all its digits, since what is guaranteed must not be rounded."""
    return f"{100 * share:.10g}%"


def _calibrator(run: Mapping[str, Any]) -> str:
    """Return a run's calibrator with its parameters, without what depends on the questions."""
    of_questions = ("fitted_on_same_questions", "groups_not_fitted")
    known = {key: own for key, own in run.get("calibrator", {}).items() if key not in of_questions}
    return json.dumps(known, sort_keys=True) if known else "none"


def _without_commits(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings without commits on the Hub, which change with the cards of repositories too."""
    return {
        name: _without_commits(value) if isinstance(value, Mapping) else value
        for name, value in run.items()
        if name not in COMMITS
    }


def _digests(measurement: Measurement) -> set[str]:
    """Return the known digests of a measurement's datasets."""
    return {own["sha256"] for own in measurement.run.get("datasets", {}).values() if "sha256" in own}


def _level_of_each(level: float, n_groups: int) -> float:
    """Return the level that each group's guarantee needs so that all of them hold at `level`."""
    return 1 - (1 - level) / n_groups


def _threshold(predictions: Predictions, rows: np.ndarray, accuracy: float, level: float) -> AccuracyThreshold:
    return accuracy_threshold(predictions.confidences[rows], predictions.correct[rows], accuracy, level=level)


def _clopper_pearson(hits: int, size: int) -> tuple[float, float]:
    from scipy.special import betaincinv

    low = float(betaincinv(hits, size - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, size - hits, 0.975)) if hits < size else 1.0
    return low, high
