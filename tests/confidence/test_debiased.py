"""Ways to read confidence that take out preferences: each against a computation by hand, and on biased models."""

import numpy as np
import pytest

from hf_calib.confidence import (
    Asking,
    BatchCalibrated,
    ContentFreeLetters,
    LocalModel,
    Marginalized,
    OptionLetters,
    OptionScores,
    OptionTexts,
    PriDe,
    TextsOverPrior,
)
from hf_calib.confidence.debiased import CONTENT_FREE
from hf_calib.tasks import PromptFormat, Question, cyclic_orders, permute_options
from tests.confidence.test_methods import finite, log_probability
from tests.support import questions

ASKED = questions(40, choices=(4, 3))


class Biased:
    """Answers with a log-probability for each option's text plus one for its letter, and counts what it is asked."""

    def __init__(self, of_letters, noise=0.0):
        self.of_letters, self.noise, self.asked = np.array(of_letters), noise, 0

    def of_text(self, question, choice):
        if question.question in CONTENT_FREE:
            return 0.0
        return (sum(map(ord, question.question + choice)) % 13) / 6

    def score_letters(self, stage, asked, prompt_format, asking):
        self.asked += len(asked)
        found = []
        for question in asked:
            values = np.array([self.of_text(question, choice) for choice in question.choices])
            values = values + self.of_letters[: len(values)]
            found.append(OptionScores(tuple(values - np.logaddexp.reduce(values) - 0.5), (1,) * len(values)))
        return found


BIAS = (2.0, 0.0, -1.0, 0.5)


def truth(question):
    values = np.exp([Biased(BIAS).of_text(question, choice) for choice in question.choices])
    return values / values.sum()


def ask(method, source, asked=ASKED, prompt_format=None):
    return method.predict(source, asked, prompt_format or PromptFormat(), Asking())


@pytest.mark.parametrize(
    "method", [PriDe(), ContentFreeLetters(), Marginalized(n_orders=4, mean="geometric")], ids=lambda m: m.name
)
def test_a_preference_for_letters_is_taken_out_exactly(method):
    """Where the log-probability is that of the text plus that of the letter, these leave the text's alone."""
    found = ask(method, Biased(BIAS))
    drawn = np.ones(len(ASKED), dtype=bool)
    if isinstance(method, PriDe):  # those it was estimated on get an arithmetic mean over the rotations
        drawn = drawn_by(method)
        assert drawn.sum() == len(ASKED) - 20
    for row in np.flatnonzero(drawn):
        np.testing.assert_allclose(np.exp(finite(found, row)).sum(), np.exp(-0.5), rtol=1e-9)
        np.testing.assert_allclose(found.probabilities[row, : len(ASKED[row].choices)], truth(ASKED[row]), rtol=1e-6)
    plain = ask(OptionLetters(), Biased(BIAS))
    assert np.abs(plain.probabilities - found.probabilities).max() > 0.2


def drawn_by(method):
    """Return a mask of the questions that the prior was not estimated on."""
    rng, left = np.random.default_rng(method.seed), np.ones(len(ASKED), dtype=bool)
    for n_options in (3, 4):
        places = np.flatnonzero([len(question.choices) == n_options for question in ASKED])
        left[rng.choice(places, min(method.at_least, len(places)), replace=False)] = False
    return left


def test_pride_on_a_model_by_hand(model, tokenizer):
    source, method = LocalModel(model, tokenizer), PriDe(share=0.2, at_least=2, seed=3)
    asked = questions(12, choices=(4,))
    found = ask(method, source, asked)
    chosen = np.sort(np.random.default_rng(3).choice(np.arange(12), 3, replace=False))
    priors = []
    for row in chosen:
        logs, options = [], []
        for order in cyclic_orders(4, 4):
            p = ask(OptionLetters(), source, [permute_options(asked[row], order)]).probabilities[0]
            logs.append(np.log(p))
            options.append(p[np.argsort(order)])
        prior = np.exp(np.mean(logs, axis=0))
        priors.append(prior / prior.sum())
        np.testing.assert_allclose(found.probabilities[row], np.mean(options, axis=0), atol=1e-5)
    prior = np.mean(priors, axis=0)
    plain = ask(OptionLetters(), source, asked)
    for row in set(range(12)) - set(chosen.tolist()):
        expected = plain.probabilities[row] / prior
        np.testing.assert_allclose(found.probabilities[row], expected / expected.sum(), atol=1e-5)
    np.testing.assert_allclose(found.option_mass, plain.option_mass, rtol=1e-9)


def test_batch_calibration_divides_by_the_means_of_each_number_of_options():
    plain, found = ask(OptionLetters(), Biased(BIAS)), ask(BatchCalibrated(), Biased(BIAS))
    for n_options in (3, 4):
        own = plain.n_choices == n_options
        p = plain.probabilities[own, :n_options]
        expected = p / p.mean(axis=0)
        np.testing.assert_allclose(
            found.probabilities[own, :n_options], expected / expected.sum(axis=1, keepdims=True), rtol=1e-6
        )


def test_batch_calibration_leaves_what_there_is_too_little_of():
    asked = [*questions(20, choices=(4,)), *questions(3, choices=(3,))]
    with pytest.warns(UserWarning, match="only 3 questions have 3 options"):
        found = ask(BatchCalibrated(), Biased(BIAS), asked)
    plain = ask(OptionLetters(), Biased(BIAS), asked)
    np.testing.assert_allclose(found.probabilities[20:], plain.probabilities[20:], rtol=1e-9)
    assert np.abs(found.probabilities[:20] - plain.probabilities[:20]).max() > 0.1


def test_means_over_all_rotations_by_hand(model, tokenizer):
    source, asked = LocalModel(model, tokenizer), questions(6, choices=(4, 2, 3))
    arithmetic = ask(Marginalized(n_orders=4), source, asked)
    geometric = ask(Marginalized(n_orders=4, mean="geometric"), source, asked)
    for row, question in enumerate(asked):
        n = len(question.choices)
        parts = [
            ask(OptionLetters(), source, [permute_options(question, order)]).probabilities[0][np.argsort(order)]
            for order in cyclic_orders(n, n)
        ]
        np.testing.assert_allclose(arithmetic.probabilities[row, :n], np.mean(parts, axis=0), atol=1e-5)
        expected = np.exp(np.log(parts).mean(axis=0))
        np.testing.assert_allclose(geometric.probabilities[row, :n], expected / expected.sum(), atol=1e-5)
        assert (geometric.probabilities[row, n:] == 0).all()
    np.testing.assert_allclose(geometric.option_mass, arithmetic.option_mass, atol=1e-9)
    with pytest.raises(ValueError, match="mean: 'harmonic' is unknown"):
        Marginalized(mean="harmonic")


@pytest.mark.parametrize(
    ("method", "n"),
    [
        (PriDe(), 40 + 10 * 3 + 10 * 2),
        (BatchCalibrated(), 40),
        (ContentFreeLetters(), 40 + 3 * 2),  # two numbers of options; the prompt shows no subject
        (Marginalized(n_orders=4), 20 * 4 + 20 * 3),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_each_costs(method, n):
    source = Biased(BIAS)
    ask(method, source)
    assert source.asked == n


@pytest.mark.parametrize("prior", ["none", "cue", "content-free"])
def test_texts_over_their_prior_by_hand(prior, model, tokenizer):
    asked = questions(5, choices=(4, 3))
    source = LocalModel(model, tokenizer)
    found, plain = ask(TextsOverPrior(prior), source, asked), ask(OptionTexts(), source, asked)

    def alone(choice):
        if prior == "none":
            return log_probability(model, [tokenizer.eos_token_id], tokenizer(f" {choice}")["input_ids"])
        prompts = ["Answer:"] if prior == "cue" else [f"Question: {text}\nAnswer:" for text in CONTENT_FREE]
        logs = [
            log_probability(model, tokenizer(p)["input_ids"], tokenizer(f" {choice}")["input_ids"]) for p in prompts
        ]
        return np.log(np.mean(np.exp(logs)))

    for row, question in enumerate(asked):
        values = finite(plain, row) - [alone(choice) for choice in question.choices]
        expected = np.exp(values - values.max())
        np.testing.assert_allclose(found.probabilities[row, : len(values)], expected / expected.sum(), atol=1e-4)
    assert not found.has_mass


def test_content_free_prompts_are_asked_for_each_subject_that_is_shown():
    source = Biased(BIAS)
    ask(ContentFreeLetters(), source, prompt_format=PromptFormat(header="About {subject}."))
    assert source.asked == 40 + 3 * 2 * 3


def test_what_does_not_fit_is_named(model, tokenizer):
    with pytest.raises(ValueError, match="prior: 'frequency' is unknown"):
        TextsOverPrior("frequency")
    with pytest.raises(ValueError, match="use the method text-content-free"):
        ask(TextsOverPrior("cue"), LocalModel(model, tokenizer), ASKED[:2], PromptFormat(chat=True))
    with pytest.raises(ValueError, match=r"share: must be in \(0, 1\]"):
        PriDe(share=0)
    too_long = LocalModel(model, tokenizer, max_length=3, on_too_long="drop")
    with pytest.raises(Exception, match="no question"):
        ask(PriDe(), too_long)


def test_a_question_in_another_order_is_answered_alike(model, tokenizer):
    """What the priors are of is a letter's place, so permuting the options moves the priors' effect with them."""
    asked = [Question(q.question, q.choices, q.answer) for q in questions(10, choices=(4,))]
    source = Biased(BIAS)
    straight = ask(ContentFreeLetters(), source, asked)
    order = [2, 3, 0, 1]
    other = ask(ContentFreeLetters(), source, [permute_options(question, order) for question in asked])
    np.testing.assert_allclose(other.with_options_back([order] * 10).probabilities, straight.probabilities, rtol=1e-6)
