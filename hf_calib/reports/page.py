"""Reports and comparisons as single, self-contained HTML pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from ..measures import CATALOG, CalibrationReport, MeasureInfo, shown_in
from .comparison import Comparison, summary
from .measurement import Measurement
from .svg import reliability_svg, risk_coverage_svg
from .terminal import sizes

if TYPE_CHECKING:
    from jinja2 import Environment

# How many of the most confident mistakes are shown, and how much of each question before it is expanded.
N_MISTAKES = 12
N_CHARACTERS = 500


@dataclass(frozen=True)
class Mistake:
    """A wrong answer given with high confidence."""

    dataset: str
    row: int
    subject: str | None
    question: str | None  # with the text that it is about before it
    chosen: str
    right: str
    confidence: float
    right_probability: float


def confident_mistakes(measurement: Measurement, n: int = N_MISTAKES) -> list[Mistake]:
    """Return the `n` wrong answers with the highest confidence, most confident first."""
    found = []
    for name, recorded in measurement.datasets.items():
        predictions = recorded.predictions
        wrong = np.flatnonzero(~predictions.correct)
        for place in wrong[np.argsort(-predictions.confidences[wrong], kind="stable")][:n]:
            question = recorded.questions[place]
            chosen, right = int(predictions.predicted[place]), int(predictions.answers[place])
            found.append(
                Mistake(
                    dataset=name,
                    row=int(predictions.rows[place]),
                    subject=predictions.subjects[place],
                    question=None if question is None else _asked(question),
                    chosen=_option(question, chosen),
                    right=_option(question, right),
                    confidence=float(predictions.confidences[place]),
                    right_probability=float(predictions.probabilities[place, right]),
                )
            )
    return sorted(found, key=lambda mistake: -mistake.confidence)[:n]


def _asked(question: Any) -> str:
    return question.question if question.context is None else f"{question.context}\n{question.question}"


def _option(question: Any, index: int) -> str:
    from ..tasks import LETTERS

    return LETTERS[index] if question is None else f"{LETTERS[index]}. {question.choices[index]}"


def render_page(measurement: Measurement) -> str:
    """Return the HTML page of a measurement."""
    report = measurement.report
    predictions = measurement.predictions
    return environment().get_template("measurement.html.jinja").render(
        title=measurement.name,
        sizes=sizes(measurement),
        report=report,
        n_datasets=len(measurement.datasets),
        key_measures=[(info.short, report.measures[info.key]) for info in _key_measures(report)],
        measures=[(CATALOG[key], measure) for key, measure in report.measures.items()],
        reliability=reliability_svg(report),
        risk_coverage=risk_coverage_svg(predictions.confidences, predictions.correct),
        datasets=list(_groups({name: own.measures for name, own in measurement.reports.items()}, measurement)),
        subjects=_sorted_groups(report),
        mistakes=confident_mistakes(measurement),
        shown=N_CHARACTERS,
        run=_flat(measurement.run),
        level=f"{100 * report.confidence_level:g}%",
    )  # fmt: skip


def render_summary(measurement: Measurement) -> str:
    """Return a measurement as an HTML fragment for notebooks: the verdict, key measures, diagram and warnings."""
    report = measurement.report
    return environment().get_template("summary.html.jinja").render(
        title=measurement.name,
        style=_notebook_style(),
        report=report,
        key_measures=[(info.short, report.measures[info.key]) for info in _key_measures(report)],
        reliability=reliability_svg(report),
        level=f"{100 * report.confidence_level:g}%",
    )  # fmt: skip


@cache
def _notebook_style() -> Markup:
    """Return the pages' style for a part of another page, which stays as it is."""
    style = (files(__package__) / "templates" / "style.css").read_text(encoding="utf-8")
    return Markup(f".hf-calib {{ {style.replace(':root', '&').replace('body {', '& {')} }}")


def _key_measures(report: CalibrationReport) -> list[MeasureInfo]:
    return [info for info in shown_in("page") if info.key in report.measures]


def _groups(measures: dict[str, Any], measurement: Measurement) -> Iterator[dict[str, Any]]:
    for name, own in measures.items():
        yield _group(name, measurement.reports[name].n, own)


def _sorted_groups(report: CalibrationReport) -> list[dict[str, Any]]:
    groups = [_group(name, group.n, group.measures) for name, group in report.groups.items()]
    return sorted(groups, key=lambda group: -group["ece"].value)


def _group(name: str, n: int, measures: dict[str, Any]) -> dict[str, Any]:
    keys = ("accuracy", "confidence", "signed_gap", "ece")
    return {"name": name, "n": n, **{key: measures[key] for key in keys}}


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as flat rows of a table."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{key}", text if len(text) <= 400 else text[:399] + "…"))
    return rows


@cache
def environment() -> Environment:
    """Return the environment of the templates, which escapes all values."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files(__package__) / "templates"
    made = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = _number
    made.filters["interval"] = _interval
    made.filters["breakable"] = _breakable
    made.filters["options"] = _options
    return made


def _options(text: str) -> Markup:
    """Return a text whose command-line options stay on one line each."""
    return Markup(re.sub(r"--[\w-]+", r'<span class="option">\g<0></span>', str(escape(text))))


def _breakable(name: str) -> Markup:
    """Return a name that can be broken after its underscores, for narrow screens."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _interval(measure: Any, digits: int = 3) -> str:
    if measure.low is None or measure.high is None:
        return ""
    return f"{measure.low:.{digits}f} to {measure.high:.{digits}f}"


def render_comparison(comparison: Comparison, level: str = "95%") -> str:
    """Return the HTML page of a comparison."""
    cells = [
        {
            "model": model,
            "task": task,
            "method": method,
            "differences": own,
            "summary": summary(model, comparison.models[0], own),
            "sharpening": comparison.sharpenings.get((model, task, method)),
            "readings": [
                (name, comparison.warnings.get((name, task, method), ())) for name in (comparison.models[0], model)
            ],
        }
        for (model, task, method), own in comparison.differences.items()
    ]
    template = environment().get_template("comparison.html.jinja")
    return template.render(models=comparison.models, cells=cells, catalog=CATALOG, level=level)


def render_comparison_summary(comparison: Comparison) -> str:
    """Return a comparison as an HTML fragment for notebooks: a sentence for each model and task, and the table."""
    said = Markup("").join(
        Markup("<p>{}, {}: {}</p>").format(task, method, summary(model, comparison.models[0], own))
        for (model, task, method), own in comparison.differences.items()
    )
    warned = Markup("").join(
        Markup("<p>{}: {}</p>").format(name, finding)
        for (name, _, _), found in comparison.warnings.items()
        for finding in found
    )
    return said + warned + comparison.to_dataframe().to_html(index=False, float_format="%.3f")
