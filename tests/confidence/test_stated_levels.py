"""Levels of confidence: found in the tokenizer, asked for after an answer, read as a distribution."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_calib.confidence import Asking, LocalModel, StatedLevels
from hf_calib.confidence.free_form import predict_free_form
from hf_calib.confidence.stated_levels import (
    LEVELS,
    AnsweredQuestion,
    LevelFormat,
    answered_question,
    encode_levels,
    find_levels,
    level_predictions,
)
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, QuestionError
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.support import byte_level_tokenizer, questions, tiny_llama

ASKED = [FreeFormQuestion("Capital of France?", ("Paris",), "geography"), FreeFormQuestion("2 + 2?", ("4",))]
DIGITS = LEVELS["digits"]


def with_words(words):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(list(words))
    return tokenizer


def of_words(words):
    """Return a tokenizer that knows some words only."""
    vocabulary = {word: number for number, word in enumerate(("<unk>", "<eos>", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")


def test_levels_are_found_never_assumed():
    # Bytes are this tokenizer's tokens, so numbers of two digits are two.
    assert find_levels(byte_level_tokenizer(), PromptFormat()) == DIGITS
    assert find_levels(with_words(LEVELS["percent"]), PromptFormat()) == LEVELS["percent"]
    assert find_levels(with_words(LEVELS["words"]), PromptFormat(), "words") == LEVELS["words"]
    assert find_levels(None, PromptFormat()) == DIGITS
    with pytest.raises(QuestionError, match=r"percent: the level '10' is 2 tokens for this tokenizer, .*scale='auto'"):
        find_levels(byte_level_tokenizer(), PromptFormat(), "percent")
    with pytest.raises(QuestionError, match=r"digits: the level '0' has no token that distinguishes it .*another tok"):
        find_levels(of_words(["Question:", "?", "Answer", "it", "Confidence", "to"]), PromptFormat())
    with pytest.raises(QuestionError, match=r"digits: the level '9' is the token '<unk>', which is not only its own"):
        find_levels(of_words("012345678"), PromptFormat(), "digits")
    with pytest.raises(QuestionError, match="words: the level 'impossible' is"):
        find_levels(byte_level_tokenizer(), PromptFormat(), "words")
    with pytest.raises(ValueError, match="scale: 'stars' is not one of auto, percent, digits, words"):
        find_levels(None, PromptFormat(), "stars")


def test_the_prompt_continues_the_answer():
    question = answered_question(ASKED[0], " Paris", True, DIGITS)
    assert (question.answer, answered_question(ASKED[0], "Rome", False, DIGITS).answer) == (9, 0)
    assert LevelFormat.of(PromptFormat()).render(question) == (
        "Question: Capital of France?\nAnswer: Paris\nConfidence (0 to 9):"
    )
    words = answered_question(ASKED[0], "Paris", None, LEVELS["words"])
    assert "Confidence (impossible, doubtful" in LevelFormat.of(PromptFormat()).render(words)
    roles = [message["role"] for message in LevelFormat.of(PromptFormat(chat=True)).messages(question)]
    assert roles == ["user", "assistant", "user"]
    shots = FewShotFormat(examples=(Question("1 + 1?", ("2", "3"), 0),))
    assert LevelFormat.of(shots).render(question).startswith("Question: 1 + 1?\nAnswer: 2\n\nQuestion: Capital")


@torch.no_grad()
@pytest.mark.parametrize("chat", [False, True])
def test_the_confidence_is_the_mean_level_by_hand(chat):
    tokenizer = byte_level_tokenizer(chat=True)
    model = tiny_llama(tokenizer)
    asked = [answered_question(ASKED[0], "Paris", True, DIGITS), answered_question(ASKED[1], "5", False, DIGITS)]
    found = level_predictions(LocalModel(model, tokenizer), asked, PromptFormat(chat=chat), Asking())
    for row, item in enumerate(encode_levels(asked, tokenizer, PromptFormat(chat=chat))):
        logits = model(input_ids=torch.tensor([item.input_ids])).logits[0, -1].double()
        p = torch.softmax(logits[list(item.option_ids)], -1).numpy()
        assert found.confidences[row] == pytest.approx(p @ (np.arange(10) / 9), abs=1e-5)
        assert tokenizer.convert_ids_to_tokens(list(item.option_ids)) == list(DIGITS)
    assert found.correct.tolist() == [True, False]
    assert found.subjects == ("geography", None)


def test_free_form_answers_and_options_are_asked_about(tokenizer, model):
    backend = LocalModel(model, tokenizer)
    found = predict_free_form(backend, ASKED, PromptFormat(), Asking(), method="levels", max_new_tokens=3)
    asked = [
        answered_question(question, text, None, DIGITS) for question, text in zip(ASKED, found.texts, strict=True)
    ]
    expected = level_predictions(backend, asked, PromptFormat(), Asking())
    np.testing.assert_allclose(found.predictions.confidences, expected.confidences, atol=1e-6)
    options = questions(6)
    measured = StatedLevels().predict(backend, options, PromptFormat(), Asking())
    assert len(measured) == 6
    assert measured.n_choices.tolist() == [4] * 6
    assert ((measured.confidences > 0) & (measured.confidences < 1)).all()


def test_questions_without_an_answer_of_the_models_are_refused(tokenizer):
    with pytest.raises(QuestionError, match="row 1, counted from 0: levels of confidence follow an answer"):
        encode_levels([AnsweredQuestion("a?", DIGITS, given="b"), *questions(1)], tokenizer, PromptFormat())
