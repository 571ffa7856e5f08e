"""Model cards: rendered from measurements, and updated without touching text that people wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..confidence.registry import way_named
from ..measures import CATALOG, shown_in
from ..measures.verdict import convention_note
from .card_data import AFTER, BASE, BEFORE, PREFERENCE_PAIRS, SCALED, CalibrationCardData, DatasetReference, Evaluation
from .card_metadata import (
    HUB_URL,
    CardParts,
    card_metadata,
    evaluation_results,
    fill_in_metadata,
    is_plain_dump,
    merge_metadata,
    metadata_record,
)
from .card_sections import (
    format_record,
    handwritten_lines,
    is_boilerplate,
    merge_sections,
    read_record,
    split_sections,
)
from .errors import CardConflictError
from .escaping import Markdown, check_nothing_private, escape_markdown, is_hub_id, single_line
from .resources import resource_folder

if TYPE_CHECKING:
    import jinja2

    from ..measures import AccuracyThreshold, CalibrationReport, Measure, MeasureInfo

CARD_FILE = "README.md"
EVALUATION_RESULTS = ".eval_results/hf_calib.yaml"
PICTURE_FILE = "reliability_diagram.png"
TEMPLATE_FILE = "model_card.md.jinja"
# Names of calibration-aware fine-tuning, with or without the regularizer, in our trainers and in general use.
_CFT = re.compile(r"calibration-aware (fine-tuning|sft)|ece regularizer|\br?cft\b", re.IGNORECASE)
# The columns of the visible table in addition to the model and n; only the last one has an interval, so that a row
# fits.
_IN_SIGHT = ("accuracy", "confidence", "ece")


def render_card(data: CalibrationCardData, existing: str | None = None, *, calibrator: bool = False) -> str:
    """Render a model card.

    Parameters
    ----------
    data : CalibrationCardData
        What was measured and set.
    existing : str, optional
        The existing card. Text that people wrote outside our markers or in its metadata is kept; our sections are
        replaced.
    calibrator : bool, default False
        Whether a fitted calibrator is published with the model.

    Returns
    -------
    str
        The whole README.md; byte for byte `existing` if nothing changed.

    Raises
    ------
    CardConflictError
        If the existing card's markers or metadata are damaged.
    PrivateInformationError
        If the card would contain a token or a local path.
    """
    metadata = card_metadata(data)
    rendered = (
        _template()
        .render(
            data=data,
            metadata=Markdown(metadata.to_yaml()),
            record=Markdown(format_record(metadata_record(metadata.to_dict()))),
            kind=_kind(data, calibrator),
            headlines=[headline(data, evaluation) for evaluation in data.evaluations],
            evaluations=[evaluation_table(data, evaluation) for evaluation in data.evaluations],
            drawn=[data.stage_label(stage) for stage in _drawn_stages(data)],
            picture=Markdown(PICTURE_FILE),
            legend=legend(data),
            read_off=Markdown(way_named(data.confidence).help),
            calibrator=calibrator,
            load_id=_python_string(data.hub_model_id or data.model_name),
            facts=list(_training_facts(data)),
            settings=markdown_table(["Setting", "Value"], sorted(data.settings.items()), numeric=False)
            if data.settings
            else None,
            limits=list(_limits(data, calibrator)),
            cites_cft=data.method is not None and _CFT.search(data.method) is not None,
            # Spelled like PEFT's own line, which PEFT adds to a card that lacks it.
            versions=[("PEFT" if name == "peft" else name, version) for name, version in data.versions.items()],
        )
        .rstrip()
        + "\n"
    )
    card = rendered if existing is None else merge_cards(rendered, existing)
    check_nothing_private(card, CARD_FILE)
    return card


def _kind(data: CalibrationCardData, calibrator: bool) -> str | None:
    """Return what the model is; None if the card has figures, and nothing is known but that it is a language model."""
    if data.description or data.adapter_type:
        return data.description or f"A {data.adapter_type} adapter"
    is_known = data.base_model or data.alignment or data.method or calibrator
    return "A language model" if is_known or not data.evaluations else None


def merge_cards(new: str, existing: str, where: str = "the existing card") -> str:
    """Update an existing card: our sections and metadata come from `new`, everything else from `existing`.

    Parameters
    ----------
    new : str
        A card with our sections.
    existing : str
        The card to update, possibly written by someone else.
    where : str
        What `existing` is, for messages.

    Returns
    -------
    str
        Byte for byte `existing` if `new` changes nothing.
    """
    ours, theirs = CardParts.split(new, "the new card"), CardParts.split(existing, where)
    if is_boilerplate(theirs.body) and is_plain_dump(theirs.yaml, theirs.metadata):  # as PEFT writes it
        return ours.with_content(fill_in_metadata(ours.metadata, theirs.metadata), ours.body)
    body = merge_sections(ours.body, theirs.body, where)
    records = read_record(theirs.body), read_record(ours.body)
    return theirs.with_content(merge_metadata(ours.metadata, theirs.metadata, *records), body)


def adopt_metadata(card: str, other: str, where: str) -> str:
    """Return `card` with the metadata entries of another card that it lacks, as people add them on the Hub's site."""
    own, theirs = CardParts.split(card, "the card"), CardParts.split(other, where)
    records = read_record(theirs.body), read_record(own.body)
    metadata = merge_metadata(own.metadata, {**theirs.metadata, **own.metadata}, *records)
    return own.with_content(metadata, own.body)


def drafted_tags(path: Path) -> list[str]:
    """Return the tags of a card that nobody edited: those that libraries add when they save a model."""
    parts = CardParts.split(read_card(path), path.name) if path.is_file() else CardParts("", "", "", "")
    tags = parts.metadata.get("tags") or [] if is_boilerplate(parts.body) else []
    return [str(tag) for tag in tags if is_hub_id(str(tag).rpartition(":")[2])] if isinstance(tags, list) else []


def handwritten(card: str, where: str) -> list[str]:
    """Return the nonblank lines of a card outside our sections; none if it is the client's template."""
    return handwritten_lines(CardParts.split(card, where).body, where)


def write_card(folder: str | os.PathLike[str], data: CalibrationCardData) -> Path:
    """Write a model's card into its folder: README.md, the reliability diagram and `calibration_report.json`.

    If an evaluation set names a registered benchmark's task, the Hub's evaluation-result file is written too.

    Parameters
    ----------
    folder : path
        The folder of the adapter or model. An existing card is updated (see `render_card`).
    data : CalibrationCardData
        What was measured and set.

    Returns
    -------
    Path
        Of README.md.

    Raises
    ------
    CardConflictError, PrivateInformationError
        As `render_card`; then nothing is written.
    """
    from .calibration_metadata import has_calibrator

    folder = Path(folder)
    path = folder / CARD_FILE
    existing = read_card(path) if path.exists() else None
    card = render_card(data, existing, calibrator=has_calibrator(folder))
    folder.mkdir(parents=True, exist_ok=True)
    data.save(folder)
    if data.evaluations:
        _draw_picture(data, folder / PICTURE_FILE)
    results = evaluation_results(data)
    if results is not None:
        target = folder / EVALUATION_RESULTS
        target.parent.mkdir(exist_ok=True)
        target.write_text(results, encoding="utf-8")
    if card != existing:
        path.write_text(card, encoding="utf-8", newline="")
    return path


def read_card(path: Path) -> str:
    """Read a card without changing its line endings.

    Raises
    ------
    CardConflictError
        If it is not UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise CardConflictError(f"{path} is not UTF-8 text: {error}", "Save it as UTF-8.") from error


def check_card(path: Path) -> None:
    """Raise a CardConflictError if there is a card whose markers or metadata are damaged."""
    if path.is_file():
        parts = CardParts.split(read_card(path), str(path))
        split_sections(parts.body, str(path))
        _ = parts.metadata


def _draw_picture(data: CalibrationCardData, path: Path) -> None:
    """Draw the first evaluation set's reliability diagrams, one per model; the baseline is only in the table."""
    from ..reports import ReliabilityDisplay

    first, drawn = data.evaluations[0], _drawn_stages(data)
    # A dollar sign would start a formula.
    title, *labels = (
        single_line(text).replace("$", r"\$")
        for text in (str(first.dataset), *(data.stage_label(stage) for stage in drawn))
    )
    models = {label: first.reports[stage] for label, stage in zip(labels, drawn, strict=True)}
    ReliabilityDisplay.compare(models, title=title).save(path)


def _drawn_stages(data: CalibrationCardData) -> list[str]:
    return [stage for stage in data.evaluations[0].stages if stage != SCALED] if data.evaluations else []


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_folder("model_cards")),
        undefined=jinja2.StrictUndefined,
        finalize=escape_markdown,
        keep_trailing_newline=True,
    )
    environment.filters |= {"hub_link": _hub_link, "dataset_link": _dataset_link}
    return environment.get_template(TEMPLATE_FILE)


def _hub_link(name: str, prefix: str = "") -> Markdown:
    text = escape_markdown(name)
    return Markdown(f"[{text}]({HUB_URL}/{prefix}{name})") if "/" in name and is_hub_id(name) else text


def _dataset_link(dataset: DatasetReference) -> Markdown:
    link = _hub_link(dataset.name, "datasets/")
    extra = [escape_markdown(part) for part in (dataset.config, dataset.split) if part]
    if dataset.revision:
        extra.append(Markdown(f"revision {escape_markdown(dataset.revision)}"))
    if dataset.size is not None:
        sampled = "" if dataset.sample_of is None else f" of {dataset.sample_of:,}"
        seed = "" if dataset.sample_of is None else f", drawn with seed {dataset.sample_seed}"
        extra.append(Markdown(f"{dataset.size:,}{sampled} rows{seed}"))
    if dataset.skipped:
        extra.append(Markdown(f"{dataset.skipped:,} unreadable rows left out"))
    return Markdown(f"{link} ({', '.join(extra)})" if extra else link)


def _python_string(text: str) -> Markdown:
    """Return text as a Python string for a fenced block: one line that contains no fence."""
    return Markdown('"' + single_line(text).replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\x60") + '"')


def _fact(label: str, value: object) -> dict[str, object]:
    return {"label": label, "value": value}


def _training_facts(data: CalibrationCardData) -> Iterable[dict[str, object]]:
    if data.base_model:
        revision = f" (revision {escape_markdown(data.base_model_revision)})" if data.base_model_revision else ""
        yield _fact("Base model", Markdown(_hub_link(data.base_model) + revision))
    if data.alignment:
        yield _fact("Alignment", data.alignment)
    if data.preference_data:
        yield _fact("Preference data", _dataset_link(data.preference_data))
    if data.method:
        yield _fact("Calibration method", data.method)
    if data.calibration_data:
        labels = {True: ", used without answers", False: "", None: ""}[data.label_free]
        origin = f"; {escape_markdown(data.calibration_data.origin)}" if data.calibration_data.origin else ""
        yield _fact("Calibration data", Markdown(_dataset_link(data.calibration_data) + labels + origin))
    if data.hardware:
        yield _fact("Hardware", data.hardware)
    if data.duration_seconds is not None:
        yield _fact("Training time", _duration(data.duration_seconds))
    if data.energy_kwh is not None:
        yield _fact("Energy", f"{data.energy_kwh:.3g} kWh")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _limits(data: CalibrationCardData, calibrator: bool) -> Iterable[object]:
    was_calibrated = bool(data.method or data.calibration_data)
    done = "Calibrated" if was_calibrated else "Recalibrated and measured" if calibrator else "Measured"
    asked, others = "multiple-choice questions", "free-form answers"
    if data.free_form:
        asked, others = "free-form questions", "multiple-choice answers"
    on_pairs = data.calibration_data is not None and data.calibration_data.name == PREFERENCE_PAIRS
    yield (
        f"For research on the calibration of language models, and for {asked} like those that it was "
        f"{'measured' if on_pairs else done.lower()} on. The confidence is read off "
        f"{way_named(data.confidence).help}; it says nothing about {others}."
    )
    with_what = []
    if data.calibration_data:
        kind = "tokens" if on_pairs else "questions"
        with_what.append(f"{kind} from {_dataset_link(data.calibration_data)}")
    if data.option_counts:
        counts = " or ".join(map(str, sorted(set(data.option_counts))))
        with_what.append(f"{counts} options per question")
    if data.prompt_format:
        with_what.append("the prompt format in hf_calib.json")
    if with_what:
        yield Markdown(f"{done} with {', '.join(with_what)}; with others the figures above may not hold.")
    if not was_calibrated and not calibrator:
        if data.settings.get("preference_weight"):
            left = "The preferences' probability was regularized, but nothing was done to calibrate the answers"
        else:
            left = "Nothing was done here to calibrate it"
        yield f"{left}; the card reports what was measured."
    if data.subjects:
        shown = ", ".join(escape_markdown(subject) for subject in data.subjects[:20])
        more = f" and {len(data.subjects) - 20} more" if len(data.subjects) > 20 else ""
        yield Markdown(f"Subjects it was calibrated on: {shown}{more}.")
    if was_calibrated and data.evaluations and all(evaluation.in_domain for evaluation in data.evaluations):
        yield "Not measured on subjects other than those it was calibrated on."
    yield "Calibration is a property of many answers together: a single answer given with 90% can be wrong."


# Tables


def format_measure(measure: Measure) -> Markdown:
    """Return a measure as `0.123 [0.101, 0.145]`, or only its value if there is no interval."""
    if measure.low is None or measure.high is None:
        return Markdown(f"{measure.value:.3f}")
    return _unbroken(f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]")


def _cell(measure: Measure | None) -> str:
    return "–" if measure is None else format_measure(measure)


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
    which = "All answers" if own.threshold == 0 else f"Answers with a confidence above {own.shown()}"
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
            yield [_heading(info), *map(_cell, cells)]


def _description(data: CalibrationCardData, evaluation: Evaluation) -> Markdown:
    dataset = evaluation.dataset
    domain = {True: "In domain. ", False: "Out of domain. ", None: ""}[evaluation.in_domain]
    revision = f"Revision {escape_markdown(dataset.revision)}. " if dataset.revision else ""
    skipped = f"{dataset.skipped:,} unreadable rows left out. " if dataset.skipped else ""
    sampled = ""
    if dataset.sample_of is not None:
        sampled = f"Questions drawn at random from {dataset.sample_of:,} (seed {dataset.sample_seed}). "
    origin = f"{escape_markdown(dataset.origin[0].upper() + dataset.origin[1:])}. " if dataset.origin else ""
    level = 100 * evaluation.reports[AFTER].confidence_level
    conventions = {data.stage_label(stage): evaluation.reports[stage].ece_convention for stage in evaluation.stages}
    note = escape_markdown(convention_note(conventions))
    return Markdown(f"{domain}{origin}{revision}{sampled}{skipped}In brackets, {level:g}% intervals. {note}")


def _group_rows(data: CalibrationCardData, reports: Mapping[str, CalibrationReport]) -> Iterable[list[str]]:
    for subject in reports[AFTER].groups or ():
        for stage, report in reports.items():
            if subject in (report.groups or ()):
                group = report.groups[subject]
                cells = [group.measures.get(info.key) for info in shown_in("groups")]
                yield [f"{subject}, {data.stage_label(stage)}", f"{group.n:,}", *map(_cell, cells)]


def headline(data: CalibrationCardData, evaluation: Evaluation) -> dict[str, Any]:
    """Return the summary of one evaluation set: the verdict, and the numbers of the model compared with."""
    after = evaluation.reports[AFTER]
    compared = next((stage for stage in (BEFORE, BASE) if stage in evaluation.reports), None)
    return {
        "dataset": str(evaluation.dataset),
        "n": f"{after.n:,}",
        "verdict": _without_remedies(after).verdict,
        "compared": None if compared is None else data.stage_in_sentence(compared),
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
