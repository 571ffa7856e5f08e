"""From the rows of a dataset to its questions: what depends on one row, and what is decided from all of them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._suggestions import did_you_mean
from .answers import GivenAnswer, answer_base_of, is_missing, single
from .choices import as_text, choices_of, drawn_order, listed_texts, parsed_cell, texts_and_letters
from .columns import (
    Columns,
    are_answers,
    as_argument,
    as_names,
    check_columns,
    holds_text,
    is_about_questions,
    is_answered,
    is_called_answer,
    listing,
    near_miss,
)
from .drawing import QuestionList, sample
from .files import PlacedRowOrError
from .layouts import Layout, Row, layout_of
from .permuting import permute_options
from .questions import Question, QuestionError

_SHOWN = 10


@dataclass
class _Draft:
    """A row with all but the meaning of its answer."""

    place: str
    row: Row
    layout: Layout
    question: Question
    answer_column: str | None
    answer: GivenAnswer
    is_drawn: bool

    def finished(self, base: int | str) -> Question:
        try:
            index = self.answer.index(base)
        except QuestionError as error:
            raise QuestionError(f"column {self.answer_column!r}: {error}") from None
        question = replace(self.question, answer=index)
        if not self.is_drawn:
            return question
        return permute_options(question, drawn_order(question.question, question.choices))


@dataclass
class _BadRow:
    place: str
    error: QuestionError
    without_layout: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.error}"


@dataclass
class _Group:
    """The drafts whose answers are in one column of one layout."""

    layout: Layout
    answer_column: str | None
    drafts: list[_Draft] = field(default_factory=list)


def read_questions(
    rows: Iterable[PlacedRowOrError],
    source: str,
    *,
    columns: Columns | None = None,
    answer_base: int | None = None,
    on_bad_row: str = "error",
    limit: int | None = None,
    seed: int = 0,
    zero_based: Collection[str] = (),
) -> QuestionList[Question]:
    """Read rows as multiple-choice questions.

    Parameters
    ----------
    rows : iterable of (str, mapping or QuestionError)
        All of the dataset's, each with its place.
    source : str
        The dataset, for messages.
    columns, answer_base, on_bad_row, limit, seed
        As in `load_questions`.
    zero_based : collection of str
        Columns whose integers count from 0 by their type.

    Raises
    ------
    QuestionError
        As `load_questions` does.
    ValueError
        If an option is out of range.
    """
    if answer_base not in (None, 0, 1) or isinstance(answer_base, bool):
        raise ValueError(f"answer_base is the number of the first option, 0 or 1; got {answer_base!r}")
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row is 'error' or 'skip'; got {on_bad_row!r}")
    mapping = check_columns(columns or {})
    rows = list(rows)
    entries = list(_entries(rows, mapping))
    if not entries:
        raise QuestionError(f"{source} holds no question; give a dataset with at least one row")
    drafts = [entry for entry in entries if isinstance(entry, _Draft)]
    _check_mapping([*(row for _, row in rows), *(draft.row for draft in drafts)], mapping)
    if not drafts and isinstance(entries[0], _BadRow) and entries[0].without_layout:
        raise QuestionError(str(entries[0]))
    groups: dict[tuple[int, str | None], _Group] = {}
    for draft in drafts:
        key = (id(draft.layout), draft.answer_column)
        groups.setdefault(key, _Group(draft.layout, draft.answer_column)).drafts.append(draft)
    if "answer" not in mapping:
        _check_no_answers_left(groups.values())
    bases = {key: _base_of(group, source, answer_base, zero_based) for key, group in groups.items()}

    questions: list[Question] = []
    bad: list[_BadRow] = []
    for entry in entries:
        if isinstance(entry, _BadRow):
            bad.append(entry)
            continue
        try:
            questions.append(entry.finished(bases[id(entry.layout), entry.answer_column]))
        except QuestionError as error:
            bad.append(_BadRow(entry.place, error))
    if bad and (on_bad_row == "error" or not questions):
        raise _bad_rows(bad, source)
    _warn_of_unused_text(groups.values(), source)
    if bad:
        warnings.warn(f"{source}: skipped {len(bad)} of {len(bad) + len(questions)} rows:{_named(bad)}", stacklevel=3)
    return sample(QuestionList(questions, skipped=[str(row) for row in bad]), limit, seed)


# Rows


def _entries(rows: Iterable[PlacedRowOrError], mapping: Columns) -> Iterator[_Draft | _BadRow]:
    layouts: dict[tuple[str, ...], Layout] = {}
    # One object for equal layouts, by which drafts are grouped.
    same: dict[Layout, Layout] = {}
    for place, row in rows:
        if isinstance(row, QuestionError):
            yield _BadRow(place, row)
            continue
        names = tuple(row)
        if names not in layouts:
            try:
                layout = layout_of(names, mapping)
            except QuestionError as error:
                yield _BadRow(place, error, without_layout=True)
                continue
            layouts[names] = same.setdefault(layout, layout)
        layout = layouts[names]
        try:
            prepared = [row] if layout.prepare is None else list(layout.prepare(row))
        except QuestionError as error:
            yield _BadRow(place, error)
            continue
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            needed = layout.requires or (layout.question, *layout.choices[:2])
            wrong = f"columns {listing(needed)}: the values do not fit this layout ({type(error).__name__}: {error})"
            yield _BadRow(place, QuestionError(wrong))
            continue
        for plain in prepared:
            _check_unpacked(row, plain, mapping)
        for number, plain in enumerate(prepared):
            own = place if len(prepared) == 1 else f"{place}, question {number}"
            try:
                yield _draft(own, {**row, **plain}, plain, layout)
            except QuestionError as error:
                yield _BadRow(own, error)


def _draft(place: str, row: Row, plain: Row, layout: Layout) -> _Draft:
    answer_column = layout.answer_column(plain)
    choice_columns = layout.choice_columns(plain)
    context_columns = layout.context_columns(plain)
    subject_columns = [name for name in layout.subject if name in plain][:1]
    type_columns = [name for name in layout.type if name in plain]
    parts = {
        "question": [layout.question],
        "choices": choice_columns or list(layout.choices[:2]),
        "answer": [str(answer_column)],
        "context": context_columns,
        "subject": subject_columns,
        "type": type_columns,
    }
    part = "choices"
    try:
        if not choice_columns or choice_columns != list(layout.choices[: len(choice_columns)]):
            raise QuestionError(f"the options' columns must be {', '.join(layout.choices[:3])}, ... without gaps")
        is_column_right = answer_column in choice_columns and len(choice_columns) > 1
        if is_column_right:
            choice_columns = [str(answer_column), *(name for name in choice_columns if name != answer_column)]
        cells = [plain[name] for name in choice_columns]
        if is_column_right and len(cells) == 2 and isinstance(cells[1], str):
            cells[1] = listed_texts(cells[1])  # CSV files hold a list of all wrong choices as text
        texts, labels = choices_of(cells)
        texts = list(map(as_text, texts))
        shown, letters = texts_and_letters(texts)
        part = "context"
        context = _context([plain[name] for name in context_columns])
        subject, kind = (plain[own[0]] if own else None for own in (subject_columns, type_columns))
        question = Question(
            plain.get(layout.question),  # type: ignore[arg-type]  # checked there
            tuple(shown),
            subject=None if is_missing(subject) else str(subject),
            context=context,
            type=None if is_missing(kind) else str(kind),
        )
        part = "answer"
        value: Any = None
        if is_column_right:
            value, labels = "A", None
        elif answer_column is not None:
            value = plain[answer_column]
            if isinstance(value, str) and value.strip().startswith("[") and value.strip() not in question.choices:
                value = parsed_cell(value)  # CSV files hold a list of one answer as text
            value = single(value)
            if labels is None and letters is not None and isinstance(value, str):
                value, labels = _without_letter(value, texts, question, letters)
    except QuestionError as error:
        names = parts[error.part or part]
        raise QuestionError(f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}: {error}") from None
    answer = GivenAnswer(value, question.choices, None if labels is None else tuple(map(str, labels)))
    return _Draft(place, row, layout, question, answer_column, answer, is_column_right or layout.is_first_right)


def _without_letter(
    answer: str, texts: Sequence[Any], question: Question, letters: str
) -> tuple[str, list[str] | None]:
    """Return an answer to a question whose options carry letters, with these as labels if it is one or has one."""
    as_it_was = GivenAnswer(answer, tuple(texts)).by_text
    if as_it_was is not None:
        return letters[as_it_was], list(letters)
    letter = GivenAnswer(answer, question.choices).number
    return (letter, list(letters)) if isinstance(letter, str) else (answer, None)


def _context(cells: Sequence[Any]) -> str | None:
    texts = []
    for cell in cells:
        if hasattr(cell, "tolist"):
            cell = cell.tolist()
        if isinstance(cell, list | tuple):  # a dialogue's turns, a passage's paragraphs
            cell = "\n".join(str(line) for line in cell if not is_missing(line))
        if isinstance(cell, bytes):
            raise QuestionError(f"found the bytes {cell[:40]!r}; expected a text, so decode them first")
        if isinstance(cell, Mapping):
            raise QuestionError(f"found a mapping with {listing(list(cell))}; expected a text or a list of texts")
        if not is_missing(cell):
            texts.append(str(cell))
    return "\n\n".join(texts) or None


def _bad_rows(bad: Sequence[_BadRow], source: str) -> QuestionError:
    advice = "correct the data, or leave out what cannot be read with --on-bad-row skip (on_bad_row='skip')"
    if len(bad) == 1:
        return QuestionError(f"{bad[0]}; {advice}")
    return QuestionError(f"{len(bad)} rows of {source} cannot be read:{_named(bad)}\n{advice[0].upper()}{advice[1:]}")


def _named(bad: Sequence[_BadRow]) -> str:
    more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return "".join(f"\n  {row}" for row in bad[:_SHOWN]) + more


# All rows


def _base_of(group: _Group, source: str, given: int | None, zero_based: Collection[str]) -> int | str:
    if group.answer_column is None or all(draft.is_drawn and draft.answer.value == "A" for draft in group.drafts):
        return 0
    if given is not None:
        return given
    if group.answer_column in zero_based:
        return 0
    where = f"column {group.answer_column!r} of {source!r}"
    base, doubt = answer_base_of((draft.answer for draft in group.drafts), where, declared=group.layout.base)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=4)
    return base


def _check_mapping(rows: Iterable[Row | QuestionError], mapping: Columns) -> None:
    there = {name for row in rows if isinstance(row, Mapping) for name in row}
    for part, names in mapping.items():
        for name in as_names(names):
            if name not in there:
                raise QuestionError(
                    f"columns: there is no column {name!r}, given for {part!r}, among {listing(sorted(there))}."
                    + did_you_mean(name, there)
                )


def _check_unpacked(row: Row, plain: Row, mapping: Columns) -> None:
    """Raise if a mapped column is of a row as it is stored, and not of the questions that it is unpacked into."""
    for part, names in mapping.items():
        for name in as_names(names):
            if name in row and name not in plain:
                raise QuestionError(
                    f"columns: {name!r}, given for {part!r}, is not a column of the questions in each row, which have "
                    f"the columns {listing(list(plain))}; name one of these, or leave {part} out"
                )


def _check_no_answers_left(groups: Iterable[_Group]) -> None:
    """Raise if questions pass for unanswered while a column that is not read seems to hold their answers."""
    for group in groups:
        if any(is_answered(draft.answer.value) for draft in group.drafts):
            continue
        alike: dict[tuple[str, ...], list[_Draft]] = defaultdict(list)
        for draft in group.drafts:
            alike[tuple(draft.row)].append(draft)
        for names, drafts in alike.items():
            used = group.layout.used(names)
            for name in names:
                if name in used or not _holds_answers(name, drafts, group.layout):
                    continue
                read = (
                    "is not read"
                    if group.answer_column is None
                    else f"{group.answer_column!r}, which is read, is empty"
                )
                raise QuestionError(
                    f"{drafts[0].place}: column {name!r} looks like the answers, but {read}; pass "
                    f"{as_argument({'answer': [name]})} (columns={{'answer': {name!r}}}), or --columns answer= "
                    "(columns={'answer': None}) if it is something else"
                )


def _holds_answers(name: str, drafts: Sequence[_Draft], layout: Layout) -> bool:
    values = [(draft.row[name], draft.question.choices) for draft in drafts]
    if not any(is_answered(value) for value, _ in values):
        return False
    if is_called_answer(name) or near_miss([name], layout.answer) is not None:
        return True
    return not is_about_questions(name) and are_answers(values)


def _warn_of_unused_text(groups: Iterable[_Group], source: str) -> None:
    unused: list[str] = []
    shown: list[str] = []
    for group in groups:
        known: dict[tuple[str, ...], tuple[set[str], list[str]]] = {}
        for draft in group.drafts:
            names = tuple(draft.row)
            if names not in known:
                used = group.layout.used(names)
                left = [name for name in names if name not in used]
                left = [name for name in left if not is_called_answer(name) and not is_about_questions(name)]
                known[names] = set(left), group.layout.context_columns(names)
            left_out, context = known[names]
            unused += [
                name for name in names if name in left_out and name not in unused and holds_text(draft.row[name])
            ]
            shown += [name for name in context if name not in shown]
    if unused:
        argument = as_argument({"context": [*shown, *unused]})
        several = len(unused) > 1
        warnings.warn(
            f"{source}: the text in column{'s' * several} {listing(unused)} is not in the prompts; if the questions "
            f"need it, pass {argument} (columns={{'context': ...}})",
            stacklevel=4,
        )
