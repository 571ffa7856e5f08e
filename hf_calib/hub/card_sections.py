"""A card's body: our marked sections, and text that people wrote outside the markers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .errors import CardConflictError

_MARKER = re.compile(r"^<!-- (?P<end>/?)hf_calib:(?P<name>[a-z_]+)(?: [^\n]*)?-->[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
_RECORD = re.compile(r"^<!-- hf_calib_record (?P<json>\{.*\}) -->", re.MULTILINE)
# What PEFT appends to a card when it saves, in addition to the client's template.
_PEFT_LINE = re.compile(
    r"- PEFT \S+|### Framework versions|## Training procedure|- \w+: .*|The following `bitsandbytes`.*"
)


@dataclass(frozen=True)
class Part:
    """A part of a card's body: one of our sections, including its markers, or other text (`name` is None)."""

    text: str
    name: str | None = None


def split_sections(body: str, where: str = "the card") -> list[Part]:
    """Split a card's body at our markers.

    Parameters
    ----------
    body : str
        The card without its metadata block.
    where : str
        Name of the card for the message.

    Returns
    -------
    list of Part
        In order; their joined texts are `body`.

    Raises
    ------
    CardConflictError
        If a marker is missing, duplicated or inside another section, with its line: replacing a section with an
        unknown end could delete text that a person wrote.
    """
    parts: list[Part] = []
    seen: set[str] = set()
    position, open_marker = 0, None

    def fail(marker: re.Match[str], problem: str) -> CardConflictError:
        line = body.count("\n", 0, marker.start()) + 1
        return CardConflictError(
            f"In {where}, line {line} below the metadata: {problem}.",
            "Each section of ours stands once, between <!-- hf_calib:NAME --> and <!-- /hf_calib:NAME -->. "
            "Restore the missing marker or delete both.",
        )

    for marker in _MARKER.finditer(body):
        name = marker["name"]
        if open_marker is None:
            if marker["end"]:
                raise fail(marker, f"the section {name!r} ends but does not begin")
            if name in seen:
                raise fail(marker, f"the section {name!r} begins a second time")
            if marker.start() > position:
                parts.append(Part(body[position : marker.start()]))
            position, open_marker = marker.start(), marker
            seen.add(name)
        elif marker["end"] and name == open_marker["name"]:
            parts.append(Part(body[position : marker.end()], name))
            position, open_marker = marker.end(), None
        else:
            raise fail(marker, f"the section {open_marker['name']!r} has not ended before this marker of {name!r}")
    if open_marker is not None:
        raise fail(open_marker, f"the section {open_marker['name']!r} begins but does not end")
    if position < len(body):
        parts.append(Part(body[position:]))
    return parts


def handwritten_lines(body: str, where: str) -> list[str]:
    """Return the nonblank lines outside our sections; none if nobody wrote anything."""
    text = "\n".join(part.text for part in split_sections(body, where) if part.name is None)
    return [] if is_boilerplate(text) else [line.strip() for line in text.splitlines() if line.strip()]


def merge_sections(new_body: str, existing_body: str, where: str = "the existing card") -> str:
    """Put the new sections into an existing body, leaving everything else unchanged.

    A section keeps its place, one that is no longer rendered is removed, and a new one comes after the section that it
    follows in `new_body`. A body with only the client's unfilled template is replaced entirely.

    Returns
    -------
    str
        Byte for byte `existing_body` if its sections equal the new ones.

    Raises
    ------
    CardConflictError
        As `split_sections`.
    """
    existing = split_sections(existing_body, where)
    if all(part.name is None for part in existing) and is_boilerplate(existing_body):
        return new_body
    newline = "\r\n" if "\r\n" in existing_body else "\n"
    sections = {
        part.name: part.text.replace("\r\n", "\n").replace("\n", newline)
        for part in split_sections(new_body)
        if part.name is not None
    }
    present = [part.name for part in existing if part.name in sections]
    result = [Part(sections[part.name], part.name) if part.name in sections else part for part in existing]
    result = _without(result, {part.name for part in existing if part.name} - sections.keys(), newline)
    previous = None
    for name, text in sections.items():
        if name not in present:
            result = _insert(result, Part(text, name), after=previous, newline=newline)
        previous = name
    return "".join(part.text for part in result)


def read_record(body: str) -> dict[str, Any]:
    """Return the metadata that our last version of the card wrote, from its record; empty if there is none."""
    match = _RECORD.search(body)
    if match is None:
        return {}
    try:
        record = json.loads(match["json"])
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def format_record(metadata: dict[str, Any]) -> str:
    """Return a comment with this version's metadata, which `read_record` reads."""
    text = json.dumps(metadata, sort_keys=True)
    # It must contain neither the end of a comment nor a line break.
    for characters in ("<", ">", "&", "--"):
        text = text.replace(characters, "".join(f"\\u{ord(character):04x}" for character in characters))
    return f"<!-- hf_calib_record {text} -->"


def _without(parts: list[Part], names: set[str], newline: str) -> list[Part]:
    """Remove sections, each with the blank line after it."""
    kept: list[Part] = []
    for part in parts:
        doubled = part.name is None and not part.text.strip() and kept and kept[-1].name is None
        if part.name in names or (doubled and (not kept[-1].text.strip() or kept[-1].text.endswith(newline * 2))):
            continue
        kept.append(part)
    return kept


def _insert(parts: list[Part], new: Part, after: str | None, newline: str) -> list[Part]:
    names = [part.name for part in parts]
    if after in names and after is not None:
        index = names.index(after) + 1
    else:
        index = next((i for i, name in enumerate(names) if name is not None), len(parts))
    before = "".join(part.text for part in parts[:index])
    gap = "" if not before or before.endswith(newline * 2) else newline if before.endswith(newline) else newline * 2
    following = newline if index < len(parts) and not parts[index].text.startswith(newline) else ""
    return [*parts[:index], Part(gap), new, Part(following), *parts[index:]]


def is_boilerplate(body: str) -> bool:
    """Return whether every line comes from the client's card template or from PEFT's additions."""
    from huggingface_hub import ModelCard, ModelCardData

    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if not lines:
        return True
    template = {line.strip() for line in ModelCard.from_template(ModelCardData()).text.splitlines()}
    return all(line in template or _PEFT_LINE.fullmatch(line) for line in lines)
