"""Predictions in a run folder of HELM."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import Question
from ..tasks.questions import QuestionError
from .recorded import Recorded, RecordedRow, recorded_from

_STATE = "scenario_state.json"


def read_helm(path: str | Path) -> dict[str, Recorded]:
    """Read multiple-choice results from HELM's `scenario_state.json`.

    Of the adaptation *multiple_choice_joint* the options' probabilities are the letters' among the first token's
    `top_logprobs`; of *multiple_choice_separate_original* the sum of the log-probabilities of each option's tokens.
    Only the first trial is read, and no perturbed copies of the questions.

    Parameters
    ----------
    path : path
        The file, a run's folder, or one that holds runs.

    Returns
    -------
    dict of str to Recorded
        By run folder.

    Raises
    ------
    QuestionError
        If the results lack log-probabilities of options, hold a question twice, or are damaged.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    files = sorted(path.rglob(_STATE)) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"there is no {_STATE} at {str(path)!r}")
    return {file.parent.name: _read(file) for file in files}


def _read(file: Path) -> Recorded:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        requests = state["request_states"]
        method = state["adapter_spec"]["method"]
        subject = state["adapter_spec"].get("subject") or _subject(file.parent.name)
        by_instance: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for request in requests:
            # Other trials ask the same with other examples, and perturbations with typing errors and the like.
            if request.get("train_trial_index", 0) == 0 and not request["instance"].get("perturbation"):
                by_instance[str(request["instance"].get("id"))].append(request)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QuestionError(f"{file} is not a scenario state of HELM: {error!r}") from None
    rows = []
    for number, (name, own) in enumerate(by_instance.items()):
        try:
            rows.append(_row(own, method, number, subject))
        except QuestionError as error:
            raise QuestionError(f"{file}, instance {name}: {error}") from None
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise QuestionError(f"{file}, instance {name} is not as HELM writes it: {error!r}") from None
    if not rows:
        raise QuestionError(f"{file} holds no result")
    return recorded_from(rows)


def _subject(run: str) -> str | None:
    match = re.search(r"subject=([^,]+)", run)
    return match[1] if match else None


def _row(requests: list[Mapping[str, Any]], method: str, number: int, subject: str | None) -> RecordedRow:
    references = requests[0]["instance"]["references"]
    choices = [str(reference["output"]["text"]) for reference in references]
    right = [index for index, reference in enumerate(references) if "correct" in reference["tags"]]
    if len(right) != 1:
        raise QuestionError(f"{len(right)} of the {len(choices)} options are right; exactly one must be")
    if method == "multiple_choice_joint":
        if len(requests) > 1:
            raise QuestionError(f"it was asked {len(requests)} times in one trial; give one run's results")
        scores, right = _joint(requests[0], choices, right[0])
    elif method == "multiple_choice_separate_original":
        scores = _separate(requests, choices)
    else:
        raise QuestionError(
            f"the adaptation {method!r} gives no option's probability; multiple_choice_joint and "
            "multiple_choice_separate_original do"
        )
    question = Question(str(requests[0]["instance"]["input"]["text"]), tuple(choices), right[0])
    has_mass = method == "multiple_choice_joint"  # else the scores are of the options' texts
    return RecordedRow(scores, right[0], number, subject=subject, has_mass=has_mass, question=question)


def _joint(request: Mapping[str, Any], choices: list[str], right: int) -> tuple[list[float], list[int]]:
    """Return the letters' log-probabilities in the order of the references."""
    mapping = {str(letter).strip(): str(text) for letter, text in request["output_mapping"].items()}
    if sorted(mapping.values()) != sorted(choices):
        raise QuestionError("the letters' texts are not the options'")
    tokens = request["result"]["completions"][0]["tokens"]
    top = (tokens[0].get("top_logprobs") or {}) if tokens else {}
    found: dict[str, list[float]] = defaultdict(list)
    for token, value in top.items():
        found[str(token).strip()].append(float(value))
    missing = [letter for letter in mapping if not found.get(letter)]
    if missing:
        raise QuestionError(
            f"the log-probability of {', '.join(missing)} was not returned; run HELM with a model that returns "
            "top_logprobs for all letters"
        )
    # A letter with and without a leading space is the same answer.
    scores = {text: float(np.logaddexp.reduce(found[letter])) for letter, text in mapping.items()}
    if len(scores) < len(choices):
        raise QuestionError("two options have the same text, so the letters can't be told apart")
    return [min(scores[text], 0.0) for text in choices], [right]


def _separate(requests: list[Mapping[str, Any]], choices: list[str]) -> list[float]:
    scores: dict[int, float] = {}
    for request in requests:
        if request.get("request_mode") == "calibration":
            continue
        index = int(request["reference_index"])
        if index in scores:
            raise QuestionError(f"option {index} was scored several times in one trial; give one run's results")
        scores[index] = _last(request["result"]["completions"][0]["tokens"], choices[index])
    if sorted(scores) != list(range(len(choices))):
        raise QuestionError(f"{len(scores)} of the {len(choices)} options were scored")
    return [scores[index] for index in range(len(choices))]


def _last(tokens: list[Mapping[str, Any]], text: str) -> float:
    """Return the log-probability of the tokens at the end that spell an option's text."""
    wanted, spelt, total = text.strip(), "", 0.0
    for token in reversed(tokens):
        spelt = str(token["text"]) + spelt
        total += float(token["logprob"])
        if spelt.strip() == wanted:
            return min(total, 0.0)
        if len(spelt.strip()) > len(wanted):
            break
    raise QuestionError(f"the tokens do not end in the option {wanted!r}")
