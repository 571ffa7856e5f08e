"""The numbers of a card, formatted: one row a model, one column a measure, with n and interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..measures import shown_in
from .card_data import AFTER, BASE, BEFORE, CalibrationCardData, Evaluation
from .escaping import Markdown, escape_markdown

if TYPE_CHECKING:
    from ..measures import CalibrationReport, Measure, MeasureInfo


def format_measure(measure: Measure) -> Markdown:
    """Give a measure as `0.123 [0.101, 0.145]`, or as the value alone where there is no interval."""
    if measure.low is None or measure.high is None:
        return Markdown(f"{measure.value:.3f}")
    return Markdown(f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], numeric: bool = True) -> Markdown:
    """Lay out a table, every cell escaped; with `numeric`, all columns but the first are set to the right."""
    head, *body = [" | ".join(escape_markdown(cell) for cell in line) for line in [header, *rows]]
    rule = " | ".join([":--", *["--:" if numeric else ":--"] * (len(header) - 1)])
    return Markdown("\n".join(f"| {line} |" for line in [head, rule, *body]))


def _heading(info: MeasureInfo) -> str:
    return info.short[0].upper() + info.short[1:]


def _row(label: str, n: int, measures: Mapping[str, Measure], columns: Sequence[MeasureInfo]) -> list[str]:
    cells = [format_measure(measures[column.key]) if column.key in measures else "–" for column in columns]
    return [label, f"{n:,}", *cells]


def evaluation_table(data: CalibrationCardData, evaluation: Evaluation) -> dict[str, Any]:
    """Give what the template needs to show one evaluation set."""
    reports = {stage: evaluation.reports[stage] for stage in evaluation.stages}
    measured = {key for report in reports.values() for key in report.measures}
    columns = [info for info in shown_in("card") if info.key in measured]
    rows = [_row(data.stage_label(stage), report.n, report.measures, columns) for stage, report in reports.items()]
    groups = list(_group_rows(data, reports))
    return {
        "title": str(evaluation.dataset),
        "description": _description(evaluation),
        "verdict": reports[AFTER].verdict,
        "warnings": [str(finding) for finding in reports[AFTER].further_warnings],
        "table": markdown_table(["Model", "n", *map(_heading, columns)], rows),
        "group_count": len(reports[AFTER].groups or ()),
        "group_table": markdown_table(["Subject", "n", *map(_heading, shown_in("groups"))], groups)
        if groups
        else None,
    }


def _description(evaluation: Evaluation) -> Markdown:
    dataset = evaluation.dataset
    domain = {True: "In domain. ", False: "Out of domain. ", None: ""}[evaluation.in_domain]
    revision = f"Revision {escape_markdown(dataset.revision)}. " if dataset.revision else ""
    skipped = f"{dataset.skipped:,} unreadable rows left out. " if dataset.skipped else ""
    level = 100 * evaluation.reports[AFTER].confidence_level
    return Markdown(f"{domain}{revision}{skipped}In brackets, {level:g}% intervals.")


def _group_rows(data: CalibrationCardData, reports: Mapping[str, CalibrationReport]) -> Iterable[list[str]]:
    for subject in reports[AFTER].groups or ():
        for stage, report in reports.items():
            if subject in (report.groups or ()):
                group = report.groups[subject]
                yield _row(f"{subject}, {data.stage_label(stage)}", group.n, group.measures, shown_in("groups"))


def headline(data: CalibrationCardData, evaluation: Evaluation) -> dict[str, Any]:
    """Give the line of the summary that compares before and after on one evaluation set."""
    after = evaluation.reports[AFTER]
    before = evaluation.reports.get(BEFORE, evaluation.reports.get(BASE))
    values: dict[str, Any] = {"dataset": str(evaluation.dataset), "n": f"{after.n:,}"}
    for key in ("ece", "accuracy"):
        values[f"{key}_after"] = format_measure(after.measures[key])
        values[f"{key}_before"] = None if before is None else format_measure(before.measures[key])
    return values


def legend(data: CalibrationCardData) -> Markdown:
    """Say in a sentence each what the columns are."""
    measured = {
        key for evaluation in data.evaluations for report in evaluation.reports.values() for key in report.measures
    }
    parts = [f"{_heading(info)}: {info.meaning}" for info in shown_in("card") if info.key in measured]
    return Markdown("; ".join(parts) + ".")
