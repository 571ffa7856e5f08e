"""Predictions in files: those that measuring writes, and those of other tools in the same columns."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .._suggestions import did_you_mean
from ..measures.validation import LOG_ROUNDING, ROUNDING, sum_tolerance
from ..tasks import LETTERS, Question
from ..tasks.answers import answer_index, is_missing
from ..tasks.files import file_rows
from ..tasks.questions import QuestionError
from .predictions import Predictions

# What a measurement's folder has them in.
PREDICTIONS_FILE = "predictions.parquet"


@dataclass(frozen=True)
class Recorded:
    """Predictions of one dataset, with the questions as far as they are known.

    Parameters
    ----------
    predictions : Predictions
    questions : tuple of (Question or None), of length n
        One for each prediction.
    skipped_rows : int, default 0
        Rows of the dataset that could not be read and were left out.
    cut_off : int, default 0
        Number of replies to questions without options that were cut off at the token limit.
    """

    predictions: Predictions
    questions: tuple[Question | None, ...]
    skipped_rows: int = 0
    cut_off: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the predictions and answers, by which recorded predictions are recognized."""
        own, found = self.predictions, hashlib.sha256()
        for values in (own.option_log_probabilities, own.answers, own.n_choices):
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


def read_predictions(path: str | Path) -> dict[str, Recorded]:
    """Read predictions from a measurement's folder, or from a Parquet, CSV, TSV, JSON or JSON Lines file.

    A file has one row per question. The model's probabilities are in the column `log_probabilities` (of each option in
    the whole vocabulary), in `probabilities`, or in one column per option, `p_A`, `p_B`, .... The first two hold one
    list per row, written as JSON in CSV and TSV files. The column `answer` has the right option's index or letter or,
    with `choices`, its text. Optional columns are `option_mass`, `flip_rate`, `most_confident_correct`, `predicted`
    (the answered option, as in `answer`; by default the most probable one), `subject`, `dataset`, `row`, `question`,
    `choices` and, with these two, `context` and `type`.

    An option with a probability of zero exists; leave the columns of options that a question does not have empty.
    Probabilities up to `hf_calib.measures.validation.ROUNDING`, 1e-6, outside [0, 1] count as 0 or 1. The sum of a row
    of K may be off by K/2000, as rounding to three decimals can leave it; the row is then divided by its sum.

    Returns
    -------
    dict of str to Recorded
        By dataset; one without that column is called by the file's name.

    Raises
    ------
    QuestionError
        If a column is missing, only some rows of a dataset have an optional number, or a row is wrong; with the file
        and the row.

    Warns
    -----
    UserWarning
        If rows were divided by a sum that differs from 1 by more than 1e-6; with the file and the first such row.
    """
    path = Path(path)
    if path.is_dir():
        path = path / PREDICTIONS_FILE
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} to read predictions from")
    rows: dict[str, list[RecordedRow]] = {}
    normalized: list[str] = []
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for place, values in file_rows(path):
        try:
            dataset = path.stem if is_missing(values.get("dataset")) else str(values["dataset"])
            own = rows.setdefault(dataset, [])
            own.append(_row_of(values, len(own)))
            _check_alike(values, *first.setdefault(dataset, (place, values)))
        except QuestionError as error:
            raise QuestionError(f"{place}: {error}") from None
        if abs(own[-1].total - 1) > ROUNDING:
            normalized.append(f"{place}: the probabilities sum to {own[-1].total:.6g}")
    if not rows:
        raise QuestionError(f"{path} holds no prediction")
    if normalized:
        warnings.warn(
            f"{normalized[0]}, as rounding leaves them; they are divided by their sum ({len(normalized)} such row(s) "
            "in the file)",
            stacklevel=2,
        )
    return {name: recorded_from(own, path) for name, own in rows.items()}


@dataclass(frozen=True)
class RecordedRow:
    """One question's prediction as it was read.

    Raises
    ------
    QuestionError
        If there are fewer than two options, a value is not a log-probability, or the answer is not one of them.
    """

    log_probabilities: Sequence[float]
    answer: int | None
    row: int
    subject: str | None = None
    has_mass: bool = True
    question: Question | None = None
    chosen: int | None = None  # where it may not be the most probable option
    total: float = 1.0  # of the probabilities as they were written
    flips: float | None = None
    most_confident_correct: float | None = None

    def __post_init__(self) -> None:
        n = len(self.log_probabilities)
        if n < 2:
            raise QuestionError(f"{n} option given; a prediction has at least two")
        if not all(value <= LOG_ROUNDING for value in self.log_probabilities):
            raise QuestionError(f"the log-probabilities are {self.log_probabilities}; they must be at most 0")
        for index, what in ((self.answer, "answer"), (self.chosen, "predicted option")):
            if index is not None and not 0 <= index < n:
                raise QuestionError(f"the {what} {index} is outside the {n} options, counted from 0")


def are_labels(continuations: Iterable[str]) -> bool:
    """Return whether options were scored by labels, such as letters, whose probabilities at one place add up.

    The probability of a whole text is small for any model.
    """
    return all(len(text.strip(" ().")) == 1 for text in continuations)


def result_files(paths: Iterable[str | Path], *patterns: str) -> list[Path]:
    """Return files, and those in folders, to any depth, whose names match one of the patterns.

    Raises
    ------
    FileNotFoundError
        If a path does not exist, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        found = sorted({own for pattern in patterns for own in path.rglob(pattern)}) if path.is_dir() else [path]
        if not found or not found[0].exists():
            raise FileNotFoundError(f"there is no {' or '.join(patterns)} at {str(path)!r}")
        files += found
    return files


def task_of(path: Path, prefix: str) -> str:
    """Return the task in a result file's name, `{prefix}{task}_{time}.{suffix}`; of another name, all of it."""
    match = re.fullmatch(prefix + r"(.+?)(?:_\d{4}-\d\d-\d\dT[\d.:-]+)?", path.stem)
    return match[1] if match else path.stem


def recorded_from(rows: Sequence[RecordedRow], source: str | Path = "predictions") -> Recorded:
    """Put rows together, in the order of the questions' rows.

    Raises
    ------
    QuestionError
        If a row number occurs twice; the message names the source.
    """
    ordered = sorted(rows, key=lambda row: row.row)
    for one, other in pairwise(ordered):
        if one.row == other.row:
            raise QuestionError(
                f"{source}: the question of row {one.row} occurs twice; give each dataset's predictions once"
            )
    counts = np.array([len(row.log_probabilities) for row in ordered])
    values = np.full((len(ordered), counts.max()), -np.inf)
    for place, row in enumerate(ordered):
        values[place, : counts[place]] = row.log_probabilities
    predictions = Predictions(
        option_log_probabilities=values,
        answers=np.array([-1 if row.answer is None else row.answer for row in ordered], dtype=np.int64),
        subjects=tuple(row.subject for row in ordered),
        rows=np.array([row.row for row in ordered], dtype=np.int64),
        option_counts=counts,
        has_mass=all(row.has_mass for row in ordered),
    )
    for name in ("flips", "most_confident_correct"):
        given = [getattr(row, name) for row in ordered]
        if None not in given:
            predictions = replace(predictions, **{name: np.array(given)})  # type: ignore[arg-type]  # two arrays
    chosen = np.array(
        [int(np.argmax(row.log_probabilities)) if row.chosen is None else row.chosen for row in ordered],
        dtype=np.int64,
    )
    if (chosen != predictions.predicted).any():
        predictions = replace(predictions, chosen=chosen)
    return Recorded(predictions, tuple(row.question for row in ordered))


def write_predictions(path: str | Path, datasets: Mapping[str, Recorded]) -> None:
    """Write predictions to a Parquet file that `read_predictions` reads, in the order of the datasets and their rows.

    The columns: dataset, row, subject, context and type (null where there is none), question, choices, answer (index;
    null where it is not known), predicted, confidence, correct, probabilities (of each option among the options),
    log_probabilities (in the whole vocabulary), option_mass (null where it has no meaning), flip_rate (null where
    no other order of the options was asked), most_confident_correct (null where no answers were sampled or their
    probabilities are unknown).
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA}
    for name, recorded in datasets.items():
        predictions = recorded.predictions
        for place, question in enumerate(recorded.questions):
            n = int(predictions.n_choices[place])
            answer = int(predictions.answers[place])
            known = answer >= 0
            values = {
                "dataset": name,
                "row": int(predictions.rows[place]),
                "subject": predictions.subjects[place],
                "context": None if question is None else question.context,
                "type": None if question is None else question.type,
                "question": None if question is None else question.question,
                "choices": None if question is None else list(question.choices),
                "answer": answer if known else None,
                "predicted": int(predictions.predicted[place]),
                "confidence": float(predictions.confidences[place]),
                "correct": bool(predictions.predicted[place] == answer) if known else None,
                "probabilities": predictions.probabilities[place, :n].tolist(),
                "log_probabilities": predictions.option_log_probabilities[place, :n].tolist(),
                "option_mass": float(predictions.option_mass[place]) if predictions.has_mass else None,
                "flip_rate": None if predictions.flips is None else float(predictions.flips[place]),
                "most_confident_correct": None
                if predictions.most_confident_correct is None
                else float(predictions.most_confident_correct[place]),
            }
            for column, value in values.items():
                columns[column].append(value)
    types = {
        "text": arrow.string(),
        "texts": arrow.list_(arrow.string()),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "numbers": arrow.list_(arrow.float64()),
        "boolean": arrow.bool_(),
    }
    schema = arrow.schema([(column, types[kind]) for column, kind in _SCHEMA.items()])
    parquet.write_table(arrow.table(columns, schema=schema), Path(path))


_SCHEMA = {
    "dataset": "text",
    "row": "integer",
    "subject": "text",
    "context": "text",
    "type": "text",
    "question": "text",
    "choices": "texts",
    "answer": "integer",
    "predicted": "integer",
    "confidence": "number",
    "correct": "boolean",
    "probabilities": "numbers",
    "log_probabilities": "numbers",
    "option_mass": "number",
    "flip_rate": "number",
    "most_confident_correct": "number",
}


_OPTION_COLUMNS = [f"p_{letter}" for letter in LETTERS]
_COLUMNS = {*_SCHEMA, *_OPTION_COLUMNS}


# Columns that are measured over all rows of a dataset, or not at all.
_OF_ALL_ROWS = ("option_mass", "flip_rate", "most_confident_correct")


def _check_alike(values: Mapping[str, Any], first: str, others: Mapping[str, Any]) -> None:
    """Raise if a row lacks what the first row of its dataset has, or has what that one lacks."""
    for column in _OF_ALL_ROWS:
        if is_missing(values.get(column)) != is_missing(others.get(column)):
            states = ["has a value", "is empty"]
            here, there = reversed(states) if is_missing(values.get(column)) else states
            raise QuestionError(
                f"column {column!r} {here} in this row but {there} in {first}; fill it in for every row of the "
                "dataset, or for none"
            )


def _row_of(values: Mapping[str, Any], number: int) -> RecordedRow:
    spaced = next((column for column in values if column not in _COLUMNS and column.strip() in _COLUMNS), None)
    if spaced is not None:
        raise QuestionError(f"there are spaces around the name of the column {spaced!r}; remove them")
    log_probabilities, has_mass, total = _log_probabilities(values)
    if "answer" not in values:
        raise QuestionError(
            f"there is no column 'answer' among {', '.join(map(repr, values))}.{did_you_mean('answer', values)}"
        )
    choices = None if is_missing(values.get("choices")) else tuple(map(str, _list(values, "choices")))
    if choices is not None and len(choices) != len(log_probabilities):
        raise QuestionError(f"{len(choices)} choices have {len(log_probabilities)} probabilities")
    answer, predicted = (
        answer_index(values.get(name), len(log_probabilities), choices=choices) for name in ("answer", "predicted")
    )
    subject, context, kind = (values.get(name) for name in ("subject", "context", "type"))
    row = values.get("row")
    question = None
    if not is_missing(values.get("question")) and choices is not None:
        question = Question(
            str(values["question"]),
            choices,
            answer,
            context=None if is_missing(context) else str(context),
            type=None if is_missing(kind) else str(kind),
        )
    return RecordedRow(
        log_probabilities,
        answer,
        number if is_missing(row) else _row_number(row),
        subject=None if is_missing(subject) else str(subject),
        has_mass=has_mass,
        question=question,
        chosen=predicted,
        total=total,
        flips=_share(values, "flip_rate"),
        most_confident_correct=_share(values, "most_confident_correct"),
    )


def _log_probabilities(values: Mapping[str, Any]) -> tuple[list[float], bool, float]:
    """Return the options' log-probabilities, whether they are of the whole vocabulary, and what they sum to."""
    mass = _share(values, "option_mass")
    if not is_missing(values.get("log_probabilities")):
        own = _list(values, "log_probabilities")
        advice = "give natural logarithms of probabilities, not logits"
        logs = [_number(value, "log_probabilities", -np.inf, 0.0, LOG_ROUNDING, advice) for value in own]
        return logs, mass is not None or "option_mass" not in values, 1.0
    if not is_missing(values.get("probabilities")):
        given = [("probabilities", value) for value in _list(values, "probabilities")]
    else:
        empty = [name for name in ("probabilities", "log_probabilities") if name in values]
        given = [(column, values[column]) for column in _OPTION_COLUMNS if column in values]
        missing = [column for column in _OPTION_COLUMNS[: len(given)] if column not in values]
        if missing:
            raise QuestionError(
                f"column {missing[0]!r} is missing, but there is a column {given[-1][0]!r}; give one column for each "
                "option"
            )
        if not given and empty:
            raise QuestionError(
                f"column {empty[0]!r} is empty; give the probability of each option, or remove the row"
            )
        if not given:
            raise QuestionError(
                "there is no column 'probabilities', 'log_probabilities' or 'p_A', 'p_B', ... among "
                f"{', '.join(map(repr, values))}." + did_you_mean("probabilities", values)
            )
        while given and is_missing(given[-1][1]):  # a table pads questions with fewer options on the right
            given.pop()
    probabilities = [_probability(value, column) for column, value in given]
    total = sum(probabilities)
    tolerance = sum_tolerance(len(probabilities))
    if abs(total - 1) > tolerance:
        raise QuestionError(
            f"the probabilities {probabilities} sum to {total:.6g}, further from 1 than the {tolerance:.3g} that "
            "rounding to three decimals can be off; give the options' own probabilities, and their mass in the whole "
            "vocabulary as option_mass"
        )
    with np.errstate(divide="ignore"):
        logs = (np.log(probabilities) + (0.0 if mass is None else float(np.log(mass)))).tolist()
    return logs, mass is not None, total


def _list(values: Mapping[str, Any], column: str) -> list[Any]:
    value = values[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise QuestionError(f"column {column!r}: {value[:80]!r} is not a JSON list") from None
    if not isinstance(value, list):
        raise QuestionError(f"column {column!r}: found {value!r}; expected a list")
    return value


def _row_number(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (number >= 0 and number.is_integer()):
        raise QuestionError(f"column 'row': {value!r} is not a whole number of at least 0")
    return int(number)


def _share(values: Mapping[str, Any], column: str) -> float | None:
    return None if is_missing(values.get(column)) else _probability(values[column], column)


def _probability(value: Any, column: str) -> float:
    advice = "give a probability or a share, not a percentage or a logit"
    return min(max(_number(value, column, 0.0, 1.0, ROUNDING, advice), 0.0), 1.0)


def _number(value: Any, column: str, low: float, high: float, tolerance: float, advice: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not low - tolerance <= number <= high + tolerance:
        raise QuestionError(f"column {column!r}: {value!r} is not a number from {low:g} to {high:g}; {advice}")
    return number
