"""Predictions in the logs of Inspect."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import LETTERS, Question
from ..tasks.questions import QuestionError
from .recorded import Recorded, RecordedRow, recorded_from, result_files

_ANSWER = re.compile(r"ANSWER\s*:\s*$", re.IGNORECASE)


def read_inspect(paths: Iterable[str | Path]) -> dict[str, Recorded]:
    """Read multiple-choice results from Inspect's `.eval` or `.json` logs.

    With several epochs, the options' probabilities are the shares of the epochs whose scored answer they are. With one
    epoch, which needs log-probabilities (`inspect eval --logprobs --top-logprobs 20`), they are the letters' at the
    answer, after "ANSWER:" if the reply says so; letters that were not returned have none, with a warning.

    Parameters
    ----------
    paths : iterable of path
        Logs, or folders that hold them (searched to any depth).

    Returns
    -------
    dict of str to Recorded
        By task.

    Raises
    ------
    QuestionError
        If a log has neither log-probabilities nor several epochs, a sample lacks a reply, occurs twice in an epoch or
        has one epoch where others have several, or the log is damaged; with the log and the sample.
    FileNotFoundError
        If a path does not exist, or a folder holds no log.

    Warns
    -----
    UserWarning
        If the run did not finish, letters were not returned, or answers could not be read.
    """
    tasks: dict[str, Recorded] = {}
    for path in result_files(paths, "*.eval", "*.json"):
        header, samples = _log(path)
        task = str(header["eval"].get("task") or path.stem)
        if task in tasks:
            raise QuestionError(f"{path}: the task {task!r} occurs in two logs; give one run's logs")
        by_id: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for sample in samples:
            by_id[str(sample.get("id"))].append(sample)
        rows, missing, unread = [], 0, 0
        most = max(map(len, by_id.values()), default=0)
        for number, (name, own) in enumerate(by_id.items()):
            if len(own) == 1 < most:  # log-probabilities and shares of epochs are not the same confidence
                raise QuestionError(
                    f"{path}, sample {name}: it has 1 epoch, and other samples have up to {most}; run inspect "
                    "eval-retry, or remove the sample"
                )
            try:
                row = _row(own, number)
            except QuestionError as error:
                raise QuestionError(f"{path}, sample {name}: {error}") from None
            except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise QuestionError(f"{path}, sample {name} is not as Inspect writes it: {error!r}") from None
            missing += bool(np.isneginf(row.log_probabilities).any() and len(own) == 1)
            unread += round(len(own) * (1 - float(np.exp(row.log_probabilities).sum()))) if len(own) > 1 else 0
            rows.append(row)
        if not rows:
            raise QuestionError(f"{path} holds no sample")
        if missing:
            warnings.warn(
                f"{path}: of {missing} samples not all letters are among the returned tokens; those letters count as "
                "having no probability (run Inspect with a larger --top-logprobs)",
                stacklevel=2,
            )
        if unread:
            warnings.warn(
                f"{path}: {unread} of {len(samples)} replies do not answer with an option's letter; they add "
                "to no option's share, and a sample without any answer counts as a guess",
                stacklevel=2,
            )
        if header.get("status", "success") != "success":
            warnings.warn(
                f"{path}: the run did not finish (its status is {header['status']!r}); only the {len(rows)} samples "
                "in the log are measured",
                stacklevel=2,
            )
        tasks[task] = recorded_from(rows)
    return tasks


def _log(path: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return what a log says of its run, and its samples."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                names = [name for name in file.namelist() if re.fullmatch(r"samples/.*\.json", name)]
                header = json.loads(file.read("header.json"))
                samples = _in_order([json.loads(file.read(name)) for name in names], header)
        else:
            header = json.loads(path.read_text(encoding="utf-8"))
            samples = header["samples"]
        return {**header, "eval": dict(header["eval"])}, samples or []
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        NotImplementedError,  # of zipfile, for an unknown compression
        zipfile.BadZipFile,
    ) as error:
        raise QuestionError(f"{path} is not a log of Inspect: {error!r}") from None


def _in_order(samples: list[Mapping[str, Any]], header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return an archive's samples in the dataset's order, or that of their ids and epochs."""
    known = (dict(header["eval"]).get("dataset") or {}).get("sample_ids") or ()
    places = {str(own): place for place, own in enumerate(known)}

    def key(sample: Mapping[str, Any]) -> tuple[Any, ...]:
        own = str(sample.get("id"))
        parts = [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", own)]
        return places.get(own, len(places)), parts, sample.get("epoch", 1)

    return sorted(samples, key=key)


def _row(epochs: list[Mapping[str, Any]], number: int) -> RecordedRow:
    sample = epochs[0]
    numbers = [own.get("epoch", 1) for own in epochs]
    if len(set(numbers)) < len(numbers):
        raise QuestionError(
            f"it occurs several times in an epoch (epochs {numbers}); give each sample an id of its own"
        )
    for own in epochs:
        if not (own.get("output") or {}).get("choices"):
            reason = (own.get("error") or {}).get("message")
            raise QuestionError(
                f"there is no reply{'' if reason is None else f' ({reason!r:.100})'}; run inspect eval-retry, or "
                "remove the sample"
            )
    choices = [str(choice) for choice in sample.get("choices") or ()]
    letters = LETTERS[: len(choices)]
    target = sample.get("target")
    target = target[0] if isinstance(target, list) and len(target) == 1 else target
    if len(choices) < 2 or not isinstance(target, str) or target not in letters:
        raise QuestionError(
            f"the target {target!r} is not the letter of one of {len(choices)} choices; only multiple-choice tasks "
            "with one right answer have confidences"
        )
    answer = letters.index(target)
    if len(epochs) == 1:
        scores = _letters(sample, letters)
    else:
        if not any(own.get("scores") for own in epochs):
            raise QuestionError("it was not scored; run inspect score")
        answers = [_answer(own, letters) for own in epochs]
        counts = np.array([answers.count(letter) for letter in letters])
        with np.errstate(divide="ignore"):
            scores = np.log(counts / len(epochs)).tolist()
    return RecordedRow(scores, answer, number, question=_question(sample, choices, answer))


def _answer(sample: Mapping[str, Any], letters: str) -> str | None:
    """Return the letter that a scorer read; other scorers may read none."""
    answers = {str(score.get("answer")).strip() for score in (sample.get("scores") or {}).values()}
    found = sorted(answers.intersection(letters))
    if len(found) > 1:
        raise QuestionError(f"its scorers read different answers, {' and '.join(found)}; keep one scorer's scores")
    return found[0] if found else None


def _letters(sample: Mapping[str, Any], letters: str) -> list[float]:
    """Return the letters' log-probabilities at the answer."""
    logprobs = (sample["output"]["choices"][0].get("logprobs") or {}).get("content")
    if not logprobs:
        raise QuestionError(
            "the log has no log-probabilities and only one epoch; run Inspect with --logprobs --top-logprobs 20, or "
            "with --epochs 10"
        )
    written, places = "", []
    for token in logprobs:
        if str(token["token"]).strip() in list(letters):
            places.append((bool(_ANSWER.search(written)), token))
        written += str(token["token"])
    # The letter after "ANSWER:", or the only letter of the reply.
    marked = [token for said, token in places if said] or [token for _, token in places]
    if len(marked) != 1:
        raise QuestionError(
            f"{len(marked)} tokens of the reply {written[:80]!r} may be the answer; expected one. Remove the sample, "
            "or run Inspect with --epochs 10, which estimates the confidence from repeated answers"
        )
    chosen = str(marked[0]["token"]).strip()
    scored = _answer(sample, letters)
    if scored not in (None, chosen):
        raise QuestionError(
            f"the reply's letter is {chosen} and the scored answer {scored}: the choices were shuffled, and the log "
            "does not say how; run Inspect without shuffling"
        )
    found: dict[str, list[float]] = defaultdict(list)
    returned = marked[0].get("top_logprobs") or [marked[0]]
    for token in returned:
        found[str(token["token"]).strip()].append(float(token["logprob"]))
    # The letter with and without a space before it are the same answer.
    return [min(float(np.logaddexp.reduce(found[letter])), 0.0) if letter in found else -np.inf for letter in letters]


def _question(sample: Mapping[str, Any], choices: list[str], answer: int) -> Question | None:
    text = sample.get("input")
    if isinstance(text, list):  # messages; the last one asks
        text = text[-1].get("content") if text else None
    try:
        return Question(text, tuple(choices), answer) if isinstance(text, str) else None
    except QuestionError:  # it is shown in a report only
        return None
