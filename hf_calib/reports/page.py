"""Reports and comparisons as single, self-contained HTML pages.

Their diagrams are SVG elements colored by the page's style, which has a light and a dark version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from ..measures import CATALOG, CalibrationReport, MeasureInfo, risk_coverage_curve, shown_in
from ..measures.sampling import t_quantile, wilson_interval
from .comparison import Comparison, summary
from .decisions import CONVENTIONS, FIGURES, DecisionMeasurement, arrays_of
from .measurement import Measurement
from .terminal import shown_name

if TYPE_CHECKING:
    from jinja2 import Environment

# How many of the most confident mistakes are shown, and how much of each question before it is expanded.
N_MISTAKES = 12
N_CHARACTERS = 500

# The drawing area inside its margins.
_SIZE, _LEFT, _TOP, _BOTTOM = 300.0, 46.0, 12.0, 42.0

# The largest number of points of a curve.
_POINTS = 400


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
        sizes=measurement.n_text,
        report=report,
        n_datasets=len(measurement.datasets),
        key_measures=[(info.short, report.measures[info.key]) for info in _key_measures(report)],
        measures=[(CATALOG[key], measure) for key, measure in report.measures.items()],
        reliability=reliability_svg(report),
        before=None if measurement.before is None else _before(measurement),
        risk_coverage=risk_coverage_svg(predictions.confidences, predictions.correct),
        datasets=list(_groups({name: own.measures for name, own in measurement.reports.items()}, measurement)),
        subjects=_sorted_groups(report),
        mistakes=confident_mistakes(measurement),
        shown=N_CHARACTERS,
        run=what_was_run(measurement.run),
        prompt=measurement.run.get("prompt"),
        level=f"{100 * report.confidence_level:g}%",
    )  # fmt: skip


def render_decisions(measurement: DecisionMeasurement) -> str:
    """Return the HTML page of a model's answers to typed decisions."""
    report = measurement.report
    by_type = measurement.by_type
    own = {"this model": report, **measurement.references}
    shown = [CATALOG[key] for key in FIGURES if any(key in each.measures for each in (report, *by_type.values()))]
    return environment().get_template("decisions.html.jinja").render(
        title=measurement.name,
        sizes=f"{len(measurement.cases):,} cases, {report.n:,} decisions",
        report=report,
        warnings=measurement.warnings,
        key_measures=[(info, report.measures[info.key]) for info in shown if info.key in report.measures],
        columns=[info for info in shown if info.key in ("accuracy", "kl_from_gold", "brier_from_gold", "ece")],
        conventions=CONVENTIONS,
        references=own,
        types=by_type,
        workflows=measurement.by_workflow,
        diagrams={"All decisions": reliability_svg(report)}
        | ({name: reliability_svg(each) for name, each in by_type.items()} if len(by_type) > 1 else {}),
        measures=[(CATALOG[key], measure) for key, measure in report.measures.items()],
        mistakes=_decision_mistakes(measurement),
        shown=N_CHARACTERS,
        run=what_was_run(measurement.run),
        prompt=measurement.run.get("prompt"),
        level=f"{100 * report.confidence_level:g}%",
    )  # fmt: skip


def _decision_mistakes(measurement: DecisionMeasurement, n: int = N_MISTAKES) -> list[Mistake]:
    """Return the `n` wrong decisions with the highest confidence, most confident first."""
    placed = [(number, case, own) for number, case in enumerate(measurement.cases) for own in case.decisions]
    p, right, _ = arrays_of([own for _, _, own in placed], measurement.probabilities)
    chosen, confidence = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(chosen != right)
    found = []
    for place in wrong[np.argsort(-confidence[wrong], kind="stable")][:n]:
        number, case, own = placed[place]
        asked = own.question(case.state_text)
        found.append(
            Mistake(
                dataset=case.workflow or "case",
                row=number,
                subject=f"{own.name} ({own.type})",
                question=_asked(asked),
                chosen=own.texts[chosen[place]],
                right=own.texts[right[place]],
                confidence=float(confidence[place]),
                right_probability=float(p[place, right[place]]),
            )
        )
    return found


def _before(measurement: Measurement) -> dict[str, Any]:
    """Return what the page shows of the answers without the calibrator."""
    assert measurement.before is not None
    report = measurement.before.report
    return {
        "report": report,
        "method": measurement.run["calibrator"]["method"],
        "svg": reliability_svg(report),
        "rows": [
            (info.short, report.measures[info.key], measurement.report.measures[info.key])
            for info in shown_in("calibrators")
        ],
    }


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


def what_was_run(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a run's record as lines to read: what each setting is called, and its value.

    Settings that were left as they are by default, and those that do not apply, have no line.
    """
    named = {
        "Command": run.get("command"),
        "Date": run.get("date"),
        "Device": run.get("device"),
        "Model": run.get("model"),
        "Revision": run.get("revision"),
        "Revision of the model under the adapter": run.get("base_revision"),
        "Name on the server": run.get("model_name"),
        "Adapter": run.get("adapter"),
        "Number format": None if run.get("dtype") in (None, "auto") else run["dtype"],
        "Confidence read off": _listed(run.get("confidence")),
        "Prompt": "through the chat template" if (run.get("prompt_format") or {}).get("chat") else None,
        "Orders of the options": run["n_orders"] if run.get("n_orders", 1) > 1 else None,
        "Options permuted": "yes" if run.get("permute_options") else None,
        "Longest prompt": f"{run['max_length']} tokens" if run.get("max_length") else None,
        "Longer prompts": "dropped" if run.get("drop_too_long") else None,
        "Code of the repository": "run" if run.get("trust_remote_code") else None,
        "Calibrator": _listed(run.get("calibrator")),
        "Seed": run.get("seed"),
    }
    for name, facts in run.get("datasets", {}).items():
        skipped = f", {facts['skipped_rows']:,} rows left out" if facts.get("skipped_rows") else ""
        digest = f", SHA-256 {facts['sha256']}" if "sha256" in facts else ""
        drawn = f" drawn from {facts['drawn']['of']:,}" if "drawn" in facts else ""
        named[f"Dataset {name}"] = f"{facts['n']:,} questions{drawn}{skipped}{digest}"
    named["Versions"] = _listed(run.get("versions"))
    for key, value in run.items():
        if key not in _IN_WORDS:  # of predictions that were recorded elsewhere
            named[key.replace("_", " ").capitalize()] = _listed(value)
    return [(name, str(value)) for name, value in named.items() if value is not None]


_IN_WORDS = {
    "command", "date", "device", "model", "revision", "base_revision", "model_name", "adapter", "weights",
    "base_weights", "configuration", "dtype", "confidence", "permute_options", "n_orders", "max_length",
    "drop_too_long", "trust_remote_code", "calibrator", "seed", "datasets", "versions", "prompt", "prompt_format",
    "options_not_returned", "cut_off", "has_chat_template",
}  # fmt: skip


def _listed(value: Any) -> str | None:
    if isinstance(value, Mapping):
        own = {key: part for key, part in value.items() if key not in ("name", "method")}
        first = [str(value[key]) for key in ("name", "method") if key in value]
        text = ", ".join([*first, *(f"{key} {_listed(part)}" for key, part in own.items())])
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return None if value is None else str(value)


_LONGEST = 400


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


def render_comparison(comparison: Comparison) -> str:
    """Return the HTML page of a comparison."""
    base = comparison.models[0]
    cells = [
        {
            "model": key[0],
            "task": shown_name(key[1]),
            "method": key[2],
            "n": comparison.n_text(key),
            "ece_note": comparison.ece_note(key),
            "differences": own,
            "summary": summary(key[0], base, own),
            "sharpening": comparison.sharpenings.get(key),
            "diagrams": [
                {"name": name, "report": report, "svg": reliability_svg(report)}
                for name, report in zip((base, key[0]), comparison.reports[key], strict=True)
            ],
        }
        for key, own in comparison.differences.items()
    ]
    level = next(iter(comparison.reports.values()))[0].confidence_level
    return environment().get_template("comparison.html.jinja").render(
        models=comparison.models,
        cells=cells,
        catalog=CATALOG,
        level=f"{100 * level:g}%",
        notes=[*comparison.notes, *(f"{task}: {n:,} rows could not be read and were left out."
                                    for task, n in comparison.skipped_rows.items())],
        several_methods=len(comparison.methods) > 1,
        **_runs(comparison),
    )  # fmt: skip


def _runs(comparison: Comparison) -> dict[str, Any]:
    """Return what was run of each model as the rows of a table."""
    runs = {name: dict(what_was_run(own.run)) for name, own in comparison.measurements.items()}
    keys = dict.fromkeys(key for run in runs.values() for key in run)
    several = len(comparison.methods) > 1
    return {
        "runs": [f"{model} ({method})" if several else model for model, method in runs],
        "settings": [(key, [run.get(key, "–") for run in runs.values()]) for key in keys],
    }


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


# Diagrams


def reliability_svg(report: CalibrationReport) -> str:
    """Return the reliability diagram: one bar per bin with its interval and mean confidence, and the counts below."""
    parts = [
        *_frame("Confidence", "Accuracy", counts=True),
        f'<path class="ideal" d="M{_x(0)},{_y(0)}L{_x(1)},{_y(1)}"/>',
    ]
    largest = max(int(row["count"] or 0) for row in report.bins)
    critical = t_quantile(report.confidence_level, 10**6)
    for row in report.bins:
        count, accuracy, confidence = row["count"], row["accuracy"], row["confidence"]
        if not count or accuracy is None or confidence is None or row["lower"] is None or row["upper"] is None:
            continue
        left, width = _x(row["lower"]) + 1, (row["upper"] - row["lower"]) * _SIZE - 2
        low, high = wilson_interval(float(accuracy), float(count), critical)
        middle = left + width / 2
        label = (
            f"{row['lower']:.2g} to {row['upper']:.2g}: {count:,} answers, accuracy {accuracy:.1%}, "
            f"confidence {confidence:.1%}"
        )
        gap_low, gap_high = sorted((float(accuracy), float(confidence)))
        parts += [
            f"<g><title>{label}</title>",
            _rect("bar", left, _y(accuracy), width, float(accuracy) * _SIZE),
            _rect("gap", left, _y(gap_high), width, (gap_high - gap_low) * _SIZE),
            f'<path class="whisker" d="M{middle:.1f},{_y(low)}V{_y(high)}"/>',
            f'<path class="said" d="M{left:.1f},{_y(confidence)}h{width:.1f}"/>',
            _rect("count", left, _SIZE + _TOP + 98 - 50 * count / largest, width, 50 * count / largest),
            "</g>",
        ]
    parts.append(f'<text class="label" x="{_x(0)}" y="{_SIZE + _TOP + 40}">answers</text>')
    description = f"Reliability diagram, ECE {report.measures['ece'].value:.3f}"
    return _svg(parts, description, counts=True)


def risk_coverage_svg(confidences: np.ndarray, correct: np.ndarray) -> str:
    """Return the risk-coverage curve: the error rate of the most confident answers against the share kept."""
    curve = risk_coverage_curve(confidences, correct)
    chosen = np.unique(np.linspace(0, len(curve.coverage) - 1, min(_POINTS, len(curve.coverage))).astype(int))
    points = "L".join(f"{_x(curve.coverage[i])},{_y(curve.risk[i])}" for i in chosen)
    overall = float(curve.risk[-1])
    parts = [
        *_frame("Coverage (share of answers kept)", "Risk (error rate)"),
        f'<path class="ideal" d="M{_x(0)},{_y(overall)}L{_x(1)},{_y(overall)}"/>',
        f'<path class="curve" d="M{points}"/>',
    ]
    return _svg(parts, f"Risk-coverage curve; all answers kept, {overall:.1%} are wrong")


def _x(value: float | int) -> float:
    return round(_LEFT + float(value) * _SIZE, 1)


def _y(value: float | int) -> float:
    return round(_TOP + (1 - float(value)) * _SIZE, 1)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}"/>'


def _frame(horizontal: str, vertical: str, *, counts: bool = False) -> list[str]:
    parts = []
    for value in np.linspace(0, 1, 6):
        parts += [
            f'<path class="grid" d="M{_x(0)},{_y(value)}h{_SIZE}"/>',
            f'<text class="tick" x="{_x(0) - 6}" y="{_y(value) + 4}" text-anchor="end">{value:.1f}</text>',
            f'<text class="tick" x="{_x(value)}" y="{_y(0) + 16 + (98 if counts else 0)}" text-anchor="middle">'
            f"{value:.1f}</text>",
        ]
    middle = _TOP + _SIZE / 2
    parts += [
        f'<text class="label" x="{_x(0.5)}" y="{_y(0) + 34 + (98 if counts else 0)}" text-anchor="middle">'
        f"{horizontal}</text>",
        f'<text class="label" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{vertical}</text>",
    ]
    return parts


def _svg(parts: list[str], description: str, *, counts: bool = False) -> str:
    width, height = _LEFT + _SIZE + 12, _TOP + _SIZE + _BOTTOM + (98 if counts else 0)
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{description}">\n{body}\n</svg>'
