"""A small world of questions whose answers' true probabilities are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..tasks import Question
from ..tasks.free_form import FreeFormQuestion
from .names import DOMAINS, REGIONS, RELATIONS, SPECIES, Domain

if TYPE_CHECKING:
    from datasets import Dataset

Entities = Literal["train", "test", "all"]

N_OPTIONS = 4
TRAIN_SHARE = 0.75


@dataclass(frozen=True)
class LabQuestions:
    """Questions drawn from a `World`, held as arrays; indexable by slices, masks and index arrays.

    Attributes
    ----------
    world
        The world that they were drawn from.
    relations, species, regions
        ``(n,)`` indices into `World.relations`, `World.species` and `World.regions`.
    option_values
        ``(n, 4)``: which of the relation's four values each option shows.
    answers
        ``(n,)``: the option that was drawn as the right one, from `true_probabilities`.
    true_probabilities
        ``(n, 4)``: the probability with which each option is the right one, in the options' order.
    """

    world: World
    relations: np.ndarray
    species: np.ndarray
    regions: np.ndarray
    option_values: np.ndarray
    answers: np.ndarray
    true_probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.relations)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> LabQuestions:
        names = ("relations", "species", "regions", "option_values", "answers", "true_probabilities")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    @property
    def bayes_accuracy(self) -> float:
        """The accuracy with known true probabilities, E[max p*] (the paper's critical accuracy)."""
        return float(self.true_probabilities.max(axis=1).mean())

    def subjects(self) -> list[str]:
        """Return the name of each question's relation."""
        verbs = [relation.verb for relation in self.world.relations]
        return [verbs[index] for index in self.relations]

    def sentences(self) -> list[str]:
        """Return the beginning of each question's answer, such as ``"Dunmore herons eat"``."""
        world = self.world
        verbs = [relation.verb for relation in world.relations]
        return [
            f"{world.regions[region]} {world.species[species]} {verbs[relation]}"
            for region, species, relation in zip(self.regions, self.species, self.relations, strict=True)
        ]

    def choices(self) -> list[list[str]]:
        """Return the four options of each question."""
        values = [relation.values for relation in self.world.relations]
        return [
            [values[relation][value] for value in row]
            for relation, row in zip(self.relations, self.option_values, strict=True)
        ]

    def rows(self, *, answers: bool = True) -> list[dict[str, Any]]:
        """Return the questions as rows of ``question``, ``choices``, ``answer`` and ``subject``.

        Parameters
        ----------
        answers
            Whether to include the answers; otherwise ``answer`` is None.
        """
        columns = zip(self.sentences(), self.choices(), self.answers, self.subjects(), strict=True)
        return [
            {
                "question": f"What do {sentence} ?",
                "choices": choices,
                "answer": int(answer) if answers else None,
                "subject": subject,
            }
            for sentence, choices, answer, subject in columns
        ]

    def to_questions(self, *, answers: bool = True) -> list[Question]:
        """Return the questions as `hf_calib.tasks.Question` objects, with or without their answers."""
        return [Question(**row) for row in self.rows(answers=answers)]

    def to_free_form(self) -> list[FreeFormQuestion]:
        """Write the questions without their options; the right answer is the value that was drawn.

        An answer is right with the probability that `true_probabilities` gives its value.
        """
        return [
            FreeFormQuestion(row["question"], (row["choices"][row["answer"]],), row["subject"]) for row in self.rows()
        ]

    def to_dataset(self, *, answers: bool = True) -> Dataset:
        """Return the questions as a `datasets.Dataset` with the columns of `rows`."""
        from datasets import Dataset, Features, List, Value

        features = Features(
            {
                "question": Value("string"),
                "choices": List(Value("string")),
                "answer": Value("int64"),
                "subject": Value("string"),
            }
        )
        return Dataset.from_list(self.rows(answers=answers), features=features)


class World:
    r"""A world in which every question's answer is random, with known probabilities.

    Animals of 32 species live in 32 regions. There are ten relations, each with four values. For the species s of
    region g, relation r has value v with probability

    .. math:: p^*(v | r, s, g) = \mathrm{softmax}_v(\tau_r (S_{rsv} + G_{rgv}))

    with S and G standard normal and the relation's sharpness :math:`\tau_r`. A model can learn it from few
    observations of an entity, since species and regions contribute separately, but must learn both.

    Parameters
    ----------
    seed
        Determines S, G and which entities (pairs of species and region) are for training.
    shuffled
        Whether each question shows its options in a random order. A fixed order is quick to learn; with a random one,
        a model has to learn which letter stands for which option, which takes a deeper model several times as long.
    n_species, n_regions
        The size of the world, each from 1 to 32.

    Attributes
    ----------
    relations
        The relations: six general ones (domain ``"out"``), two rare ones (``"in"``) and two of which no method sees a
        prompt (``"unseen"``).
    logits
        ``(n_relations, n_species, n_regions, 4)``: the logits of p*.
    train_entities, test_entities
        Three quarters and one quarter of the pairs, as ``species * n_regions + region``. They are disjoint; the
        pre-training corpus contains both.
    """

    def __init__(self, seed: int = 0, shuffled: bool = False, n_species: int = 32, n_regions: int = 32) -> None:
        for name, size, names in (("n_species", n_species, SPECIES), ("n_regions", n_regions, REGIONS)):
            if not 1 <= size <= len(names):
                raise ValueError(f"{name} must be between 1 and {len(names)}, the number of names, but is {size}.")
        if n_species * n_regions < 4:
            raise ValueError("n_species * n_regions must be at least 4, so that some entities are left for testing.")
        self.seed = seed
        self.shuffled = shuffled
        self.relations = RELATIONS
        self.species = SPECIES[:n_species]
        self.regions = REGIONS[:n_regions]
        rng = np.random.default_rng([seed, 0])
        n_relations = len(RELATIONS)
        sharpness = np.array([relation.sharpness for relation in RELATIONS])
        by_species = rng.normal(size=(n_relations, n_species, 1, N_OPTIONS))
        by_region = rng.normal(size=(n_relations, 1, n_regions, N_OPTIONS))
        self.logits = sharpness[:, None, None, None] * (by_species + by_region)
        entities = rng.permutation(n_species * n_regions)
        n_train = int(TRAIN_SHARE * len(entities))
        self.train_entities = np.sort(entities[:n_train])
        self.test_entities = np.sort(entities[n_train:])

    def settings(self) -> dict[str, Any]:
        """Return the arguments that the world was made with, which determine it."""
        return {
            "seed": self.seed,
            "shuffled": self.shuffled,
            "n_species": len(self.species),
            "n_regions": len(self.regions),
        }

    def relations_in(self, domain: Domain | Sequence[Domain]) -> np.ndarray:
        """Return the indices of the relations that belong to one or several domains.

        Raises
        ------
        ValueError
            If a name is not that of a domain.
        """
        domains = (domain,) if isinstance(domain, str) else tuple(domain)
        unknown = [name for name in domains if name not in DOMAINS]
        if unknown or not domains:
            raise ValueError(f"domain must be one or several of {', '.join(DOMAINS)}, but is {domain!r}.")
        return np.array([index for index, relation in enumerate(self.relations) if relation.domain in domains])

    def sample_questions(
        self,
        n: int,
        domain: Domain | Sequence[Domain] = "in",
        entities: Entities = "train",
        seed: int | Sequence[int] = 0,
    ) -> LabQuestions:
        """Return random questions, with answers drawn from their true probabilities.

        Parameters
        ----------
        n
            Number of questions. Relations and entities are drawn evenly and with replacement.
        domain
            The domain, or the domains, of their relations.
        entities
            Their entities: ``"train"``, ``"test"`` or ``"all"``.
        seed
            Determines the draw, together with the world's seed.

        Returns
        -------
        LabQuestions
            The questions.

        Raises
        ------
        ValueError
            If a domain or the set of entities is unknown.
        """
        relations = self.relations_in(domain)
        weights = np.zeros(len(self.relations))
        weights[relations] = 1 / len(relations)
        return self.draw(n, weights, entities, np.random.default_rng([self.seed, 1, *seed_sequence(seed)]))

    def draw(self, n: int, relation_weights: np.ndarray, entities: Entities, rng: np.random.Generator) -> LabQuestions:
        """Return random questions about relations with given weights.

        Parameters
        ----------
        n
            Number of questions.
        relation_weights
            ``(n_relations,)``: the probability that a question is about each relation.
        entities
            ``"train"``, ``"test"`` or ``"all"``.
        rng
            The source of randomness.

        Raises
        ------
        ValueError
            If the set of entities is unknown, or the number of questions is below 1.
        """
        pools = {"train": self.train_entities, "test": self.test_entities}
        pools["all"] = np.arange(len(self.species) * len(self.regions))
        if entities not in pools:
            raise ValueError(f"entities must be one of {', '.join(pools)}, but is {entities!r}.")
        if n < 1:
            raise ValueError(f"The number of questions must be at least 1, but is {n}.")
        relations = rng.choice(len(self.relations), size=n, p=relation_weights)
        species, regions = np.divmod(rng.choice(pools[entities], size=n), len(self.regions))
        option_values = np.tile(np.arange(N_OPTIONS), (n, 1))
        if self.shuffled:
            option_values = rng.permuted(option_values, axis=1)
        logits = self.logits[relations[:, None], species[:, None], regions[:, None], option_values]
        probabilities = softmax(logits)
        return LabQuestions(
            world=self,
            relations=relations,
            species=species,
            regions=regions,
            option_values=option_values,
            answers=draw_categorical(probabilities, rng),
            true_probabilities=probabilities,
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of logits over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def draw_categorical(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one index for each row of an ``(n, K)`` array of probabilities, drawn from them."""
    below = rng.random((len(probabilities), 1)) > probabilities[:, :-1].cumsum(axis=1)
    return below.sum(axis=1)


def seed_sequence(seed: int | Sequence[int]) -> list[int]:
    """Return the numbers of a seed that is one number or several."""
    return list(seed) if isinstance(seed, Sequence) else [seed]
