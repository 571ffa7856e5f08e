"""Confidence from the options' logits: one forward a question gives all options' probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..tasks import PromptFormat, as_questions, encode_questions, handle_identical_choices, maximum_length
from ..tasks.collator import QuestionBatch, QuestionCollator
from ..tasks.encoding import EncodedQuestion
from .asking import by_length, on_every_process
from .forward import (
    ForwardArguments,
    NonFiniteLogitsError,
    answer_logits,
    answer_logits_and_states,
    option_log_probabilities,
    same_to_rounding,
)
from .predictions import Predictions


@torch.no_grad()
def predict(
    model: nn.Module,
    tokenizer,
    questions: Any,
    *,
    prompt_format: PromptFormat | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    on_too_long: str = "error",
    padding_side: str = "left",
    progress: bool = True,
    hidden_states: bool = False,
) -> Predictions:
    """Ask a model multiple-choice questions and read its confidence off the options' logits.

    For question x with options 1..K the confidence is max softmax(l), where l are the logits of the K option tokens
    at the answer position (Xiao et al., 2025).

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model; it is put into evaluation mode for the time.
    tokenizer : transformers.PreTrainedTokenizerBase
    questions : list of Question, or anything that `hf_calib.tasks.as_questions` takes
        With or without answers. Those with identical choices are asked like any other, with a warning.
    prompt_format : PromptFormat, optional
    batch_size : int, default 16
    max_length : int, optional
        By default what the model and its tokenizer allow.
    on_too_long : {"error", "drop"}, default "error"
    padding_side : {"left", "right"}, default "left"
        Changes no result beyond rounding.
    progress : bool, default True
        Show a progress bar, if it takes longer than a second.
    hidden_states : bool, default False
        Keep the hidden state at each answer position too, for calibrators that take features.

    Returns
    -------
    Predictions
        In the questions' order; `rows` tells which remain where prompts were dropped.

    Raises
    ------
    QuestionError
        As `hf_calib.tasks.as_questions` and `hf_calib.tasks.encode_questions`.
    NonFiniteLogitsError
        If the model's logits are not finite.
    """
    questions = as_questions(questions)
    handle_identical_choices(questions, "warn")
    if max_length is None:
        max_length = maximum_length(model.config, tokenizer)
    encoded = encode_questions(questions, tokenizer, prompt_format, max_length=max_length, on_too_long=on_too_long)
    collator = QuestionCollator(padding_token(tokenizer), padding_side)
    device = next(model.parameters()).device
    with evaluating(model):
        states: list[np.ndarray] | None = [] if hidden_states else None
        positions, scores = score(
            model, encoded.items, collator, batch_size, device=device, progress=progress, states=states
        )
    subjects = [question.subject for question in questions]
    return assemble(encoded.items, positions, scores, subjects, None if states is None else np.concatenate(states))


def padding_token(tokenizer) -> int:
    """Return the token to pad with: the tokenizer's own, else its end-of-sequence token, as TRL does.

    Raises
    ------
    ValueError
        If it has neither.
    """
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has neither a padding nor an end-of-sequence token; set "
            "tokenizer.pad_token"
        )
    return token


def score(
    model: nn.Module,
    items: Sequence[EncodedQuestion],
    collator: QuestionCollator,
    batch_size: int,
    *,
    device: torch.device | str,
    process_index: int = 0,
    num_processes: int = 1,
    progress: bool = False,
    states: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score this process's share of the questions, longest first.

    Where padding changes what the model says, a batch has prompts of one length. Every process runs the same number of
    forwards, which sharded models (ZeRO-3, FSDP) need; a process whose share is short repeats its first batch and
    throws the result away. A list given as `states` gets the hidden states of
    each batch, float32 of shape (B, d).

    Returns
    -------
    positions : ndarray of int64, shape (m,)
        Which of `items` were scored here.
    scores : ndarray of float64, shape (m, K)
        Their options' log-probabilities, K being the most options of any item.
    """
    width = max(len(item.option_ids) for item in items)
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    arguments = ForwardArguments.of(model)
    lengths = [len(item.input_ids) for item in items]
    longest = items[int(np.argmax(lengths))]
    mixes = batch_size > 1 and padding_is_harmless(model, longest, collator, device, arguments)
    batches = list(by_length(lengths, batch_size, padded=on_every_process(mixes, num_processes)))
    positions: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    for batch_positions, counts in _progress(
        list(_shares(batches, process_index, num_processes)), progress, len(items)
    ):
        batch = collator([items[i] for i in batch_positions]).to(device)
        rows = [items[i].row for i in batch_positions]
        values = checked_option_scores(model, batch, arguments, rows, states if counts else None)
        if not counts:
            continue
        padded = np.full((len(batch_positions), width), -np.inf)
        padded[:, : values.shape[1]] = values
        positions.append(batch_positions)
        scores.append(padded)
    if not positions:
        return np.empty(0, dtype=np.int64), np.empty((0, width))
    return np.concatenate(positions), np.concatenate(scores)


@torch.no_grad()
def padding_is_harmless(
    model: nn.Module,
    item: EncodedQuestion,
    collator: QuestionCollator,
    device: torch.device | str,
    arguments: ForwardArguments | None = None,
) -> bool:
    """Whether a model says the same of a prompt with the collator's padding as without.

    Recurrent models read padding as text, and some models number their positions from the padding on.

    Parameters
    ----------
    model : torch.nn.Module
    item : EncodedQuestion
        A long prompt, whose first half is asked alone and padded to the whole.
    collator : QuestionCollator
    device : torch.device or str
        The model's.
    arguments : ForwardArguments, optional
        Found from the model when not given.
    """
    half = replace(item, input_ids=item.input_ids[: len(item.input_ids) // 2])
    if not half.input_ids:
        return True
    with evaluating(model):
        alone, padded = (
            answer_logits(model, collator(own).to(device), arguments)[0] for own in ([half], [half, item])
        )
    return same_to_rounding(padded, alone, model)


def harmless_collator(
    model: nn.Module, items: Sequence[EncodedQuestion], collator: QuestionCollator, device: torch.device | str
) -> QuestionCollator:
    """Return a collator for batches that can't be chosen by length, as in training.

    It pads on the right where padding changes what the model says: a causal model reads it after the answer.
    """
    longest = max(items, key=lambda item: len(item.input_ids))
    if padding_is_harmless(model, longest, collator, device):
        return collator
    return replace(collator, padding_side="right")


def checked_option_scores(
    model: nn.Module,
    batch: QuestionBatch,
    arguments: ForwardArguments,
    rows: Sequence[int],
    states: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Return a batch's option log-probabilities, float64 of shape (B, K), or raise where they are undefined.

    A list given as `states` gets the batch's hidden states.
    """
    if states is None:
        logits = answer_logits(model, batch, arguments)
    else:
        logits, hidden = answer_logits_and_states(model, batch, arguments)
        states.append(hidden.cpu().numpy())
    finite = torch.isfinite(logits).all(dim=-1)
    if not bool(finite.all()):
        row = rows[int((~finite).nonzero()[0])]
        raise NonFiniteLogitsError(
            f"the model's logits at the answer of row {row}, counted from 0, are not finite; its weights have "
            "diverged, or the number format is too narrow (try bfloat16 or float32)"
        )
    return option_log_probabilities(logits, batch).cpu().double().numpy()


def assemble(
    items: Sequence[EncodedQuestion],
    positions: np.ndarray,
    scores: np.ndarray,
    subjects: Sequence[str | None],
    states: np.ndarray | None = None,
) -> Predictions:
    """Put scores, and hidden states, back into the questions' order; `subjects` is indexed by the items' rows."""
    if len(positions) != len(items) or len(np.unique(positions)) != len(items):
        raise RuntimeError(f"{len(items)} questions were to be scored, {len(np.unique(positions))} were")
    order = np.argsort(positions)
    rows = np.array([item.row for item in items])
    return Predictions(
        option_log_probabilities=scores[order],
        answers=np.array([item.answer for item in items]),
        subjects=tuple(subjects[row] for row in rows),
        rows=rows,
        hidden_states=None if states is None else states[order],
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _shares(batches: Sequence[list[int]], process_index: int, num_processes: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield (positions, counts) of this process's batches, and of the first one where its share is short."""
    for start in range(0, len(batches), num_processes):
        index = start + process_index
        yield (np.array(batches[index]), True) if index < len(batches) else (np.array(batches[0]), False)


def _progress(batches: list[tuple[np.ndarray, bool]], show: bool, n_questions: int):
    if not show:
        return batches
    from tqdm.auto import tqdm

    return tqdm(batches, desc=f"Asking {n_questions} questions", unit="batch", delay=1)
