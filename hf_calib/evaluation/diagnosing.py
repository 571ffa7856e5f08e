r"""The regime of a fine-tuned model: whether it can be calibrated without a loss of accuracy.

Let $p^*$ be the model that generates the answers, and $ACC^* = E[\max p^*]$ the critical accuracy. While a model's
accuracy on the questions that it was fine-tuned on is below it, the calibration error can reach zero at no cost; above
it, the model has begun to memorize, and its error on new questions has a positive lower bound (Xiao et al., 2025).

On any evaluated set and for any binning, $ECE \geq |ACC - E[c]|$: with $n_b$ of $N$ samples in bin $b$, $\sum_b
\frac{n_b}{N} |acc_b - conf_b| \geq |\sum_b \frac{n_b}{N} (acc_b - conf_b)|$ by the triangle inequality, and the sum on
the right is $ACC - E[c]$.

The generalization gap $ACC_{train} - ACC_{new}$ is an indication, not a bound: it equals the overconfidence on new
questions, $E[c] - ACC_{new}$, only if the mean confidence on both sets is the training accuracy. Plain fine-tuning
tends toward this; the regularized form (RCFT) prevents it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Unpack

import numpy as np

from ..measures import calibration_test
from ..measures.intervals import check_level
from ..measures.sampling import wilson_interval
from ..measures.verdict import convention_note
from ..reports import Measurement
from ..reports.measurement import common_method, predictions_of
from .asking import Questions, ask
from .keeping import interruptible, save_result
from .settings import AskOptions
from .thresholds import flattened

if TYPE_CHECKING:
    from ..confidence import ConfidenceMethod
    from .models import Model

REPORT_FILE = "diagnosis.json"
MEASUREMENT_FOLDER = "measurement"

Regime = Literal["calibratable", "non-calibratable", "undetermined"]


class AnsweredPredictions(Protocol):
    """The attributes of predictions that `diagnose` needs, as in those of `hf_calib.predict`."""

    @property
    def confidences(self) -> np.ndarray:
        """Shape (n,), in [0, 1]."""

    @property
    def correct(self) -> np.ndarray:
        """Shape (n,), of bool."""


Answered: TypeAlias = "AnsweredPredictions | Measurement | str | os.PathLike[str]"
"""Predictions; or a measurement, its folder, or a file that holds them."""


@dataclass(frozen=True)
class SetSummary:
    """A model's results on a set of questions.

    Attributes
    ----------
    n : int
    accuracy, confidence, ece : float
        In [0, 1]; confidence is the mean.
    low, high : float
        Wilson interval of the accuracy.
    bound : float
        |accuracy - confidence|, a lower bound of the ECE on this set for any binning.
    ece_if_calibrated : float
        Mean ECE of a perfectly calibrated model with the same confidences.
    """

    n: int
    accuracy: float
    low: float
    high: float
    confidence: float
    ece: float
    bound: float
    ece_if_calibrated: float


@dataclass(frozen=True)
class Diagnosis:
    """The verdict of `diagnose`.

    Attributes
    ----------
    regime : {"calibratable", "non-calibratable", "undetermined"}
    training, new : SetSummary
    gap, gap_low, gap_high : float
        Accuracy on the fine-tuning set minus that on new questions, with Newcombe's interval for two independent
        proportions.
    critical_accuracy : float
    critical_accuracy_is_known : bool
        False if it is a lower estimate, the best accuracy seen on new questions.
    confidence_level : float
    n_bins : int
        Of the ECE.
    skipped_rows : mapping of str to int
        Number of unreadable rows that were left out, for each dataset with any.
    """

    regime: Regime
    training: SetSummary
    new: SetSummary
    gap: float
    gap_low: float
    gap_high: float
    critical_accuracy: float
    critical_accuracy_is_known: bool
    confidence_level: float
    n_bins: int = 10
    skipped_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def reasons(self) -> str:
        """The verdict in words, with its numbers."""
        accuracy = f"{self.training.accuracy:.3f} [{self.training.low:.3f}, {self.training.high:.3f}]"
        gap = f"{self.gap:+.3f} [{self.gap_low:+.3f}, {self.gap_high:+.3f}]"
        if self.critical_accuracy_is_known:
            where = {
                "calibratable": "below",
                "non-calibratable": "above",
                "undetermined": "not distinguishable from",
            }[self.regime]
            return (
                f"The accuracy on the fine-tuning set, {accuracy}, is {where} the critical accuracy of "
                f"{self.critical_accuracy:.3f}."
            )
        estimate = (
            f"The critical accuracy is not known; {self.critical_accuracy:.3f}, the best accuracy seen on new "
            "questions, is a lower estimate of it."
        )
        if self.regime == "non-calibratable":
            return (
                f"The model does better on its fine-tuning set than on new questions, by {gap}: it has begun to "
                f"memorize. {estimate} The gap is an indication of the regime, not a proof."
            )
        if self.regime == "calibratable":
            return (
                f"The model is not significantly better on its fine-tuning set than on new questions: the gap is "
                f"{gap}. {estimate}"
            )
        return f"The gap between the fine-tuning set and new questions is {gap}: too few questions to tell. {estimate}"

    @property
    def method(self) -> str:
        """The recommended method: "cft", "rcft" or, if there are too few questions to tell, "temperature"."""
        return {"calibratable": "cft", "non-calibratable": "rcft", "undetermined": "temperature"}[self.regime]

    @property
    def advice(self) -> str:
        """What to do next."""
        return {
            "calibratable": "Plain fine-tuning on questions (CFT) can calibrate it at no cost in accuracy.",
            "non-calibratable": (
                "Stop earlier, or continue with the ECE regularizer (RCFT), with an E-step on questions that are not "
                "trained on."
            ),
            "undetermined": "Measure on more questions; until then, temperature scaling changes no answer.",
        }[self.regime]

    @property
    def ece_note(self) -> str:
        """What the ECEs are, in a sentence."""
        sets = {"fine-tuned on": self.training, "new": self.new}
        return convention_note(
            {
                name: {
                    "n_bins": self.n_bins, "n": own.n, "calibrated_model": own.ece_if_calibrated, "in_sample": False
                }
                for name, own in sets.items()
            }
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings for JSON."""
        plain = {**asdict(self), "method": self.method, "reasons": self.reasons, "advice": self.advice}
        skipped = plain.pop("skipped_rows")
        return {**plain, "skipped_rows": skipped} if skipped else plain

    def values(self) -> dict[str, float]:
        """Return the numbers by name: gap, training.accuracy, new.ece, ..."""
        return flattened(self.to_dict())

    @staticmethod
    def value_names() -> list[str]:
        """Return the names of all numbers that `values` has."""
        own = [field.name for field in fields(Diagnosis) if field.type == "float"]
        return [*own, *(f"{part}.{field.name}" for part in ("training", "new") for field in fields(SetSummary))]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write diagnosis.json into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")

    def __str__(self) -> str:
        lines = [f"regime: {self.regime}", self.reasons]
        for name, part in (("fine-tuning set", self.training), ("new questions", self.new)):
            lines.append(
                f"{name}: n {part.n}, accuracy {part.accuracy:.3f}, mean confidence {part.confidence:.3f}, "
                f"ECE {part.ece:.3f}, at least {part.bound:.3f} with any bins"
            )
        return "\n".join([*lines, self.ece_note, self.advice])


def diagnose(
    training: Answered | Questions,
    new: Answered | Questions,
    *,
    model: Model | None = None,
    critical_accuracy: float | None = None,
    best_new_accuracy: float | None = None,
    n_bins: int = 10,
    confidence_level: float = 0.95,
    margin: float = 0.05,
    method: str | ConfidenceMethod | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> Diagnosis:
    r"""Determine whether a model is in the calibratable or the non-calibratable regime.

    Parameters
    ----------
    training : Predictions, Measurement or path; with a model, questions
        Predictions on the answered questions that the model was fine-tuned on: as `hf_calib.predict` returns them, a
        measurement, its folder, or a file. With `model`, the questions, as in `hf_calib.measure`.
    new : the same
        The same for answered questions of the same kind that it was not fine-tuned on.
    model : optional
        As in `hf_calib.measure`; the model to ask both sets.
    critical_accuracy : float, optional
        $E[\max p^*]$ in (0, 1], if known, as in the lab. Then the verdict compares the accuracy on the fine-tuning set
        with it; otherwise it is based on the generalization gap.
    best_new_accuracy : float, optional
        The best accuracy on new questions that any checkpoint reached, in [0, 1]: a better lower estimate of the
        critical accuracy than this model's own.
    n_bins : int, default 10
        Of the ECE.
    confidence_level : float, default 0.95
        Level of all intervals, in (0, 1).
    margin : float, default 0.05
        Without a known critical accuracy, a gap whose interval extends beyond this is not considered absent.
    method, seed, **options
        As in `hf_calib.measure`, with a model.
    out : path, optional
        A folder for diagnosis.json and, in measurement/, the answers to both sets. Started again with the same folder,
        a stopped run resumes, and answers that are there are not asked for again.

    Returns
    -------
    Diagnosis
        Non-calibratable if the interval (of the training accuracy minus the critical one, or of the gap) is above
        zero; calibratable if it is below zero or, for the gap, includes zero and ends below `margin`; otherwise
        undetermined.

    Raises
    ------
    ValueError
        If a set is empty, an answer is unknown, both sets are the same or were read in different ways, or an argument
        is out of range.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import hf_calib
    >>> memorized = SimpleNamespace(correct=[True] * 90 + [False] * 10, confidences=[0.9] * 100)
    >>> new = SimpleNamespace(correct=[True] * 50 + [False] * 50, confidences=[0.9] * 100)
    >>> hf_calib.diagnose(memorized, new).regime
    'non-calibratable'

    References
    ----------
    Xiao et al., Restoring Calibration for Aligned Large Language Models, ICML 2025; Newcombe, Interval estimation for
    the difference between independent proportions, Statistics in Medicine 1998, method 10.
    """
    check_level(confidence_level)
    _check_different(training, new)
    if critical_accuracy is not None and not 0.0 < critical_accuracy <= 1.0:
        raise ValueError(f"critical_accuracy must be in (0, 1], got {critical_accuracy}")
    if best_new_accuracy is not None and not 0.0 <= best_new_accuracy <= 1.0:
        raise ValueError(f"best_new_accuracy must be in [0, 1], got {best_new_accuracy}")
    if not 0.0 <= margin < 1.0:
        raise ValueError(f"margin must be in [0, 1), got {margin}")
    skipped: dict[str, int] = {}
    if model is not None:
        with interruptible(out):
            kept_in = None if out is None else Path(out) / MEASUREMENT_FOLDER
            measurement = _ask(model, training, new, method=method, seed=seed, out=kept_in, **options)
        training, new = (recorded.predictions for recorded in measurement.datasets.values())
        skipped = measurement.skipped_rows
    elif set(options) - {"progress"}:
        raise ValueError(
            f"{', '.join(sorted(options))}: these say how a model is asked; give model, or leave them out"
        )
    else:
        common_method({"training": training, "new": new}, "training, new")
    on_trained = _summary(training, "training", n_bins, confidence_level)
    on_new = _summary(new, "new", n_bins, confidence_level)
    gap, gap_low, gap_high = accuracy_difference(on_trained, on_new)
    known = critical_accuracy is not None
    critical = critical_accuracy if critical_accuracy is not None else max(on_new.accuracy, best_new_accuracy or 0.0)
    low, high, ends = (
        (on_trained.low - critical, on_trained.high - critical, 0.0) if known else (gap_low, gap_high, margin)
    )
    regime: Regime = "non-calibratable" if low > 0 else "calibratable" if high < ends else "undetermined"
    diagnosis = Diagnosis(
        regime, on_trained, on_new, gap, gap_low, gap_high, critical, known, confidence_level, n_bins, skipped
    )
    save_result(diagnosis, out, options.get("device"))
    return diagnosis


def _ask(model: Model, training: Any, new: Any, **how: Any) -> Measurement:
    """Ask a model both sets."""
    sets = {"training": training, "new": new}
    if all(isinstance(source, str | os.PathLike) for source in sets.values()):
        sets = {str(training): training, str(new): new}

    def check(run: Mapping[str, Any]) -> None:
        if len({own["sha256"] for own in run["datasets"].values()}) == 1:
            raise ValueError(_SAME.format("training" if "training" in sets else f"training, {' and '.join(sets)}"))

    return ask(model, sets, check=check, **how)


_SAME = "new: holds the same questions as {}; pass questions that the model was not trained on"


def _check_different(training: Any, new: Any) -> None:
    are_paths = all(isinstance(source, str | os.PathLike) for source in (training, new))
    if training is new or (are_paths and is_same_source(training, new)):
        raise ValueError(_SAME.format(f"training, {training}" if are_paths else "training"))


def is_same_source(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two arguments of `load_questions` are the same file, folder or Hub dataset."""
    if Path(one).exists() and Path(other).exists():
        return Path(one).samefile(other)
    return str(one) == str(other)


def accuracy_difference(first: SetSummary, second: SetSummary) -> tuple[float, float, float]:
    """Return the first accuracy minus the second, with Newcombe's interval from their Wilson intervals."""
    difference = first.accuracy - second.accuracy
    below = np.hypot(first.accuracy - first.low, second.high - second.accuracy)
    above = np.hypot(first.high - first.accuracy, second.accuracy - second.low)
    return difference, float(difference - below), float(difference + above)


def _summary(source: Any, name: str, n_bins: int, confidence_level: float) -> SetSummary:
    predictions = predictions_of(source)
    where = str(source) if isinstance(source, str | os.PathLike) else name
    try:
        correct = np.asarray(predictions.correct, dtype=bool)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; add the right answer, or leave the row out") from error
    if len(correct) == 0:
        raise ValueError(f"{where}: has no questions; give at least one")
    confidences = np.asarray(predictions.confidences, dtype=float)
    accuracy, confidence = float(correct.mean()), float(confidences.mean())
    low, high = wilson_interval(accuracy, len(correct), NormalDist().inv_cdf((1 + confidence_level) / 2))
    test = calibration_test(confidences, correct, n_bins)
    return SetSummary(
        n=len(correct),
        accuracy=accuracy,
        low=float(low),
        high=float(high),
        confidence=confidence,
        ece=test.error,
        bound=abs(accuracy - confidence),
        ece_if_calibrated=test.expected_error,
    )
