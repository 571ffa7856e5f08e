"""Questions with their options in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .questions import DecisionQuestion, Question


def permute_options(question: Question, order: Sequence[int] | NDArray[np.int64]) -> Question:
    """Return a question with its options in another order.

    Parameters
    ----------
    question : Question
    order : sequence of int, of length K
        The old position of the option at each place: the new first option is the old `order[0]`.

    Raises
    ------
    ValueError
        If `order` is not a permutation of the options.

    Examples
    --------
    >>> turned = permute_options(Question("Which is a fruit?", ("apple", "chair", "sky"), 0), [2, 0, 1])
    >>> turned.choices, turned.answer
    (('sky', 'apple', 'chair'), 1)
    """
    places = [int(place) for place in order]
    if sorted(places) != list(range(len(question.choices))):
        raise ValueError(f"the order {places} is not one of the {len(question.choices)} options' indices")
    changes: dict[str, Any] = {
        "choices": tuple(question.choices[place] for place in places),
        "answer": None if question.answer is None else places.index(question.answer),
    }
    if isinstance(question, DecisionQuestion) and question.target is not None:
        changes["target"] = tuple(question.target[place] for place in places)
    return replace(question, **changes)


def random_orders(questions: Sequence[Question], seed: int) -> list[NDArray[np.int64]]:
    """Return a random order of each question's options, which depends only on the seed and the row."""
    return [
        np.random.default_rng([seed, row]).permutation(len(question.choices)) for row, question in enumerate(questions)
    ]


def other_orders(questions: Sequence[Question], n_orders: int, seed: int) -> list[list[NDArray[np.int64]]]:
    """Return random orders of each question's options that differ from the given one and from each other.

    Parameters
    ----------
    questions : sequence of Question
    n_orders : int
        For each question, at least 1; two options have only one other order, three have five.
    seed : int
        The orders of one row depend on the seed and the row alone.

    Raises
    ------
    ValueError
        If `n_orders` is below 1.
    """
    if n_orders < 1:
        raise ValueError(f"n_orders must be at least 1, got {n_orders}")
    found = []
    for row, question in enumerate(questions):
        n_options = len(question.choices)
        rng = np.random.default_rng([seed, row])
        seen = {tuple(range(n_options)): np.arange(n_options)}
        while len(seen) < min(n_orders + 1, math.factorial(n_options)):
            order = rng.permutation(n_options)
            seen.setdefault(tuple(order.tolist()), order)
        found.append(list(seen.values())[1:])
    return found


def cyclic_orders(n_options: int, n_orders: int) -> list[NDArray[np.int64]]:
    """Return rotations of the options; with `n_orders = n_options` each option stands once at each place.

    Raises
    ------
    ValueError
        If the number of orders is below 1 or above the number of options.
    """
    if not 1 <= n_orders <= n_options:
        raise ValueError(f"{n_options} options have 1 to {n_options} rotations, {n_orders} were asked for")
    # Spread evenly, so that even a few orders move the options far.
    starts = [round(i * n_options / n_orders) for i in range(n_orders)]
    return [np.roll(np.arange(n_options), -start) for start in starts]
