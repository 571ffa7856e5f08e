"""The choices of a row, in the forms that datasets use."""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import json
import re
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any

from .answers import is_missing
from .questions import LETTERS, QuestionError

Choices = tuple[list[Any], list[Any] | None]
"""The choices, and their labels if they have any."""

# The keys of a choice's text and label, if each choice is a mapping: ARC, bigbio's MedQA and HEAD-QA.
_TEXT_AND_LABEL = (("text", "label"), ("value", "key"), ("atext", "aid"))

# "(A) x", "A) x" and "A. x", each with its letter and the text.
_LETTERED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\s*[(\[（]\s*([A-Za-z])\s*[)\]）]\s*[.:：]?\s*(\S.*)",
        r"\s*([A-Za-z])\s*[)）]\s*(\S.*)",
        r"\s*([A-Z])\s*[.．:：、](?![A-Z]\.)\s*(\S.*)",  # not "A.D."
        r"\s*([a-z])\s*[.．:：、]\s+(\S.*)",
    )
)

# How a text with all choices separates them: "a ) 38 , b ) 27 , c ) 30".
_NEXT_CHOICE = re.compile(r"(?:^|\s*[,;\n]\s*)(?=[(\[]?\s*[A-Za-z]\s*[)\].:]\s*\S)")


def choices_of(values: Sequence[Any]) -> Choices:
    """Read the choices from one column with all of them, or from one column each.

    Parameters
    ----------
    values : sequence
        The columns' cells. A single cell is a list of texts, a mapping of two lists, a mapping from labels to texts, a
        list of mappings, or a text with one of these in JSON or with lettered choices. Of several cells, blank ones at
        the end mean that a question has fewer choices.

    Raises
    ------
    QuestionError
        If a single cell holds something else.
    """
    if len(values) == 1:
        return _in_one_cell(values[0])
    choices: list[Any] = []
    for value in values:
        choices += _as_list(value) if isinstance(value, list | tuple) or hasattr(value, "tolist") else [value]
    return _without_padding(choices), None


def _in_one_cell(cell: Any) -> Choices:
    if isinstance(cell, str):
        cell = _parsed(cell)
    if isinstance(cell, Mapping):
        if {"text", "label"} <= set(cell):
            texts, labels = _as_list(cell["text"]), _as_list(cell["label"])
            if len(texts) != len(labels):
                raise QuestionError(f"{len(texts)} texts have {len(labels)} labels")
            return texts, labels
        if list(cell) != list(LETTERS[: len(cell)]):
            raise QuestionError(
                f"found a mapping with {', '.join(map(repr, cell)) or 'nothing'}; expected 'text' and 'label', or the "
                "letters A, B, C, ..."
            )
        texts = _without_padding(list(cell.values()))
        return texts, list(cell)[: len(texts)]
    choices = _as_list(cell)
    for text, label in _TEXT_AND_LABEL:
        if choices and all(isinstance(choice, Mapping) and {text, label} <= set(choice) for choice in choices):
            return [choice[text] for choice in choices], [choice[label] for choice in choices]
    return choices, None


def _parsed(text: str) -> Any:
    value = _literal(text)
    if value is not None:
        return value
    parts = [part.strip() for part in _NEXT_CHOICE.split(text) if part.strip()]
    if len(parts) > 1 and without_letters(parts) != parts:
        return parts
    raise QuestionError(
        f"{text[:80]!r} is a text; write the choices as a JSON list, such as "
        '["yes", "no"], or one a column, A, B, C, ...'
    )


def parsed_cell(cell: Any) -> Any:
    """Parse a cell that holds JSON or a Python literal, as nested values in CSV files do; return others unchanged."""
    value = _literal(cell) if isinstance(cell, str) else None
    return cell if value is None else value


def _literal(text: str) -> Any:
    """Return the value of a text that is JSON or a Python literal, and None for any other text."""
    for parse in (json.loads, _python_literal):
        try:
            return parse(text.strip())
        except QuestionError:
            raise
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _python_literal(text: str) -> Any:
    value = ast.literal_eval(text)
    kinds = [own.type for own in tokenize.generate_tokens(io.StringIO(text).readline) if own.type != tokenize.NL]
    if (tokenize.STRING, tokenize.STRING) in itertools.pairwise(kinds):  # Python would concatenate them
        raise QuestionError(
            f"{text[:80]!r} lacks a comma between two strings, as when a NumPy array is saved to CSV; write a JSON "
            'list, such as ["yes", "no"]'
        )
    return value


def listed_texts(text: str) -> Any:
    """Return a JSON or Python list of texts, as a CSV file holds it; any other text unchanged."""
    values = _literal(text) if text.lstrip().startswith("[") else None
    return values if isinstance(values, list) and values and all(isinstance(own, str) for own in values) else text


def _as_list(values: Any) -> list[Any]:
    if hasattr(values, "tolist"):  # arrays, in datasets formatted as arrays
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise QuestionError(f"found {values!r}; expected a list of texts")
    return list(values)


def _without_padding(choices: list[Any]) -> list[Any]:
    while choices and is_missing(choices[-1]):
        choices.pop()
    return choices


def as_text(choice: Any) -> Any:
    """Return a number as text ("1990" in a CSV may be read as a number); keep other values, to reject later."""
    return choice if is_missing(choice) or isinstance(choice, list | tuple | Mapping | bytes) else str(choice)


def without_letters(choices: Sequence[Any]) -> list[Any]:
    """Return choices without their own letters, as `texts_and_letters` does."""
    return texts_and_letters(choices)[0]


def texts_and_letters(choices: Sequence[Any]) -> tuple[list[Any], str | None]:
    """Return choices without their own letters, and these in upper case, if they are A, B, ... in the same style.

    The prompt names the options by letters; a second one would contradict it once the options are permuted. Answers
    are the letters of choices that are out of order already.
    """
    for pattern in _LETTERED:
        found = [pattern.fullmatch(choice) if isinstance(choice, str) else None for choice in choices]
        matches = [match for match in found if match is not None]
        if not matches or len(matches) < len(choices):
            continue
        letters = "".join(match[1] for match in matches)
        if "".join(sorted(letters)) in (LETTERS[: len(choices)], LETTERS[: len(choices)].lower()):
            return [match[2] for match in matches], letters.upper()
    return list(choices), None


def drawn_order(question: str, choices: Sequence[str]) -> list[int]:
    """Return an order of the choices that depends only on their texts, not on the row's place or other rows."""

    def key(place: int) -> bytes:
        return hashlib.sha256(f"{question}\0{choices[place]}".encode("utf-8", "surrogatepass")).digest()

    return sorted(range(len(choices)), key=key)
