"""Typed decisions: a state and typed questions, each answered by a distribution over its allowed answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from .files import StructRow, struct_rows, unique_keys
from .permuting import permute_options, random_orders
from .questions import DecisionQuestion, Question, QuestionError, check_distribution, check_unicode

TYPES = ("choice", "noul", "score")
"""The types of questions: one of several options, no or yes, and a level on an ordered scale."""

MOST_OPTIONS = DecisionQuestion.most_choices
MOST_LEVELS = 10

_BOOLEANS = ("false", "true")
_YES_OR_NO = {"yes": "true", "no": "false"}


@dataclass(frozen=True)
class Decision:
    """One typed question about a state.

    Parameters
    ----------
    name : str
        Id of the question in the case.
    type : {"choice", "noul", "score"}
    instructions : str, mapping or sequence
        The question. Objects and arrays are shown as JSON.
    criteria : mapping, sequence or None
        For a choice, a mapping of 2 to 255 option names to their descriptions or None; for a noul (no or yes), None or
        descriptions of "true" and "false"; for a score, the descriptions of 2 to 10 levels, the lowest first.
    gold : tuple of float, optional
        The gold distribution to compare with or to train on, in the order of `options`.
    label : int, optional
        Index of the right option; by default the first of the most probable ones in `gold`.

    Attributes
    ----------
    options : tuple of str
        The names of the allowed answers: the criteria's keys; "false" and "true"; or "0", "1", ...
    texts : tuple of str
        How each option is shown.

    Raises
    ------
    QuestionError
        If an argument does not meet these conditions.
    """

    name: str
    type: str
    instructions: Any
    criteria: Any = None
    gold: tuple[float, ...] | None = None
    label: int | None = None
    options: tuple[str, ...] = field(init=False)
    texts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or self.type not in TYPES:
            raise QuestionError(f"the type is {self.type!r}; choose from {', '.join(TYPES)}")
        if not shown(self.instructions, "the instructions").strip():
            raise QuestionError("the instructions are empty; write the question there")
        options, texts = _OPTIONS[self.type](self.criteria)
        for name in (self.name, *options):
            check_unicode(name, "the name of the question or of an option")
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "texts", texts)
        if self.gold is not None:
            gold = tuple(map(float, self.gold))
            check_distribution(gold, len(options), "the gold distribution")
            object.__setattr__(self, "gold", gold)
            if self.label is None:
                object.__setattr__(self, "label", gold.index(max(gold)))
        if self.label is not None and not 0 <= self.label < len(options):
            raise QuestionError(f"the label {self.label} is outside the {len(options)} options, counted from 0")

    def question(self, state: str) -> DecisionQuestion:
        """Return the decision as a multiple-choice question that begins with the state's text."""
        return DecisionQuestion(
            question=shown(self.instructions, "the instructions"),
            choices=self.texts,
            answer=self.label,
            context=state,
            type=self.type,
            target=self.gold,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the question in the form of servers, without its answer."""
        return {"type": self.type, "instructions": self.instructions, "criteria": self.criteria}


@dataclass(frozen=True)
class Case:
    """A state and its questions.

    Parameters
    ----------
    state : str, mapping or sequence
        What the questions are about; objects and arrays are shown as JSON. Not empty.
    decisions : tuple of Decision
        At least one, with different names.
    workflow : str, optional
        The group that the case belongs to, used for results per group.
    name : str, optional
        Id of the case.

    Raises
    ------
    QuestionError
        If an argument does not meet these conditions.
    """

    state: Any
    decisions: tuple[Decision, ...]
    workflow: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "decisions", tuple(self.decisions))
        if not self.state_text.strip():
            raise QuestionError("the state is empty; give the text or the object that the questions are about")
        if not self.decisions:
            raise QuestionError("the case has no questions; give at least one")
        names = [decision.name for decision in self.decisions]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise QuestionError(f"the case has more than one question called {', '.join(map(repr, twice))}")

    @property
    def state_text(self) -> str:
        """The state as the prompt shows it."""
        return shown(self.state, "the state")

    @classmethod
    def from_dict(cls, data: Any) -> Case:
        """Read a case from the object that servers accept, with its gold answers if there are any.

        Parameters
        ----------
        data : mapping
            "state"; "questions", a mapping of names to "type", "instructions" and "criteria"; and optionally "gold",
            "workflow" and "id". Gold answers are a mapping of names to a label, or to an object with
            "probabilities", "label" or both. Other keys are ignored.

        Raises
        ------
        QuestionError
            If it is not a case; the message names the question.
        """
        if not isinstance(data, Mapping):
            raise QuestionError(f"expected an object with state and questions, got {_type(data)}")
        for key in ("state", "questions"):
            if key not in data:
                raise QuestionError(f"{key} is missing; a case has state and questions")
        questions, gold = data["questions"], data.get("gold")
        if not isinstance(questions, Mapping):
            raise QuestionError(f"questions: expected an object of named questions, got {_type(questions)}")
        if gold is not None and not isinstance(gold, Mapping):
            raise QuestionError(f"gold: expected an object of answers by question, got {_type(gold)}")
        unknown = sorted(set(gold or ()) - set(questions))
        if unknown:
            raise QuestionError(f"gold: there is no question called {', '.join(map(repr, unknown))}")
        decisions = []
        for name, question in questions.items():
            try:
                decisions.append(_decision(str(name), question, (gold or {}).get(name)))
            except QuestionError as error:
                raise QuestionError(f"question {name!r}: {error}") from None
        workflow, own = data.get("workflow"), data.get("id")
        return cls(
            data["state"],
            tuple(decisions),
            None if workflow is None else str(workflow),
            None if own is None else str(own),
        )

    def questions(self) -> list[DecisionQuestion]:
        """Return the decisions as multiple-choice questions, whose prompts all begin with the state."""
        state = self.state_text
        return [decision.question(state) for decision in self.decisions]


class TypedDecisions(Sequence[Case]):
    """Cases of typed questions, as a task.

    Trainers accept them in place of questions, with the gold distributions as soft targets.

    Parameters
    ----------
    cases : iterable of Case or of mapping
        Mappings are read by `Case.from_dict`. JSON-encoded strings, as in the Parquet files of the benchmark
        `LocalLLaMA/typed-decisions`, are decoded first.
    source : str, optional
        Where the cases come from.

    Attributes
    ----------
    n_of_source : int
        Number of cases of the source; more than there are here if some were chosen.

    Raises
    ------
    QuestionError
        If there are no cases, or one cannot be read; the message names the row.

    Examples
    --------
    >>> question = {"type": "noul", "instructions": "Does the customer ask for a refund?"}
    >>> row = {"state": "I want my money back.", "questions": {"refund": question}, "gold": {"refund": "true"}}
    >>> cases = TypedDecisions([row])
    >>> cases[0].decisions[0].options, cases[0].decisions[0].label
    (('false', 'true'), 1)
    """

    def __init__(self, cases: Iterable[Case | Mapping[str, Any]], source: str | None = None) -> None:
        self.source = source
        self._cases = [
            case if isinstance(case, Case) else _read(case, f"row {row}")
            for row, case in enumerate(struct_rows(cases))
        ]
        self.n_of_source = len(self._cases)
        if not self._cases:
            raise QuestionError(f"{source or 'the data'}: there is no case; give at least one row")

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> TypedDecisions:
        """Read cases from a Parquet, JSON Lines or JSON file, a folder of such files, or a dataset on the Hub.

        Parameters
        ----------
        name_or_path : str or Path
            A Hub name may carry its config and split, `"LocalLLaMA/typed-decisions:all:test"`.
        config, split, revision
            As in `hf_calib.load_questions`.
        limit : int, optional
            Maximum number of cases, drawn at random with the seed and kept in their order.
        seed : int, default 0

        Raises
        ------
        QuestionError
            If a row cannot be read, which the message names, or there are no rows.
        FileNotFoundError
            If there is no such file or folder.
        """
        from .drawing import check_limit, drawn_rows
        from .loading import rows_of, source_name

        check_limit(limit)
        rows, _ = rows_of(name_or_path, config, split, revision)
        cases = cls((_read(row, place) for place, row in rows), source_name(name_or_path, config, split))
        if limit is None or limit >= len(cases):
            return cases
        return cases.at(drawn_rows(len(cases), limit, seed))

    def at(self, places: Iterable[int]) -> TypedDecisions:
        """Return the cases at the given indices."""
        chosen = TypedDecisions([self._cases[place] for place in places], self.source)
        chosen.n_of_source = self.n_of_source
        return chosen

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> TypedDecisions: ...
    def __getitem__(self, index: int | slice) -> Case | TypedDecisions:
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        return self._cases[index]

    def __repr__(self) -> str:
        return f"TypedDecisions(cases={len(self)}, decisions={sum(len(case.decisions) for case in self)})"

    @property
    def decisions(self) -> list[Decision]:
        """All decisions, case by case."""
        return [decision for case in self for decision in case.decisions]

    def questions(self, *, permute: int | None = None) -> list[Question]:
        """Return all decisions as multiple-choice questions, with the gold distributions as targets.

        Parameters
        ----------
        permute : int, optional
            Seed of a random order of each question's options; by default the order is kept. Training on the
            questions of several seeds, one list after another, makes a model independent of the order.
        """
        questions: list[Question] = [question for case in self for question in case.questions()]
        if permute is None:
            return questions
        orders = random_orders(questions, permute)
        return [permute_options(question, order) for question, order in zip(questions, orders, strict=True)]


def _read(row: Any, place: str) -> Case:
    if isinstance(row, QuestionError):
        raise QuestionError(f"{place}: {row}")
    try:
        if isinstance(row, StructRow):
            _check_structs(row.get("questions"))
        return Case.from_dict(_decoded(row))
    except QuestionError as error:
        raise QuestionError(f"{place}: {error}") from None


def _check_structs(questions: Any) -> None:
    """Raise if the questions or options of a row of structs may be those of other rows."""
    for name, question in questions.items() if isinstance(questions, Mapping) else ():
        criteria = question.get("criteria") if isinstance(question, Mapping) else None
        lacking = [name] if question is None else []
        if isinstance(criteria, Mapping) and question.get("type") == "choice":
            lacking = [key for key, text in criteria.items() if text is None]
        if lacking:
            raise QuestionError(
                f"question {name!r}: a column of structs has the questions and options of all rows, so "
                f"{', '.join(map(repr, lacking))} may be another row's; store questions, state and gold as "
                "JSON-encoded strings"
            )


def _decoded(row: Any) -> Any:
    """Return a row of the benchmark's layout, whose columns are JSON-encoded strings, decoded; others as they are."""
    if not isinstance(row, Mapping) or not isinstance(row.get("questions"), str):
        return row
    decoded = dict(row)
    for column in ("state", "questions", "gold"):
        if decoded.get(column) is None:
            continue
        try:
            decoded[column] = json.loads(decoded[column], object_pairs_hook=unique_keys)
        except (TypeError, ValueError, RecursionError) as error:
            raise QuestionError(f"{column}: expected a JSON-encoded string, as in questions; {error}") from None
    return decoded


def _decision(name: str, question: Any, gold: Any) -> Decision:
    if not isinstance(question, Mapping):
        raise QuestionError(f"expected an object with type and instructions, got {_type(question)}")
    for key in ("type", "instructions"):
        if key not in question:
            raise QuestionError(f"{key} is missing")
    decision = Decision(name, question["type"], question["instructions"], question.get("criteria"))
    if gold is None:
        return decision
    probabilities, label = (
        (gold.get("probabilities"), gold.get("label")) if isinstance(gold, Mapping) else (None, gold)
    )
    if probabilities is None and label is None:
        raise QuestionError("gold: expected a label, or an object with probabilities or a label")
    distribution = None if probabilities is None else _distribution(probabilities, decision.options)
    index = None if label is None else _label(label, decision.options)
    return Decision(name, decision.type, decision.instructions, decision.criteria, distribution, index)


def _distribution(probabilities: Any, options: tuple[str, ...]) -> tuple[float, ...]:
    if not isinstance(probabilities, Mapping):
        raise QuestionError(f"gold: probabilities must be an object of numbers by option, got {_type(probabilities)}")
    # A Parquet struct has the options of all rows, with None for those that a question lacks.
    given = {str(key): value for key, value in probabilities.items() if value is not None}
    if set(given) != set(options):
        raise QuestionError(f"gold: the probabilities are for {sorted(given)}, but the options are {sorted(options)}")
    try:
        return tuple(float(given[option]) for option in options)
    except (TypeError, ValueError):
        raise QuestionError(f"gold: probabilities must be numbers, got {given}") from None


def _label(label: Any, options: tuple[str, ...]) -> int:
    text = str(label).lower() if isinstance(label, bool) else str(label)
    if options == _BOOLEANS:
        text = _YES_OR_NO.get(text.lower(), text.lower())
    if text not in options and isinstance(label, float) and label.is_integer():  # pandas writes 2 as 2.0
        text = str(int(label))
    if text not in options:
        raise QuestionError(f"gold: the label {label!r} is not one of the options {', '.join(options)}")
    return options.index(text)


def _choice(criteria: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(criteria, Mapping):
        raise QuestionError(f"criteria: a choice needs an object of options, got {_type(criteria)}")
    names = tuple(map(str, criteria))
    if not 2 <= len(names) <= MOST_OPTIONS:
        raise QuestionError(f"criteria: a choice has 2 to {MOST_OPTIONS} options, got {len(names)}")
    if not all(name.strip() for name in names):
        raise QuestionError("criteria: an option's name is empty")
    if len(set(names)) < len(names):
        raise QuestionError(f"criteria: options have the same name as text: {', '.join(map(repr, criteria))}")
    return names, tuple(_described(name, text) for name, text in criteria.items())


def _noul(criteria: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if criteria is not None and (not isinstance(criteria, Mapping) or not set(criteria) <= set(_BOOLEANS)):
        raise QuestionError(
            f"criteria: a noul has none, or an object with descriptions of true and false; got {criteria!r}"
        )
    described = criteria or {}
    return _BOOLEANS, tuple(
        _described(text, described.get(key)) for key, text in zip(_BOOLEANS, ("No", "Yes"), strict=True)
    )


def _score(criteria: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(criteria, Sequence) or isinstance(criteria, str):
        raise QuestionError(f"criteria: a score needs a list of levels, got {_type(criteria)}")
    if not 2 <= len(criteria) <= MOST_LEVELS:
        raise QuestionError(f"criteria: a score has 2 to {MOST_LEVELS} levels, got {len(criteria)}")
    texts = tuple(shown(level, f"criteria: level {number}") for number, level in enumerate(criteria))
    for number, text in enumerate(texts):
        if not text.strip():
            raise QuestionError(f"criteria: the description of level {number} is empty")
    return tuple(map(str, range(len(texts)))), texts


_OPTIONS = {"choice": _choice, "noul": _noul, "score": _score}


def _described(name: Any, description: Any) -> str:
    text = "" if description is None else shown(description, f"criteria: {name}").strip()
    return f"{name}: {text}" if text else str(name)


def shown(value: Any, what: str) -> str:
    """Return a text as it is, and an object or array as JSON."""
    if isinstance(value, str):
        return check_unicode(value, what)
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, bytes)):
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False) if value else ""
        except (TypeError, ValueError, RecursionError) as error:
            raise QuestionError(f"{what}: {error}; use values that JSON can hold") from None
        return check_unicode(text, what)
    raise QuestionError(f"{what}: expected a text, an object or an array, got {_type(value)}")


def _type(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
