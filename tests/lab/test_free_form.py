"""The lab's free-form questions: texts in the library's own prompts, from which a model can learn to be calibrated."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hf_calib import SelfEvaluationQuestions
from hf_calib.confidence.parsing import read_stated_answer
from hf_calib.confidence.stated_levels import LevelFormat, find_levels
from hf_calib.evaluation.graded_answers import GradedAnswer
from hf_calib.lab import DOMAINS, CorpusSettings, World, make_model, make_tokenizer
from hf_calib.lab.corpus import sample_documents, stated_levels
from hf_calib.lab.documents import (
    CONFIDENCE_LEVELS,
    FREE_FORM,
    free_form_prompts,
    level_prompts,
    self_evaluation_prompts,
    stated_prompts,
    stated_replies,
)
from hf_calib.lab.tokenizer import vocabulary
from hf_calib.tasks.free_form import FreeFormQuestion
from hf_calib.trainers.stated_confidence import level_questions

SETTINGS = CorpusSettings(multiple_choice_share=0.1, in_share=0.2, free_form_share=0.8)
CUES = {
    "answer": "Answer:",
    "verdict": "B. False\nAnswer:",
    "level": "Confidence (0 to 100):",
    "stated": "Answer and confidence:",
}


@pytest.fixture(scope="module")
def questions():
    return World(0).sample_questions(400, DOMAINS, "all", seed=9)


def kind_of(prompt):
    if prompt.startswith("User:") or "\nD. " in prompt:
        return "other"
    return max((kind for kind, cue in CUES.items() if prompt.endswith(cue)), key=lambda kind: len(CUES[kind]))


def p_of(world, prompt, value):
    """Return p* of a value as the answer to a document's question."""
    region, species, verb = prompt.partition(" ?")[0].split()[-3:]
    relation = next(index for index, own in enumerate(world.relations) if own.verb == verb)
    logits = world.logits[relation, world.species.index(species), world.regions.index(region)]
    return (np.exp(logits) / np.exp(logits).sum())[world.relations[relation].values.index(value)]


def test_questions_without_options_are_right_as_often_as_the_truth_says():
    world = World(0, n_species=2, n_regions=2)
    drawn = world.sample_questions(20_000, "out", "all")
    written = drawn.to_free_form()
    first = written[0]
    assert first == FreeFormQuestion(drawn.rows()[0]["question"], first.answers, drawn.subjects()[0])
    asked = [row for row, question in enumerate(written) if question.question == first.question]
    given = Counter(written[row].answers[0] for row in asked)
    for value, p in zip(drawn.choices()[0], drawn.true_probabilities[0], strict=True):
        assert given[value] / len(asked) == pytest.approx(p, abs=0.04)


def test_the_texts_use_the_prompts_that_confidence_is_read_and_trained_with(questions):
    options = np.arange(len(questions)) % 4
    answers = [
        GradedAnswer(question, choices[option], True, True, row)
        for row, (question, choices, option) in enumerate(
            zip(questions.to_free_form(), questions.choices(), options, strict=True)
        )
    ]
    provenance = {
        "model": {"name": "lab"}, "n_questions": len(answers), "sampling": {}, "matcher": "exact", "counts": {},
        "prompt_format": FREE_FORM.to_dict(),
    }  # fmt: skip
    own = SelfEvaluationQuestions(answers, provenance)
    assert self_evaluation_prompts(questions, options) == [own.prompt_format.render(question) for question in own]
    levels = find_levels(make_tokenizer(free_form=True), FREE_FORM)
    assert levels == CONFIDENCE_LEVELS
    rendered = [LevelFormat.of(FREE_FORM).render(question) for question in level_questions(own, levels)]
    assert level_prompts(questions, options) == rendered
    plain = [FREE_FORM.render(question, options=False) for question in questions.to_free_form()]
    assert free_form_prompts(questions) == plain


def test_documents_come_back_word_for_word_and_are_read_as_stated(questions):
    tokenizer = make_tokenizer(free_form=True)
    levels = np.arange(len(questions)) % len(CONFIDENCE_LEVELS)
    replies = stated_replies(questions, questions.answers, levels)
    for prompt, reply, answers, level in zip(
        stated_prompts(questions), replies, questions.to_free_form(), levels, strict=True
    ):
        ids = tokenizer(prompt + reply)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        text = tokenizer.decode(ids[len(tokenizer(prompt)["input_ids"]) :])
        read = read_stated_answer(text)
        assert read.well_formed
        assert (read.answer,) == answers.answers
        assert read.confidence == pytest.approx(int(CONFIDENCE_LEVELS[level]) / 100)


def test_the_words_of_other_experiments_keep_their_tokens():
    assert vocabulary(free_form=True)[: len(vocabulary())] == vocabulary()
    assert len(set(vocabulary(free_form=True))) == len(vocabulary(free_form=True))
    assert make_model(free_form=True).config.vocab_size == len(make_tokenizer(free_form=True))
    assert make_model().config.vocab_size == len(make_tokenizer()) < len(make_tokenizer(free_form=True))


def test_free_form_texts_have_their_shares_and_are_calibrated():
    world = World(0)
    settings = replace(SETTINGS, level_noise=0.0)
    documents = sample_documents(world, 20_000, settings, np.random.default_rng(0))
    kinds = Counter(map(kind_of, documents.prompts))
    assert kinds == {"answer": 4000, "verdict": 4000, "level": 4000, "stated": 4000, "other": 4000}
    verdicts, truths, given = [], [], []
    for prompt, reply, p in zip(documents.prompts, documents.replies, documents.probabilities, strict=True):
        kind = kind_of(prompt)
        if kind == "verdict":
            truth = p_of(world, prompt, prompt.partition("Proposed answer: ")[2].split()[0])
            np.testing.assert_allclose(p, [truth, 1 - truth, 0, 0])
            verdicts.append(reply == " A")
            truths.append(truth)
        elif kind == "level":
            truth = p_of(world, prompt, prompt.partition("Answer: ")[2].split()[0])
            assert abs(int(reply) / 100 - truth) <= 0.025 + 1e-9
            given.append(truth)
        elif kind == "stated":
            read = read_stated_answer(reply)
            assert abs(read.confidence - p_of(world, prompt, read.answer)) <= 0.025 + 1e-9
        elif kind == "answer":
            assert np.isclose(p_of(world, prompt, reply.strip()), p).any()
    assert np.mean(verdicts) == pytest.approx(np.mean(truths), abs=0.02)
    # Mostly the likeliest answer: someone who draws from p* itself is right less often.
    assert np.mean(given) > 0.55


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shares_that_sum_to_one_fit_any_number_of_documents(n):
    settings = CorpusSettings(multiple_choice_share=0.5, free_form_share=0.5)
    documents = sample_documents(World(0), n, settings, np.random.default_rng(0))
    assert len(documents.prompts) == n
    assert not any(prompt.startswith("User:") for prompt in documents.prompts)


def test_a_model_that_never_reads_free_form_texts_sees_none_of_their_words():
    documents = sample_documents(World(0), 200, CorpusSettings(), np.random.default_rng(0))
    assert {kind_of(prompt) for prompt in documents.prompts} == {"other"}
    words = {word for text in documents.prompts + documents.replies for word in text.split()}
    assert words <= set(vocabulary())


def test_levels_are_those_of_the_truth_with_noise_in_the_log_odds():
    p = np.full(20_000, 0.5)
    levels = stated_levels(p, 0.5, np.random.default_rng(0)) * 5 / 100
    assert levels.mean() == pytest.approx(0.5, abs=0.01)
    assert np.log(levels / (1 - levels)).std() == pytest.approx(0.5, abs=0.03)
    exact = stated_levels(np.array([0.01, 0.5, 0.99]), 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(exact, [0, 10, 20])


def test_shares_of_more_than_everything_are_refused():
    with pytest.raises(ValueError, match=r"multiple_choice_share \(0.6\) and free_form_share \(0.5\).*at most 1"):
        sample_documents(World(0), 100, CorpusSettings(free_form_share=0.5), np.random.default_rng(0))
