"""The results of a model on typed decisions: the benchmark's figures, by question type and by workflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibrators.storage import described
from ..confidence.decisions import calibrated_answer, check_decision_calibrator
from ..measures import CATALOG, CalibrationReport, Finding, Measure, labels_with_ties
from ..tasks import QuestionError, TypedDecisions
from ..tasks.decisions import Decision
from .measurement import PAGE_FILE
from .table import Cell, render_table

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator

REPORT_FILE = "decisions.json"
PREDICTIONS_FILE = "decisions.jsonl"

FIGURES = ("accuracy", "kl_from_gold", "brier_from_gold", "ece", "total_variation", "score_error", "option_mass")
"""The measures in the tables, if the data suffice for them."""

CONVENTIONS = (
    "An option that ties with the label in the gold distribution counts as right; ECE has 10 equal-width bins of the "
    "top probability, pooled over decisions; intervals are clustered by case."
)
"""How the figures are defined, as the benchmark does."""

# If the labels' share of the probability is below this, the model does not answer with them.
_LOW_MASS = 0.5


@dataclass(frozen=True)
class DecisionMeasurement:
    """A model's answers to typed decisions.

    Parameters
    ----------
    name : str
        Name of the model.
    cases : TypedDecisions
        Every decision needs a label; measures such as `kl_from_gold` need gold distributions for all.
    probabilities : sequence of tuple of float
        Probabilities of each decision's options, in the order of `cases.decisions`.
    masses : sequence of float or None
        Total probability of each decision's labels before normalization; None where that is unknown.
    run : mapping
        How the model was asked, as JSON values.
    seed : int, default 0
        Seed of the intervals' resampling.
    rounding : float, default 0
        How far a server's rounding may have moved a probability.
    prior : sequence of tuple of float, optional
        The mean answers to the same questions in training cases, as a reference.
    """

    name: str
    cases: TypedDecisions
    probabilities: Sequence[tuple[float, ...]]
    masses: Sequence[float | None]
    run: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    rounding: float = 0.0
    prior: Sequence[tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        decisions = self.cases.decisions
        if not len(decisions) == len(self.probabilities) == len(self.masses):
            raise ValueError(
                f"there are {len(decisions)} decisions, {len(self.probabilities)} distributions and "
                f"{len(self.masses)} masses"
            )
        for number, case in enumerate(self.cases):
            for decision in case.decisions:
                if decision.label is None:
                    raise QuestionError(
                        f"case {number}, counted from 0: question {decision.name!r} has no gold answer, so the model "
                        "can't be measured on it; add gold answers, or leave the question out"
                    )

    @cached_property
    def report(self) -> CalibrationReport:
        """The report over all decisions."""
        return self._report(np.ones(len(self.probabilities), dtype=bool))

    @cached_property
    def by_type(self) -> dict[str, CalibrationReport]:
        """The report of each question type."""
        return self._by([decision.type for decision in self.cases.decisions])

    @cached_property
    def by_workflow(self) -> dict[str, CalibrationReport]:
        """The report of each workflow, and of the cases without one; empty if no case has one."""
        names = [case.workflow for case in self.cases for _ in case.decisions]
        if all(name is None for name in names):
            return {}
        return self._by(["no workflow" if name is None else name for name in names])

    @property
    def figures(self) -> dict[str, Measure]:
        """Those of the four figures of the benchmark's leaderboards that could be measured, by their task ids."""
        named = {"accuracy": "accuracy", "kl_from_gold": "kl_from_gold", "brier": "brier_from_gold", "ece": "ece"}
        measures = self.report.measures
        return {name: measures[key] for name, key in named.items() if key in measures}

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Reasons not to trust the figures."""
        found = []
        lacking = sum(own.gold is None for own in self.cases.decisions)
        if lacking:
            found.append(
                Finding(
                    "no_gold_distributions",
                    False,
                    f"{lacking:,} of {len(self.probabilities):,} decisions have a label but no gold distribution, so "
                    "the KL divergence and other distances from the gold are not measured where they are included.",
                    "For these figures, give all gold answers probabilities.",
                )
            )
        mass = self.report.measures.get("option_mass")
        if mass is not None and mass.value < _LOW_MASS:
            # A server has no prompt format, and applies a template of its own.
            is_plain = not self.run.get("prompt_format", {"chat": True})["chat"]
            found.append(
                Finding(
                    "low_label_mass",
                    False,
                    f"The labels have {mass.value:.0%} of the probability: the model mostly answers with something "
                    "else.",
                    "Use the chat template (--chat-template), or fine-tune the model."
                    if is_plain
                    else "Fine-tune the model, or choose another one.",
                    ("--chat-template",) if is_plain else (),
                )
            )
        if self.rounding:
            found.append(
                Finding(
                    "rounded_probabilities",
                    False,
                    f"The server rounds probabilities, each by up to {self.rounding:g}; they were divided by their "
                    "sum.",
                    "Small differences between the figures of models are not reliable.",
                )
            )
        return tuple(found)

    def calibrated(self, calibrator: BaseCalibrator) -> DecisionMeasurement:
        """Return the measurement of the same answers with a calibrator applied.

        Raises
        ------
        ValueError
            If one was applied already, or it does not apply to typed decisions.
        """
        if "calibrator" in self.run:
            raise ValueError("calibrator: one was already applied; measure without it")
        check_decision_calibrator(calibrator)
        probabilities = [
            calibrated_answer(calibrator, own, decision.type)
            for own, decision in zip(self.probabilities, self.cases.decisions, strict=True)
        ]
        own = {"method": calibrator.name, **described(calibrator.parameters())}
        return replace(self, probabilities=probabilities, run={**self.run, "calibrator": own})

    def values(self) -> dict[str, float]:
        """Return the measures over all decisions by name."""
        return {name: measure.value for name, measure in self.report.measures.items()}

    def __str__(self) -> str:
        lines = [
            f"{self.name} on {len(self.cases):,} cases, {len(self.probabilities):,} decisions",
            f"{CONVENTIONS} {self.report.ece_note}",
            "",
        ]
        measured = [CATALOG[key] for key in FIGURES if key in self.report.measures]
        width = max(len(info.label) for info in measured)
        lines += [f"{info.label:<{width}}  {self.report.measures[info.key]}" for info in measured]
        rows: list[dict[str, Cell]] = [
            _row(name, own)
            for name, own in {
                **self.by_type,
                **(self.by_workflow if len(self.by_workflow) > 1 else {}),
                **{f"({name})": own for name, own in self.references.items()},
            }.items()
        ]
        return "\n".join([*lines, "", render_table(rows), *(f"\n! {finding}" for finding in self.warnings)])

    @cached_property
    def references(self) -> dict[str, CalibrationReport]:
        """Scores without reading the state: equal probabilities for all options, and the prior if there is one."""
        found = {"uniform": [(1 / len(own),) * len(own) for own in self.probabilities]}
        if self.prior is not None:
            found["prior"] = list(self.prior)
        return {name: decision_report(self.cases, own, self.seed) for name, own in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the reports as plain values, with `run`."""
        return {
            "model": self.name,
            "task": "typed-decisions",
            "cases": len(self.cases),
            "decisions": len(self.probabilities),
            "figures": {
                name: {"value": own.value, "low": own.low, "high": own.high} for name, own in self.figures.items()
            },
            **self.report.to_dict(),
            "by_type": {name: own.to_dict() for name, own in self.by_type.items()},
            "by_workflow": {name: own.to_dict() for name, own in self.by_workflow.items()},
            "references": {name: own.to_dict() for name, own in self.references.items()},
            "warnings": [finding.to_dict() for finding in self.warnings],
            "rounding": self.rounding,
            "run": dict(self.run),
        }

    def save(self, folder: str | Path) -> None:
        """Write decisions.json, decisions.jsonl (one line per case) and report.html into a folder."""
        from .page import render_decisions

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")
        (folder / PAGE_FILE).write_text(render_decisions(self), encoding="utf-8")
        answers = iter(zip(self.probabilities, self.masses, strict=True))
        with (folder / PREDICTIONS_FILE).open("w", encoding="utf-8") as file:
            for number, case in enumerate(self.cases):
                own = {decision.name: _saved(decision, *next(answers)) for decision in case.decisions}
                row = {"case": number, "id": case.name, "workflow": case.workflow, "answers": own}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        cases: TypedDecisions,
        seed: int = 0,
        prior: Sequence[tuple[float, ...]] | None = None,
    ) -> DecisionMeasurement:
        """Read what `save` wrote, for the same cases.

        Raises
        ------
        OSError
            If a file is missing.
        ValueError
            If a file is damaged, or holds answers to other questions.
        """
        folder = Path(folder)
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        with (folder / PREDICTIONS_FILE).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        try:
            answers = [
                (decision, row["answers"][decision.name])
                for case, row in zip(cases, rows, strict=True)
                for decision in case.decisions
            ]
            probabilities = [tuple(own["probabilities"][name] for name in asked.options) for asked, own in answers]
            masses = [own["label_mass"] for _, own in answers]
            return cls(report["model"], cases, probabilities, masses, report["run"], seed, report["rounding"], prior)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder} does not hold answers to these cases: {error!r}") from error

    def _by(self, names: Sequence[str]) -> dict[str, CalibrationReport]:
        return {name: self._report(np.array(names) == name) for name in dict.fromkeys(names)}

    def _report(self, chosen: np.ndarray) -> CalibrationReport:
        return decision_report(self.cases, self.probabilities, self.seed, masses=self.masses, chosen=chosen)


def decision_report(
    cases: TypedDecisions,
    probabilities: Sequence[tuple[float, ...]],
    seed: int = 0,
    *,
    masses: Sequence[float | None] | None = None,
    chosen: np.ndarray | None = None,
) -> CalibrationReport:
    """Return the report of distributions over the options of all decisions, or of the chosen ones.

    Parameters
    ----------
    cases : TypedDecisions
    probabilities : sequence of tuple of float
        In the order of `cases.decisions`.
    seed : int, default 0
        Seed of the intervals' resampling.
    masses : sequence of float or None, optional
        Total probability of each decision's labels; left out of the report if one is None.
    chosen : ndarray of bool, optional
    """
    every = cases.decisions
    places = np.flatnonzero(np.ones(len(every), dtype=bool) if chosen is None else chosen).tolist()
    decisions = [every[place] for place in places]
    p, labels, gold = arrays_of(decisions, [probabilities[place] for place in places])
    case_of = np.array([number for number, case in enumerate(cases) for _ in case.decisions])
    options: dict[str, Any] = {"clusters": case_of[places], "seed": seed}
    if gold is not None:
        options |= {"gold": gold, "ordered": np.array([own.type == "score" for own in decisions])}
    if masses is not None and all(masses[place] is not None for place in places):
        options["option_mass"] = [masses[place] for place in places]
    return CalibrationReport.from_predictions(p, labels, **options)


def arrays_of(
    decisions: Sequence[Decision], probabilities: Sequence[tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the answers, (n, K), the right options, (n,), and the gold distributions, (n, K), as arrays.

    Rows are padded with zeros. The gold is None unless all decisions have it; with it, a predicted option that ties
    with the label is the right one.
    """
    width = max(len(own.options) for own in decisions)
    p, labels = _padded(probabilities, width), np.array([own.label for own in decisions])
    golds = [own.gold for own in decisions if own.gold is not None]
    if len(golds) < len(decisions):
        return p, labels, None
    gold = _padded(golds, width)
    return p, labels_with_ties(p, labels, gold), gold


def _padded(rows: Sequence[tuple[float, ...]], width: int) -> np.ndarray:
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows])


def _saved(decision: Decision, probabilities: tuple[float, ...], mass: float | None) -> dict[str, Any]:
    named = dict(zip(decision.options, probabilities, strict=True))
    assert decision.label is not None
    gold = None if decision.gold is None else dict(zip(decision.options, decision.gold, strict=True))
    return {"probabilities": named, "label_mass": mass, "gold": gold, "label": decision.options[decision.label]}


def _row(name: str, report: CalibrationReport) -> dict[str, Cell]:
    measures = report.measures
    return {
        "": name,
        "n": report.n,
        **{
            CATALOG[key].short: measures[key].value if key in measures else None
            for key in ("accuracy", "kl_from_gold", "brier_from_gold", "ece")
        },
    }
