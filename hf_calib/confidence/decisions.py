"""Typed decisions answered by a local model: a distribution over the allowed answers to each question of a case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..tasks import PromptFormat, Question, cyclic_orders, permute_options
from ..tasks.decisions import Case, Decision
from .asking import Asking

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator
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
    calibrator : BaseCalibrator, optional
        Applied to each answer; for example, one temperature per question type, as `fit_temperatures` of
        `hf_calib.evaluation` returns.
    n_orders : int, default 1
        Average over this many rotations of each question's options, up to the number of its options, all in the same
        forward pass. This removes the preference for a letter or a position.

    Raises
    ------
    ValueError
        If `n_orders` is below 1, or the calibrator needs hidden states or groups other than the types.
    """

    def __init__(
        self,
        source: LocalModel,
        prompt_format: PromptFormat | None = None,
        *,
        calibrator: BaseCalibrator | None = None,
        n_orders: int = 1,
    ) -> None:
        if n_orders < 1:
            raise ValueError(f"n_orders must be at least 1, got {n_orders}")
        if calibrator is not None:
            check_decision_calibrator(calibrator)
        self.source = source
        self.prompt_format = prompt_format or PromptFormat()
        self.calibrator = calibrator
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
                answer = tuple(total.tolist())
                if self.calibrator is not None:
                    answer = calibrated_answer(self.calibrator, answer, decision.type)
                own.append(Decided(answer, mass))
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


def check_decision_calibrator(calibrator: BaseCalibrator) -> None:
    """Raise a ValueError if a calibrator needs hidden states, or groups other than the types."""
    if calibrator.needs_features:
        raise ValueError(f"calibrator: {calibrator.name} needs hidden states, which typed decisions don't keep")
    by = getattr(calibrator, "by", "type")
    if _is_grouped(calibrator) and by != "type":
        raise ValueError(f"calibrator: it has a temperature for each {by}; typed decisions are grouped by type")


def calibrated_answer(calibrator: BaseCalibrator, probabilities: Sequence[float], kind: str) -> tuple[float, ...]:
    """Return the probabilities of a question's options with a calibrator applied; `kind` is the question's type."""
    groups = {"groups": [kind]} if _is_grouped(calibrator) else {}
    (values,) = calibrator.transform(np.array([probabilities]), kind="probabilities", **groups)
    return tuple(values.tolist())


def _is_grouped(calibrator: BaseCalibrator) -> bool:
    return bool(getattr(calibrator, "needs_groups", False))


def _softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def answers_of(case: Case, answers: Sequence[Decided | None]) -> dict[str, dict[str, Any]]:
    """Return a case's answers by question, in the form of the contract of `POST /v1/systemone`."""
    return {
        decision.name: _answer_of(decision, own)
        for decision, own in zip(case.decisions, answers, strict=True)
        if own is not None  # always: prompts that are too long are refused
    }


def _answer_of(decision: Decision, decided: Decided) -> dict[str, Any]:
    p = decided.probabilities
    mass = {"label_mass": decided.mass}
    if decision.type == "noul":
        return {"type": "noul", "noul": p[1], **mass}
    named = dict(zip(decision.options, p, strict=True))
    entropy = -math.fsum(value * math.log(value) for value in p if value > 0)
    shared = {"probabilities": named, "confidence": max(0.0, 1 - entropy / math.log(len(p))), **mass}
    if decision.type == "choice":
        return {"type": "choice", "choice": max(named, key=named.__getitem__), **shared}
    legend = dict(zip(decision.options, decision.texts, strict=True))
    return {"type": "score", "score": math.fsum(i * value for i, value in enumerate(p)), "legend": legend, **shared}
