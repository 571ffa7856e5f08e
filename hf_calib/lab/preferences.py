"""Preference pairs from an unbiased annotator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..confidence import predict
from .documents import multiple_choice_answers, multiple_choice_prompts, open_prompts, open_replies
from .names import Domain
from .presets import PreferenceSettings
from .world import Entities, LabQuestions, World, seed_sequence

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase

MULTIPLE_CHOICE, OPEN = "multiple_choice", "open"


def sample_pairs(
    world: World,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    settings: PreferenceSettings | None = None,
    *,
    domain: Domain | Sequence[Domain] = ("in", "out"),
    entities: Entities = "train",
    seed: int | Sequence[int] = 0,
    batch_size: int = 512,
) -> Dataset:
    """Return preference pairs as an honest annotator would choose them.

    Two completions of a prompt are drawn, and the annotator prefers one over the other with the probability of the
    Bradley-Terry model (1952), σ(reward − reward'). The reward of an answer is log p*, so the annotator prefers
    answers exactly in proportion to how often they are right, and the labels do not encourage overconfidence. In a
    multiple-choice pair the completions are two distinct letters sampled from the model; in an open one, two distinct
    values sampled from p*, each in a terse or a polite reply, where politeness adds `style_weight` to the reward.

    Parameters
    ----------
    world
        The world that the prompts are about.
    model, tokenizer
        The model that letters are sampled from.
    settings
        The number of pairs of each kind, the sampling temperature and the weight of politeness.
    domain
        The domain, or the domains, whose relations the prompts are about; ``"unseen"`` is not among the default ones.
    entities
        ``"train"`` for training, ``"test"`` for held-out pairs.
    seed
        Determines the pairs, together with the world's seed.
    batch_size
        Questions per forward.

    Returns
    -------
    datasets.Dataset
        In random order, with the columns ``prompt``, ``chosen``, ``rejected`` (text, as TRL's `DPOTrainer` takes it)
        and ``kind`` (``"multiple_choice"`` or ``"open"``).

    Raises
    ------
    ValueError
        If a domain or set of entities is unknown, the temperature is not positive, or the number of pairs is 0.
    """
    from datasets import Dataset

    settings = settings or PreferenceSettings()
    if settings.temperature <= 0:
        raise ValueError(f"temperature must be positive, but is {settings.temperature}.")
    if min(settings.n_multiple_choice, settings.n_open) < 0 or settings.n_multiple_choice + settings.n_open == 0:
        raise ValueError(
            "n_multiple_choice and n_open must be at least 0 and not both 0, but are "
            f"{settings.n_multiple_choice} and {settings.n_open}."
        )
    rng = np.random.default_rng([world.seed, 3, *seed_sequence(seed)])
    weights = np.zeros(len(world.relations))
    weights[world.relations_in(domain)] = 1 / len(world.relations_in(domain))
    columns: dict[str, list[str]] = {"prompt": [], "chosen": [], "rejected": [], "kind": []}
    if settings.n_multiple_choice:
        questions = world.draw(settings.n_multiple_choice, weights, entities, rng)
        predictions = predict(model, tokenizer, questions.to_questions(answers=False), batch_size=batch_size)
        scores = predictions.option_log_probabilities / settings.temperature
        _extend(columns, MULTIPLE_CHOICE, *_multiple_choice_pairs(questions, scores, rng))
    if settings.n_open:
        questions = world.draw(settings.n_open, weights, entities, rng)
        _extend(columns, OPEN, *_open_pairs(questions, settings.style_weight, rng))
    order = rng.permutation(len(columns["kind"]))
    return Dataset.from_dict({name: [column[index] for index in order] for name, column in columns.items()})


def _extend(
    columns: dict[str, list[str]], kind: str, prompts: list[str], chosen: list[str], rejected: list[str]
) -> None:
    columns["prompt"] += prompts
    columns["chosen"] += chosen
    columns["rejected"] += rejected
    columns["kind"] += [kind] * len(prompts)


def _multiple_choice_pairs(
    questions: LabQuestions, scores: np.ndarray, rng: np.random.Generator
) -> tuple[list[str], list[str], list[str]]:
    rows = np.arange(len(questions))
    first, second = draw_two(scores, rng)
    rewards = np.log(questions.true_probabilities)
    first_wins = bradley_terry(rewards[rows, first], rewards[rows, second], rng)
    return (
        multiple_choice_prompts(questions),
        multiple_choice_answers(np.where(first_wins, first, second)),
        multiple_choice_answers(np.where(first_wins, second, first)),
    )


def _open_pairs(
    questions: LabQuestions, style_weight: float, rng: np.random.Generator
) -> tuple[list[str], list[str], list[str]]:
    rows = np.arange(len(questions))
    rewards = np.log(questions.true_probabilities)
    first, second = draw_two(rewards, rng)
    first_polite, second_polite = rng.random((2, len(questions))) < 0.5
    first_wins = bradley_terry(
        rewards[rows, first] + style_weight * first_polite, rewards[rows, second] + style_weight * second_polite, rng
    )
    return (
        open_prompts(questions),
        open_replies(
            questions, np.where(first_wins, first, second), np.where(first_wins, first_polite, second_polite)
        ),
        open_replies(
            questions, np.where(first_wins, second, first), np.where(first_wins, second_polite, first_polite)
        ),
    )


def draw_two(log_weights: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two distinct indices for each row, drawn without replacement in proportion to the weights.

    This is the Gumbel-top-k trick (Kool et al., 2019): the indices of the largest log-weights plus Gumbel noise are
    distributed like that, in order.

    Parameters
    ----------
    log_weights
        ``(n, K)``, up to a constant in each row.
    rng
        The source of randomness.

    Returns
    -------
    first, second
        ``(n,)`` each.
    """
    order = np.argsort(-(log_weights + rng.gumbel(size=log_weights.shape)), axis=1)
    return order[:, 0], order[:, 1]


def bradley_terry(first_rewards: np.ndarray, second_rewards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whether an annotator prefers the first: True with probability σ(first − second), elementwise."""
    return rng.logistic(size=len(first_rewards)) < first_rewards - second_rewards
