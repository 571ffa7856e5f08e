"""The corpus that the lab's models are pre-trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..tasks import LETTERS
from .documents import (
    CONFIDENCE_LEVELS,
    free_form_prompts,
    level_prompts,
    multiple_choice_answers,
    multiple_choice_prompts,
    open_prompts,
    open_replies,
    self_evaluation_prompts,
    stated_prompts,
    stated_replies,
)
from .names import Domain
from .presets import CorpusSettings
from .tokenizer import EOS
from .world import N_OPTIONS, LabQuestions, World, draw_categorical

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Documents:
    """Texts, each a prompt and a reply that contains one of four possible answers.

    Attributes
    ----------
    prompts, replies
        The n texts, each in two consecutive parts.
    answers
        The n words that the replies give as the answer: a letter or a value.
    possible_answers
        For each text, the four words that could be its answer.
    probabilities
        ``(n, 4)``: their true probabilities, from which `answers` was drawn, or in free-form texts from a power.
    """

    prompts: list[str]
    replies: list[str]
    answers: list[str]
    possible_answers: list[list[str]]
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Corpus:
    """Tokenized documents.

    Attributes
    ----------
    input_ids
        ``(n, length)`` of int16, padded on the right.
    is_prompt
        ``(n, length)`` of bool: which tokens belong to the prompt.
    is_reply
        ``(n, length)`` of bool: which tokens belong to the reply, its end-of-sequence token included. A token in
        neither is padding.
    answer_positions
        ``(n,)``: the position of the answer's token.
    possible_answer_ids
        ``(n, 4)``: the tokens that the answer could be.
    probabilities
        ``(n, 4)`` of float32: their true probabilities.
    """

    input_ids: np.ndarray
    is_prompt: np.ndarray
    is_reply: np.ndarray
    answer_positions: np.ndarray
    possible_answer_ids: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


def relation_weights(world: World, settings: CorpusSettings) -> np.ndarray:
    """Return the share of documents about each relation, ``(n_relations,)``, summing to 1.

    Raises
    ------
    ValueError
        If the settings' shares are negative or leave nothing for the domain ``"out"``.
    """
    shares: dict[Domain, float] = {"in": settings.in_share, "unseen": settings.unseen_share}
    shares["out"] = 1 - sum(shares.values())
    if min(shares.values()) < 0 or shares["out"] <= 0:
        raise ValueError(
            f"in_share ({settings.in_share}) and unseen_share ({settings.unseen_share}) must be at least 0 and sum "
            "to less than 1."
        )
    weights = np.zeros(len(world.relations))
    for domain, share in shares.items():
        relations = world.relations_in(domain)
        weights[relations] = share / len(relations)
    return weights


def sample_documents(world: World, n: int, settings: CorpusSettings, rng: np.random.Generator) -> Documents:
    """Return n documents about all entities of the world, in random order.

    Parameters
    ----------
    world
        The world to write about.
    n
        How many documents; `settings.multiple_choice_share` of them, rounded, are multiple-choice questions, and
        `settings.free_form_share` free-form questions.
    settings
        The shares of kinds and domains.
    rng
        The source of randomness.
    """
    weights = relation_weights(world, settings)
    n_multiple_choice = round(n * settings.multiple_choice_share)
    # Rounded together, so that shares that sum to 1 leave no document over.
    n_free_form = round(n * (settings.multiple_choice_share + settings.free_form_share)) - n_multiple_choice
    n_open = n - n_multiple_choice - n_free_form
    if min(n_multiple_choice, n_free_form, n_open) < 0:
        raise ValueError(
            f"multiple_choice_share ({settings.multiple_choice_share}) and free_form_share "
            f"({settings.free_form_share}) must be at least 0 and sum to at most 1."
        )
    parts = []
    if n_multiple_choice:
        questions = world.draw(n_multiple_choice, weights, "all", rng)
        parts.append(_multiple_choice_documents(questions))
    if n_open:
        questions = world.draw(n_open, weights, "all", rng)
        parts.append(_open_documents(questions, rng.random(len(questions)) < 0.5))
    if n_free_form:
        parts += _free_form_documents(world.draw(n_free_form, weights, "all", rng), settings, rng)
    order = rng.permutation(n)

    def mixed(columns: list[list]) -> list:
        whole = [item for column in columns for item in column]
        return [whole[index] for index in order]

    return Documents(
        prompts=mixed([part.prompts for part in parts]),
        replies=mixed([part.replies for part in parts]),
        answers=mixed([part.answers for part in parts]),
        possible_answers=mixed([part.possible_answers for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts])[order],
    )


def _multiple_choice_documents(questions: LabQuestions) -> Documents:
    letters = list(LETTERS[:N_OPTIONS])
    return Documents(
        prompts=multiple_choice_prompts(questions),
        replies=multiple_choice_answers(questions.answers),
        answers=[letters[answer] for answer in questions.answers],
        possible_answers=[letters] * len(questions),
        probabilities=questions.true_probabilities,
    )


def _open_documents(questions: LabQuestions, polite: np.ndarray) -> Documents:
    return _answer_documents(questions, open_prompts(questions), open_replies(questions, questions.answers, polite))


def _free_form_documents(
    questions: LabQuestions, settings: CorpusSettings, rng: np.random.Generator
) -> list[Documents]:
    """Write each of the four kinds of free-form documents about a quarter of the questions.

    The answers that people give are drawn from a power of p*. Whether an answer is true is drawn with its own p*, and
    the levels are of that too, so a model that learns from these texts is calibrated.
    """
    weights = questions.true_probabilities**settings.answer_power
    questions = replace(questions, answers=draw_categorical(weights / weights.sum(axis=1, keepdims=True), rng))
    answered, proposed, leveled, stated = (questions[kind::4] for kind in range(4))
    letters, true = list(LETTERS[:N_OPTIONS]), _given(proposed)
    verdicts = (rng.random(len(true)) > true).astype(int)
    levels = [CONFIDENCE_LEVELS[level] for level in stated_levels(_given(leveled), settings.level_noise, rng)]
    return [
        _answer_documents(answered, free_form_prompts(answered), [f" {value}" for value in _values(answered)]),
        Documents(
            prompts=self_evaluation_prompts(proposed, proposed.answers),
            replies=multiple_choice_answers(verdicts),
            answers=[letters[verdict] for verdict in verdicts],
            possible_answers=[letters] * len(proposed),
            probabilities=np.stack([true, 1 - true, 0 * true, 0 * true], axis=1),
        ),
        Documents(
            prompts=level_prompts(leveled, leveled.answers),
            replies=[f" {level}" for level in levels],
            answers=levels,
            # Only the level that is stated.
            possible_answers=[[level] * N_OPTIONS for level in levels],
            probabilities=np.repeat(np.eye(1, N_OPTIONS), len(levels), axis=0),
        ),
        _answer_documents(
            stated,
            stated_prompts(stated),
            stated_replies(stated, stated.answers, stated_levels(_given(stated), settings.level_noise, rng)),
        ),
    ]


def _given(questions: LabQuestions) -> np.ndarray:
    """Return p* of the questions' answers."""
    return questions.true_probabilities[np.arange(len(questions)), questions.answers]


def _answer_documents(questions: LabQuestions, prompts: list[str], replies: list[str]) -> Documents:
    """Return documents whose replies give the questions' answers as values."""
    return Documents(prompts, replies, _values(questions), questions.choices(), questions.true_probabilities)


def _values(questions: LabQuestions) -> list[str]:
    return [choices[answer] for choices, answer in zip(questions.choices(), questions.answers, strict=True)]


def stated_levels(probabilities: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the levels that authors state, whose log-odds differ from the truth by normal noise.

    Parameters
    ----------
    probabilities
        ``(n,)``, between 0 and 1.
    noise
        Its standard deviation.
    rng
        The source of randomness.
    """
    log_odds = np.log(probabilities) - np.log1p(-probabilities) + noise * rng.normal(size=len(probabilities))
    return np.rint((len(CONFIDENCE_LEVELS) - 1) / (1 + np.exp(-log_odds))).astype(int)


def encode_documents(documents: Documents, tokenizer: PreTrainedTokenizerFast) -> Corpus:
    """Return tokenized documents, each ending with the end-of-sequence token."""
    texts = [prompt + reply + EOS for prompt, reply in zip(documents.prompts, documents.replies, strict=True)]
    # The backend itself would still pad as in an earlier call.
    encodings = tokenizer(texts, padding=False, truncation=False, return_attention_mask=False)["input_ids"]
    lengths = np.array([len(encoding) for encoding in encodings])
    input_ids = np.full((len(texts), lengths.max()), tokenizer.pad_token_id, dtype=np.int16)
    for row, encoding in zip(input_ids, encodings, strict=True):
        row[: len(encoding)] = encoding
    # Words are tokens and prompts end with a word, so a document's tokens begin with those of its prompt.
    prompt_lengths = np.array([1 + len(prompt.split()) for prompt in documents.prompts])
    positions = np.arange(input_ids.shape[1])
    is_prompt = positions < prompt_lengths[:, None]
    is_reply = ~is_prompt & (positions < lengths[:, None])
    ids = tokenizer.get_vocab()
    answer_ids = np.array([ids[answer] for answer in documents.answers])
    # No reply contains its answer twice.
    answer_positions = ((input_ids == answer_ids[:, None]) & is_reply).argmax(axis=1)
    return Corpus(
        input_ids=input_ids,
        is_prompt=is_prompt,
        is_reply=is_reply,
        answer_positions=answer_positions,
        possible_answer_ids=np.array([[ids[word] for word in words] for words in documents.possible_answers]),
        probabilities=documents.probabilities.astype(np.float32),
    )


def make_corpus(
    world: World, tokenizer: PreTrainedTokenizerFast, n: int, settings: CorpusSettings | None = None, seed: int = 0
) -> Corpus:
    """Return n tokenized documents, which depend on the world's seed and this one."""
    rng = np.random.default_rng([world.seed, 2, seed])
    return encode_documents(sample_documents(world, n, settings or CorpusSettings(), rng), tokenizer)
