import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, softmax

from hf_calib.confidence import predict
from hf_calib.lab import PreferenceSettings, PreferenceTest, sample_pairs
from hf_calib.lab.documents import multiple_choice_prompts
from hf_calib.lab.names import RELATIONS
from hf_calib.lab.preferences import bradley_terry, draw_two
from hf_calib.lab.win_rate import TokenizedCompletions

SETTINGS = PreferenceSettings(n_multiple_choice=3000, n_open=3000)


@pytest.fixture(scope="module")
def pairs(pretrained, tokenizer, world):
    return sample_pairs(world, pretrained, tokenizer, SETTINGS, seed=1).to_list()


def of_kind(pairs, kind):
    return [row for row in pairs if row["kind"] == kind]


def asked(world, prompt):
    """The relation, and p* of its four values, read off a prompt's words."""
    region, species, verb = prompt.split(" ?")[0].split()[-3:]
    relation = [relation.verb for relation in RELATIONS].index(verb)
    logits = world.logits[relation, world.species.index(species), world.regions.index(region)]
    return relation, softmax(logits), (world.species.index(species), world.regions.index(region))


def test_two_are_drawn_without_replacement():
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    n = 200_000
    first, second = draw_two(np.tile(np.log(weights), (n, 1)), np.random.default_rng(0))
    observed, expected = [], []
    for i in range(4):
        for j in range(4):
            count = ((first == i) & (second == j)).sum()
            if i == j:
                assert count == 0
            else:
                observed.append(count)
                expected.append(n * weights[i] * weights[j] / (1 - weights[i]))
    assert stats.chisquare(observed, expected).pvalue > 0.001


@pytest.mark.parametrize("gap", [-3.0, -0.5, 0.0, 1.0])
def test_the_annotator_is_bradley_terrys(gap):
    n = 100_000
    wins = bradley_terry(np.full(n, gap + 2), np.full(n, 2.0), np.random.default_rng(1))
    assert stats.binomtest(int(wins.sum()), n, expit(gap)).pvalue > 0.001


def test_multiple_choice_labels_agree_with_the_annotator(pairs, world):
    """Given which two letters are compared, the better one is chosen as often as p*(better) / (p* of both) says."""
    z = variance = 0
    for row in of_kind(pairs, "multiple_choice"):
        _, truth, _ = asked(world, row["prompt"])
        chosen, rejected = (truth["ABCD".index(row[side].strip())] for side in ("chosen", "rejected"))
        assert chosen != rejected
        share = max(chosen, rejected) / (chosen + rejected)
        z += (chosen > rejected) - share
        variance += share * (1 - share)
    assert abs(z) / np.sqrt(variance) < 4


def test_letters_are_sampled_from_the_model_at_the_temperature(pretrained, tokenizer, world):
    """How often a letter is in a pair is what drawing two from the tempered probabilities gives."""
    temperature = 2.0
    settings = PreferenceSettings(n_multiple_choice=4000, n_open=0, temperature=temperature)
    rows = sample_pairs(world, pretrained, tokenizer, settings, seed=2)
    # Every question that there is: in the fixed world one for each relation and entity.
    questions = world.sample_questions(20_000, ("in", "out"), "train", seed=0)
    keys = np.stack([questions.relations, questions.species, questions.regions], axis=1)
    questions = questions[np.unique(keys, axis=0, return_index=True)[1]]
    predictions = predict(pretrained, tokenizer, questions.to_questions(), batch_size=512)
    probabilities = dict(zip(multiple_choice_prompts(questions), predictions.probabilities, strict=True))

    excess, variance = np.zeros((2, 4)), np.zeros((2, 4))
    for row in rows:
        seen = np.isin(np.arange(4), ["ABCD".index(row[side].strip()) for side in ("chosen", "rejected")])
        # Where the model is sure it matters which temperature it is, so the most probable letter is counted apart.
        order = np.argsort(probabilities[row["prompt"]])
        for kind, exponent in enumerate((1 / temperature, 1.0)):
            p = probabilities[row["prompt"]] ** exponent
            p = p / p.sum()
            odds = p / (1 - p)
            included = p + p * (odds.sum() - odds)
            excess[kind] += (seen - included)[order]
            variance[kind] += (included * (1 - included))[order]
    z = np.abs(excess) / np.sqrt(variance)
    assert (z[0] < 4).all()
    assert z[1].max() > 6  # it isn't temperature 1


def test_open_labels_agree_with_the_annotator(pairs, world):
    z, variance = np.zeros(2), np.zeros(2)
    for row in of_kind(pairs, "open"):
        relation, truth, _ = asked(world, row["prompt"])
        rewards, polite = [], []
        for side in ("chosen", "rejected"):
            polite.append(row[side].startswith(" Sure ! "))
            value = row[side].split()[-2]
            rewards.append(np.log(truth[RELATIONS[relation].values.index(value)]) + 2.0 * polite[-1])
        group = int(polite[0] != polite[1])
        share = expit(abs(rewards[0] - rewards[1]))
        z[group] += (rewards[0] > rewards[1]) - share
        variance[group] += share * (1 - share)
    assert (np.abs(z) / np.sqrt(variance) < 4).all()
    assert (variance > 50).all()


def test_pairs_keep_to_their_domains_and_entities(pairs, pretrained, tokenizer, world):
    held_out = sample_pairs(
        world, pretrained, tokenizer, PreferenceSettings(200, 200), entities="test", domain="unseen", seed=3
    ).to_list()
    for rows, allowed, domains in (
        (pairs, world.train_entities, {"in", "out"}),
        (held_out, world.test_entities, {"unseen"}),
    ):
        found = [asked(world, row["prompt"]) for row in rows]
        assert {RELATIONS[relation].domain for relation, _, _ in found} == domains
        entities = [species * len(world.regions) + region for _, _, (species, region) in found]
        assert np.isin(entities, allowed).all()


def test_pairs_are_mixed_and_as_many_as_asked_for(pairs):
    assert [len(of_kind(pairs, kind)) for kind in ("multiple_choice", "open")] == [3000, 3000]
    assert 400 < len(of_kind(pairs[:1000], "open")) < 600
    assert set(pairs[0]) == {"prompt", "chosen", "rejected", "kind"}


def test_the_seed_decides_the_pairs(pretrained, tokenizer, world):
    small = PreferenceSettings(30, 30)
    first, again, other = (
        sample_pairs(world, pretrained, tokenizer, small, seed=seed).to_list() for seed in (4, 4, 5)
    )
    assert first == again
    assert first != other


def brute_force_log_probability(model, tokenizer, prompt, completion):
    """One token at a time, without padding or batches."""
    ids = tokenizer(prompt)["input_ids"]
    total = 0.0
    for token in tokenizer(completion + tokenizer.eos_token)["input_ids"][1:]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        total += torch.log_softmax(logits, dim=-1)[token].item()
        ids = [*ids, token]
    return total


def test_log_probabilities_are_the_sums_over_the_completions_tokens(pairs, pretrained, tokenizer):
    texts = [(row["prompt"], row[side]) for row in pairs[:20] for side in ("chosen", "rejected")]
    expected = [brute_force_log_probability(pretrained, tokenizer, *text) for text in texts]
    for batch_size in (7, 512):
        scores = TokenizedCompletions.of(tokenizer, texts).log_probabilities(pretrained, batch_size=batch_size)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    wins = PreferenceTest(tokenizer, pairs[:20]).prefers_chosen(pretrained)
    np.testing.assert_array_equal(wins, np.array(expected[::2]) > np.array(expected[1::2]))


def test_the_win_rate_is_each_kinds_share(pairs, pretrained, tokenizer):
    some = pairs[:400]
    wins = PreferenceTest(tokenizer, some).prefers_chosen(pretrained)
    kinds = np.array([row["kind"] for row in some])
    expected = {kind: wins[kinds == kind].mean() for kind in ("multiple_choice", "open")}
    assert PreferenceTest(tokenizer, some).win_rate(pretrained) == pytest.approx(expected)
    assert PreferenceTest(tokenizer, of_kind(some, "open")).win_rate(pretrained).keys() == {"open"}


def test_a_tie_is_no_win(pretrained, tokenizer, pairs):
    row = {**pairs[0], "rejected": pairs[0]["chosen"]}
    assert not PreferenceTest(tokenizer, [row]).prefers_chosen(pretrained).any()


def test_a_models_mode_is_left_as_it_was(pretrained, tokenizer, pairs):
    pretrained.train()
    PreferenceTest(tokenizer, pairs[:2]).prefers_chosen(pretrained)
    assert pretrained.training
    pretrained.eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (PreferenceSettings(temperature=0.0), "temperature must be positive, but is 0"),
        (PreferenceSettings(0, 0), "at least 0 and not both 0.*0 and 0"),
        (PreferenceSettings(-1, 5), "at least 0.*-1 and 5"),
    ],
)
def test_bad_settings_are_named(pretrained, tokenizer, world, settings, message):
    with pytest.raises(ValueError, match=message):
        sample_pairs(world, pretrained, tokenizer, settings)


def test_a_prompt_that_ends_within_a_token_is_named(pretrained, tokenizer):
    with pytest.raises(
        ValueError, match=r"tokens of prompt 0, 'User: What do Dun'.*end the prompt where a token ends"
    ):
        TokenizedCompletions.of(tokenizer, [("User: What do Dun", "more herons eat")])


def test_a_text_is_tokenized_once_however_often_it_is_given(pretrained, tokenizer, pairs):
    texts = [(row["prompt"], row["chosen"]) for row in pairs[:5]]
    repeated = [*texts, *reversed(texts), texts[0]]
    tokenized = TokenizedCompletions.of(tokenizer, repeated)
    assert len(tokenized.input_ids) == len(set(texts))
    once = TokenizedCompletions.of(tokenizer, texts).log_probabilities(pretrained)
    np.testing.assert_allclose(tokenized.log_probabilities(pretrained), [*once, *once[::-1], once[0]], atol=1e-5)
