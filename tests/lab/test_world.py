import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_calib.lab import DOMAINS, World
from hf_calib.lab.names import REGIONS, RELATIONS, SPECIES
from hf_calib.tasks import as_questions


def probabilities_from_text(world, row):
    """p* read off the question's own words and options, one at a time, as the class documents it."""
    region, species, verb = re.fullmatch(r"What do (\w+) (\w+) (\w+) \?", row["question"]).groups()
    relation = [relation.verb for relation in RELATIONS].index(verb)
    logits = world.logits[relation, SPECIES.index(species), REGIONS.index(region)]
    weights = {value: np.exp(logit) for value, logit in zip(RELATIONS[relation].values, logits, strict=True)}
    return [weights[choice] / sum(weights.values()) for choice in row["choices"]]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("domain", DOMAINS)
def test_true_probabilities_are_those_of_the_questions_words(shuffled, domain):
    world = World(3, shuffled=shuffled)
    questions = world.sample_questions(200, domain, "test", seed=5)
    expected = [probabilities_from_text(world, row) for row in questions.rows()]
    np.testing.assert_allclose(questions.true_probabilities, expected, rtol=1e-12)


def test_logits_are_sums_of_the_species_and_the_regions_share():
    logits = World(1).logits
    interaction = (
        logits
        - logits.mean(axis=1, keepdims=True)
        - logits.mean(axis=2, keepdims=True)
        + logits.mean(axis=(1, 2), keepdims=True)
    )
    np.testing.assert_allclose(interaction, 0, atol=1e-12)
    # The variance of a sum of two standard normals, times the sharpness.
    spreads = [logits[index].std() / relation.sharpness for index, relation in enumerate(RELATIONS)]
    np.testing.assert_allclose(spreads, np.sqrt(2), rtol=0.15)


def test_answers_are_drawn_from_the_true_probabilities():
    world = World(0, n_species=2, n_regions=2)
    questions = world.sample_questions(100_000, DOMAINS, "all", seed=1)
    statistic = degrees = 0
    keys = np.stack([questions.relations, questions.species, questions.regions], axis=1)
    for key in np.unique(keys, axis=0):
        these = questions[(keys == key).all(axis=1)]
        observed = np.bincount(these.answers, minlength=4)
        expected = these.true_probabilities[0] * len(these)
        statistic += ((observed - expected) ** 2 / expected).sum()
        degrees += 3
    assert 0.001 < stats.chi2.sf(statistic, degrees) < 0.999


def test_bayes_accuracy_is_what_the_best_guesser_reaches():
    questions = World(0).sample_questions(50_000, "in", "all", seed=2)
    hits = questions.true_probabilities.argmax(axis=1) == questions.answers
    assert questions.bayes_accuracy == pytest.approx(hits.mean(), abs=4 * hits.std() / np.sqrt(len(hits)))


def test_the_fixed_order_is_fixed_and_the_shuffled_one_even():
    fixed = World(0).sample_questions(100, "out").option_values
    assert (fixed == np.arange(4)).all()
    shuffled = World(0, shuffled=True).sample_questions(24_000, "out").option_values
    counts = Counter(map(tuple, shuffled.tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_a_world_is_the_same_fixed_and_shuffled():
    np.testing.assert_array_equal(World(4).logits, World(4, shuffled=True).logits)


@pytest.mark.parametrize(("n_species", "n_regions"), [(32, 32), (5, 7), (1, 4)])
def test_entities_are_split_in_three_quarters_and_one(n_species, n_regions):
    world = World(2, n_species=n_species, n_regions=n_regions)
    together = np.concatenate([world.train_entities, world.test_entities])
    assert sorted(together) == list(range(n_species * n_regions))
    assert len(world.train_entities) == int(0.75 * n_species * n_regions)


def test_questions_keep_to_their_entities_and_domains():
    world = World(0)
    for entities, allowed in (("train", world.train_entities), ("test", world.test_entities)):
        for domain in DOMAINS:
            questions = world.sample_questions(500, domain, entities, seed=3)
            assert np.isin(questions.species * len(world.regions) + questions.regions, allowed).all()
            assert {world.relations[index].domain for index in questions.relations} == {domain}
    both = world.sample_questions(500, ("in", "out"), seed=3)
    assert {world.relations[index].domain for index in both.relations} == {"in", "out"}


def test_the_seeds_decide_everything():
    first = World(7, shuffled=True).sample_questions(50, seed=(1, 2))
    again = World(7, shuffled=True).sample_questions(50, seed=(1, 2))
    assert first.rows() == again.rows()
    np.testing.assert_array_equal(first.true_probabilities, again.true_probabilities)
    assert first.rows() != World(7, shuffled=True).sample_questions(50, seed=(1, 3)).rows()
    assert not np.array_equal(World(7).logits, World(8).logits)
    assert not np.array_equal(World(7).test_entities, World(8).test_entities)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 40), shuffled=st.booleans(), domain=st.sampled_from(DOMAINS))
def test_questions_are_whole(seed, n, shuffled, domain):
    questions = World(seed, shuffled, n_species=3, n_regions=3).sample_questions(n, domain, "all", seed)
    assert len(questions) == len(questions.rows()) == n
    np.testing.assert_allclose(questions.true_probabilities.sum(axis=1), 1)
    assert (questions.true_probabilities > 0).all()
    assert all(len(set(row["choices"])) == 4 for row in questions.rows())
    assert ((questions.answers >= 0) & (questions.answers < 4)).all()


def test_rows_dataset_and_questions_agree():
    questions = World(0, shuffled=True).sample_questions(30, "in")
    for answers in (True, False):
        rows = questions.rows(answers=answers)
        assert questions.to_dataset(answers=answers).to_list() == rows
        assert as_questions(questions.to_dataset(answers=answers)) == questions.to_questions(answers=answers)
    assert [row["answer"] for row in questions.rows()] == questions.answers.tolist()
    assert {row["answer"] for row in questions.rows(answers=False)} == {None}
    assert {row["subject"] for row in questions.rows()} == {"trade", "worship"}


def test_indexing_keeps_the_columns_together():
    questions = World(0, shuffled=True).sample_questions(40, "out")
    mask = questions.answers == 2
    chosen = questions[mask]
    assert chosen.rows() == [row for row, keep in zip(questions.rows(), mask, strict=True) if keep]
    np.testing.assert_array_equal(chosen.true_probabilities, questions.true_probabilities[mask])
    assert questions[5:8].rows() == questions.rows()[5:8]


def test_no_word_has_two_meanings():
    words = [*SPECIES, *REGIONS, *(r.verb for r in RELATIONS), *(value for r in RELATIONS for value in r.values)]
    assert len(set(words)) == len(words)
    assert len(SPECIES) == len(REGIONS) == 32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: World(0, n_species=33), "n_species must be between 1 and 32.*33"),
        (lambda: World(0, n_regions=0), "n_regions must be between 1 and 32.*0"),
        (lambda: World(0, n_species=1, n_regions=3), "must be at least 4"),
        (lambda: World(0).sample_questions(5, "rare"), "domain must be one or several of in, out, unseen.*'rare'"),
        (lambda: World(0).sample_questions(5, ()), "domain must be one or several"),
        (lambda: World(0).sample_questions(5, entities="held-out"), "entities must be one of train, test, all"),
        (lambda: World(0).sample_questions(0), "at least 1, but is 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
