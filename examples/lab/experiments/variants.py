"""Variants of the compared methods: other prompts for the anchor, and a start that is itself miscalibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hf_calib.lab.bench import Bench, merged, plain_dpo
from hf_calib.lab.preferences import MULTIPLE_CHOICE
from hf_calib.lab.tokenizer import BOS, MAX_LENGTH
from hf_calib.tasks import LETTERS, Question

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


def synthesized_prompts(bench: Bench, *, batch_size: int = 512) -> list[Question]:
    """Let the pre-trained model write multiple-choice prompts, as many as the bench has of its own.

    It is given no word of any prompt: documents are sampled from the beginning, and those that are multiple-choice
    questions are kept.

    Raises
    ------
    RuntimeError
        If fewer than one in ten is a question: the model doesn't write any.
    """
    wanted = len(bench.data.prompts)
    model, tokenizer = bench.pretrained().eval(), bench.tokenizer
    begin = torch.full((batch_size, 1), int(tokenizer.vocab[BOS]))
    torch.manual_seed(bench.seed)
    questions: list[Question] = []
    n_documents = 0
    while len(questions) < wanted:
        with torch.inference_mode():
            documents = model.generate(
                begin,
                attention_mask=torch.ones_like(begin),
                do_sample=True,
                top_k=0,
                max_new_tokens=MAX_LENGTH - 1,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        n_documents += batch_size
        read = map(read_question, tokenizer.batch_decode(documents, skip_special_tokens=True))
        questions += [question for question in read if question is not None]
        if len(questions) < n_documents / 10:
            raise RuntimeError(
                f"{len(questions)} of {n_documents} documents that the pre-trained model wrote are multiple-choice "
                "questions; pre-train it for longer"
            )
    return questions[:wanted]


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


def half_way(bench: Bench, model: Any) -> Any:
    """Return the mean of a model's weights and the pre-trained model's."""
    with torch.no_grad():
        for weight, before in zip(model.parameters(), bench.pretrained().parameters(), strict=True):
            weight.lerp_(before, 0.5)
    return model


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
