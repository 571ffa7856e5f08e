"""Predictions that lm-evaluation-harness logged with `--log_samples`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tasks import Question
from ..tasks.files import file_rows
from ..tasks.questions import QuestionError
from .recorded import Recorded, RecordedRow, are_labels, recorded_from, result_files, task_of


def read_lm_eval(paths: Iterable[str | Path]) -> dict[str, Recorded]:
    """Read `samples_*.jsonl` files of multiple-choice tasks.

    The options' log-likelihoods are used as log-probabilities: of letters or of texts, depending on the task.

    Parameters
    ----------
    paths : iterable of path
        Files, or folders that hold them (searched to any depth).

    Returns
    -------
    dict of str to Recorded
        By task.

    Raises
    ------
    QuestionError
        If a file belongs to a generation task, or a line is wrong; with the file and the line.
    FileNotFoundError
        If a path does not exist, or a folder holds no such file.
    """
    tasks: dict[str, Recorded] = {}
    for path in result_files(paths, "samples_*.jsonl"):
        task = task_of(path, "samples_")
        if task in tasks:
            raise QuestionError(f"{path}: the task {task!r} occurs in two files; give one run's files")
        samples, filters = [], set()
        for place, sample in file_rows(path):
            filters.add(sample.get("filter"))
            if len(filters) > 1:
                raise QuestionError(
                    f"{place}: the file holds the results of several filters, {sorted(map(str, filters))}"
                )
            try:
                samples.append(_Sample.of(sample, place))
            except QuestionError as error:
                raise QuestionError(f"{place}: {error}") from None
            except (TypeError, ValueError, AttributeError) as error:
                raise QuestionError(
                    f"{place}: this is not a sample as lm-evaluation-harness logs it: {error}"
                ) from None
        if not samples:
            raise QuestionError(f"{path} holds no sample")
        tasks[task] = recorded_from(_rows(samples, task, path), path)
    return tasks


@dataclass(frozen=True)
class _Sample:
    """One logged document."""

    place: str
    row: int
    doc: Mapping[str, Any]
    target: str
    choices: list[str]
    scores: list[float]
    has_mass: bool
    was_right: bool | None

    @classmethod
    def of(cls, sample: Mapping[str, Any], place: str) -> _Sample:
        for name in ("doc_id", "target", "arguments", "filtered_resps"):
            if name not in sample:
                raise QuestionError(
                    f"there is no {name!r}; expected what lm-evaluation-harness logs with --log_samples"
                )
        responses = sample["filtered_resps"]
        if not isinstance(responses, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in responses):
            raise QuestionError("the responses are not log-likelihoods; only multiple-choice tasks have confidences")
        requests = _continuations(sample["arguments"])
        if len(requests) != len(responses):
            raise QuestionError(f"{len(requests)} requests have {len(responses)} responses")
        asked = list(zip(requests, responses, strict=True))
        # For mutual information, each option is asked again without its context.
        with_context = [one for one in asked if one[0][0]]
        asked = with_context or asked
        try:
            scores = [float(response[0]) for _, response in asked]
        except (TypeError, ValueError):
            raise QuestionError("a log-likelihood is not a number") from None
        if any(math.isnan(score) for score in scores):
            raise QuestionError(f"log-likelihoods contain NaN: {scores}; check the model's weights and number format")
        accuracy = None if sample.get("acc") is None else float(sample["acc"])
        if accuracy not in (None, 0.0, 1.0):
            raise QuestionError(
                f"acc is {accuracy:g}, which suggests that several options are right; only tasks with a single right "
                "option can be measured"
            )
        doc = sample.get("doc")
        return cls(
            place=place,
            row=int(sample["doc_id"]),
            doc=doc if isinstance(doc, Mapping) else {},
            target=str(sample["target"]).strip(),
            choices=[text.strip() for (_, text), _ in asked],
            scores=scores,
            has_mass=len({context for (context, _), _ in asked}) == 1 and are_labels(text for (_, text), _ in asked),
            was_right=None if accuracy is None else accuracy == 1.0,
        )

    def by_index(self) -> int | None:
        """Return the answer if the target is an index."""
        index = int(self.target) if re.fullmatch(r"[0-9]{1,3}", self.target) else len(self.choices)
        return index if index < len(self.choices) and self._agrees(index) else None

    def by_text(self) -> int | None:
        """Return the answer if the target is an option's text."""
        index = self.choices.index(self.target) if self.choices.count(self.target) == 1 else len(self.choices)
        return index if index < len(self.choices) and self._agrees(index) else None

    def _agrees(self, answer: int) -> bool:
        best = max(range(len(self.scores)), key=self.scores.__getitem__)
        return self.was_right is None or self.was_right == (best == answer)


def _rows(samples: list[_Sample], task: str, path: Path) -> list[RecordedRow]:
    """Make rows. Whether targets are indices or texts is not logged, so it is inferred from all samples."""
    readings = [[sample.by_index() for sample in samples], [sample.by_text() for sample in samples]]
    fitting = [answers for answers in readings if None not in answers]
    if not fitting:
        first = min(readings, key=lambda answers: answers.count(None)).index(None)
        raise QuestionError(
            f"{samples[first].place}: the target {samples[first].target!r} is neither the index nor the text of the "
            f"right one of the options {samples[first].choices}"
        )
    if len(fitting) == 2 and fitting[0] != fitting[1]:
        raise QuestionError(f"{path}: the targets may be the options' indices or their texts, and nothing says which")
    rows = []
    for sample, answer in zip(samples, fitting[0], strict=True):
        assert answer is not None
        try:
            rows.append(
                RecordedRow(
                    sample.scores,
                    answer,
                    sample.row,
                    subject=str(sample.doc.get("subject") or task),
                    has_mass=sample.has_mass,
                    question=_question(sample.doc, sample.choices, answer),
                )
            )
        except QuestionError as error:
            raise QuestionError(f"{sample.place}: {error}") from None
    return rows


def _continuations(arguments: Any) -> list[tuple[str, str]]:
    """Return (context, continuation) of each request, as the file or the library itself holds them."""
    if isinstance(arguments, Mapping):
        arguments = [[own.get("arg_0"), own.get("arg_1")] for own in arguments.values()]
    pairs = [tuple(own[:2]) for own in arguments]
    if not all(len(own) == 2 and all(isinstance(text, str) for text in own) for own in pairs):
        raise QuestionError("the arguments are not pairs of a context and a continuation")
    return pairs


def _question(doc: Mapping[str, Any], choices: list[str], answer: int) -> Question | None:
    """Return the question as far as the task's document shows it."""
    text = doc.get("question") or doc.get("question_stem") or doc.get("query")
    own = doc.get("choices")
    own = own.get("text") if isinstance(own, Mapping) else own
    if isinstance(own, list) and len(own) == len(choices) and all(isinstance(choice, str) for choice in own):
        choices = own
    try:
        context = doc.get("context") or None
        return Question(str(text), tuple(choices), answer, context=context) if text else None
    except QuestionError:  # it is shown in a report only
        return None
