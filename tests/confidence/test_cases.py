"""Questions of one case: read in one forward, apart from each other, with labels of any number of tokens."""

import itertools

import numpy as np
import pytest
import torch

from hf_calib.confidence import Asking, LocalModel
from hf_calib.confidence.encoded import PromptEncoder
from hf_calib.tasks import PromptFormat, QuestionError, TypedDecisions
from hf_calib.tasks.encoding import common_prefix
from tests.support import byte_level_tokenizer, tiny_gpt2, tiny_llama
from tests.tasks.small_tokenizers import byte_pairs, whole_words
from tests.trainers.test_option_texts import tiny_gemma


def case(number=0, options=3, words=60):
    return {
        "state": " ".join(f"word{i}" for i in range(words)) + f" {number}",
        "questions": {
            "which": {
                "type": "choice",
                "instructions": "Which one?",
                "criteria": {f"o{i}": None for i in range(options)},
            },
            "is it": {"type": "noul", "instructions": "Is it so?"},
            "level": {"type": "score", "instructions": "How much?", "criteria": ["low", "mid", "high"]},
        },
    }


def asked(source, cases, chat=False):
    return source.score_cases("cases", [case.questions() for case in cases], PromptFormat(chat=chat), Asking())


def values(scores):
    return [np.array(score.log_probabilities) for own in scores for score in own]


@pytest.fixture
def source():
    tokenizer = byte_level_tokenizer(chat=True)
    return LocalModel(tiny_llama(tokenizer), tokenizer, max_length=100_000)


@pytest.fixture
def forwards(source):
    seen = []
    source.model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("chat", [False, True])
def test_a_case_is_one_forward_that_reads_the_state_once(source, forwards, chat):
    cases = TypedDecisions([case(number) for number in range(3)])
    scores = asked(source, cases, chat)
    forwards.clear()  # the first call also finds out whether the model takes the mask
    again = asked(source, cases, chat)
    assert len(forwards) == 3
    prompts = [item.input_ids for item in source.encoder.labels(cases[0].questions(), PromptFormat(chat=chat))]
    shared = min(common_prefix(*pair) for pair in itertools.combinations(prompts, 2))
    assert shared > 100
    assert forwards[0] == (1, shared + sum(len(prompt) - shared for prompt in prompts))
    alone = source.score_letters("alone", cases.questions(), PromptFormat(chat=chat), Asking(batch_size=1))
    for one, other, expected in zip(values(scores), values(again), alone, strict=True):
        np.testing.assert_allclose(one, expected.log_probabilities, atol=2e-5)
        np.testing.assert_array_equal(one, other)


def test_neither_the_other_questions_nor_the_other_cases_matter(source):
    row = case()
    every = asked(source, TypedDecisions([row, case(1)]))
    for names in itertools.permutations(row["questions"]):
        chosen = dict(list({name: row["questions"][name] for name in names}.items())[:2])
        (own,) = asked(source, TypedDecisions([{**row, "questions": chosen}]))
        for name, score in zip(chosen, own, strict=True):
            expected = every[0][list(row["questions"]).index(name)]
            np.testing.assert_allclose(score.log_probabilities, expected.log_probabilities, atol=2e-5)


@pytest.mark.parametrize("options", [27, 255])
def test_more_than_26_options_have_exact_probabilities(source, options):
    cases = TypedDecisions([case(options=options)])
    score = asked(source, cases)[0][0]
    (item, *_) = source.encoder.labels(cases[0].questions(), PromptFormat())
    assert len(set(item.options)) == options
    assert max(score.n_tokens) == 2
    for number in (0, 1, options // 2, options - 1):
        total, ids = 0.0, list(item.input_ids)
        for token in item.options[number]:
            with torch.no_grad():
                logits = source.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            total += float(logits.log_softmax(-1)[token])
            ids.append(token)
        assert score.log_probabilities[number] == pytest.approx(total, abs=2e-5)
    assert 0 < np.exp(score.log_probabilities).sum() <= 1


def test_labels_are_found_with_the_tokenizer():
    questions = TypedDecisions([case(options=30)])[0].questions()[:1]
    letters = PromptEncoder(byte_level_tokenizer()).labels(questions, PromptFormat())[0]
    assert [len(ids) for ids in letters.options] == [2] * 30
    # " A" is one token here and " AB" another, but " AA" two, of which " A" is the first: all the same, none begins
    # another.
    merged = byte_pairs([("Ġ", "A"), ("ĠA", "B")])
    options = PromptEncoder(merged).labels(questions, PromptFormat())[0].options
    assert not any(one != other and other[: len(one)] == one for one in options for other in options)
    with pytest.raises(QuestionError, match="neither letters nor numbers distinguish 30 options"):
        PromptEncoder(whole_words()).labels(questions, PromptFormat())
    # A tokenizer without the letters has numbers.
    digits = byte_pairs([], leave_out="ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    few = TypedDecisions([case(options=3)])[0].questions()[:1]
    named = PromptEncoder(digits).labels(few, PromptFormat())[0].options
    assert len(set(named)) == 3
    # A question's labels don't depend on another question with a letter that the tokenizer lacks.
    some = byte_pairs([], leave_out="DEFGHIJKLMNOPQRSTUVWXYZ")
    more = TypedDecisions([case(options=5)])[0].questions()[:1]
    (alone,) = PromptEncoder(some).labels(few, PromptFormat())
    together, numbered = PromptEncoder(some).labels([*few, *more], PromptFormat())
    assert alone == together
    assert [len(ids) for ids in alone.options] == [1, 1, 1]
    assert len(set(numbered.options)) == 5


def test_a_model_without_positions_or_masks_of_its_own_is_read_all_the_same():
    tokenizer = byte_level_tokenizer()
    source = LocalModel(tiny_gpt2(tokenizer), tokenizer)
    cases = TypedDecisions([case(words=10)])
    expected = source.score_letters("alone", cases.questions(), PromptFormat(), Asking(batch_size=1))
    source.forward.packs = False
    for one, other in zip(values(asked(source, cases)), expected, strict=True):
        np.testing.assert_allclose(one, other.log_probabilities, atol=2e-5)
    source.forward.pads = False
    for one, other in zip(values(asked(source, cases)), expected, strict=True):
        np.testing.assert_allclose(one, other.log_probabilities, atol=2e-5)


@pytest.mark.parametrize(("window", "packs"), [(32, False), (100_000, True)])
def test_a_window_of_attention_is_not_exceeded(window, packs):
    tokenizer = byte_level_tokenizer()
    source = LocalModel(tiny_gemma(tokenizer, window), tokenizer, max_length=100_000)
    cases = TypedDecisions([case(), case(1)])
    scores = asked(source, cases)
    assert source.forward.packs is packs
    expected = source.score_letters("alone", cases.questions(), PromptFormat(), Asking(batch_size=1))
    for one, other in zip(values(scores), expected, strict=True):
        np.testing.assert_allclose(one, other.log_probabilities, atol=2e-5)


def test_cases_that_are_too_long_are_named(source):
    cases = TypedDecisions([case(0, words=3), case(1, words=500), case(2, words=3)])
    source.encoder.max_length = 1000
    message = (
        r"^1 of 3 cases are longer than 1000 tokens \(the longest is row 1, .*; raise the .*, or shorten the state"
    )
    with pytest.raises(QuestionError, match=message):
        asked(source, cases)
    source.encoder.on_too_long = "drop"
    with pytest.warns(UserWarning, match="1 of 3 cases"):
        dropped = asked(source, cases)
    assert dropped[1] == [None] * 3
    for own, alone in zip(dropped[::2], (asked(source, cases[:1]), asked(source, cases[2:])), strict=True):
        np.testing.assert_allclose(np.concatenate(values([own])), np.concatenate(values(alone)), atol=1e-5)
