"""What a decision model's repository says: its evaluation results, and a section of its card."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.utils import yaml_dump

from .._version import __version__
from .card import CARD_FILE, read_card
from .card_metadata import CardParts
from .escaping import single_line

if TYPE_CHECKING:
    from ..measures import Measure
    from ..reports import DecisionMeasurement

BENCHMARK = "LocalLLaMA/typed-decisions"
RESULTS_FILE = ".eval_results/typed-decisions.yaml"
TAGS = ("decision-model", "typed-decisions", "calibration")

# What results are of; the benchmark's workflows are configs too, each with a part of the test set.
_TEST_SETS = (f"{BENCHMARK}:all:test", f"{BENCHMARK}::test")
_PROJECT = "https://github.com/hf-calib/hf_calib"
_BEGIN, _END = "<!-- hf_calib: typed decisions -->", "<!-- hf_calib: end of typed decisions -->"
_DIGITS = 4
_LABELS = {
    "accuracy": "accuracy (a tie in the gold counts as right)",
    "kl_from_gold": "KL(gold ‖ prediction), nats, clipped at 1e-9",
    "brier": "Brier score against the gold distribution, summed over answers",
    "ece": "ECE, 10 equal-width bins of the top probability, pooled over decisions",
}


def write_decision_results(
    folder: str | os.PathLike[str],
    measurement: DecisionMeasurement,
    dataset: str | None = None,
    *,
    training: str | None = None,
    revision: str | None = None,
    source_url: str = _PROJECT,
    date: str | None = None,
) -> Path:
    """Write a model's figures on typed decisions into its card, and of the benchmark into its results file.

    The four figures of the leaderboards go with their 95% intervals, clustered by case, into a section of README.md;
    what else is in the card stays. On the whole test set of the benchmark, `LocalLLaMA/typed-decisions:all:test`, they
    go into `.eval_results/typed-decisions.yaml` too, which the Hub reads; on other cases, an existing file of that
    name is deleted.

    Parameters
    ----------
    folder : path
        Of the model or adapter.
    measurement : DecisionMeasurement
    dataset : str, optional
        What it was measured on, a Hub name or a path; by default what the cases were read from.
    training : str, optional
        Whether the training split was used, and how; the notes say nothing about it by default.
    revision : str, optional
        The dataset's commit.
    source_url : str
        What the results can be checked with.
    date : str, optional
        ISO date of the measurement, today by default.

    Returns
    -------
    Path
        Of README.md.

    Raises
    ------
    ValueError
        If not all decisions have gold distributions.
    CardConflictError
        If the card's metadata cannot be read.
    """
    figures = measurement.figures
    if set(figures) != set(_LABELS):
        raise ValueError("measurement: the leaderboards compare with gold distributions, which some decisions lack")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = single_line(dataset or measurement.cases.source or "typed decisions")
    shown = Path(source).name if Path(source).exists() else source
    notes = _notes(measurement, training)
    path = folder / CARD_FILE
    existing = read_card(path) if path.exists() else ""
    parts = CardParts.split(existing, CARD_FILE)
    metadata = dict(parts.metadata)
    metadata["tags"] = sorted({*(metadata.get("tags") or ()), *TAGS})
    section = _section(measurement, figures, shown, notes)
    body = f"{_without_section(parts.body)}\n\n{section}".lstrip("\n")
    path.write_text(parts.with_content(metadata, body), encoding="utf-8", newline="")
    results = folder / RESULTS_FILE
    if source in _TEST_SETS and len(measurement.cases) == measurement.cases.n_of_source:
        results.parent.mkdir(exist_ok=True)
        text = _results(figures, notes, revision, source_url, date or datetime.date.today().isoformat())
        results.write_text(text, encoding="utf-8")
    else:
        results.unlink(missing_ok=True)
    return path


def remove_decision_results(folder: str | os.PathLike[str]) -> None:
    """Remove what `write_decision_results` wrote into a folder, such as the figures of weights that changed.

    Raises
    ------
    CardConflictError
        If the card's metadata cannot be read.
    """
    (Path(folder) / RESULTS_FILE).unlink(missing_ok=True)
    path = Path(folder) / CARD_FILE
    if path.exists() and _BEGIN in (existing := read_card(path)):
        parts = CardParts.split(existing, CARD_FILE)
        text = parts.with_content(dict(parts.metadata), f"{_without_section(parts.body)}\n")
        path.write_text(text, encoding="utf-8", newline="")


def _without_section(body: str) -> str:
    return re.sub(rf"\n*{re.escape(_BEGIN)}.*?{re.escape(_END)}\n*", "\n\n", body, flags=re.DOTALL).rstrip("\n")


def _results(figures: dict[str, Measure], notes: str, revision: str | None, source_url: str, date: str) -> str:
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=BENCHMARK,
            task_id=name,
            dataset_revision=revision,
            value=round(own.value, _DIGITS),
            date=date,
            source_url=source_url,
            source_name=f"hf_calib {__version__}",
            notes=f"{_interval(own)}; {notes}",
        )
        for name, own in figures.items()
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _notes(measurement: DecisionMeasurement, training: str | None) -> str:
    run = measurement.run
    how = [f"{len(measurement.cases)} cases, {len(measurement.probabilities)} decisions"]
    if training is not None:
        how.append(single_line(training))
    if fitted := run.get("calibrator"):
        by_type = fitted.get("by") == "type"
        how.append(f"{'one temperature per question type' if by_type else fitted['method']}, fitted on held-out cases")
    if run.get("n_orders", 1) > 1:
        how.append(f"averaged over {run['n_orders']} orders of the options")
    return "; ".join(how)


def _interval(own: Measure) -> str:
    return "no interval" if own.low is None else f"95% interval {own.low:.3f} to {own.high:.3f}, clustered by case"


def _section(measurement: DecisionMeasurement, figures: dict[str, Measure], source: str, notes: str) -> str:
    rows = [
        f"| {_LABELS[name]} | {own.value:.3f} | {'' if own.low is None else f'{own.low:.3f} to {own.high:.3f}'} |"
        for name, own in figures.items()
    ]
    kinds = [
        f"| {name} | {own.n} | {own.accuracy.value:.3f} | {own.kl_from_gold.value:.3f} "
        f"| {own.brier_from_gold.value:.3f} | {own.ece.value:.3f} |"
        for name, own in measurement.by_type.items()
    ]
    lines = [
        _BEGIN,
        "## Typed decisions",
        "",
        f"Measured on {source}: {notes}. Intervals are clustered by case.",
        "",
        "| measure | value | 95% interval |",
        "|---|---|---|",
        *rows,
        "",
        "| question type | decisions | accuracy | KL | Brier | ECE |",
        "|---|---|---|---|---|---|",
        *kinds,
        _END,
        "",
    ]
    return "\n".join(lines)
