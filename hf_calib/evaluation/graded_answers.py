"""A model's graded answers as questions about whether they are right, and the file that keeps them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ..confidence.elicited import self_evaluation_format, true_question
from ..tasks import PromptFormat, Question, QuestionError
from ..tasks.drawing import QuestionList
from ..tasks.free_form import MATCHERS, FreeFormQuestion, Matcher, matcher_named, name_of_matcher

_METADATA = b"hf_calib.self_evaluation"
# The keys that the provenance must have.
_PROVENANCE = ("model", "n_questions", "sampling", "matcher", "prompt_format", "counts")


@dataclass(frozen=True)
class GradedAnswer:
    """A model's answer in its own words, with its grade.

    Parameters
    ----------
    question : FreeFormQuestion
    text : str
        The answer, not empty.
    right : bool or None
        None if no right answer is known.
    ended : bool
        Whether the answer ended within the allowed number of tokens.
    row : int
        Index of the question among those that were asked.
    """

    question: FreeFormQuestion
    text: str
    right: bool | None
    ended: bool
    row: int


@dataclass(frozen=True)
class Sampling:
    """How a model answers free-form questions, and how its answers are graded.

    Parameters
    ----------
    n_samples : int
    temperature : float
        At 0, the most probable token is always chosen.
    max_new_tokens, seed : int
    drop_cut_off : bool
        Leave out answers that are cut off by the token limit.
    matcher : callable
    prompt_format : PromptFormat
    """

    n_samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    drop_cut_off: bool
    matcher: Matcher
    prompt_format: PromptFormat

    def __post_init__(self) -> None:
        for name in ("n_samples", "max_new_tokens"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}: must be an integer of at least 1, got {value!r}")
        if not isinstance(self.temperature, Real) or not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: must be a finite number of at least 0, got {self.temperature!r}")
        if not isinstance(self.seed, Integral):
            raise ValueError(f"seed: must be an integer, got {self.seed!r}")
        # NumPy's numbers cannot be written as JSON.
        for name in ("n_samples", "max_new_tokens", "seed"):
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "temperature", float(self.temperature))
        if self.n_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"temperature: at 0 all {self.n_samples} samples of a question are the same; raise it, or set "
                "n_samples=1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        settings = {name: value for name, value in vars(self).items() if name not in ("matcher", "prompt_format")}
        return {
            "sampling": settings,
            "matcher": name_of_matcher(self.matcher),
            "prompt_format": self.prompt_format.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], matcher: str | Matcher | None = None) -> Sampling:
        """Return the settings of a `to_dict` state; a custom matcher has to be given again.

        Raises
        ------
        ValueError
            If the answers were graded by a custom matcher, which is not given.
        """
        if matcher is None and data["matcher"] not in MATCHERS:
            raise ValueError(f"matcher: the answers were graded by {data['matcher']!r}; pass that function")
        return cls(
            **data["sampling"],
            matcher=matcher_named(data["matcher"] if matcher is None else matcher),
            prompt_format=PromptFormat.from_dict(data["prompt_format"]),
        )


class SelfEvaluationQuestions(QuestionList[Question]):
    """Questions that ask whether a model's own answers are right, with the options "True" and "False".

    This is a list of `Question`, which trainers, calibrators and reports accept like any other.

    Parameters
    ----------
    answers : sequence of GradedAnswer
        One per question. An ungraded answer becomes a question without an answer, which only the anchor uses.
    provenance : mapping
        JSON values: the model, the sampling, the matcher, the prompt format, the source, and the `counts` of answers.

    Attributes
    ----------
    answers, provenance

    Raises
    ------
    QuestionError
        If the provenance is incomplete.
    """

    def __init__(self, answers: Sequence[GradedAnswer], provenance: Mapping[str, Any]) -> None:
        missing = [name for name in _PROVENANCE if name not in provenance]
        if missing:
            raise QuestionError(
                f"provenance: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; pass that of the "
                "graded answers"
            )
        super().__init__(map(_question, answers), source=provenance.get("source"))
        self.answers = tuple(answers)
        # Through JSON, which turns tuples into lists, so that it is the same after saving and loading.
        self.provenance: dict[str, Any] = json.loads(json.dumps(dict(provenance)))
        self.origin = (
            f"answered by {self.provenance['model']['name']} and graded by {self.provenance['matcher']!r}; "
            f"{self.describe()}"
        )

    @property
    def prompt_format(self) -> PromptFormat:
        """The format in which `hf-calib measure --free-form ... --confidence p-true` asks these questions.

        Calibration-aware trainers use it by default; `predict` and `measure` need it as their `prompt_format`.
        """
        return _format_of(self.provenance)

    @property
    def balance(self) -> dict[str, int]:
        """Number of answers that are "right", "wrong" and "ungraded"."""
        names = {True: "right", False: "wrong", None: "ungraded"}
        return {name: sum(names[answer.right] == name for answer in self.answers) for name in names.values()}

    def describe(self) -> str:
        """Return a sentence with the number of answers and of right answers."""
        balance, counts = self.balance, Counter(self.provenance["counts"])
        graded = balance["right"] + balance["wrong"]
        share = f" ({balance['right'] / graded:.1%} of the graded)" if graded else ""
        parts = [f"{balance['right']} right{share}", f"{balance['wrong']} wrong"]
        parts += [f"{balance['ungraded']} ungraded"] if balance["ungraded"] else []
        asked = _counted(self.provenance["n_questions"], "question")
        text = f"{_counted(len(self), 'answer')} to {asked}: {', '.join(parts)}"
        notes = {
            "cut_off": "cut off by the token limit",
            "not_comparable": "with nothing to compare, counted as wrong",
            "empty": "empty, left out",
            "dropped_cut_off": "cut off and left out",
            "too_long": "not asked because the prompt exceeds the maximum length",
        }
        return "; ".join([text, *(f"{counts[name]} {note}" for name, note in notes.items() if counts[name])])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the questions with their answers and provenance to a Parquet file.

        `hf_calib.load_questions` and every `--calibration_dataset` read it as questions; `load` also reads the rest.

        Raises
        ------
        ValueError
            If the file's name does not end in .parquet.
        """
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        path = parquet_path(path)
        # The right option is saved as its text, which every reader understands in the same way.
        rows = [
            {
                **asdict(question),
                "answer": None if question.answer is None else question.choices[question.answer],
                "source": asdict(answer),
            }
            for question, answer in zip(self, self.answers, strict=True)
        ]
        table = arrow.Table.from_pylist(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps(self.provenance).encode()}
        parquet.write_table(table.replace_schema_metadata(metadata), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SelfEvaluationQuestions:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        QuestionError
            If the file is of another kind, damaged, or written by another version.
        """
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r} to read self-evaluation questions from")
        try:
            table = parquet.read_table(path)
            metadata = (table.schema.metadata or {}).get(_METADATA)
            if metadata is not None:
                rows = table.column("source").to_pylist()
                answers = [GradedAnswer(**row | {"question": FreeFormQuestion(**row["question"])}) for row in rows]
                return cls(answers, json.loads(metadata))
        # For a damaged file, Arrow raises an ArrowException or an OSError, or returns columns, texts or types that
        # were never written.
        except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(path, error) from error
        raise QuestionError(
            f"{path}: the file was not written by SelfEvaluationQuestions.save; read it with load_questions, or give "
            "one that was"
        )


def prompt_format_of_answers(source: Any) -> PromptFormat | None:
    """Return the prompt format of self-evaluation questions or of a file of them; None for anything else."""
    if isinstance(source, SelfEvaluationQuestions):
        return source.prompt_format
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source).expanduser()
    if path.suffix != ".parquet" or not path.is_file():
        return None
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        metadata = (parquet.read_schema(path).metadata or {}).get(_METADATA)
    except (arrow.ArrowException, OSError):  # raised with its reason when the questions are read
        return None
    if metadata is None:
        return None
    try:
        return _format_of(json.loads(metadata))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> QuestionError:
    return QuestionError(
        f"{path}: the file is damaged, of another kind, or written by another version of hf_calib ({error}); answer "
        "the questions again with self_evaluation_questions"
    )


def _format_of(provenance: Mapping[str, Any]) -> PromptFormat:
    return self_evaluation_format(PromptFormat.from_dict(provenance["prompt_format"]))


def parquet_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if its name ends in .parquet."""
    path = Path(path)
    if path.suffix != ".parquet":
        raise ValueError(f"{str(path)!r} does not end in .parquet, the format that can also hold the provenance")
    return path


def _question(answer: GradedAnswer) -> Question:
    """Return a question that asks whether an answer is right."""
    asked = answer.question
    question = true_question(asked.question.strip(), answer.text, asked.subject, asked.context)
    return question if answer.right is None else replace(question, answer=0 if answer.right else 1)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
