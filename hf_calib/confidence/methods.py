"""The ways to read a model's confidence off what it says, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..tasks import PromptFormat, Question, cyclic_orders, permute_options
from .asking import Asking
from .backend import Backend, OptionScores
from .predictions import Predictions


class ConfidenceMethod(ABC):
    """A way to get a model's confidence in its answers to multiple-choice questions.

    Attributes
    ----------
    name : str
        What the command line calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions.

        Returns
        -------
        Predictions
            In the questions' order; without those whose prompts were dropped.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the name and, of a dataclass, its settings, as JSON values."""
        settings: dict[str, Any] = {"name": self.name}
        if is_dataclass(self):
            settings |= {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return settings


def _plain(value: Any) -> Any:
    if isinstance(value, ConfidenceMethod | PromptFormat):
        return value.to_dict()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class OptionLetters(ConfidenceMethod):
    """The softmax over the options' letters at the answer's position: one forward a question.

    References
    ----------
    Xiao et al., *Restoring Calibration for Aligned Large Language Models*, ICML 2025.
    """

    name: ClassVar[str] = "letters"

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        return collected(questions, backend.score_letters("letters", questions, prompt_format, asking))


NORMALIZATIONS = ("none", "characters", "tokens")


@dataclass(frozen=True)
class OptionTexts(ConfidenceMethod):
    """The likelihood of each option's text as the answer, without the options listed in the prompt.

    Parameters
    ----------
    normalization : {"none", "characters", "tokens"}, default "none"
        Divide each text's log-probability by its length. As lm-evaluation-harness, accuracy is its `acc` with "none"
        and its `acc_norm` with "characters".
    list_options : bool, default False
        List the options in the prompt, and score their texts after it.
    """

    name: ClassVar[str] = "text"
    normalization: str = "none"
    list_options: bool = False

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is one of {', '.join(NORMALIZATIONS)}; got {self.normalization!r}")

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        scores = backend.score_texts("texts", questions, prompt_format, asking, list_options=self.list_options)
        if self.normalization == "none":
            return collected(questions, scores)
        divided = [
            None if score is None else self._divided(score, question)
            for score, question in zip(scores, questions, strict=True)
        ]
        return collected(questions, divided, has_mass=False)

    def divisors(self, question: Question, n_tokens: Sequence[int]) -> tuple[int, ...]:
        """Return what each option's log-probability is divided by.

        Parameters
        ----------
        question : Question
        n_tokens : sequence of int
            Of each option's text.
        """
        if self.normalization == "none":
            return (1,) * len(n_tokens)
        if self.normalization == "tokens":
            return tuple(n_tokens)
        return tuple(len(choice.strip()) for choice in question.choices)

    def _divided(self, scores: OptionScores, question: Question) -> OptionScores:
        divisors = self.divisors(question, scores.n_tokens)
        values = tuple(value / n for value, n in zip(scores.log_probabilities, divisors, strict=True))
        return OptionScores(values, scores.n_tokens)


@dataclass(frozen=True)
class Marginalized(ConfidenceMethod):
    """The mean of an option's probability over orders of the options and over wordings of the prompt.

    Parameters
    ----------
    method : ConfidenceMethod
        What gives the probabilities; one that returns a distribution over the options.
    n_orders : int, default 4
        Rotations of the options, spread evenly; a question with fewer options gets as many as it has.
    formats : tuple of PromptFormat
        Wordings in addition to the requested one.
    mean : {"arithmetic", "geometric"}, default "arithmetic"
        The geometric mean is the mean of the log-probabilities, normalized over the options; an option without any
        probability counts as in `Predictions.logits`.
    """

    name: ClassVar[str] = "marginalized"
    method: ConfidenceMethod = OptionLetters()
    n_orders: int = 4
    formats: tuple[PromptFormat, ...] = ()
    mean: str = "arithmetic"

    def __post_init__(self) -> None:
        if self.mean not in ("arithmetic", "geometric"):
            raise ValueError(f"mean: {self.mean!r} is unknown; choose from arithmetic, geometric")
        if self.n_orders < 1:
            raise ValueError(f"the options are asked in at least one order, got {self.n_orders}")

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        orders = [
            cyclic_orders(len(question.choices), min(self.n_orders, len(question.choices))) for question in questions
        ]
        sums = np.zeros((len(questions), max(len(question.choices) for question in questions)))
        masses, times = np.zeros(len(questions)), np.zeros(len(questions))
        dropped = np.zeros(len(questions), dtype=bool)
        has_mass = True
        for wording, chosen in enumerate((prompt_format, *self.formats)):
            for turn in range(self.n_orders):
                rows = np.array([row for row, order in enumerate(orders) if turn < len(order)], dtype=np.int64)
                if not len(rows):
                    break
                asked = [permute_options(questions[row], orders[row][turn]) for row in rows]
                own = asking.for_part(f"order{wording}x{turn}_")
                part = self.method.predict(backend, asked, chosen, own)
                back = part.with_options_back([orders[row][turn] for row in rows])
                kept = rows[part.rows]
                dropped[np.setdiff1d(rows, kept)] = True
                sums[kept, : back.probabilities.shape[1]] += self._terms(back)
                masses[kept] += back.option_mass
                times[kept] += 1
                has_mass = part.has_mass
        rows = np.flatnonzero(~dropped)
        means = sums[rows] / times[rows, None]
        with np.errstate(divide="ignore"):
            values = np.log(means) if self.mean == "arithmetic" else self._normalized(means, questions, rows)
            values += np.log(masses[rows] / times[rows])[:, None]
        return _predictions(questions, rows, values, has_mass=has_mass)

    def _terms(self, predictions: Predictions) -> np.ndarray:
        """Return what is averaged: probabilities or their logarithms, 0 for options that a question does not have."""
        if self.mean == "arithmetic":
            return predictions.probabilities
        values = predictions.log_probabilities
        return np.where(np.isneginf(values), 0.0, values)

    @staticmethod
    def _normalized(means: np.ndarray, questions: Sequence[Question], rows: np.ndarray) -> np.ndarray:
        """Return mean log-probabilities as those of a distribution, -inf for options that a question does not have."""
        counts = np.array([len(questions[row].choices) for row in rows])
        values = np.where(np.arange(means.shape[1]) < counts[:, None], means, -np.inf)
        return values - np.logaddexp.reduce(values, axis=1, keepdims=True)


def collected(
    questions: Sequence[Question], scores: Sequence[OptionScores | None], *, has_mass: bool = True
) -> Predictions:
    """Return options' scores as predictions; None stands for a question that was dropped."""
    rows = np.array([row for row, score in enumerate(scores) if score is not None], dtype=np.int64)
    values = np.full((len(rows), max(len(questions[row].choices) for row in rows)), -np.inf)
    for place, row in enumerate(rows):
        score = scores[row]
        assert score is not None
        values[place, : len(score.log_probabilities)] = score.log_probabilities
    made = _predictions(questions, rows, values, has_mass=has_mass)
    states = [score.hidden_state for score in scores if score is not None and score.hidden_state is not None]
    if states:
        made = replace(made, hidden_states=np.stack(states))
    bounds = np.array([0.0 if score is None else score.missing_bound for score in scores])[rows]
    return replace(made, missing_bounds=bounds) if bounds.any() else made


def _predictions(
    questions: Sequence[Question], rows: np.ndarray, log_probabilities: np.ndarray, *, has_mass: bool = True
) -> Predictions:
    answers = (questions[row].answer for row in rows)
    return Predictions(
        option_log_probabilities=log_probabilities,
        answers=np.array([-1 if answer is None else answer for answer in answers], dtype=np.int64),
        subjects=tuple(questions[row].subject for row in rows),
        rows=rows,
        option_counts=np.array([len(questions[row].choices) for row in rows]),
        has_mass=has_mass,
    )
