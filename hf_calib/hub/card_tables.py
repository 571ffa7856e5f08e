"""The tables of a card: a short visible one, and a folded one of all measures with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..measures import CATALOG, shown_in
from ..measures.verdict import convention_note
from .card_data import AFTER, BASE, BEFORE, CalibrationCardData, Evaluation
from .escaping import Markdown, escape_markdown

if TYPE_CHECKING:
    from ..measures import AccuracyThreshold, CalibrationReport, Measure, MeasureInfo


# The columns of the visible table in addition to the model and n; only the last one has an interval, so that a row
# fits.
_IN_SIGHT = ("accuracy", "confidence", "ece")


def format_measure(measure: Measure) -> Markdown:
    """Return a measure as `0.123 [0.101, 0.145]`, or only its value if there is no interval."""
    if measure.low is None or measure.high is None:
        return Markdown(f"{measure.value:.3f}")
    return _unbroken(f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]")


def _unbroken(text: str) -> Markdown:
    """Return escaped text that stays on one line."""
    return Markdown(escape_markdown(text).replace(" ", "\N{NO-BREAK SPACE}"))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], numeric: bool = True) -> Markdown:
    """Return a table with escaped cells; with `numeric`, all columns but the first are right-aligned."""
    head, *body = [" | ".join(escape_markdown(cell) for cell in line) for line in [header, *rows]]
    rule = " | ".join([":--", *["--:" if numeric else ":--"] * (len(header) - 1)])
    return Markdown("\n".join(f"| {line} |" for line in [head, rule, *body]))


def _heading(info: MeasureInfo) -> str:
    return info.short[0].upper() + info.short[1:]


def _row(label: str, n: int, measures: Mapping[str, Measure], columns: Sequence[MeasureInfo]) -> list[str]:
    cells = [format_measure(measures[column.key]) if column.key in measures else "–" for column in columns]
    return [label, f"{n:,}", *cells]


def evaluation_table(data: CalibrationCardData, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the template needs to show one evaluation set."""
    reports = {stage: evaluation.reports[stage] for stage in evaluation.stages}
    labels = {stage: _unbroken(data.stage_label(stage)) for stage in reports}
    groups = list(_group_rows(data, reports))
    return {
        "title": str(evaluation.dataset),
        "description": _description(data, evaluation),
        "table": markdown_table(
            ["Model", "n", *(_heading(CATALOG[key]) for key in _IN_SIGHT)],
            [[labels[stage], f"{report.n:,}", *_cells_in_sight(report)] for stage, report in reports.items()],
        ),
        "warnings": [str(finding) for finding in _without_remedies(reports[AFTER]).further_warnings],
        "thresholds": [_threshold(own) for own in reports[AFTER].thresholds if own.threshold is not None],
        "all_measures": markdown_table(["Measure", *labels.values()], _measure_rows(reports)),
        "group_count": len(reports[AFTER].groups or ()),
        "group_table": markdown_table(["Subject", "n", *map(_heading, shown_in("groups"))], groups)
        if groups
        else None,
    }


def _threshold(own: AccuracyThreshold) -> Markdown:
    """Say above which confidence answers reach an accuracy."""
    which = "All answers" if own.threshold == 0 else f"Answers with a confidence above {own.threshold:.3f}"
    share = "" if own.threshold == 0 else f" ({own.coverage:.0%} of them)"
    return Markdown(
        f"{which}{share} to new questions of this kind are right at least {own.accuracy:.0%} of the time, with "
        f"{own.level:.0%} probability."
    )


def _without_remedies(report: CalibrationReport) -> CalibrationReport:
    """Leave out what to try next, which is advice for whoever measures and not for the card's readers."""
    return replace(report, warnings=tuple(replace(finding, remedy="") for finding in report.warnings))


def _cells_in_sight(report: CalibrationReport) -> list[Markdown]:
    *others, last = (report.measures[key] for key in _IN_SIGHT)
    return [*(Markdown(f"{measure.value:.3f}") for measure in others), format_measure(last)]


def _measure_rows(reports: Mapping[str, CalibrationReport]) -> Iterable[list[object]]:
    """Return a row for each measure, with a cell for each model."""
    for info in shown_in("card"):
        cells = [report.measures.get(info.key) for report in reports.values()]
        if any(cells):
            yield [_heading(info), *("–" if measure is None else format_measure(measure) for measure in cells)]


def _description(data: CalibrationCardData, evaluation: Evaluation) -> Markdown:
    dataset = evaluation.dataset
    domain = {True: "In domain. ", False: "Out of domain. ", None: ""}[evaluation.in_domain]
    revision = f"Revision {escape_markdown(dataset.revision)}. " if dataset.revision else ""
    skipped = f"{dataset.skipped:,} unreadable rows left out. " if dataset.skipped else ""
    level = 100 * evaluation.reports[AFTER].confidence_level
    conventions = {data.stage_label(stage): evaluation.reports[stage].ece_convention for stage in evaluation.stages}
    note = escape_markdown(convention_note(conventions))
    return Markdown(f"{domain}{revision}{skipped}In brackets, {level:g}% intervals. {note}")


def _group_rows(data: CalibrationCardData, reports: Mapping[str, CalibrationReport]) -> Iterable[list[str]]:
    for subject in reports[AFTER].groups or ():
        for stage, report in reports.items():
            if subject in (report.groups or ()):
                group = report.groups[subject]
                yield _row(f"{subject}, {data.stage_label(stage)}", group.n, group.measures, shown_in("groups"))


def headline(data: CalibrationCardData, evaluation: Evaluation) -> dict[str, Any]:
    """Return the summary of one evaluation set: the verdict, and the numbers of the model compared with."""
    after = evaluation.reports[AFTER]
    compared = next((stage for stage in (BEFORE, BASE) if stage in evaluation.reports), None)
    return {
        "dataset": str(evaluation.dataset),
        "n": f"{after.n:,}",
        "verdict": _without_remedies(after).verdict,
        "compared": None if compared is None else data.stage_label(compared),
        "numbers": {}
        if compared is None
        else {
            CATALOG[key].short: format_measure(evaluation.reports[compared].measures[key])
            for key in ("ece", "accuracy")
        },
    }


def legend(data: CalibrationCardData) -> Markdown:
    """Return a sentence about each column."""
    measured = {
        key for evaluation in data.evaluations for report in evaluation.reports.values() for key in report.measures
    }
    parts = [f"{_heading(info)}: {info.meaning}" for info in shown_in("card") if info.key in measured]
    return Markdown("; ".join(parts) + ".")
