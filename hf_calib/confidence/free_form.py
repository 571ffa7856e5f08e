"""Confidence in answers to questions without options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..tasks import FewShotFormat, PromptFormat
from ..tasks.free_form import FreeFormQuestion, Matcher, exact_match, grade
from .asking import Asking
from .backend import Backend
from .elicited import (
    all_known,
    consistency,
    most_confident_correct,
    probability_of_true,
    stated_request,
    true_question,
    with_bounds,
)
from .parsing import find_confidence, read_stated_answer, whole_confidence, without_thought
from .predictions import Predictions
from .registry import MAX_NEW_TOKENS
from .stated_levels import answered_question, find_levels, level_predictions

METHODS = ("stated", "p-true", "levels", "base-tokens", "agreement", "entropy", "distance")
# The answer is written greedily, and a model then reads it.
_ASKED_AFTER = ("p-true", "levels", "base-tokens")


@dataclass(frozen=True)
class FreeFormAnswers:
    """What a model answered in its own words.

    Parameters
    ----------
    texts : tuple of str
        The answers, of length n.
    predictions : Predictions
        Of two options: that the answer given is right, which is the one chosen, and that it is not.
    cut_off : int, default 0
        Number of replies that were cut off at the token limit. With stated confidence, only those without a readable
        answer or confidence are counted.
    """

    texts: tuple[str, ...]
    predictions: Predictions
    cut_off: int = 0


def predict_free_form(
    backend: Backend,
    questions: Sequence[FreeFormQuestion],
    prompt_format: PromptFormat,
    asking: Asking,
    *,
    method: str = "agreement",
    matcher: Matcher = exact_match,
    equivalence: Matcher | None = None,
    n_samples: int = 10,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    scale: str = "numbers",
    top_k: int = 1,
    base: Any = None,
) -> FreeFormAnswers:
    """Ask questions without options, and read the confidence off the model's words.

    A train of thought is not part of an answer; see `hf_calib.confidence.parsing.without_thought`. A reply without an
    answer, such as one that is cut off within its train of thought, agrees with no other sample. If none of a
    question's replies has an answer, the question counts as answered with confidence 0 and half of the mass.

    Parameters
    ----------
    backend, prompt_format, asking
        As in `ConfidenceMethod.predict`; the format's question line and cue are used.
    questions : sequence of FreeFormQuestion
    method : {"agreement", "entropy", "distance", "stated", "p-true", "levels", "base-tokens"}, default "agreement"
        Of the samples' largest cluster: its share, 1 - H/log n with the entropy H of the clusters' shares of n
        samples, or its share less the second's. Or what the model says along with its answer, written greedily, in one
        of `hf_calib.confidence.parsing.STYLES` or in a line; a reply whose answer or confidence cannot be read
        counts as one with confidence 0, with half of the mass. Or P(True): the answer is written greedily, and the
        model is then asked whether it is true; with "levels" how confident it is, as in `StatedLevels`. With
        "base-tokens" the answer is written greedily, and the confidence is the mean of the probabilities that a base
        model gives the answer's tokens, each after the question and the tokens before it (BaseCal-ReEval).
    matcher : callable, default exact_match
        Whether an answer is a right one.
    equivalence : callable, optional
        Whether two samples are the same answer; by default `matcher`. A sample joins the first cluster whose first
        sample it is the same as.
    n_samples, temperature, max_new_tokens, seed
        Of the samples.
    scale : {"numbers", "words"}, default "numbers"
        Of stated confidence.
    top_k : int, default 1
        How many guesses to ask for where confidence is stated; the likeliest is the answer, of equal ones the first.
    base : LocalModel, optional
        The base model of "base-tokens"; by default the model without its PEFT adapter. It reads plain prompts, since
        base models know no chat template.

    Raises
    ------
    ValueError
        If there is no such method or scale, too few samples or guesses, examples where confidence is stated, or no
        base model.

    References
    ----------
    Tan et al., *BaseCal: Unsupervised Confidence Calibration via Base Model Signals*, ACL 2026 (arXiv 2601.03042).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method not in ("stated", *_ASKED_AFTER) and n_samples < 2:
        raise ValueError(f"consistency needs at least two samples, got {n_samples}")
    if method == "stated" and isinstance(prompt_format, FewShotFormat):
        raise ValueError("few-shot examples show no stated confidence; ask for it without them")
    if method == "base-tokens" and base is None:
        from .local import base_under_adapter

        base = base_under_adapter(backend)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "list_options": False, "stop": ("\n",)}
    asked_with = prompt_format
    if method == "stated":
        request = stated_request("a few words", "Paris", scale, top_k)
        if top_k > 1:
            settings |= {"max_new_tokens": max_new_tokens * top_k, "stop": ("\n\n", "Question:")}
        elif prompt_format.chat:
            settings["stop"] = ()  # a train of thought, and an answer in tags, take several lines
        # A chat's cue asks for a letter and is left out without options, so the request joins the question.
        question = prompt_format.question + (f"\n{_braced(request)}" if prompt_format.chat else "")
        asked_with = replace(prompt_format, cue=f"{request}\n{prompt_format.cue}", question=question)
    elif method not in _ASKED_AFTER:
        settings |= {"n_samples": n_samples, "temperature": temperature, "seed": seed}
    written = backend.generate("free_form", questions, asked_with, asking, **settings)  # type: ignore[arg-type]
    rows = np.array([row for row, samples in enumerate(written) if samples is not None], dtype=np.int64)
    texts, confidences, confident, unread, left_out = [], [], [], [], None
    cut_off = dict.fromkeys(rows.tolist(), 0)
    for row in rows:
        replies = written[row] or []
        samples = [without_thought(reply.text).strip() for reply in replies]
        is_unread = False
        if method == "stated":
            text, stated = _stated(samples[0]) if top_k == 1 else _best_guess(samples[0])
            is_unread = stated is None
            confidence = stated or 0.0
        elif method in _ASKED_AFTER or not any(samples):
            text, confidence = samples[0], 0.0
        else:
            clusters = cluster([sample for sample in samples if sample], equivalence or matcher)
            sizes = [*map(len, clusters), *(1 for sample in samples if not sample)]
            shares = np.array(sizes) / len(samples)
            # As many clusters as samples are possible, so that is what an even spread is measured by.
            padded = np.concatenate([shares, np.zeros(len(samples) - len(shares))])
            text, confidence = clusters[0][0], consistency(padded, method)
        unread.append(is_unread or not text)
        if method != "stated" or is_unread:
            cut_off[int(row)] = sum(not reply.ended for reply in replies)
        if method != "stated" and method not in _ASKED_AFTER:
            answers = questions[row].answers
            graded = [grade(sample, answers, matcher) for sample in samples] if answers else None
            confident.append(most_confident_correct(replies, graded))
        texts.append(text)
        confidences.append(confidence)
    if method in _ASKED_AFTER:
        reader = base if method == "base-tokens" else backend
        texts, confidences, rows, left_out = _asked_after(
            method, reader, questions, rows, texts, prompt_format, asking
        )
        unread = [not text for text in texts]
    right = [
        -1 if not questions[row].answers else 0 if grade(text, questions[row].answers, matcher) else 1
        for row, text in zip(rows, texts, strict=True)
    ]
    predictions = Predictions.from_answers(
        np.zeros(len(rows), dtype=np.int64),
        confidences,
        np.full(len(rows), 2),
        right,
        tuple(questions[row].subject for row in rows),
        rows,
    )
    if any(unread):
        halved = predictions.option_log_probabilities + np.log(np.where(unread, 0.5, 1.0))[:, None]
        predictions = replace(predictions, option_log_probabilities=halved)
    if left_out is not None:
        predictions = with_bounds(predictions, *left_out)
    if confident:
        predictions = replace(predictions, most_confident_correct=all_known(confident))
    return FreeFormAnswers(tuple(texts), predictions, sum(cut_off[row] for row in rows.tolist()))


def _asked_after(
    method: str,
    backend: Any,
    questions: Sequence[FreeFormQuestion],
    rows: np.ndarray,
    texts: Sequence[str],
    prompt_format: PromptFormat,
    asking: Asking,
) -> tuple[list[str], list[float], np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Ask about answers; an empty one is not asked after, and counts as 0.

    Returns
    -------
    texts, confidences, rows
        Without those whose second prompts were dropped for their length.
    left_out : tuple of ndarray, or None
        Arguments of `with_bounds`, if a server left out "True" or "False".
    """
    given = [place for place, text in enumerate(texts) if text]
    if not given:
        return list(texts), [0.0] * len(texts), rows, None
    answered = [questions[rows[place]] for place in given]
    pairs = zip(given, answered, strict=True)
    found = {place: 0.0 for place, text in enumerate(texts) if not text}
    bounds, mass = np.zeros(len(texts)), np.ones(len(texts))
    if method == "base-tokens":
        plain = replace(prompt_format, chat=False, system=None)
        scored = backend.score_answers("base_tokens", answered, [texts[place] for place in given], plain, asking)
        found |= {
            place: float(np.exp(tokens).mean())
            for place, tokens in zip(given, scored, strict=True)
            if tokens is not None
        }
    elif method == "levels":
        levels = find_levels(getattr(backend, "tokenizer", None), prompt_format)
        leveled = [answered_question(question, texts[place], None, levels) for place, question in pairs]
        scores = level_predictions(backend, leveled, prompt_format, asking)
        found |= _first_option(scores, given)
    else:
        asked = [
            true_question(question.question.strip(), texts[place], question.subject, question.context)
            for place, question in pairs
        ]
        scores = probability_of_true(backend, asked, prompt_format, asking)
        found |= _first_option(scores, given)
        if scores.missing_bounds is not None:
            answers = np.array(given)[scores.rows]
            bounds[answers], mass[answers] = scores.missing_bounds, scores.option_mass
    places = sorted(found)
    left_out = (bounds[places], mass[places]) if bounds.any() else None
    return [texts[place] for place in places], [found[place] for place in places], rows[places], left_out


def _first_option(scores: Predictions, places: Sequence[int]) -> dict[int, float]:
    """Return the probability of the first option of questions that stand for the answers at some places."""
    return {places[row]: float(p) for row, p in zip(scores.rows, scores.probabilities[:, 0], strict=True)}


def cluster(texts: Sequence[str], same: Matcher) -> list[list[str]]:
    """Return texts in clusters of the same, the largest first, of equal ones the one that began first."""
    clusters: list[list[str]] = []
    for text in texts:
        home = next((own for own in clusters if same(own[0], text)), None)
        if home is None:
            clusters.append([text])
        else:
            home.append(text)
    return sorted(clusters, key=len, reverse=True)


def _braced(text: str) -> str:
    """Return a text for a line of a prompt format, in which braces stand for what is filled in."""
    return text.replace("{", "{{").replace("}", "}}")


def _best_guess(text: str) -> tuple[str, float | None]:
    """Return the guess of the highest confidence among a text's lines; the first line where none states one."""
    lines = [re.sub(r"^\s*(?:G?\d+\s*[.):]\s+|[-*]\s+)", "", line) for line in text.splitlines() if line.strip()]
    guesses = [(answer, value) for answer, value in map(_stated, lines) if value is not None]
    if not guesses:
        return (lines[0].strip() if lines else ""), None
    return max(guesses, key=lambda guess: guess[1])


_ANSWER_IS = re.compile(r"^[\s*_#]*(?:(?:the|my)\s+)?(?:\w+\s+)?answer[*_]*\s*(?::|is\b:?)[\s*_]*", re.IGNORECASE)
# What leads from an answer to the confidence behind it; possessive (*+), since its parts can be read in several ways.
_LEAD_IN = re.compile(
    r"(?:[,;.(]\s*(?:and\s+|because\s+)?(?:I|it|this|that)\b[^,;.(]*)?"
    r"(?:[\s,;:.(\[*–—-]|\b(?:with|at|about)\b(?:\s+an?\b)?|\b(?:and\s+)?I(?:'m|\s+am)\b|"
    r"\b(?:(?:and|with|my|an?|the)\s+)*(?:confidence|probability|certainty|likelihood)\b(?:\s+(?:is|of))?)*+$",
    re.IGNORECASE,
)


def _stated(text: str) -> tuple[str, float | None]:
    """Return the answer and the confidence behind it; None where one of them can't be read."""
    found = read_stated_answer(text)
    if found.answer is not None and found.confidence is not None:
        return found.answer, found.confidence
    answer, behind = (found.answer, text.rpartition(found.answer)[2]) if found.answer else ("", text)
    first, *others = [line.strip() for line in f"{answer}\n{behind}".splitlines() if line.strip()] or [""]
    first = _ANSWER_IS.sub("", first)
    stated = find_confidence(first)
    if stated is None:
        stated = find_confidence(others[0]) if others else None
        return first, None if stated is None else stated[1]
    start, confidence = stated
    answer = _LEAD_IN.sub("", first[:start]).strip("* ")
    if answer:
        return answer, confidence
    # If nothing else can be the answer, the number before a dash is the answer and not the beginning of a range.
    parts = re.match(r"(.+?)\s+[-–]\s+(.+)", first)
    if parts and (stated := find_confidence(parts[2])) is not None:
        return parts[1], stated[1]
    return first, None if whole_confidence(first) is not None else confidence
