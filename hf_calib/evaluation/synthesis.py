"""Let a model write multiple-choice questions, for an anchor that needs no data."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..confidence.asking import Asking, progress_bar
from ..confidence.journal import Journal
from ..tasks import LETTERS, PromptFormat, Question, QuestionError, as_questions, load_questions
from ..tasks.drawing import QuestionList
from ..tasks.free_form import FreeFormQuestion
from .example_questions import EXAMPLES, SUBJECTS
from .models import Model, model_source, this_process
from .provenance import versions_of
from .settings import AskSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..confidence.backend import Backend

_VERSIONS_OF = ("hf-calib", "transformers", "torch")
_FORMAT = PromptFormat()
# The whole prompt is the question.
_AS_IT_IS = PromptFormat(question="{question}", cue="", separator="")
_ON_LINES = re.compile(r"^[ \t]*([A-Z])[.)](?:\s|$)", re.MULTILINE)
_ARTICLE_AND_STOP = re.compile(r"^(?:an?|the) |[.,;:!?]+$")
_IN_A_LINE = re.compile(r"(?:^|\s)([A-Z])[.)]\s")
# Texts that are written before it is known how many more are needed, and those among them that are shown the same
# examples, which are then computed once for a batch.
_ROUND, _GROUP = 256, 64
# A model gives up below this share of usable texts, which is found from at least so many.
_LEAST_YIELD, _JUDGED_FROM = 0.05, 100
# In characters; shorter or longer examples extend these limits.
_SHORTEST_QUESTION, _LONGEST_CHOICE = 10, 200
REASONS = {
    "too_long": "had prompts that are too long for the model",
    "cut_off": "were cut off by the token limit",
    "unreadable": "had no lettered options in order",
    "number_of_options": "had more or fewer options than any example",
    "identical_options": "had identical options",
    "length": "had a question that is too short or an option that is too long",
    "repeated": "repeated another question or an example",
}
"""Why a text is not used, in the order in which it is checked."""


@dataclass(frozen=True)
class Writing:
    """How a model is asked to write questions.

    Parameters
    ----------
    n : int
        Number of questions.
    examples : tuple of Question
        What is shown to the model.
    subjects : tuple of str
        What the questions are to be about, drawn at random for each; with none, subjects are not mentioned.
    n_shots : int
        Number of examples in a prompt, drawn at random for each batch.
    temperature : float
    max_new_tokens, seed : int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    n: int
    examples: tuple[Question, ...] = EXAMPLES
    subjects: tuple[str, ...] = SUBJECTS
    n_shots: int = 4
    temperature: float = 0.8
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is the number of questions to write, at least 1; got {self.n}")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature: at 0 a model writes the same question again and again; got {self.temperature}"
            )
        if self.n_shots < 0 or self.max_new_tokens < 1:
            raise ValueError(
                f"n_shots must be at least 0 and max_new_tokens at least 1; got {self.n_shots} and "
                f"{self.max_new_tokens}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, with a digest of the examples."""
        shown = json.dumps([asdict(example) for example in self.examples], ensure_ascii=False)
        settings = {name: value for name, value in vars(self).items() if name != "examples"}
        return {
            **settings,
            "subjects": list(self.subjects),
            "examples_sha256": hashlib.sha256(shown.encode()).hexdigest(),
        }

    def prompts(self, number: int, count: int) -> list[tuple[str | None, str]]:
        """Return the subjects and the prompts of a round."""
        rng = np.random.default_rng([self.seed, number])
        made = []
        for text in range(count):
            if text % _GROUP == 0:
                shown = [self.examples[place] for place in rng.permutation(len(self.examples))[: self.n_shots]]
            subject = str(rng.choice(self.subjects)) if self.subjects else None
            made.append((subject, "\n\n".join([*map(self._solved, shown), self._header(subject) + "Question:"])))
        return made

    def _solved(self, example: Question) -> str:
        asked = self._header(example.subject) + _FORMAT.render(replace(example, subject=None))
        return asked if example.answer is None else f"{asked} {example.letters[example.answer]}"

    def _header(self, subject: str | None) -> str:
        return "" if not self.subjects or subject is None else f"Subject: {subject}\n"

    def read(self, text: str, subject: str | None) -> Question | str:
        """Return the question in a text, or a key of `REASONS`."""
        pattern = _ON_LINES if "\n" in text.strip() else _IN_A_LINE
        asked, *parts = (part.strip() for part in pattern.split(text))
        letters, choices = parts[::2], parts[1::2]
        in_order = len(choices) > 1 and "".join(letters) == LETTERS[: len(letters)]
        if not in_order or not all([asked, *choices]) or any("\n" in choice for choice in choices):
            return "unreadable"
        if self.examples and len(choices) not in {len(example.choices) for example in self.examples}:
            return "number_of_options"
        if len(set(map(_same, choices))) < len(choices):
            return "identical_options"
        shortest = min([_SHORTEST_QUESTION, *(len(example.question) for example in self.examples)])
        longest = max([_LONGEST_CHOICE, *(len(choice) for example in self.examples for choice in example.choices)])
        if len(asked) < shortest or max(map(len, choices)) > longest:
            return "length"
        return Question(asked, tuple(choices), None, subject)


class SynthesizedQuestions(QuestionList[Question]):
    """Multiple-choice questions without answers that a model wrote.

    This is a list of `Question`, which trainers and reports accept like any other.

    Parameters
    ----------
    questions : sequence of Question
    provenance : mapping
        JSON values: the model, the settings, and the `counts` of texts by what became of them.

    Attributes
    ----------
    provenance
    """

    name_in_memory = "self-made-questions"

    def __init__(self, questions: Sequence[Question], provenance: Mapping[str, Any]) -> None:
        super().__init__(questions)
        self.provenance = dict(provenance)
        self.origin = f"written by {Path(self.provenance['model']['name']).name}; {self.describe()}"

    def describe(self) -> str:
        """Return a sentence with the number of questions, and of texts that were not used by reason."""
        return _described(self.provenance["counts"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the questions to a JSON Lines file, and the provenance to a .provenance.json file next to it.

        `hf_calib.load_questions` and every `--calibration_dataset` read the first; `load` reads both.

        Raises
        ------
        ValueError
            If the file's name does not end in .jsonl.
        """
        path = _jsonl_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = ({name: value for name, value in asdict(question).items() if value is not None} for question in self)
        _provenance_path(path).write_text(json.dumps(self.provenance, indent=2) + "\n", encoding="utf-8")
        # A run that is killed here leaves no file that looks complete.
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SynthesizedQuestions:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        QuestionError
            If the provenance is missing, or a file is damaged or incomplete.
        """
        path = _jsonl_path(path)
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        aside = _provenance_path(path)
        if not aside.exists():
            raise QuestionError(
                f"{path}: the file {aside.name} with its provenance is missing; read it with load_questions, or give "
                "a file that SynthesizedQuestions.save wrote"
            )
        try:
            questions = cls(load_questions(path), json.loads(aside.read_text(encoding="utf-8")))
            n = questions.provenance["counts"]["questions"]
        except (ValueError, KeyError, TypeError) as error:
            raise QuestionError(
                f"{path}: this file or {aside.name} is damaged; remove it to have the questions written again"
            ) from error
        if len(questions) != n:
            raise QuestionError(
                f"{path}: has {len(questions)} questions, but {n} were written; remove it to have them written again, "
                "or read it with load_questions"
            )
        return questions


def synthesize_questions(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    n: int,
    *,
    examples: Sequence[Question] | Sequence[Mapping[str, Any]] | str | os.PathLike[str] = EXAMPLES,
    subjects: Sequence[str] | None = None,
    n_shots: int = 4,
    temperature: float = 0.8,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int | str = "auto",
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
) -> SynthesizedQuestions:
    """Let a model write multiple-choice questions, to which an anchor can hold a model without any data.

    The model continues a prompt of a few examples. What it writes is read, and repetitions and texts that are no
    questions are left out and counted. The questions need not be good: an anchor only needs prompts of the kind at
    which the model is to stay as it is.

    Parameters
    ----------
    model : as in `hf_calib.measure`
        A loaded model with its `tokenizer`, a name, or a source of answers such as `hf_calib.confidence.ServedModel`.
        A base model or a chat model; in both cases it is asked in plain text.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        Tokenizer of a loaded model; None for all other models.
    n : int
        Number of questions.
    examples : list of Question, list of rows, str or Path, optional
        By default 16 original ones on several subjects, with two to five options. With an empty list, the prompt is
        just "Question:", for a model that was trained on such texts alone.
    subjects : sequence of str, optional
        What the questions are to be about. By default about fifty with the default examples, otherwise the subjects of
        the examples.
    n_shots : int, default 4
        Number of examples in a prompt.
    temperature : float, default 0.8
    max_new_tokens : int, default 128
    seed : int, default 0
        Seed of the examples, the subjects and the samples.
    batch_size, progress
        As in `hf_calib.measure`.
    out : path, optional
        A .jsonl file to save the questions to. A run that was stopped is continued, and a finished run is read from
        the file.

    Returns
    -------
    SynthesizedQuestions

    Raises
    ------
    QuestionError
        If fewer than one in twenty texts is a new question, or the prompts are too long for the model.
    ValueError
        If a setting is out of range, or `out` holds a run with other settings.

    Examples
    --------
    >>> questions = synthesize_questions("your/model", None, 500, out="questions.jsonl")  # doctest: +SKIP
    >>> print(questions.describe())  # doctest: +SKIP
    500 questions from 803 texts; 165 had identical options, 83 had no lettered options in order, ...
    """
    if isinstance(subjects, str):
        raise ValueError(f"subjects: give a list of texts, such as [{subjects!r}]")
    given = isinstance(examples, str | os.PathLike) or len(examples) > 0
    shown: Sequence[Question] = as_questions(examples) if given else ()
    if subjects is None:
        own = dict.fromkeys(example.subject for example in shown if example.subject is not None)
        subjects = SUBJECTS if examples is EXAMPLES else tuple(own)
    writing = Writing(n, tuple(shown), tuple(subjects), n_shots, temperature, max_new_tokens, seed)
    where = this_process()
    source = model_source(model, AskSettings(tokenizer=tokenizer, progress=progress), where)
    asking = Asking(batch_size, progress, None, where.index, where.count)
    return written(source.opened, writing, asking, {"name": source.name, **source.identity}, out)


def written(
    backend: Any, writing: Writing, asking: Asking, model: Mapping[str, Any], out: str | os.PathLike[str] | None = None
) -> SynthesizedQuestions:
    """Let a model write questions, or return those that an earlier run with the same settings wrote.

    Parameters
    ----------
    backend : callable
        Returns the source of answers.
    writing : Writing
    asking : Asking
        Several processes share the work, and each gets all questions.
    model : mapping
        The model's identity for the provenance.
    out : path, optional
        As in `synthesize_questions`.
    """
    run = json.loads(json.dumps({"model": dict(model), **writing.to_dict()}))
    if out is None:
        return _written(backend(), writing, asking, run)
    path = _jsonl_path(out)
    if (found := _finished(path, run, asking)) is not None:
        return found
    journal = Journal(path.with_suffix(".progress"), run, asking.process_index)
    try:
        questions = _written(backend(), writing, replace(asking, journal=journal), run)
    except QuestionError:  # the same settings would fail again, and must not stand in the way of others
        if asking.process_index == 0 and any(journal.folder.glob("*.jsonl")):  # others may be making an empty one
            journal.remove()
        raise
    if asking.process_index == 0:
        questions.save(path)
        journal.remove()
    return questions


def _finished(path: Path, run: Mapping[str, Any], asking: Asking) -> SynthesizedQuestions | None:
    """Return the questions of a finished run, the same on every process, if its settings are the same."""
    found: list[Any] = [None]
    if asking.process_index == 0 and path.exists():
        try:
            found = [SynthesizedQuestions.load(path)]
        except QuestionError as error:  # raised on every process, since the others wait
            found = [error]
    if asking.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    if isinstance(found[0], QuestionError):
        raise found[0]
    if found[0] is None:
        return None
    differing = [name for name in run if found[0].provenance.get(name) != run[name]]
    if differing:
        raise ValueError(
            f"{path} holds questions of a run that differs in {', '.join(differing)}; remove it, or write to another "
            "folder"
        )
    return found[0]


def _written(backend: Backend, writing: Writing, asking: Asking, run: Mapping[str, Any]) -> SynthesizedQuestions:
    counts = Counter(dict.fromkeys(("texts", *REASONS, "not_needed"), 0))
    seen = {_key(example) for example in writing.examples}
    kept: list[Question] = []
    show = asking.progress and asking.process_index == 0
    with progress_bar("writing_questions", writing.n, writing.n, show) as advance:
        for number in itertools.count():
            before = len(kept)
            for read in _round(backend, writing, replace(asking, progress=False), number, writing.n - before):
                counts["texts"] += 1
                if isinstance(read, Question) and _key(read) in seen:
                    read = "repeated"
                if isinstance(read, str):
                    counts[read] += 1
                elif len(kept) == writing.n:
                    counts["not_needed"] += 1
                else:
                    seen.add(_key(read))
                    kept.append(read)
            advance(len(kept) - before)
            if len(kept) == writing.n:
                break
            if counts["texts"] >= _JUDGED_FROM and len(kept) < _LEAST_YIELD * counts["texts"]:
                raise QuestionError(
                    f"model: fewer than {_LEAST_YIELD:.0%} of the texts that {run['model']['name']} writes are usable "
                    f"as questions: {_described({**counts, 'questions': len(kept)})}. Use a more "
                    "capable model (in a trainer, as calibration_reference_model), or pass your own questions"
                )
    provenance = {
        **run,
        "counts": {"questions": len(kept), **counts},
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions_of(_VERSIONS_OF),
    }
    return SynthesizedQuestions(kept, provenance)


def _round(backend: Backend, writing: Writing, asking: Asking, number: int, missing: int) -> Iterator[Question | str]:
    """Yield what is read in each text of a round, or the reason why it is not used."""
    prompts = writing.prompts(number, min(_ROUND, 2 * missing))
    try:
        texts = backend.generate(
            f"round_{number}",
            [FreeFormQuestion(prompt) for _, prompt in prompts],  # type: ignore[misc]  # rendered like any question
            _AS_IT_IS,
            asking,
            temperature=writing.temperature,
            max_new_tokens=writing.max_new_tokens,
            stop=("Answer:", "\n\n"),
            list_options=False,
            seed=int(np.random.SeedSequence([writing.seed, number]).generate_state(1)[0]),
        )
    except QuestionError as error:  # too long
        raise QuestionError(
            f"examples: {str(error).partition(';')[0]}; show fewer examples (n_shots), shorter ones or none "
            "(examples=()), or lower max_new_tokens"
        ) from error
    for (subject, _), samples in zip(prompts, texts, strict=True):
        if samples is None:
            yield "too_long"
        else:
            yield writing.read(samples[0].text, subject) if samples[0].ended else "cut_off"


def _key(question: Question) -> tuple[str, frozenset[str]]:
    """Return what makes a question the same as another, in whatever order its options are."""
    return _same(question.question), frozenset(map(_same, question.choices))


def _same(text: str) -> str:
    """Return what makes a text the same as another: its words without case, an article and a final stop."""
    text = " ".join(text.casefold().split())
    return _ARTICLE_AND_STOP.sub("", text) or text


def _described(counts: Mapping[str, int]) -> str:
    parts = [f"{counts[name]:,} {text}" for name, text in REASONS.items() if counts[name]]
    parts += [f"{counts['not_needed']:,} were not needed"] if counts["not_needed"] else []
    text = f"{counts['questions']:,} questions from {counts['texts']:,} texts"
    return f"{text}; {', '.join(parts)}" if parts else text


def _jsonl_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if its name ends in .jsonl."""
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"{str(path)!r} does not end in .jsonl, the format of synthesized questions")
    return path


def _provenance_path(path: Path) -> Path:
    return path.with_suffix(".provenance.json")
