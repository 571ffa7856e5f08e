"""Let a model answer free-form questions and grade its answers, for two-option questions to train on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..confidence import Asking, Journal
from ..confidence.parsing import without_thought
from ..tasks import PromptFormat, QuestionError
from ..tasks.drawing import QuestionList
from ..tasks.free_form import (
    FreeFormQuestion,
    Matcher,
    as_free_form_questions,
    grade,
    is_comparable,
    matcher_named,
    name_of_matcher,
)
from .graded_answers import GradedAnswer, Sampling, SelfEvaluationQuestions, parquet_path
from .models import Model, model_source, this_process
from .provenance import versions_of
from .settings import AskSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..confidence.backend import Backend

_VERSIONS_OF = ("hf-calib", "transformers", "torch")
_COUNTS = ("answers", "too_long", "empty", "cut_off", "dropped_cut_off", "not_comparable")


def self_evaluation_questions(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None,
    questions: str | os.PathLike[str] | Iterable[FreeFormQuestion],
    *,
    matcher: str | Matcher = "exact",
    n_samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = 32,
    prompt_format: PromptFormat | None = None,
    drop_cut_off: bool = False,
    seed: int = 0,
    batch_size: int | str = 16,
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
) -> SelfEvaluationQuestions:
    """Let a model answer free-form questions, grade its answers, and return questions about whether they are right.

    A model that is trained on these questions with the supervised term learns to predict whether its answers are
    right (Calibration-tuning). `hf-calib measure --free-form ... --confidence p-true` reads P(True) with the same
    prompt. The share of right answers is not changed: a balanced sample would teach a different base rate.

    A train of thought is not part of an answer; see `hf_calib.confidence.parsing.without_thought`.

    Parameters
    ----------
    model : as in `hf_calib.measure`
        A loaded model with its `tokenizer`, a name, or a source of answers such as `hf_calib.confidence.ServedModel`.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        Tokenizer of a loaded model; None for all other models.
    questions : path or iterable of FreeFormQuestion
        A path is read by `hf_calib.tasks.free_form.load_free_form_questions`. Answers to a question without a right
        answer are not graded.
    matcher : {"exact", "contains", "numeric"} or callable, default "exact"
        How an answer is compared with the right ones.
    n_samples : int, default 1
        Answers per question; repeated answers are kept.
    temperature : float, optional
        By default 0 for one sample, as in `hf-calib measure`, and 1 for several.
    max_new_tokens : int, default 32
    prompt_format : PromptFormat, optional
        How the questions are formatted; the question line, the cue and any examples are used.
    drop_cut_off : bool, default False
        Leave out answers that are longer than `max_new_tokens`. They are counted in any case.
    seed : int, default 0
        Seed of the samples.
    batch_size, progress
        As in `hf_calib.measure`.
    out : path, optional
        A .parquet file to save the questions to. A run that was stopped is continued, and a finished run is read
        from the file.

    Returns
    -------
    SelfEvaluationQuestions

    Raises
    ------
    QuestionError
        If there is no question, or no answer is left.
    ValueError
        If a setting is out of range, the matcher raises an error or does not return a bool, or `out` holds a run
        with other settings.

    Warns
    -----
    UserWarning
        If answers are empty (these are left out, since there is nothing to ask about), are cut off, or contain nothing
        to compare; or if all of them are right, wrong or ungraded.

    References
    ----------
    Kapoor et al., *Large Language Models Must Be Taught to Know What They Don't Know*, NeurIPS 2024
    (arXiv 2406.08391).

    Examples
    --------
    >>> graded = self_evaluation_questions(model, tokenizer, "triviaqa.jsonl", matcher="contains")  # doctest: +SKIP
    >>> graded.describe()  # doctest: +SKIP
    '1000 answers to 1000 questions: 183 right (18.3% of the graded), 817 wrong'
    """
    asked = as_free_form_questions(questions)
    settings = AskSettings(tokenizer=tokenizer, progress=progress)
    where = this_process()
    source = model_source(model, settings, where)
    sampling = Sampling(
        n_samples,
        temperature if temperature is not None else float(n_samples != 1),
        max_new_tokens,
        seed,
        drop_cut_off,
        matcher_named(matcher),
        prompt_format or PromptFormat(),
    )
    identity = {"name": source.name, **source.identity}
    journal, path = None, None
    if out is not None:
        path = parquet_path(out)
        run = {"model": identity, **sampling.to_dict(), "questions_sha256": _digest(asked)}
        if path.exists():
            return _finished(path, run)
        journal = Journal(path.with_suffix(".progress"), run, where.index)
    backend = source.opened(sampling.prompt_format.chat)
    asking = Asking(batch_size, progress, journal, where.index, where.count)
    graded = answered_and_graded(backend, asked, sampling, asking, identity)
    if path is not None and journal is not None and where.is_first:
        graded.save(path)
        journal.remove()
    return graded


def _finished(path: Path, run: Mapping[str, Any]) -> SelfEvaluationQuestions:
    """Return the questions of a finished run, if its settings are the same."""
    found = SelfEvaluationQuestions.load(path)
    wanted = json.loads(json.dumps(dict(run)))
    differing = [name for name in wanted if found.provenance.get(name) != wanted[name]]
    if differing:
        raise ValueError(
            f"out: {path} holds answers that differ in {', '.join(differing)}; remove it or give another file"
        )
    return found


def _digest(questions: Sequence[FreeFormQuestion]) -> str:
    content = json.dumps([asdict(question) for question in questions], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def answered_and_graded(
    backend: Backend,
    questions: QuestionList[FreeFormQuestion],
    sampling: Sampling,
    asking: Asking,
    model: Mapping[str, Any],
    **notes: Any,
) -> SelfEvaluationQuestions:
    """Answer and grade questions; see `self_evaluation_questions`.

    Parameters
    ----------
    backend, asking
        As in `ConfidenceMethod.predict`.
    questions : QuestionList of FreeFormQuestion
    sampling : Sampling
    model : mapping
        The model's identity for the provenance.
    **notes
        Additional entries of the provenance.
    """
    written = backend.generate(
        "self_evaluation",
        questions,  # type: ignore[arg-type]  # rendered without options, like any question
        sampling.prompt_format,
        asking,
        n_samples=sampling.n_samples,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        stop=("\n",),
        list_options=False,
        seed=sampling.seed,
    )
    counts = Counter(dict.fromkeys(_COUNTS, 0))
    answers = []
    for row, (question, samples) in enumerate(zip(questions, written, strict=True)):
        counts["too_long"] += samples is None
        for sample in samples or ():
            counts["answers"] += 1
            text = without_thought(sample.text).strip()
            if not text:
                counts["empty"] += 1
                continue
            if not sample.ended:
                counts["cut_off"] += 1
                if sampling.drop_cut_off:
                    counts["dropped_cut_off"] += 1
                    continue
            right = None
            if question.answers:
                try:
                    right = grade(text, question.answers, sampling.matcher)
                except ValueError as error:
                    raise ValueError(f"row {row}, counted from 0: {error}") from error
                counts["not_comparable"] += not right and not is_comparable(text, sampling.matcher)
            answers.append(GradedAnswer(question, text, right, sample.ended, row))
    if not answers:
        raise QuestionError(
            f"questions: no answer is left; of {counts['answers']}, {counts['empty']} are empty and "
            f"{counts['dropped_cut_off']} were cut off; check the prompt format, or raise max_new_tokens"
        )
    provenance = {
        "model": dict(model),
        "source": questions.source,
        "n_questions": len(questions),
        "questions_sha256": _digest(questions),
        **sampling.to_dict(),
        "counts": dict(counts),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions_of(_VERSIONS_OF),
        **notes,
    }
    graded = SelfEvaluationQuestions(answers, provenance)
    _warn(graded, sampling)
    return graded


def _warn(graded: SelfEvaluationQuestions, sampling: Sampling) -> None:
    """Warn about possible problems with the answers."""
    balance, counts = graded.balance, graded.provenance["counts"]
    matcher = repr(name_of_matcher(sampling.matcher))
    found = []
    for name, other in (("right", "wrong"), ("wrong", "right")):
        if balance[name] == 0 and balance[other] > 0:
            found.append(
                f"none of {balance[other]} answers graded by {matcher} is {name}, so a model can't learn to tell "
                "right from wrong; use another matcher, other questions or more of them"
            )
    if balance["ungraded"] == len(graded):
        found.append(
            "none of the questions comes with a right answer, so no answer is graded and only the anchor can use "
            "them; add the right answers to the questions"
        )
    if counts["empty"]:
        found.append(
            f"{counts['empty']} of {counts['answers']} answers are empty and left out; check the prompt, or "
            "raise max_new_tokens if the model thinks before it answers"
        )
    if counts["cut_off"]:
        kept = "left out" if sampling.drop_cut_off else "graded as they are; pass drop_cut_off=True to leave them out"
        found.append(
            f"{counts['cut_off']} of {counts['answers']} answers are longer than {sampling.max_new_tokens} tokens and "
            f"{kept}, or raise max_new_tokens"
        )
    if counts["not_comparable"]:
        found.append(
            f"{counts['not_comparable']} of {counts['answers']} answers hold nothing that {matcher} could compare, "
            "and count as wrong"
        )
    for text in found:
        warnings.warn(f"self-evaluation: {text}", stacklevel=4)
