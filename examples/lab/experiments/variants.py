"""Variants of the compared methods: other prompts for the anchor, and a start that is itself miscalibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_calib import CalibrationAwareConfig, CalibrationAwareTrainer, synthesize_questions
from hf_calib.lab.bench import Bench, merged, plain_dpo
from hf_calib.lab.preferences import MULTIPLE_CHOICE, OPEN
from hf_calib.lab.tokenizer import MAX_LENGTH
from hf_calib.tasks import LETTERS, Question
from hf_calib.tasks.encoding import EncodedQuestion
from hf_calib.trainers.questions import PreparedQuestions

from .methods import long_fine_tuning


def with_prompts(bench: Bench, questions: Sequence[Question]) -> Bench:
    """Return the bench with other unanswered prompts."""
    return replace(bench, prompts=tuple(questions))


def pairs_prompts(bench: Bench) -> list[Question]:
    """Return the questions of the multiple-choice preference pairs that the model is aligned on."""
    prompts = (row["prompt"] for row in bench.data.pairs if row["kind"] == MULTIPLE_CHOICE)
    return [question for prompt in prompts if (question := read_question(prompt)) is not None]


def mutated_prompts(bench: Bench) -> list[Question]:
    """Return the bench's prompts, each with the options of another one, drawn at random."""
    questions = bench.data.prompts.to_questions(answers=False)
    order = np.random.default_rng([bench.seed, 11]).permutation(len(questions))
    return [
        replace(question, choices=questions[other].choices) for question, other in zip(questions, order, strict=True)
    ]


def synthesized_prompts(bench: Bench) -> list[Question]:
    """Let the pre-trained model write multiple-choice prompts, as many as the bench has of its own.

    Given no example, it writes what it was pre-trained on.

    Raises
    ------
    QuestionError
        If fewer than one in twenty texts is a new question: the model doesn't write any.
    """
    return synthesize_questions(
        bench.pretrained(),
        bench.tokenizer,
        len(bench.data.prompts),
        examples=(),
        temperature=1.0,
        max_new_tokens=MAX_LENGTH - 2,  # after the beginning of the text and "Question:"
        seed=bench.seed,
        progress=False,
    )


def with_chat_alone(bench: Bench) -> Bench:
    """Return the bench with the open pairs alone to align on: chats without any multiple-choice question."""
    pairs = bench.data.pairs
    return replace(
        bench, data=replace(bench.data, pairs=pairs.select(np.flatnonzero(np.array(pairs["kind"]) == OPEN)))
    )


PLACES = ("prompts", "replies", "whole-replies")
"""The parts of the pairs whose tokens can be anchored; "replies" is the trainers' `calibration_dataset="pairs"`."""


def anchored_in_pairs(bench: Bench, places: str) -> Any:
    """Align the pre-trained model with the anchor at one random token of each pair.

    Parameters
    ----------
    bench : Bench
    places : {"prompts", "replies", "whole-replies"}
        What the token is drawn from: the prompt, the chosen reply after its first token, or the whole chosen reply.
        The first token decides whether an open reply is polite, and answers a multiple-choice question.
    """
    args = CalibrationAwareConfig(
        **bench.alignment_arguments("in-pairs"),
        calibration_batch_size=bench.preset.calibration_batch_size,
        anchor_weight=bench.preset.anchor_weight,
    )
    trainer = CalibrationAwareTrainer(
        args=args,
        train_dataset=bench.data.pairs,
        calibration_dataset="pairs" if places == "replies" else _drawn_tokens(bench, places),
        **bench.policy_and_reference(),
    )
    trainer.train()
    return trainer


def _drawn_tokens(bench: Bench, places: str) -> PreparedQuestions:
    rng = np.random.default_rng([bench.seed, 12])
    items = []
    for pair in bench.data.pairs:
        prompt = bench.tokenizer(pair["prompt"])["input_ids"]
        reply = bench.tokenizer(pair["chosen"], add_special_tokens=False)["input_ids"]
        first, stop = (1, len(prompt)) if places == "prompts" else (len(prompt), len(prompt) + len(reply) + 1)
        known = [*prompt, *reply][: rng.integers(first, stop)]
        # Only the anchor uses these items, at the token that follows them; it ignores the options.
        items.append(EncodedQuestion(tuple(known), (0, 1), -1, len(items)))
    return PreparedQuestions([], items, [])


def read_question(text: str) -> Question | None:
    """Return the question of a multiple-choice document of the lab, or None if it is not one.

    Parameters
    ----------
    text : str
        The prompt, possibly followed by more text. The options must be distinct.
    """
    words = text.split()
    letters = [f"{letter}." for letter in LETTERS[:4]]
    frame = [0, *(words.index(letter) if letter in words else -1 for letter in letters)]
    end = words.index("Answer:") if "Answer:" in words else -1
    if words[:1] != ["Question:"] or min(frame[1:]) < 2 or [*frame, end] != sorted({*frame, end}):
        return None
    parts = [" ".join(words[start + 1 : stop]) for start, stop in zip(frame, [*frame[1:], end], strict=True)]
    question, *choices = parts
    if not all(parts) or len(set(choices)) < len(choices):
        return None
    return Question(question, tuple(choices))


def supervised(bench: Bench) -> Any:
    """Tune the pre-trained model on the answered questions until it has memorized them."""
    return merged(long_fine_tuning(bench, bench.pretrained(), bench.data.labeled()).model)


def aligned_from(bench: Bench, start: Any, align: Any = plain_dpo, **options: Any) -> Any:
    """Align another model than the pre-trained one, which is then also the trainer's reference.

    Parameters
    ----------
    bench : Bench
    start : PreTrainedModel
    align : callable, default plain_dpo
        From a bench, whose pre-trained model is `start`, to a trainer.
    **options
        Further arguments of `align`.
    """
    folder = bench.work_dir / "start"
    start.save_pretrained(folder)
    return align(replace(bench, pretrained_folder=folder), **options).model
