"""The YAML block of a card: generated, checked by the client's classes, and merged without loss."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

from .._version import __version__
from ..confidence.registry import way_named
from ..measures import CATALOG, Measure
from .card_data import AFTER, CalibrationCardData, Evaluation
from .errors import CardConflictError
from .escaping import is_hub_id, single_line

TASK_TYPE, FREE_FORM_TASK_TYPE = "multiple-choice", "question-answering"
HUB_URL = "https://huggingface.co"
# Six decimals are far more precise than any interval, and keep rounding errors out of the card's history.
_DIGITS = 6

_EMPTY_BLOCK = re.compile(r"(\s*---(\r\n|\r|\n))(?=---[ \t]*(?:\r\n|\n|\Z))")
_UNCLOSED_BLOCK = re.compile(r"\s*---[ \t]*[\r\n]+[ \t]*[\w\"'-]+[ \t]*:")
_COMMENTS_BEFORE = re.compile(r"(?<=\n)(?:[ \t]*(?:#[^\n]*)?\n)+\Z")
_OURS_UNLESS_EDITED = ("library_name", "base_model", "base_model_relation", "pipeline_tag", "license", "language")
_LISTS = ("datasets", "metrics", "tags")
_MODEL_INDEX = "model-index"
_CORRECT = "Correct the block between the lines --- at its beginning."
_ADAPTER_TAG = "base_model:adapter:"


def card_metadata(data: CalibrationCardData) -> ModelCardData:
    """Return the Hub's metadata for a card.

    Returns
    -------
    huggingface_hub.ModelCardData
        With a `model-index` of ECE and accuracy for every evaluation set. Local base models and datasets are left out,
        since the Hub accepts ids only.
    """
    used = [reference for reference in (data.preference_data, data.calibration_data) if reference is not None]
    datasets = list(dict.fromkeys(reference.name for reference in used if reference.on_hub))
    tags = {"hf_calib", "calibration", *map(single_line, data.tags)} | (set() if data.free_form else {TASK_TYPE})
    if data.adapter_type:
        # The tags that PEFT adds when it saves, so that a card does not depend on who wrote it first.
        tags |= {data.adapter_type.lower(), "transformers"}
        tags |= {f"{_ADAPTER_TAG}{data.base_model}"} if data.base_model_on_hub else set()
    return ModelCardData(
        library_name="peft" if data.adapter_type else "transformers",
        base_model=data.base_model if data.base_model_on_hub else None,
        base_model_relation="adapter" if data.adapter_type and data.base_model_on_hub else None,
        datasets=datasets or None,
        metrics=["accuracy", "ece"] if data.evaluations else None,
        pipeline_tag="text-generation",
        tags=sorted(tags),
        license=data.license,
        language=data.language,
        # Without results the client would write it as a separate key, which the Hub does not know.
        model_name=single_line(data.model_name) if data.evaluations else None,
        eval_results=[result for evaluation in data.evaluations for result in _eval_results(data, evaluation)] or None,
    )


def _eval_results(data: CalibrationCardData, evaluation: Evaluation) -> list[EvalResult]:
    report, dataset = evaluation.reports[AFTER], evaluation.dataset
    n_bins = len(report.bins)
    shared: dict[str, Any] = {
        "task_type": FREE_FORM_TASK_TYPE if data.free_form else TASK_TYPE,
        "task_name": "Question answering" if data.free_form else "Multiple choice",
        "dataset_type": single_line(dataset.name),
        "dataset_name": single_line(dataset),
        "dataset_config": dataset.config,
        "dataset_split": dataset.split,
        "dataset_revision": dataset.revision,
        **_source(data),
    }
    # `verified` stays unset: only the Hub's own evaluation service may set it.
    return [
        EvalResult(
            metric_type="ece",
            metric_name=f"Expected calibration error ({n_bins} bins)",
            metric_value=round(report.measures["ece"].value, _DIGITS),
            metric_args={"n_bins": n_bins},
            **shared,
        ),
        EvalResult(
            metric_type="accuracy",
            metric_name="Accuracy",
            metric_value=round(report.measures["accuracy"].value, _DIGITS),
            **shared,
        ),
    ]


def evaluation_results(data: CalibrationCardData) -> str | None:
    """Return the Hub's evaluation-result file, with an entry for every registered benchmark's task.

    A task that has the name of a measure, such as `ece`, `brier` or `kl`, gets that measure, where the questions have
    gold distributions the distance from these; any other task gets the accuracy.

    Returns
    -------
    str or None
        The YAML text; None if no set names a registered task, or the client does not support these files.

    Warns
    -----
    UserWarning
        If a task is named after a measure that the report lacks, or that has no finite value; it gets no entry.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        return None
    entries = [
        EvalResultEntry(
            dataset_id=evaluation.dataset.name,
            task_id=task_id,
            dataset_revision=evaluation.dataset.revision,
            value=round(measure.value, _DIGITS),
            notes=f"confidence read off {way_named(data.confidence).help}, n = {evaluation.reports[AFTER].n}, "
            f"ECE {evaluation.reports[AFTER].measures['ece'].value:.3f}",
            **_source(data),
        )
        for evaluation in data.evaluations
        if evaluation.dataset.on_hub
        for task_id in evaluation.dataset.task_ids
        if (measure := _measure_of_task(evaluation, task_id)) is not None
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False) if entries else None


def _measure_of_task(evaluation: Evaluation, task_id: str) -> Measure | None:
    """Return the measure that a benchmark's task asks for; None, with a warning, if the report lacks it."""
    measures = evaluation.reports[AFTER].measures
    named = [key for key in (f"{task_id}_from_gold", task_id) if key in CATALOG] or ["accuracy"]
    for key in named:
        if key in measures and math.isfinite(measures[key].value):
            return measures[key]
    warnings.warn(
        f"task_id: {evaluation.dataset} has no {named[0]}, so the results file has no entry for the task {task_id!r}; "
        f"measure it on questions for which {named[0]} is defined, or leave the task out",
        stacklevel=2,
    )
    return None


def _source(data: CalibrationCardData) -> dict[str, Any]:
    """Return the report's file as the source of the results."""
    if data.hub_model_id is None:
        return {}
    return {
        "source_name": f"hf_calib {__version__}",
        "source_url": f"{HUB_URL}/{data.hub_model_id}/blob/main/calibration_report.json",
    }


@dataclass(frozen=True)
class CardParts:
    """A card split into pieces; joined, they are byte for byte the card.

    Parameters
    ----------
    opening, closing : str
        The fences around the metadata; empty if the card has none.
    yaml, body : str
    """

    opening: str
    yaml: str
    closing: str
    body: str
    where: str = "the card"

    @classmethod
    def split(cls, card: str, where: str) -> CardParts:
        """Split a card; `where` names it in messages.

        Raises
        ------
        CardConflictError
            If a metadata block begins but does not end.
        """
        empty = _EMPTY_BLOCK.match(card)
        if empty is not None:
            return cls(empty[1], "", "", card[empty.end() :], where)
        match = REGEX_YAML_BLOCK.search(card)
        if match is None:
            if _UNCLOSED_BLOCK.match(card):
                raise CardConflictError(
                    f"The metadata of {where} begin with a line --- and have no such line at their end.",
                    "Add a line --- between the metadata and the text.",
                )
            return cls("", "", "", card, where)
        return cls(match[1], match[2], match[3], card[match.end() :], where)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The metadata, checked by the client's class.

        Raises
        ------
        CardConflictError
            If they are not a YAML mapping, or the client cannot read them.
        """
        try:
            metadata = yaml.safe_load(self.yaml)
        except yaml.YAMLError as error:
            raise CardConflictError(f"The metadata of {self.where} are invalid YAML: {error}", _CORRECT) from error
        if metadata is None:
            return {}
        self._check_keys()
        if not isinstance(metadata, dict):
            raise CardConflictError(
                f"The metadata of {self.where} are a {type(metadata).__name__}, not a mapping (key: value).", _CORRECT
            )
        try:
            ModelCardData(**{str(key): value for key, value in metadata.items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise CardConflictError(
                f"huggingface_hub cannot read the metadata of {self.where}: {error}", _CORRECT
            ) from error
        return metadata

    @property
    def newline(self) -> str:
        """The card's line endings."""
        return "\r\n" if "\r\n" in (self.opening or self.body) else "\n"

    def _check_keys(self) -> None:
        """Reject a duplicate key, of which YAML would drop the first."""
        node = yaml.compose(self.yaml, Loader=yaml.SafeLoader)
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise CardConflictError(f"The metadata of {self.where} have {', '.join(twice)} more than once.", _CORRECT)

    def with_content(self, metadata: dict[str, Any], body: str) -> str:
        """Return the card with new metadata and a new body; byte for byte the same card if neither changed."""
        if self.opening and not self.closing:  # an empty block; the body begins with its second fence
            return self.opening + _dump(metadata, self.newline) + self.newline + body
        if self.opening:
            return self.opening + update_yaml(self.yaml, metadata, self.newline) + self.closing + body
        newline = self.newline
        gap = "" if body.startswith(newline) else newline
        return f"---{newline}{_dump(metadata, newline)}{newline}---{newline}{gap}{body}"


def metadata_record(ours: dict[str, Any]) -> dict[str, Any]:
    """Return a record of this version's metadata, which tells a later version what people added."""
    record = {key: ours[key] for key in (*_OURS_UNLESS_EDITED, *_LISTS) if key in ours}
    results = [
        {
            "task": {"type": result["task"]["type"]},
            "dataset": {key: value for key, value in result["dataset"].items() if key != "name"},
            "metrics": [{"type": metric["type"]} for metric in result["metrics"]],
        }
        for entry in ours.get(_MODEL_INDEX, ())
        for result in entry["results"]
    ]
    name = ours[_MODEL_INDEX][0]["name"] if results else None
    return {**record, _MODEL_INDEX: [{"name": name, "results": results}]} if results else record


def merge_metadata(
    ours: dict[str, Any], existing: dict[str, Any], record: dict[str, Any], new_record: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Bring an existing card's metadata up to date.

    Parameters
    ----------
    ours : dict
        The metadata of a new card.
    existing : dict
        The current metadata, including manual additions.
    record : dict
        What our last version wrote, from `metadata_record`.
    new_record : dict, optional
        The record of the new card; pass it if people may also have added to that card's metadata.

    Returns
    -------
    dict
        In the order of `existing`, or of `ours` if nobody added a key. Values, list entries and model-index results
        that our last version wrote and that are outdated are replaced or removed; what people wrote and results that
        the Hub verified are kept. A local path, which libraries write as the base model, is removed.
    """
    result = dict(existing)
    for key in _OURS_UNLESS_EDITED:
        value, written = existing.get(key), record.get(key)
        if key == "base_model" and isinstance(value, list):
            result[key] = _merge_base_models(value, ours.get(key), written)
        elif value in (None, written) or (key == "base_model" and isinstance(value, str) and not is_hub_id(value)):
            result.pop(key, None) if key not in ours else result.update({key: ours[key]})
    for key in _LISTS:
        entries = existing.get(key) or []
        entries = entries if isinstance(entries, list) else [entries]
        outdated = set(map(str, record.get(key) or ())) - set(map(str, ours.get(key) or ()))
        merged = [entry for entry in entries if str(entry) not in outdated and not _names_place(entry)]
        missing = [entry for entry in ours.get(key) or () if entry not in merged]
        merged = [*ours[key]] if missing and len(merged) + len(missing) == len(ours[key]) else [*merged, *missing]
        if merged != entries:
            result[key] = merged
        if not merged:
            result.pop(key, None)
    written_name = next((entry.get("name") for entry in (new_record or {}).get(_MODEL_INDEX) or ()), None)
    mine = [entry for entry in ours.get(_MODEL_INDEX) or () if written_name in (None, entry.get("name"))]
    index = _merge_model_index(mine, existing.get(_MODEL_INDEX), record.get(_MODEL_INDEX))
    known = {entry.get("name") for entry in index}
    index += [entry for entry in ours.get(_MODEL_INDEX) or () if entry not in mine and entry.get("name") not in known]
    if index:
        result[_MODEL_INDEX] = index
    else:
        result.pop(_MODEL_INDEX, None)
    return {key: result[key] for key in ours} if result.keys() == ours.keys() else result


def _merge_base_models(models: list[Any], ours: str | None, written: Any) -> list[Any]:
    """Return a list of base models with ours in place of the one from our last version, or at the end."""
    if written != ours:
        models = [model for model in models if model != written]
    return models if ours is None or ours in models else [*models, ours]


def _names_place(entry: Any) -> bool:
    """Whether PEFT wrote the base model's local path into the tags."""
    return isinstance(entry, str) and entry.startswith(_ADAPTER_TAG) and not is_hub_id(entry[len(_ADAPTER_TAG) :])


def fill_in_metadata(ours: dict[str, Any], existing: dict[str, Any]) -> dict[str, Any]:
    """Return a new card's metadata with what a generated draft adds, mainly tags."""
    tags = existing.get("tags")
    drafted: dict[str, Any] = {key: existing[key] for key in _OURS_UNLESS_EDITED if key in existing and key in ours}
    if isinstance(tags, list):
        drafted["tags"] = [tag for tag in tags if str(tag).startswith(_ADAPTER_TAG)]
    merged = merge_metadata(ours, existing, drafted)
    if "tags" in merged:
        merged["tags"] = sorted(merged["tags"], key=str)
    return {key: merged[key] for key in (*ours, *(key for key in merged if key not in ours))}


def _identity(result: dict[str, Any]) -> tuple[str, ...]:
    """The key by which the Hub distinguishes results."""
    dataset = result.get("dataset") or {}
    parts = (
        (result.get("task") or {}).get("type"),
        *(dataset.get(k) for k in ("type", "config", "split", "revision")),
    )
    return tuple("" if part is None else str(part) for part in parts)


def _merge_model_index(ours: Any, existing: Any, record: Any) -> list[dict[str, Any]]:
    if not existing:
        return [*(ours or ())]
    new = {_identity(result): result for entry in ours or () for result in entry["results"]}
    written = {
        (_identity(result), metric.get("type"))
        for entry in record or ()
        for result in entry["results"]
        for metric in result["metrics"]
    }
    own = _own_place(ours, existing, record)
    merged: list[dict[str, Any]] = []
    for place, entry in enumerate(existing):
        results = entry.get("results") or []
        if place != own:
            merged.append(entry)
            continue
        kept = [_merge_result(result, new.pop(_identity(result), None), written) for result in results]
        updated = [*(result for result in kept if result is not None), *new.values()]
        # Earlier versions did not record the name.
        ours_by_name = not record or entry.get("name") == record[0].get("name", entry.get("name"))
        name = {"name": ours[0]["name"]} if ours and ours_by_name else {}
        if updated or not results:
            merged.append({**entry, **name, "results": updated})
    return [*merged, *(ours or ())] if own is None else merged


def _own_place(ours: Any, existing: Any, record: Any) -> int | None:
    """Return the index of this model's entry: the one with its name, or with results that we wrote."""
    names = {entry.get("name") for entry in (*(ours or ()), *(record or ()))} - {None}
    written = {_identity(result) for entry in record or () for result in entry["results"]}
    for place, entry in enumerate(existing):
        if entry.get("name") in names:
            return place
    for place, entry in enumerate(existing):
        if written.intersection(map(_identity, entry.get("results") or ())):
            return place
    return None


def _merge_result(
    result: dict[str, Any], new: dict[str, Any] | None, written: set[tuple[tuple[str, ...], Any]]
) -> dict[str, Any] | None:
    """Return a result with our new metrics instead of our old ones; None if nothing is left."""
    identity, metrics, fresh = _identity(result), result.get("metrics") or [], new["metrics"] if new else []
    same = {(metric["type"], metric.get("name")) for metric in fresh}
    kept = [
        metric
        for metric in metrics
        if metric.get("verified")
        or ((identity, metric.get("type")) not in written and (metric.get("type"), metric.get("name")) not in same)
    ]
    verified = {metric.get("type") for metric in kept if metric.get("verified")}
    merged = [*(metric for metric in fresh if metric["type"] not in verified), *kept]
    if metrics and not merged:
        return None
    return {**result, **(new or {}), "metrics": merged} if merged else result


def update_yaml(text: str, metadata: dict[str, Any], newline: str) -> str:
    """Update a YAML block to `metadata`, rewriting only the top-level entries that change.

    Comments and layout of the other entries are kept and, as far as possible, the comments of changed ones. If nothing
    changes, the block itself is returned.
    """
    old = yaml.safe_load(text) or {}
    if old == metadata:
        return text
    if text.strip() and yaml.compose(text, Loader=yaml.SafeLoader) is None:  # only comments
        return text + newline + _dump(metadata, newline)
    if is_plain_dump(text, old):
        return _dump(metadata, newline)
    chunks = _top_level_chunks(text)
    if chunks is not None and len(chunks) == len(old):
        pieces = [
            _rewritten(chunk, key, old.get(key), metadata[key], newline)
            for key, chunk in zip(old, chunks, strict=True)
            if key in metadata
        ]
        pieces += [_dump({key: value}, newline) for key, value in metadata.items() if key not in old]
        updated = newline.join(piece for piece in pieces if piece)
        try:
            if yaml.safe_load(updated) == metadata:
                return updated
        except yaml.YAMLError:  # an anchor was removed with its entry, so the whole block is written anew
            pass
    return _dump(metadata, newline)


def _rewritten(chunk: str, key: Any, old: Any, new: Any, newline: str) -> str:
    """Return an entry's text with a new value; surrounding comments and unchanged lines of a list are kept."""
    chunk = chunk.rstrip("\r\n")
    if old == new and type(old) is type(new):
        return chunk
    try:
        mapping = yaml.compose(chunk, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # an anchor is in another entry
        return _dump({key: new}, newline)
    assert mapping is not None
    ((name, node),) = mapping.value
    end = _end_of(node)
    stop = len(chunk) if (found := chunk.find("\n", end)) < 0 else found
    after = chunk[stop:].rstrip()
    if isinstance(new, list) and isinstance(old, list) and not node.flow_style:
        starts = [chunk.rindex("\n", 0, entry.start_mark.index) + 1 for entry in node.value]
        texts = [chunk[one:two] for one, two in pairwise([*starts, stop])]
        kept: list[str] = []
        for text, entry in zip(texts, old, strict=True):
            if len(kept) < len(new) and new[len(kept)] == entry:
                kept.append(text.rstrip())
        indent = " " * node.start_mark.column
        added = [indent + line for line in _dump(new[len(kept) :], newline).split(newline)] if new[len(kept) :] else []
        return newline.join([chunk[: starts[0]].rstrip(), *kept, *added]) + after
    first, *more = _dump({key: new}, newline).split(newline)
    comment = chunk[end:stop].strip()
    first += f"  {comment}" if comment.startswith("#") else ""
    return newline.join([chunk[: name.start_mark.index] + first, *more]) + after


def _end_of(node: yaml.Node) -> int:
    """Return the end of a value's last node; a block only ends where the next one begins, after comments."""
    while isinstance(node.value, list) and node.value and not node.flow_style:  # type: ignore[attr-defined]
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node.end_mark.index


def is_plain_dump(text: str, metadata: dict[str, Any]) -> bool:
    """Return whether a YAML block is as a program writes it, without a person's comments and layout."""
    return text == _dump(metadata, "\r\n" if "\r\n" in text else "\n")


def _dump(metadata: Any, newline: str) -> str:
    return re.sub(r"\r?\n", newline, yaml_dump(metadata, sort_keys=False).strip())


def _top_level_chunks(text: str) -> list[str] | None:
    """Split a block-style mapping into its entries' texts, each with the comments above it."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return None
    starts = [0]
    for key, _ in node.value[1:]:
        comments = _COMMENTS_BEFORE.search(text, starts[-1], key.start_mark.index)
        starts.append(comments.start() if comments else key.start_mark.index)
    starts.append(len(text))
    return [text[start:end] for start, end in pairwise(starts)]
