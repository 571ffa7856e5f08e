"""What the columns of a dataset hold: as the user says, or as their names and values suggest."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._suggestions import did_you_mean
from .answers import WITHHELD, is_missing
from .files import unique_keys
from .questions import LETTERS

Columns = Mapping[str, str | Sequence[str] | None]
"""From "question", "choices", "answer", "context", "subject" and "type" to the column, or columns, that hold each."""

FIELDS = ("question", "choices", "answer", "context", "subject", "type")

CONTEXTS = (
    "context", "passage", "article", "support", "para", "paragraph", "story", "narrative", "dialogue", "background",
    "flores_passage",
)  # fmt: skip
"""Columns (in upper or lower case) whose text is shown before the question in every layout."""

# Names of these columns in other datasets, for suggestions.
_OTHER_NAMES = {
    "choices": ("choices", "options", "choice", "option", "candidates", "alternatives", "endings", "answers"),
    "question": ("question", "stem", "question_stem", "query", "prompt", "problem", "instruction", "input"),
    "context": CONTEXTS,
}

# Words in the names of columns that hold answers, and of columns that are about answers.
_ANSWER_WORDS = {
    "answer", "answers", "anwser", "answerkey", "gold", "golden", "label", "labels", "key", "correct", "target",
    "targets", "solution", "truth", "groundtruth", "right", "ans",
}  # fmt: skip
_ABOUT_ANSWERS = {
    "explanation", "rationale", "reason", "human", "accuracy", "type", "text", "source", "count", "length", "id",
}  # fmt: skip

# Words in the names of columns of wrong choices; the right choice then has its own column.
_WRONG = {"distractor", "distractors", "incorrect", "wrong", "false"}

# Words in the names of columns that are about a question but not part of it.
_ABOUT_QUESTIONS = {
    "id", "ids", "idx", "uuid", "url", "link", "uri", "source", "src", "explanation", "explanations", "exp",
    "rationale", "reasoning", "reason", "cot", "solution", "solutions", "lecture", "metadata", "meta",
    "license", "author", "authors", "date", "year", "difficulty", "category", "categories", "topic", "topics",
    "domain", "subject", "subdomain", "tag", "tags", "language", "split", "type", "comment", "comments", "feedback",
    "formula",
}  # fmt: skip

_MANY_WORDS = 3


def parse_columns(text: str) -> dict[str, Any]:
    """Read a mapping of columns from the command line.

    Parameters
    ----------
    text : str
        `question=stem,choices=A+B+C,answer=gold,context=passage`, with `answer=` for no answers; or the same as a JSON
        object, for names with a comma, a plus or an equals sign.

    Returns
    -------
    dict
        As `load_questions` takes it.

    Raises
    ------
    ValueError
        If it is neither, or names a field twice.
    """
    if text.lstrip().startswith("{"):
        try:
            mapping = json.loads(text, object_pairs_hook=unique_keys)
        except ValueError as error:
            raise ValueError(f"columns: {text!r} is not a JSON object: {error}") from None
        return check_columns(mapping)
    columns: dict[str, Any] = {}
    for part in text.split(","):
        field, equals, names = part.partition("=")
        if not equals:
            raise ValueError(f"columns: {part!r} is not FIELD=COLUMN; give for example question=stem,choices=A+B+C")
        if field.strip() in columns:
            raise ValueError(
                f"columns: {field.strip()!r} is given twice; give each field once, with several columns as "
                "choices=A+B+C"
            )
        parts = tuple(name.strip() for name in names.split("+")) if names.strip() else ()
        columns[field.strip()] = None if not parts else parts[0] if len(parts) == 1 else parts
    return check_columns(columns)


def check_columns(columns: Columns) -> dict[str, Any]:
    """Check and return a mapping of columns.

    Raises
    ------
    ValueError
        If it has an unknown field, or an empty or doubled column.
    """
    unknown = [field for field in columns if field not in FIELDS]
    if unknown:
        raise ValueError(
            f"columns: {unknown[0]!r} is not a field; the fields are {', '.join(FIELDS)}."
            + did_you_mean(unknown[0], FIELDS)
        )
    for field, names in columns.items():
        listed = as_names(names) if isinstance(names, str | list | tuple) else ()
        if names is not None and (not listed or not all(isinstance(name, str) and name for name in listed)):
            raise ValueError(f"columns: {field!r} is {names!r}; expected the name of a column, or several")
        if len(set(listed)) < len(listed):
            raise ValueError(f"columns: {field!r} names a column twice, {names!r}")
        if len(listed) > 1 and field not in ("choices", "context"):
            raise ValueError(f"columns: {field!r} has {len(listed)} columns, {', '.join(listed)}; give one")
        if names is None and field in ("question", "choices"):
            raise ValueError(f"columns: {field!r} has no column, and every question needs one")
    return dict(columns)


def as_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns of one field."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def listing(columns: Iterable[str]) -> str:
    """Return names for a message."""
    return ", ".join(repr(column) for column in columns) or "(there are none)"


def near_miss(columns: Iterable[str], expected: Sequence[str]) -> str | None:
    """Return the first column that seems to be a misspelling of one of the expected."""
    plain = {name.lower() for name in expected}
    for column in columns:
        if difflib.get_close_matches(str(column).strip().lower(), plain, n=1, cutoff=0.75):
            return column
    return None


def suggestion(columns: Sequence[str]) -> str | None:
    """Return a guess at the mapping for columns that fit no layout, as a command-line option; `None` if there is none.

    No column appears twice.
    """
    left = list(columns)
    choices = _option_columns(left)
    if not choices:
        if any(_words(column) & _WRONG for column in left):
            return None
        choices = _called(left, _OTHER_NAMES["choices"])
    if any(_words(column) & _WRONG for column in choices):
        return None
    left = [column for column in left if column not in choices]
    found = {"question": _called(left, _OTHER_NAMES["question"]), "choices": choices}
    left = [column for column in left if column not in found["question"]]
    answer = [column for column in left if is_called_answer(column)][:1]
    left = [column for column in left if column not in answer]
    found |= {"answer": answer, "context": _called(left, _OTHER_NAMES["context"])}
    if not found["question"] or not found["choices"]:
        return None
    return as_argument({field: names for field, names in found.items() if names})


def are_free_form(columns: Iterable[str]) -> bool:
    """Whether columns seem to hold questions without options: "question", and "answer" or "answers" alone."""
    names = {column for column in columns if not is_about_questions(column)}
    return names - {"context"} in ({"question", "answer"}, {"question", "answers"})


def as_argument(columns: Mapping[str, Sequence[str]]) -> str:
    """Return a mapping in the form that `parse_columns` reads, with its flag."""
    if any(set(name) & set(",+=") or name != name.strip() for names in columns.values() for name in names):
        plain = {field: names[0] if len(names) == 1 else list(names) for field, names in columns.items()}
        return f"--columns '{json.dumps(plain, ensure_ascii=False)}'"
    text = ",".join(f"{field}={'+'.join(names)}" for field, names in columns.items())
    return f"--columns {text}" if re.fullmatch(r"[\w=,+.-]+", text) else f"--columns '{text}'"


def _called(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the column with the first of these names that is present, or a similar one."""
    plain = {str(column).strip().lower(): column for column in reversed(columns)}
    for name in names:
        if name in plain:
            return [plain[name]]
    for name in names:
        if close := difflib.get_close_matches(name, plain, n=1, cutoff=0.8):
            return [plain[close[0]]]
    return []


def _option_columns(columns: Sequence[str]) -> list[str]:
    """Return columns that differ in a letter or number that runs from A, 0 or 1: A, B, ...; option_1, option_2, ..."""
    families: dict[tuple[str, str], dict[int, str]] = {}
    for column in columns:
        match = re.fullmatch(r"(.*?)([A-Za-z]|\d{1,2})", str(column))
        if match is None:
            continue
        mark = match[2]
        if mark.isdigit():
            families.setdefault((match[1], "digit"), {})[int(mark)] = column
        else:
            families.setdefault((match[1], "upper" if mark.isupper() else "lower"), {})[ord(mark.lower()) - 97] = (
                column
            )
    for (_, kind), members in families.items():
        start = 1 if kind == "digit" and 0 not in members else 0
        run = [members[start + place] for place in range(len(members)) if start + place in members]
        if len(run) > 1 and len(run) == len(members):
            return run
    return []


def _words(name: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name))
    return {word.lower() for word in re.split(r"[\W\d_]+", spaced) if word}


def is_called_answer(name: str) -> bool:
    """Whether a column's name says that it holds the answers."""
    words = _words(name)
    return bool(words & _ANSWER_WORDS) and not words & _ABOUT_ANSWERS


def are_answers(values: Iterable[tuple[Any, Sequence[str]]]) -> bool:
    """Whether all nonempty values, each with its row's choices, are letters or texts of choices."""
    seen = False
    for value, choices in values:
        if is_missing(value):
            continue
        if not isinstance(value, str):
            return False
        text = value.strip()
        if text not in LETTERS[: len(choices)] and text not in choices:
            return False
        seen = True
    return seen


def is_answered(value: Any) -> bool:
    """Whether a cell holds an answer."""
    if hasattr(value, "tolist"):  # an array
        value = value.tolist()
    return not is_missing(value) and value not in (WITHHELD, str(WITHHELD), [], ())


def is_about_questions(name: str) -> bool:
    """Whether a column's name says that its text is not part of the question: an explanation, a source, ..."""
    return bool(_words(name) & _ABOUT_QUESTIONS)


def holds_text(value: Any) -> bool:
    """Whether a cell holds several words, which the prompt may need."""
    if isinstance(value, Mapping):
        return any(holds_text(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(holds_text(part) for part in value)
    if not isinstance(value, str):
        return False
    # Chinese and Japanese have no spaces between words.
    return len(value.split()) >= _MANY_WORDS or (not value.isascii() and len(value.strip()) >= 5 * _MANY_WORDS)


def context_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns whose names say that they hold the text that the questions are about."""
    return [column for column in columns if str(column).strip().lower() in CONTEXTS]
