"""Rows of data files, each with its place for error messages."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .questions import QuestionError

PlacedRow = tuple[str, Mapping[str, Any]]
"""Where a row stands, and the row."""

PlacedRowOrError = tuple[str, Mapping[str, Any] | QuestionError]
"""Where a row stands, and the row or why it cannot be read."""


class StructRow(dict[str, Any]):
    """A row of Arrow structs, in which each object has the keys of all rows, with None for those that it lacks."""


def struct_rows(rows: Iterable[Any]) -> Iterable[Any]:
    """Return rows as they are, those of a `datasets.Dataset` with columns of structs as `StructRow`."""
    features = getattr(rows, "features", None) or {}
    return map(StructRow, rows) if any(isinstance(own, dict) for own in features.values()) else rows


def file_rows(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a JSON, JSON Lines, CSV, TSV or Parquet file.

    Raises
    ------
    QuestionError
        If the file has another format, or not the one that its name says; with the file and the line.
    """
    for place, row in file_rows_and_errors(path):
        if isinstance(row, QuestionError):
            raise QuestionError(f"{place}: {row}")
        yield place, row


def file_rows_and_errors(path: Path) -> Iterator[PlacedRowOrError]:
    """Yield a file's rows like `file_rows`, with an error in place of each unreadable row.

    Raises
    ------
    QuestionError
        If the file as a whole cannot be read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise QuestionError(f"{str(path)!r}: questions are read from {', '.join(READERS)} files")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise QuestionError(
            f"{path} is not in UTF-8 (byte 0x{error.object[error.start]:02x} does not belong there); save it as UTF-8"
        ) from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, as the `object_pairs_hook` of `json.loads`, which alone keeps the last of equal keys.

    Raises
    ------
    ValueError
        If a key appears more than once.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = sorted(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {', '.join(map(repr, twice))} appears more than once")
    return found


def _json_lines(path: Path) -> Iterator[PlacedRowOrError]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                row = json.loads(line.rstrip(), object_pairs_hook=unique_keys)
            except json.JSONDecodeError as error:
                yield f"{place}, column {error.colno}", QuestionError(error.msg)
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
                yield place, QuestionError(str(error))
            else:
                yield place, _object(row)


def _json(path: Path) -> Iterator[PlacedRowOrError]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        rows = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip()[0] == "{":  # one object per line, which many tools name .json
            yield from _json_lines(path)
            return
        raise QuestionError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"{path}: {error}") from None
    if not isinstance(rows, list):
        raise QuestionError(f"{path} holds one {type(rows).__name__}; expected a list of rows, or one object a line")
    for number, row in enumerate(rows):
        yield f"{path}, row {number}", _object(row)


def _object(row: Any) -> Mapping[str, Any] | QuestionError:
    if not isinstance(row, Mapping):
        return QuestionError(f"expected an object with columns, found {repr(row)[:80]}")
    return row


def _table(delimiter: str) -> Callable[[Path], Iterator[PlacedRowOrError]]:
    def read(path: Path) -> Iterator[PlacedRowOrError]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns: list[str] = []
            start = 1  # the line on which a row begins, since quoted fields may span several
            try:
                for fields in reader:
                    place, start = f"{path}, line {start}", reader.line_num + 1
                    if not fields:
                        continue
                    if not columns:
                        columns = _header(fields, place, delimiter)
                        continue
                    if len(fields) != len(columns):
                        yield (
                            place,
                            QuestionError(
                                f"{len(fields)} fields, but there are the {len(columns)} columns {', '.join(columns)}"
                            ),
                        )
                        continue
                    yield place, dict(zip(columns, fields, strict=True))
            except csv.Error as error:
                raise QuestionError(
                    f"{path}, line {start}: {error}; check the quotation marks of the row that begins there"
                ) from None

    return read


def _header(fields: list[str], place: str, delimiter: str) -> list[str]:
    other = next((mark for mark in ";\t," if len(fields) == 1 and mark != delimiter and mark in fields[0]), None)
    if other is not None:
        raise QuestionError(
            f"{place}: {fields[0]!r} is a single column; separate the fields with {delimiter!r} instead of {other!r}"
        )
    twice = {name for name in fields if fields.count(name) > 1}
    if twice and looks_like_row(fields):
        raise QuestionError(
            f"{place}: {', '.join(map(repr, fields))} look like a row, so the header line is missing; add one, such "
            "as question,A,B,C,D,answer"
        )
    if twice:
        raise QuestionError(f"{place}: the column {', '.join(map(repr, sorted(twice)))} appears more than once")
    return fields


def looks_like_row(names: Sequence[str]) -> bool:
    """Whether the column names are actually a question's values, as in a table without a header."""
    texts = [str(name).strip() for name in names]
    if len(texts) < 3 or any(text.lower() in ("question", "choices", "options", "answer", "label") for text in texts):
        return False
    is_asked = any(text.endswith(("?", "？", ":", "_")) or len(text.split()) > 4 for text in texts)
    return is_asked or sum(text.replace(".", "").isdigit() for text in texts) > 1


def _parquet(path: Path) -> Iterator[PlacedRowOrError]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", StructRow(row)
                    number += 1
    except arrow.ArrowException as error:
        raise QuestionError(f"{path}: {error}") from None


READERS: dict[str, Callable[[Path], Iterator[PlacedRowOrError]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}
"""By the file name's suffix, in lower case."""
