"""Typed decisions answered by a local model: a distribution over the allowed answers to each question of a case."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..tasks import PromptFormat, Question, cyclic_orders, permute_options
from ..tasks.decisions import TEMPERATURES_FILE, TYPES, Case
from .asking import Asking
from .local import LocalModel


@dataclass(frozen=True)
class Decided:
    """An answer to one question.

    Parameters
    ----------
    probabilities : tuple of float
        In the order of the decision's options, summing to one.
    mass : float or None
        Total probability of all labels before normalization; None if a server does not report it.
    rounding : float, default 0
        How far a server's rounding may have moved each probability.
    """

    probabilities: tuple[float, ...]
    mass: float | None = None
    rounding: float = 0.0


class DecisionBackend(Protocol):
    """Answers cases."""

    def decide(self, cases: Sequence[Case], asking: Asking | None = None) -> list[list[Decided | None]]:
        """Return an answer to each question of each case; None where a prompt was dropped."""


class LocalDecisions:
    """Reads typed decisions off a local model's labels.

    Parameters
    ----------
    source : LocalModel
    prompt_format : PromptFormat, optional
        By default the plain format; with `chat=True`, the state opens the user's message.
    temperatures : mapping of str to float, optional
        By question type, as `fit_temperatures` of `hf_calib.evaluation` finds them.
    n_orders : int, default 1
        Average over this many rotations of each question's options, up to the number of its options, all in the same
        forward pass. This removes the preference for a letter or a position.

    Raises
    ------
    ValueError
        If a temperature is not positive or of an unknown type, or `n_orders` is below 1.
    """

    def __init__(
        self,
        source: LocalModel,
        prompt_format: PromptFormat | None = None,
        *,
        temperatures: Mapping[str, float] | None = None,
        n_orders: int = 1,
    ) -> None:
        if n_orders < 1:
            raise ValueError(f"n_orders must be at least 1, got {n_orders}")
        self.source = source
        self.prompt_format = prompt_format or PromptFormat()
        self.temperatures = check_temperatures(temperatures or {})
        self.n_orders = n_orders

    def decide(self, cases: Sequence[Case], asking: Asking | None = None) -> list[list[Decided | None]]:
        """Return an answer to each question of each case; see `LocalModel.score_cases`."""
        turned = [self._turned(case) for case in cases]
        asked = [[question for own in case for question, _ in own] for case in turned]
        scored = self.source.score_cases("decisions", asked, self.prompt_format, asking or Asking())
        answers: list[list[Decided | None]] = []
        for case, own_turned, own_scores in zip(cases, turned, scored, strict=True):
            scores = iter(own_scores)
            own: list[Decided | None] = []
            for decision, orders in zip(case.decisions, own_turned, strict=True):
                found = [(next(scores), order) for _, order in orders]
                if any(score is None for score, _ in found):
                    own.append(None)
                    continue
                total, mass = np.zeros(len(decision.options)), 0.0
                for score, order in found:
                    values = np.array(score.log_probabilities)  # type: ignore[union-attr]
                    total[order] += _softmax(values) / len(found)
                    mass += min(float(np.exp(values).sum()), 1.0) / len(found)
                own.append(Decided(scaled(total, self.temperatures.get(decision.type, 1.0)), mass))
            answers.append(own)
        return answers

    def _turned(self, case: Case) -> list[list[tuple[Question, np.ndarray]]]:
        """Return each question of a case in all requested orders of its options."""
        return [
            [
                (permute_options(question, order), order)
                for order in cyclic_orders(len(question.choices), min(self.n_orders, len(question.choices)))
            ]
            for question in case.questions()
        ]


def scaled(probabilities: np.ndarray, temperature: float) -> tuple[float, ...]:
    """Return a distribution with its logarithms divided by a temperature."""
    if temperature == 1.0:
        return tuple(probabilities.tolist())
    with np.errstate(divide="ignore"):
        return tuple(_softmax(np.log(probabilities) / temperature).tolist())


def _softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def check_temperatures(temperatures: Mapping[str, float], where: str = "temperatures") -> dict[str, float]:
    """Return temperatures by question type after checking them.

    Raises
    ------
    ValueError
        If a type is unknown, or a temperature is not a positive number.
    """
    if not isinstance(temperatures, Mapping):
        raise ValueError(f"{where}: expected one number per question type, got a {type(temperatures).__name__}")
    for name, value in temperatures.items():
        if name not in TYPES:
            raise ValueError(f"{where}: there is no question type {name!r}; choose from {', '.join(TYPES)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{where}: the temperature of {name} is {value!r}; it must be a positive number")
    return {name: float(value) for name, value in temperatures.items()}


def save_temperatures(temperatures: Mapping[str, float], folder: str | os.PathLike[str]) -> Path:
    """Write temperatures next to a folder's weights, as plain JSON, and return the file."""
    path = Path(folder) / TEMPERATURES_FILE
    path.write_text(json.dumps(check_temperatures(temperatures), indent=2) + "\n", encoding="utf-8")
    return path


def read_temperatures(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read temperatures from a file, or from the one in a folder.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is invalid.
    """
    path = Path(path)
    file = path / TEMPERATURES_FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"temperatures: there is no file {str(file)!r}") from None
    except ValueError as error:
        raise ValueError(f"{file} is invalid JSON: {error}") from None
    return check_temperatures(content, str(file))
