"""What a model answered to a set of questions, and how sure it was."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..measures.validation import LOG_ROUNDING, floor_zeros

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..calibrators.protocol import BaseCalibrator
    from ..measures import CalibrationReport


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers to n questions of at most K options.

    Parameters
    ----------
    option_log_probabilities : ndarray of float64, shape (n, K)
        Natural logarithm of the probability that the model gives each option's token among its whole vocabulary;
        -inf where a question has fewer than K options, and for an option that got none.
    answers : ndarray of int64, shape (n,)
        Index of the right option, -1 where it is not known.
    subjects : tuple of (str or None)
        Each question's group, of length n.
    rows : ndarray of int64, shape (n,)
        Each question's row in the data, in increasing order; rows that were dropped are absent.
    option_counts : ndarray of int64, shape (n,), optional
        Number of options of each question; left out, those with a probability. A question none of whose options got
        any (no sample could be read) has them all equal.
    chosen : ndarray of int64, shape (n,), optional
        Index of the option that was answered, where the confidence in it was not read off all options alike and it
        need not be the most probable one.
    missing_bounds : ndarray of float64, shape (n,), optional
        Of a served model that returns only the most probable tokens: what each option without a probability has at
        most. They count as having none.
    has_mass : bool, default True
        Whether the options' probabilities together are what the model gives to answering at all, which those that
        were divided by their lengths are not.
    hidden_states : ndarray of float32, shape (n, d), optional
        What the model's output layer is given at each answer position: features for the calibrators that take them.
    flips : ndarray of float64, shape (n,), optional
        Share of other orders of a question's options in which another option was answered.
    most_confident_correct : ndarray of float64, shape (n,), optional
        Whether the most probable of a question's sampled answers is correct. If several are equally probable, the
        share of them that is correct.

    Raises
    ------
    ValueError
        If the lengths differ, or a value is not a log-probability.
    """

    option_log_probabilities: np.ndarray
    answers: np.ndarray
    subjects: tuple[str | None, ...]
    rows: np.ndarray
    option_counts: np.ndarray | None = None
    has_mass: bool = True
    chosen: np.ndarray | None = None
    missing_bounds: np.ndarray | None = None
    hidden_states: np.ndarray | None = None
    flips: np.ndarray | None = None
    most_confident_correct: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.option_log_probabilities.shape
        lengths = {"answers": len(self.answers), "subjects": len(self.subjects), "rows": len(self.rows)}
        if len(shape) != 2 or set(lengths.values()) != {shape[0]}:
            raise ValueError(f"the log-probabilities have the shape {shape}, but there are {lengths}")
        for name in ("option_counts", "flips", "most_confident_correct"):
            values = getattr(self, name)
            if values is not None and len(values) != shape[0]:
                raise ValueError(f"{name} has {len(values)} values, but there are {shape[0]} questions; give one each")
        if self.hidden_states is not None and (self.hidden_states.ndim != 2 or len(self.hidden_states) != shape[0]):
            raise ValueError(
                f"hidden_states has the shape {self.hidden_states.shape}, but there are {shape[0]} questions; give "
                "one row each"
            )
        if not (self.option_log_probabilities <= LOG_ROUNDING).all() or np.any(self.n_choices == 0):
            raise ValueError("log-probabilities must be at most 0, and of each question at least one finite")

    @classmethod
    def from_answers(
        cls,
        chosen: ArrayLike,
        confidences: ArrayLike,
        option_counts: ArrayLike,
        answers: ArrayLike,
        subjects: tuple[str | None, ...],
        rows: ArrayLike,
    ) -> Predictions:
        """Make predictions from an answer and a confidence in it, what is left shared evenly by the other options.

        Parameters
        ----------
        chosen : array_like of int, shape (n,)
            Index of the option that was answered; -1 where no answer could be read: all options are level then, and
            have no mass.
        confidences : array_like, shape (n,)
            In [0, 1]; NaN where none could be read: the answer is taken at 1/K, with half of the mass.
        option_counts, answers, subjects, rows
            As in the class.
        """
        given, c = np.asarray(chosen, dtype=np.int64), np.asarray(confidences, dtype=np.float64)
        counts, n = np.asarray(option_counts, dtype=np.int64), len(given)
        read = np.where(np.isnan(c), 0.5, 1.0)
        c = np.where(np.isnan(c), 1 / counts, c)
        exists = np.arange(counts.max()) < counts[:, None]
        p = np.where(exists, ((1 - c) / (counts - 1))[:, None], 0.0)
        p[np.arange(n), np.maximum(given, 0)] = c
        p[given < 0] = 0.0
        with np.errstate(divide="ignore"):
            values = np.log(p * read[:, None])
        return cls(values, np.asarray(answers), subjects, np.asarray(rows), counts, chosen=np.maximum(given, 0))

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        known = int((self.answers >= 0).sum())
        right = f", accuracy={np.mean(self.predicted[self.answers >= 0] == self.answers[self.answers >= 0]):.3f}"
        return f"Predictions(n={len(self)}, confidence={self.confidences.mean():.3f}{right if known else ''})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_dataframe().to_html(max_rows=10, index=False)}"

    def to_dataframe(self) -> DataFrame:
        """Return a `pandas.DataFrame` with a row for each question.

        Its columns are row, subject, predicted and answer (the options' indices, -1 where the answer is not known),
        confidence, correct (None where that is not known) and probabilities (a list, one for each option).
        """
        import pandas as pd

        known = self.answers >= 0
        return pd.DataFrame(
            {
                "row": self.rows,
                "subject": list(self.subjects),
                "predicted": self.predicted,
                "answer": self.answers,
                "confidence": self.confidences,
                "correct": [
                    bool(right) if there else None
                    for right, there in zip(self.predicted == self.answers, known, strict=True)
                ],
                "probabilities": [own[:k].tolist() for own, k in zip(self.probabilities, self.n_choices, strict=True)],
            }
        )

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probability of each option given that one of them is answered, shape (n, K); 0 for absent options."""
        weights = np.exp(self._relative)
        return _without_rounding_errors(weights / weights.sum(axis=1, keepdims=True))

    @cached_property
    def logits(self) -> np.ndarray:
        """Log-probabilities relative to each row's greatest, shape (n, K), as calibrators take them.

        -inf for absent options alone. An option without any probability, because it was rounded to zero or none of the
        samples chose it, gets `hf_calib.measures.validation.ROUNDING`, 1e-6, of the row's greatest probability, or the
        row's least positive one where that is lower.
        """
        return floor_zeros(self._relative, self.n_choices)

    @property
    def log_probabilities(self) -> np.ndarray:
        """Log-probabilities among the options, shape (n, K): `logits`, normalized."""
        return self.logits - np.logaddexp.reduce(self.logits, axis=1, keepdims=True)

    @cached_property
    def _relative(self) -> np.ndarray:
        """Log-probabilities relative to each row's greatest; all options level in rows where none has any."""
        values = self.option_log_probabilities
        if self.option_counts is not None:
            unanswered = np.isneginf(values.max(axis=1))
            exists = np.arange(values.shape[1]) < self.option_counts[:, None]
            values = np.where(unanswered[:, None] & exists, 0.0, values)
        return values - values.max(axis=1, keepdims=True)

    @cached_property
    def option_mass(self) -> np.ndarray:
        """Raw mass that the full softmax puts on the options together, in [0, 1], shape (n,)."""
        return np.minimum(np.exp(self.option_log_probabilities).sum(axis=1), 1.0)

    @cached_property
    def confidences(self) -> np.ndarray:
        """Probability of the predicted option, shape (n,); in [1/K, 1] where that is the most probable one."""
        if self.chosen is not None:
            return self.probabilities[np.arange(len(self)), self.chosen]
        return self.probabilities.max(axis=1)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Index of the option that was answered, by default the first of the most probable ones, shape (n,)."""
        if self.chosen is not None:
            return self.chosen
        return self.probabilities.argmax(axis=1)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the predicted option is the right one, shape (n,).

        Raises
        ------
        ValueError
            If an answer is not known.
        """
        if (self.answers < 0).any():
            row = int(self.rows[np.flatnonzero(self.answers < 0)[0]])
            raise ValueError(f"row {row} has no answer, so it is not known whether the prediction is correct")
        return self.predicted == self.answers

    @property
    def n_choices(self) -> np.ndarray:
        """Number of options of each question, shape (n,)."""
        if self.option_counts is not None:
            return self.option_counts
        return np.isfinite(self.option_log_probabilities).sum(axis=1)

    def subset(self, chosen: np.ndarray) -> Predictions:
        """Return those at the chosen places: indices, or a mask of shape (n,)."""
        places = np.arange(len(self))[chosen]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays: dict[str, Any] = {n: value[places] for n, value in values.items() if isinstance(value, np.ndarray)}
        return replace(self, subjects=tuple(self.subjects[place] for place in places), **arrays)

    @cached_property
    def confidence_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the confidences, each of shape (n,), where options were not returned; else the confidences."""
        if self.missing_bounds is None:
            return self.confidences, self.confidences
        missing = self.n_choices - np.isfinite(self.option_log_probabilities).sum(axis=1)
        mass = np.exp(self.option_log_probabilities).sum(axis=1)
        most = self.missing_bounds * missing
        with np.errstate(invalid="ignore"):
            low = np.where(most > 0, self.confidences * mass / (mass + most), self.confidences)
        # An answer that was given apart from the probabilities may itself be what was not returned.
        given = np.take_along_axis(self.option_log_probabilities, self.predicted[:, None], axis=1)[:, 0]
        with np.errstate(invalid="ignore"):
            high = np.where(np.isneginf(given), self.missing_bounds / (mass + self.missing_bounds), self.confidences)
        # Where nothing at all was returned, any option may be the answer.
        unknown = mass == 0
        return np.where(unknown, 0.0, low), np.where(unknown, 1.0, high)

    def with_options_back(self, orders: Sequence[Sequence[int] | np.ndarray]) -> Predictions:
        """Undo `hf_calib.tasks.permute_options`.

        Parameters
        ----------
        orders : sequence of sequence of int
            The order in which each row's options were asked, indexed by row.
        """
        values = np.full_like(self.option_log_probabilities, -np.inf)
        answers = self.answers.copy()
        chosen = None if self.chosen is None else self.chosen.copy()
        for place, row in enumerate(self.rows):
            order = np.asarray(orders[row])
            values[place, order] = self.option_log_probabilities[place, : len(order)]
            if answers[place] >= 0:
                answers[place] = order[answers[place]]
            if chosen is not None:
                chosen[place] = order[chosen[place]]
        return replace(self, option_log_probabilities=values, answers=answers, chosen=chosen)

    def calibrated(
        self, calibrator: BaseCalibrator | None, *others: Predictions, groups: Sequence[str] | np.ndarray | None = None
    ) -> Predictions:
        """Return these predictions with a calibrator's probabilities; the options' mass stays.

        Parameters
        ----------
        calibrator : BaseCalibrator or None
            One that needs features gets the hidden states; None changes nothing.
        *others : Predictions
            Of the same questions, by an ensemble's members after the first, for a calibrator that pools them.
        groups : sequence of str, of length n, optional
            Each question's group, for a calibrator with a temperature for each; by default the subjects or numbers of
            options, if these are its groups.

        Raises
        ------
        ValueError
            If it needs features and there are no hidden states, or groups that are not known.
        """
        if calibrator is None:
            return self
        features = None
        if calibrator.needs_features:
            if self.hidden_states is None:
                raise ValueError(
                    f"the calibrator {calibrator.name!r} needs features; ask with predict(..., hidden_states=True)"
                )
            features = self.hidden_states
        if getattr(calibrator, "needs_groups", False):
            if groups is None:
                groups = self._groups(calibrator.by)  # type: ignore[attr-defined]
            probabilities = calibrator.transform(self.logits, kind="logits", groups=groups)  # type: ignore[call-arg]
            return self.with_probabilities(probabilities)
        if calibrator.parameters().get("scope") == "event":
            mapped = calibrator.transform(self.confidences, kind="probabilities", features=features)
            return self.with_confidences(mapped)
        logits = np.stack([own.logits for own in (self, *others)]) if others else self.logits
        return self.with_probabilities(calibrator.transform(logits, kind="logits", features=features))

    def _groups(self, by: str) -> list[str]:
        """Return each question's group, by what predictions hold."""
        if by == "n_options":
            return [f"{k} options" for k in self.n_choices]
        if by == "subject":
            return [str(subject) for subject in self.subjects]
        raise ValueError(
            f"groups: the calibrator has a temperature for each {by}, but predictions do not store these; give the "
            "groups, or apply it with hf_calib.measure"
        )

    def are_events_for(self, calibrator: BaseCalibrator) -> bool:
        """Return whether to fit a calibrator on the confidences, (n,), as probabilities of an event.

        This is needed for maps of the confidence where `chosen` is set: given a question's probabilities, they map the
        largest, which may not be the answer's.
        """
        return self.chosen is not None and getattr(calibrator, "maps_confidence", False)

    def with_confidences(self, confidences: np.ndarray) -> Predictions:
        """Return these predictions with the given confidences in the answers, shape (n,).

        The other options keep their proportions, and are level where they had no probability.
        """
        rows = np.arange(len(self))
        others = self.probabilities.copy()
        others[rows, self.predicted] = 0.0
        exists = np.arange(others.shape[1]) < self.n_choices[:, None]
        exists[rows, self.predicted] = False
        others = np.where(others.sum(axis=1, keepdims=True) > 0, others, exists)
        probabilities = others * ((1 - confidences) / others.sum(axis=1))[:, None]
        probabilities[rows, self.predicted] = confidences
        return replace(self, chosen=self.predicted).with_probabilities(probabilities)

    def with_probabilities(self, probabilities: np.ndarray) -> Predictions:
        """Return these predictions with other probabilities of the options, (n, K).

        The options' mass stays, and so does the answer, where it was given apart from the probabilities (`chosen`).
        """
        # Options without any mass keep their probabilities among themselves.
        mass = np.maximum(self.option_mass, np.finfo(np.float64).tiny)
        with np.errstate(divide="ignore"):
            values = np.log(probabilities) + np.log(mass)[:, None]
        return replace(self, option_log_probabilities=values, option_counts=self.n_choices)

    def report(self, **options: Any) -> CalibrationReport:
        """Return the `CalibrationReport` of these predictions; `options` go to its `from_predictions`.

        Questions are grouped by their subjects where they have any, unless `options` say otherwise.

        Raises
        ------
        ValueError
            If an answer is not known.
        """
        from ..measures import CalibrationReport

        _ = self.correct  # refuses unknown answers
        if "groups" not in options and any(subject is not None for subject in self.subjects):
            options["groups"] = np.array(["no subject" if subject is None else subject for subject in self.subjects])
        if self.has_mass:
            options.setdefault("option_mass", self.option_mass)
        for name in ("flips", "most_confident_correct"):
            options.setdefault(name, getattr(self, name))
        return CalibrationReport.from_predictions(self.probabilities, self.answers, chosen=self.chosen, **options)


def _without_rounding_errors(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities with 12 digits, without the errors of logarithms.

    These would move a confidence of 0.9 into the bin below, and break ties.
    """
    mantissas, exponents = np.frexp(probabilities)
    # Mostly up, so that a share of samples such as 8/15 does not fall below its bin's edge.
    return np.ldexp((np.ceil(mantissas * 1e12 - 0.25) + 0.0) / 1e12, exponents)
