"""Confidence methods that remove a model's preference for a letter, a position or a frequent text.

None of them needs right answers. All divide the options' probabilities by a prior, the preference, and normalize.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..tasks import PromptFormat, Question, cyclic_orders, permute_options
from .asking import Asking
from .backend import Backend, OptionScores
from .methods import ConfidenceMethod, OptionLetters, collected
from .predictions import Predictions

#: Texts that stand in for a question and each of its options in prompts without content.
CONTENT_FREE = ("N/A", "[MASK]", "...")

# Fewer questions than this are too few to estimate a preference.
_FEWEST = 10


@dataclass(frozen=True)
class PriDe(ConfidenceMethod):
    """The letters' probabilities divided by a prior over the letters, estimated on a few of the questions.

    These questions are asked in all K rotations of their options. The softmax of the letters' mean log-probabilities
    over the rotations is the question's prior: each option appears once at each letter, so only the preference for
    letters remains. The prior is the mean over these questions. Their own probabilities are the means of the options'
    probabilities over the rotations. Each number of options has its own prior.

    Parameters
    ----------
    share : float, default 0.05
        Share of the questions that the prior is estimated on, in (0, 1].
    at_least : int, default 10
        Minimum number of these questions for each number of options, or all questions if there are fewer.
    seed : int, default 0
        Seed of the draw of these questions.

    References
    ----------
    Zheng et al., *Large Language Models Are Not Robust Multiple Choice Selectors*, ICLR 2024 (arXiv 2309.03882).
    """

    name: ClassVar[str] = "letters-pride"
    share: float = 0.05
    at_least: int = _FEWEST
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.at_least < 1:
            raise ValueError(
                f"share: must be in (0, 1], and at_least at least 1; got {self.share} and {self.at_least}"
            )

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        predictions = OptionLetters().predict(backend, questions, prompt_format, asking)
        rng = np.random.default_rng(self.seed)
        priors, means = {}, predictions.probabilities.copy()
        drawn = np.zeros(len(predictions), dtype=bool)
        for n_options in np.unique(predictions.n_choices):
            places = np.flatnonzero(predictions.n_choices == n_options)
            size = max(math.ceil(self.share * len(places)), min(self.at_least, len(places)))
            chosen = np.sort(rng.choice(places, size, replace=False))
            drawn[chosen] = True
            asked = [questions[row] for row in predictions.rows[chosen]]
            first = predictions.subset(chosen)
            turned = _other_rotations(backend, asked, int(n_options), prompt_format, asking)
            letters = np.stack([part.log_probabilities[:, :n_options] for part in (first, *turned.values())])
            back = [part.with_options_back([order] * size).probabilities for order, part in turned.items()]
            options = np.mean([first.probabilities[:, :n_options], *back], axis=0)
            prior = np.exp(letters.mean(axis=0))
            priors[int(n_options)] = (prior / prior.sum(axis=1, keepdims=True)).mean(axis=0)
            means[chosen, :n_options] = options
        divided = divided_by(predictions, priors, predictions.n_choices.tolist()).probabilities
        return predictions.with_probabilities(np.where(drawn[:, None], means, divided))


def _other_rotations(
    backend: Backend, questions: Sequence[Question], n_options: int, prompt_format: PromptFormat, asking: Asking
) -> dict[tuple[int, ...], Predictions]:
    """Ask questions of K options in the K - 1 rotations that change their order, and return the answers by order."""
    parts = {}
    for turn, order in enumerate(cyclic_orders(n_options, n_options)[1:], start=1):
        rotated = [permute_options(question, order) for question in questions]
        part = OptionLetters().predict(
            backend, rotated, prompt_format, asking.for_part(f"rotation{n_options}x{turn}_")
        )
        if len(part) < len(questions):
            raise ValueError(
                "letters-pride: a rotated question is longer than the model allows; raise --max-length, or use letters"
            )
        parts[tuple(order.tolist())] = part
    return parts


@dataclass(frozen=True)
class BatchCalibrated(ConfidenceMethod):
    """The letters' probabilities divided by their means over all questions with the same number of options.

    The method assumes that every letter is right equally often. If fewer than 10 questions have a number of options,
    their means are too uncertain, so their probabilities are left unchanged, with a warning.

    References
    ----------
    Zhou et al., *Batch Calibration: Rethinking Calibration for In-Context Learning and Prompt Engineering*, ICLR 2024
    (arXiv 2309.17249).
    """

    name: ClassVar[str] = "letters-batch"

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        predictions = OptionLetters().predict(backend, questions, prompt_format, asking)
        priors = {}
        for n_options, count in zip(*np.unique(predictions.n_choices, return_counts=True), strict=True):
            if count < _FEWEST:
                warnings.warn(
                    f"letters-batch: only {count} questions have {n_options} options, too few to estimate the "
                    f"preference for letters (at least {_FEWEST}); their probabilities stay as they are",
                    stacklevel=2,
                )
                priors[int(n_options)] = np.full(n_options, 1 / n_options)
            else:
                own = predictions.n_choices == n_options
                priors[int(n_options)] = predictions.probabilities[own, :n_options].mean(axis=0)
        return divided_by(predictions, priors, predictions.n_choices.tolist())


@dataclass(frozen=True)
class ContentFreeLetters(ConfidenceMethod):
    """The letters' probabilities divided by those for questions without content.

    The prior is the mean over the texts of `CONTENT_FREE`, each in place of the question and of every option. It is
    computed for each number of options, and for each subject if the prompt shows subjects.

    References
    ----------
    Zhao et al., *Calibrate Before Use: Improving Few-Shot Performance of Language Models*, ICML 2021.
    """

    name: ClassVar[str] = "letters-content-free"

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        predictions = OptionLetters().predict(backend, questions, prompt_format, asking)
        empty_of: dict[str, list[Question]] = {}
        kinds = []
        for row in predictions.rows:
            own = [
                replace(
                    questions[row],
                    question=text,
                    choices=(text,) * len(questions[row].choices),
                    answer=None,
                    context=None,
                )
                for text in CONTENT_FREE
            ]
            shown = prompt_format.messages(own[0]) if prompt_format.chat else prompt_format.render(own[0])
            kinds.append(str(shown))
            empty_of.setdefault(str(shown), own)
        empty = [question for own in empty_of.values() for question in own]
        answered = OptionLetters().predict(backend, empty, prompt_format, asking.for_part("content_free_"))
        if len(answered) < len(empty):
            raise ValueError(
                "letters-content-free: the prompt without content is longer than the model allows; raise --max-length"
            )
        means = answered.probabilities.reshape(len(empty_of), len(CONTENT_FREE), -1).mean(axis=1)
        priors = {kind: mean[: len(own[0].choices)] for (kind, own), mean in zip(empty_of.items(), means, strict=True)}
        return divided_by(predictions, priors, kinds)


PRIORS = ("none", "cue", "content-free")


@dataclass(frozen=True)
class TextsOverPrior(ConfidenceMethod):
    """The likelihood of each option's text as the answer, divided by its likelihood without the question.

    Frequent and short texts are likely regardless of the question. The quotient is the pointwise mutual information
    (PMI) of the question and the text; it is normalized over the options.

    Parameters
    ----------
    prior : {"none", "cue", "content-free"}, default "cue"
        Context in which the text's own likelihood is read: "none", the beginning of a text (PMI), that is, after the
        tokenizer's token for the beginning or, without one, for the end of a text; "cue", only the prompt's last line
        (domain-conditional PMI); "content-free", the prompt with the texts of `CONTENT_FREE` in place of the question,
        whose probabilities are averaged. The first two do not work with chat prompts.

    References
    ----------
    Holtzman et al., *Surface Form Competition: Why the Highest Probability Answer Isn't Always Right*, EMNLP 2021;
    content-free normalization of answer texts: arXiv 2511.14385.
    """

    name: ClassVar[str] = "text-over-prior"
    prior: str = "cue"

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise ValueError(f"prior: {self.prior!r} is unknown; choose from {', '.join(PRIORS)}")

    def predict(
        self,
        backend: Backend,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> Predictions:
        """Ask the questions; see `ConfidenceMethod.predict`."""
        if prompt_format.chat and self.prior != "content-free":
            raise ValueError(
                f"prompt_format: the prior {self.prior!r} needs a plain prompt, not a chat; use the method "
                "text-content-free, or leave out --chat-template"
            )
        scores = backend.score_texts("texts", questions, prompt_format, asking)
        if self.prior == "content-free":
            asked = [
                [Question(text, question.choices, subject=question.subject) for question in questions]
                for text in CONTENT_FREE
            ]
            parts = [
                backend.score_texts(f"content_free{number}_texts", own, prompt_format, asking)
                for number, own in enumerate(asked)
            ]
        else:
            alone = _Premise(
                cue=prompt_format.cue if self.prior == "cue" else "", answer_prefix=prompt_format.answer_prefix
            )
            parts = [backend.score_texts("prior_texts", questions, alone, asking)]
        found: list[OptionScores | None] = []
        for own, *others in zip(scores, *parts, strict=True):
            if own is None or any(other is None for other in others):
                found.append(None)
                continue
            priors = np.array([other.log_probabilities for other in others if other is not None])
            values = np.array(own.log_probabilities) - (np.logaddexp.reduce(priors, axis=0) - math.log(len(priors)))
            found.append(replace(own, log_probabilities=tuple(values - np.logaddexp.reduce(values))))
        return collected(questions, found, has_mass=False)


class _Premise(PromptFormat):
    """A prompt that consists of the cue."""

    def render(self, question: Question, *, options: bool = True) -> str:
        """Return the cue."""
        return self.cue


def divided_by(predictions: Predictions, priors: Mapping[Any, np.ndarray], kinds: Sequence[Any]) -> Predictions:
    """Return predictions with each question's probabilities divided by the prior of its kind, and normalized.

    Parameters
    ----------
    predictions : Predictions
    priors : mapping
        For each kind of question, a distribution over the positions of its options.
    kinds : sequence, of length n
        The kind of each question.
    """
    values = predictions.log_probabilities
    for place, kind in enumerate(kinds):
        prior = priors[kind]
        values[place, : len(prior)] -= np.log(np.maximum(prior, np.finfo(np.float64).tiny))
    values -= values.max(axis=1, keepdims=True)
    weights = np.exp(values)
    return predictions.with_probabilities(weights / weights.sum(axis=1, keepdims=True))
