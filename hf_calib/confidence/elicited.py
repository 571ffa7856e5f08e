"""Confidence that a model says or shows in what it writes: stated, sampled, and asked after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..measures import confidence_at_k
from ..tasks import FewShotFormat, PromptFormat, Question
from .asking import Asking
from .backend import Backend, Generation
from .methods import ConfidenceMethod, OptionLetters
from .parsing import EXPRESSIONS, parse_confidence, parse_guesses, parse_letter
from .predictions import Predictions

_WORDS = ", ".join(EXPRESSIONS)
_SCALES = {
    "numbers": ("the probability that {it} is right, from 0% to 100%", "50%"),
    "words": (f"how likely {{it}} is to be right, as one of: {_WORDS}", "about even"),
}
SCALES = tuple(_SCALES)
_TRUE = ("True", "False")


def stated_request(answer: str, example: str, scale: str = "numbers", top_k: int = 1) -> str:
    """Return the words that ask for an answer with the confidence in it, or for several guesses.

    Parameters
    ----------
    answer : str
        What one answer is: "the letter of the right option".
    example : str
        An answer.
    scale : {"numbers", "words"}
    top_k : int

    Raises
    ------
    ValueError
        If there is no such scale, or fewer than one guess.
    """
    if scale not in _SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}; got {scale!r}")
    if top_k < 1:
        raise ValueError(f"top_k is the number of guesses, at least 1; got {top_k}")
    how, value = _SCALES[scale]
    if top_k == 1:
        return f"Answer with {answer} and {how.format(it='it')}.\nFor example: {example}, {value}"
    return (
        f"Give your {top_k} best guesses, one a line: {answer} and {how.format(it='it')}.\n"
        f"For example: {example}: {value}"
    )


@dataclass(frozen=True)
class StatedConfidence(ConfidenceMethod):
    """What a model says that its probability of being right is, asked along with the answer and written greedily.

    An answer that can't be read counts as one at chance without any mass; an answer without a readable confidence
    counts at chance, with half of the mass. So the share that was read is the options' mass.

    Parameters
    ----------
    top_k : int, default 1
        How many guesses to ask for, each with its probability; they become the options' distribution. What the guesses
        leave is shared evenly by the other options; if they come to more than one, they are scaled to it.
    max_new_tokens : int, default 24
        Of a guess.
    scale : {"numbers", "words"}, default "numbers"
        Ask for percentages, or for one of `hf_calib.confidence.parsing.EXPRESSIONS`. Either is understood.

    References
    ----------
    Tian et al., *Just Ask for Calibration*, EMNLP 2023.
    """

    name: ClassVar[str] = "stated"
    top_k: int = 1
    max_new_tokens: int = 24
    scale: str = "numbers"

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        if isinstance(prompt_format, FewShotFormat):
            raise ValueError("few-shot examples show no stated confidence; ask for it without them")
        one = "the letter of the right option" if self.top_k == 1 else "the letter of an option"
        request = stated_request(one, "A", self.scale, self.top_k)
        cue = f"{request}\n{prompt_format.cue}"
        written = backend.generate(
            "stated",
            questions,
            replace(prompt_format, cue=cue, chat_cue=request),
            asking,
            max_new_tokens=self.max_new_tokens * self.top_k,
            stop=("\n",) if self.top_k == 1 else ("\n\n", "Question:"),
        )
        texts = [None if samples is None else samples[0].text for samples in written]
        rows = np.array([row for row, text in enumerate(texts) if text is not None], dtype=np.int64)
        if self.top_k > 1:
            return self._of_guesses([texts[row] or "" for row in rows], questions, rows)
        chosen, confidences = [], []
        for row in rows:
            text, question = texts[row] or "", questions[row]
            letter, value = parse_letter(text, question.letters, question.choices), parse_confidence(text)
            chosen.append(-1 if letter is None else letter)
            confidences.append(np.nan if value is None else value)
        return _answered(questions, rows, chosen, confidences)

    def _of_guesses(self, texts: Sequence[str], questions: Sequence[Question], rows: np.ndarray) -> Predictions:
        values = np.zeros((len(rows), max(len(questions[row].choices) for row in rows)))
        for place, row in enumerate(rows):
            n = len(questions[row].choices)
            guesses = parse_guesses(texts[place], questions[row].letters)
            total = sum(guesses.values())
            if not guesses:
                continue
            others = [option for option in range(n) if option not in guesses]
            for option, value in guesses.items():
                values[place, option] = value / max(total, 1.0) if others or total > 1 else value / (total or 1.0)
            for option in others:
                values[place, option] = max(0.0, 1 - total) / len(others)
        return _distributed(questions, rows, values)


CONSISTENCY = ("agreement", "entropy", "distance")


@dataclass(frozen=True)
class SampleConsistency(ConfidenceMethod):
    """How far a model's sampled answers agree with each other.

    Parameters
    ----------
    n_samples : int, default 10
    measure : {"agreement", "entropy", "distance"}, default "agreement"
        The confidence in the most frequent answer: its share of the samples that could be read; 1 - H/log K, with the
        entropy H of the shares of K options; or its share less that of the second. With "agreement" the other options
        have their own shares, with the others what is left evenly.
    temperature : float, default 1.0
    max_new_tokens : int, default 16
    seed : int, default 0

    References
    ----------
    Lyu et al., *Calibrating Large Language Models with Sample Consistency*, AAAI 2025.
    """

    name: ClassVar[str] = "consistency"
    n_samples: int = 10
    measure: str = "agreement"
    temperature: float = 1.0
    max_new_tokens: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.measure not in CONSISTENCY:
            raise ValueError(f"measure is one of {', '.join(CONSISTENCY)}; got {self.measure!r}")
        if self.n_samples < 2:
            raise ValueError(f"consistency needs at least two samples, got {self.n_samples}")

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        written = backend.generate(
            "consistency",
            questions,
            prompt_format,
            asking,
            n_samples=self.n_samples,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            stop=() if prompt_format.chat else ("\n",),
            seed=self.seed,
        )
        rows = np.array([row for row, samples in enumerate(written) if samples is not None], dtype=np.int64)
        shares = np.zeros((len(rows), max(len(questions[row].choices) for row in rows)))
        confident = []
        for place, row in enumerate(rows):
            question, samples = questions[row], written[row] or []
            letters = [parse_letter(sample.text, question.letters, question.choices) for sample in samples]
            for letter in letters:
                if letter is not None:
                    shares[place, letter] += 1 / self.n_samples
            right = None if question.answer is None else [letter == question.answer for letter in letters]
            confident.append(most_confident_correct(samples, right))
        return replace(self._of_shares(questions, rows, shares), most_confident_correct=all_known(confident))

    def _of_shares(self, questions: Sequence[Question], rows: np.ndarray, shares: np.ndarray) -> Predictions:
        if self.measure == "agreement":
            return _distributed(questions, rows, shares)
        chosen = np.where(shares.sum(axis=1) > 0, shares.argmax(axis=1), -1)
        counts = np.array([len(questions[row].choices) for row in rows])
        return _answered(questions, rows, chosen, [
            np.nan if option < 0 else consistency(own[:n], self.measure)
            for own, n, option in zip(shares, counts, chosen, strict=True)
        ])  # fmt: skip


def consistency(shares: np.ndarray, measure: str) -> float:
    """Return the confidence in the most frequent of K answers from their shares, shape (K,), not all 0."""
    p = np.sort(shares / shares.sum())[::-1]
    if measure == "agreement":
        return float(p[0])
    if measure == "distance":
        return float(p[0] - (p[1] if len(p) > 1 else 0.0))
    positive = p[p > 0]
    return 1.0 if len(p) == 1 else float(1 + (positive * np.log(positive)).sum() / np.log(len(p)))


def most_confident_correct(samples: Sequence[Generation], correct: Sequence[bool] | None) -> float | None:
    """Return whether the most probable of a question's samples is correct, or None if this is unknown.

    If several samples are equally probable, return the share of them that is correct; see
    `hf_calib.measures.confidence_at_k`.
    """
    logs = [sample.log_probability for sample in samples if sample.log_probability is not None]
    if correct is None or len(logs) < len(samples):
        return None
    return confidence_at_k([np.exp(np.array(logs) - max(logs))], [correct])


def all_known(values: Sequence[float | None]) -> np.ndarray | None:
    """Return values as an array, or None if any of them is unknown."""
    return None if None in values else np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class PTrue(ConfidenceMethod):
    """P(True): the model answers by letter, and is then asked whether its answer is true.

    The confidence is the probability of "True" among the letters of "True" and "False".

    References
    ----------
    Kadavath et al., *Language Models (Mostly) Know What They Know*, 2022.
    """

    name: ClassVar[str] = "p-true"

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        answered = OptionLetters().predict(backend, questions, prompt_format, asking)
        asked = [
            about_answer(questions[row], int(option))
            for row, option in zip(answered.rows, answered.predicted, strict=True)
        ]
        scores = probability_of_true(backend, asked, prompt_format, asking)
        # Asking about an answer takes a longer prompt, which may be dropped where the question was not.
        kept = answered.subset(scores.rows)
        found = _answered(questions, kept.rows, kept.predicted, scores.probabilities[:, 0])
        if kept.missing_bounds is None and scores.missing_bounds is None:
            return found
        # An answer that was not read either is a guess.
        mass = np.where(kept.option_mass > 0, scores.option_mass, 0.0)
        return with_bounds(
            found, np.zeros(len(found)) if scores.missing_bounds is None else scores.missing_bounds, mass
        )


def with_bounds(predictions: Predictions, bounds: np.ndarray, mass: np.ndarray) -> Predictions:
    """Return predictions by P(True) with what a server may have left out of "True" and "False".

    Parameters
    ----------
    predictions : Predictions
        Of answers, each with its P(True) as confidence.
    bounds : ndarray of float64, shape (n,)
        What "True" or "False" has at most where it was not returned, else 0.
    mass : ndarray of float64, shape (n,)
        What was returned of both; where it is 0, the answer counts as a guess without mass.
    """
    unread = mass == 0
    relative = np.divide(bounds, mass, out=np.ones(len(mass)), where=~unread)
    # The other options share what "False" has.
    shared = np.where(predictions.confidences > 0.5, predictions.n_choices - 1, 1)
    return replace(
        predictions,
        option_log_probabilities=np.where(unread[:, None], -np.inf, predictions.option_log_probabilities),
        missing_bounds=np.minimum(relative / shared, 1.0),
    )


def about_answer(question: Question, option: int) -> Question:
    """Return the question whether an option is the right answer, with "True" and "False" to choose from."""
    return true_question(*in_words(question, option), question.subject, question.context)


def in_words(question: Question, option: int) -> tuple[str, str]:
    """Return a question with its options, and one of them as its answer, as texts."""
    options = "\n".join(
        f"{letter}. {choice.strip()}" for letter, choice in zip(question.letters, question.choices, strict=True)
    )
    answer = f"{question.letters[option]}. {question.choices[option].strip()}"
    return f"{question.question.strip()}\n{options}", answer


def true_question(question: str, answer: str, subject: str | None = None, context: str | None = None) -> Question:
    """Return the question whether an answer is true, to be asked in `self_evaluation_format`."""
    text = f"{question}\nProposed answer: {answer}\nIs the proposed answer true?"
    return Question(text, _TRUE, None, subject, context)


def self_evaluation_format(prompt_format: PromptFormat) -> PromptFormat:
    """Return the format in which a model is asked whether an answer is true: without header and examples.

    Both are about another kind of answer. A format without them stays as it is.
    """
    parts = {field.name: getattr(prompt_format, field.name) for field in fields(PromptFormat)}
    return PromptFormat(**{**parts, "header": ""})


def probability_of_true(
    backend: Backend, asked: Sequence[Question], prompt_format: PromptFormat, asking: Asking
) -> Predictions:
    """Ask whether answers are true; the first option's probability is that of "True".

    Parameters
    ----------
    backend, prompt_format, asking
        As in `ConfidenceMethod.predict`; the format is used as `self_evaluation_format` returns it.
    asked : sequence of Question
        Made by `true_question`.
    """
    return OptionLetters().predict(backend, asked, self_evaluation_format(prompt_format), asking.for_part("true_"))


def _answers(questions: Sequence[Question], rows: np.ndarray) -> np.ndarray:
    known = (questions[row].answer for row in rows)
    return np.array([-1 if answer is None else answer for answer in known], dtype=np.int64)


def _answered(
    questions: Sequence[Question], rows: np.ndarray, chosen: ArrayLike, confidences: ArrayLike
) -> Predictions:
    return Predictions.from_answers(
        chosen,
        confidences,
        [len(questions[row].choices) for row in rows],
        _answers(questions, rows),
        tuple(questions[row].subject for row in rows),
        rows,
    )


def _distributed(questions: Sequence[Question], rows: np.ndarray, shares: np.ndarray) -> Predictions:
    with np.errstate(divide="ignore"):
        values = np.log(shares)
    return Predictions(
        values,
        _answers(questions, rows),
        tuple(questions[row].subject for row in rows),
        rows,
        np.array([len(questions[row].choices) for row in rows]),
    )
