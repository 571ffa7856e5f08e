"""The interface of all sources of answers, whether the model is in this process or served elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..tasks import PromptFormat, Question
from .asking import Asking


class ServerError(ConnectionError):
    """A served model can't be reached, refuses a request, or answers in a way that can't be read."""


@dataclass(frozen=True)
class OptionScores:
    """What a model gives a question's options.

    Parameters
    ----------
    log_probabilities : tuple of float
        Of each option, the sum over its tokens, natural logarithm; -inf for one that a server did not return.
    n_tokens : tuple of int
        Of each option.
    missing_bound : float, default 0
        What an option that was not returned has at most, as a probability.
    hidden_state : ndarray of float32, shape (d,), optional
        What the output layer was given, where it was asked for.
    """

    log_probabilities: tuple[float, ...]
    n_tokens: tuple[int, ...]
    missing_bound: float = 0.0
    hidden_state: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Generation:
    """A sampled answer.

    Parameters
    ----------
    text : str
        Up to the end or the first stop in the answer, with the train of thought before it, if there is one.
    ended : bool
        Whether it came to an end within the allowed number of tokens.
    log_probability : float, optional
        Natural logarithm of the tokens' probability under the model, at a temperature of 1. None for served models,
        and if a question has a single answer.
    """

    text: str
    ended: bool
    log_probability: float | None = field(default=None, compare=False)


class Backend(Protocol):
    """A model that can be asked; the results contain None for prompts that were dropped for their length.

    A method that calls `asking.note` with its questions lets a measurement record the first prompt as it was asked.
    """

    def score_letters(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Asking
    ) -> list[OptionScores | None]:
        """Return the log-probability of each option's letter."""

    def score_texts(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        list_options: bool = False,
    ) -> list[OptionScores | None]:
        """Return the log-probability of each option's text."""

    def generate(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        n_samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        list_options: bool = True,
        seed: int = 0,
    ) -> list[list[Generation] | None]:
        """Return sampled answers."""
