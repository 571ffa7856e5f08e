"""Model cards: rendered from measurements, and updated without touching text that people wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..confidence.registry import way_named
from .card_data import SCALED, CalibrationCardData, DatasetReference
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
from .card_sections import format_record, handwritten_lines, is_boilerplate, merge_sections, read_record
from .card_tables import evaluation_table, headline, legend, markdown_table
from .escaping import Markdown, check_nothing_private, escape_markdown, is_hub_id, single_line
from .resources import resource_folder

if TYPE_CHECKING:
    import jinja2

CARD_FILE = "README.md"
EVALUATION_RESULTS = ".eval_results/hf_calib.yaml"
PICTURE_FILE = "reliability_diagram.png"
TEMPLATE_FILE = "model_card.md.jinja"
# Names of calibration-aware fine-tuning, with or without the regularizer, in our trainers and in general use.
_CFT = re.compile(r"calibration-aware (fine-tuning|sft)|ece regularizer|\br?cft\b", re.IGNORECASE)


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
            kind=data.description or (f"A {data.adapter_type} adapter" if data.adapter_type else "A language model"),
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
    return theirs.with_content(merge_metadata(ours.metadata, theirs.metadata, read_record(theirs.body)), body)


def adopt_metadata(card: str, other: str, where: str) -> str:
    """Return `card` with the metadata entries of another card that it lacks, as people add them on the Hub's site."""
    own, theirs = CardParts.split(card, "the card"), CardParts.split(other, where)
    metadata = merge_metadata(own.metadata, {**theirs.metadata, **own.metadata}, read_record(theirs.body))
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
    from .calibration_metadata import CALIBRATOR_FILE

    folder = Path(folder)
    path = folder / CARD_FILE
    existing = read_card(path) if path.exists() else None
    card = render_card(data, existing, calibrator=(folder / CALIBRATOR_FILE).exists())
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
    """Read a card without changing its line endings."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return file.read()


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
        extra.append(Markdown(f"{dataset.size:,} rows"))
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
    yield (
        f"For research on the calibration of language models, and for {asked} like those that it was {done.lower()} "
        f"on. The confidence is read off {way_named(data.confidence).help}; it says nothing about {others}."
    )
    with_what = []
    if data.calibration_data:
        with_what.append(f"questions from {_dataset_link(data.calibration_data)}")
    if data.option_counts:
        counts = " or ".join(map(str, sorted(set(data.option_counts))))
        with_what.append(f"{counts} options per question")
    if data.prompt_format:
        with_what.append("the prompt format in hf_calib.json")
    if with_what:
        yield Markdown(f"{done} with {', '.join(with_what)}; with others the figures above may not hold.")
    if not was_calibrated and not calibrator:
        yield "Nothing was done here to calibrate it; the card reports what was measured."
    if data.subjects:
        shown = ", ".join(escape_markdown(subject) for subject in data.subjects[:20])
        more = f" and {len(data.subjects) - 20} more" if len(data.subjects) > 20 else ""
        yield Markdown(f"Subjects it was calibrated on: {shown}{more}.")
    if was_calibrated and data.evaluations and all(evaluation.in_domain for evaluation in data.evaluations):
        yield "Not measured on subjects other than those it was calibrated on."
    yield "Calibration is a property of many answers together: a single answer given with 90% can be wrong."
