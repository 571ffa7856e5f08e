import copy
import sys
import time

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_calib.confidence import ForwardArguments, NonFiniteLogitsError, predict
from hf_calib.confidence.encoded import padding_token
from hf_calib.tasks import PromptFormat, Question, QuestionError, encode_questions
from tests.support import byte_level_tokenizer, question_rows, questions, tiny_gpt2, tiny_llama, tiny_rwkv

ASKED = questions(13, choices=(4, 2, 6, 3))
MODELS = {"rotary": tiny_llama, "absolute": tiny_gpt2}


@pytest.fixture(scope="module", params=MODELS)
def any_model(request, tokenizer):
    return MODELS[request.param](tokenizer).eval()


@pytest.fixture(scope="module")
def expected_scores(any_model, tokenizer):
    return [by_hand(any_model, tokenizer, question) for question in ASKED]


@torch.no_grad()
def by_hand(model, tokenizer, question):
    """Return the options' log-probabilities from one question's logits at every position, without padding."""
    text = PromptFormat().render(question) + " "
    ids = [tokenizer(text + letter)["input_ids"] for letter in question.letters]
    assert all(own[:-1] == ids[0][:-1] for own in ids)
    logits = model(input_ids=torch.tensor([ids[0][:-1]])).logits[0, -1].double()
    return torch.log_softmax(logits, dim=-1)[[own[-1] for own in ids]].numpy()


def scores(predictions):
    return np.where(np.isfinite(predictions.option_log_probabilities), predictions.option_log_probabilities, 1.0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 4, 13])
def test_predictions_are_those_of_one_question_at_a_time(any_model, expected_scores, tokenizer, side, batch_size):
    predictions = predict(any_model, tokenizer, ASKED, batch_size=batch_size, padding_side=side)
    assert predictions.option_log_probabilities.shape == (13, 6)
    assert predictions.option_log_probabilities.dtype == np.float64
    for row, expected in enumerate(expected_scores):
        n = len(ASKED[row].choices)
        np.testing.assert_allclose(predictions.option_log_probabilities[row, :n], expected, rtol=0, atol=2e-5)
        assert (predictions.option_log_probabilities[row, n:] == -np.inf).all()
        softmax = np.exp(expected) / np.exp(expected).sum()
        np.testing.assert_allclose(predictions.probabilities[row, :n], softmax, atol=1e-5)
        np.testing.assert_allclose(predictions.option_mass[row], np.exp(expected).sum(), atol=1e-5)
    assert predictions.answers.tolist() == [question.answer for question in ASKED]
    assert predictions.subjects == tuple(question.subject for question in ASKED)
    assert predictions.rows.tolist() == list(range(13))


def test_the_order_of_the_questions_changes_nothing_but_theirs(any_model, tokenizer):
    order = np.random.default_rng(0).permutation(len(ASKED))
    shuffled = predict(any_model, tokenizer, [ASKED[i] for i in order], batch_size=4)
    straight = predict(any_model, tokenizer, ASKED, batch_size=4)
    np.testing.assert_allclose(scores(shuffled), scores(straight)[order], atol=2e-5)


def test_attention_implementations_agree(any_model, tokenizer):
    results = []
    for implementation in ("eager", "sdpa"):
        any_model.set_attn_implementation(implementation)
        results.append(scores(predict(any_model, tokenizer, ASKED, batch_size=8)))
    np.testing.assert_allclose(*results, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(any_model, tokenizer, dtype):
    full = predict(any_model, tokenizer, ASKED)
    half = predict(copy.deepcopy(any_model).to(dtype), tokenizer, ASKED)
    assert half.option_log_probabilities.dtype == np.float64
    np.testing.assert_allclose(half.probabilities.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(half.probabilities, full.probabilities, atol=0.1)
    assert (half.probabilities != full.probabilities).any()


def test_a_chat_prompt():
    tokenizer = byte_level_tokenizer(chat=True)
    model = tiny_llama(tokenizer)
    prompt_format = PromptFormat(chat=True)
    asked = ASKED[:4]
    encoded = encode_questions(asked, tokenizer, prompt_format)
    predictions = predict(model, tokenizer, asked, prompt_format=prompt_format, batch_size=3)
    for row, item in enumerate(encoded):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([item.input_ids])).logits[0, -1].double()
        expected = torch.log_softmax(logits, dim=-1)[list(item.option_ids)]
        np.testing.assert_allclose(scores(predictions)[row, : len(expected)], expected, atol=2e-5)


def test_questions_may_be_rows_or_a_dataset(model, tokenizer):
    rows = question_rows(5)
    expected = scores(predict(model, tokenizer, questions(5)))
    for source in (rows, Dataset.from_list(rows)):
        np.testing.assert_array_equal(scores(predict(model, tokenizer, source)), expected)


def test_identical_choices_are_scored_with_a_warning_that_names_the_rows(model, tokenizer):
    asked = [*questions(2), Question("Which?", ("same", "same"), 0)]
    with pytest.warns(UserWarning, match=r"1 of 3 questions have two identical choices \(row 2, .*they are kept"):
        assert len(predict(model, tokenizer, asked)) == 3


def test_unknown_answers_do_not_stand_in_the_way(model, tokenizer):
    predictions = predict(model, tokenizer, questions(3, answered=False))
    assert predictions.answers.tolist() == [-1, -1, -1]
    assert (predictions.confidences >= 1 / 4).all()


# What is computed


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_computed_at_the_answers_only(any_model, tokenizer, side):
    shapes = []
    hook = any_model.lm_head.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    predict(any_model, tokenizer, ASKED, batch_size=4, padding_side=side)
    hook.remove()
    assert [shape[0] for shape in shapes[:2]] == [1, 2]  # whether padding matters
    shapes = shapes[2:]
    assert [shape[0] for shape in shapes] == [4, 4, 4, 1]
    lengths = sorted((len(item.input_ids) for item in encode_questions(ASKED, tokenizer)), reverse=True)
    distinct = [len(set(lengths[start : start + 4])) for start in range(0, 13, 4)]
    assert [shape[1] for shape in shapes] == ([1, 1, 1, 1] if side == "left" else distinct)


def test_the_longest_prompts_come_first(model, tokenizer):
    shapes = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape[1]))
    predict(model, tokenizer, ASKED, batch_size=4)
    hook.remove()
    lengths = sorted((len(item.input_ids) for item in encode_questions(ASKED, tokenizer)), reverse=True)
    assert shapes == [lengths[0] // 2, lengths[0], *lengths[::4]]


class Plain(torch.nn.Module):
    """A model whose forward knows no optional argument."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.config = inner.config

    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_without_logits_to_keep(model, tokenizer, side):
    plain = predict(Plain(model), tokenizer, ASKED, batch_size=4, padding_side=side)
    np.testing.assert_allclose(scores(plain), scores(predict(model, tokenizer, ASKED)), atol=2e-5)


# The model is left as it was


def test_dropout_is_off_and_comes_back(tokenizer):
    model = tiny_gpt2(tokenizer)
    expected = scores(predict(model.eval(), tokenizer, ASKED))
    model.train()
    model.transformer.h[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    np.testing.assert_array_equal(scores(predict(model, tokenizer, ASKED)), expected)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not all(modes.values())


def test_modes_come_back_after_an_error(model, tokenizer):
    model.train()
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan
    with pytest.raises(NonFiniteLogitsError):
        predict(model, tokenizer, ASKED)
    assert all(module.training for module in model.modules())


def test_no_gradients_are_kept(model, tokenizer):
    predict(model, tokenizer, ASKED[:2])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


# What goes wrong


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_name_the_row(model, tokenizer, value):
    asked = list(ASKED)
    asked[7] = Question("What is ~?", ("one", "two"), 0)
    asked[2] = Question("What is 5? " * 40, ("one", "two"), 0)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("~")] = value
    with (
        pytest.warns(UserWarning, match="1 of 13 prompts are longer"),
        pytest.raises(NonFiniteLogitsError, match=r"logits at the answer of row 7, counted from 0, are not finite"),
    ):
        predict(model, tokenizer, asked, batch_size=3, max_length=160, on_too_long="drop")


def test_prompts_longer_than_the_model_allows(tokenizer):
    lengths = sorted(len(item.input_ids) + 1 for item in encode_questions(ASKED, tokenizer))
    limit = lengths[6]
    model = tiny_llama(tokenizer, positions=limit)
    with pytest.raises(QuestionError, match=rf"of 13 prompts are longer than {limit} tokens"):
        predict(model, tokenizer, ASKED)
    with pytest.warns(UserWarning, match="they are dropped"):
        kept = predict(model, tokenizer, ASKED, on_too_long="drop")
    whole = predict(model, tokenizer, ASKED, max_length=512)
    assert 0 < len(kept) < 13
    assert kept.subjects == tuple(ASKED[row].subject for row in kept.rows)
    assert kept.answers.tolist() == [ASKED[row].answer for row in kept.rows]
    width = kept.option_log_probabilities.shape[1]
    np.testing.assert_allclose(scores(kept), scores(whole)[kept.rows, :width], atol=2e-5)


def test_a_tokenizer_without_padding_token(model, tokenizer):
    bare = byte_level_tokenizer()
    bare.pad_token = None
    assert padding_token(bare) == bare.eos_token_id
    np.testing.assert_allclose(
        scores(predict(model, bare, ASKED)), scores(predict(model, tokenizer, ASKED)), atol=2e-5
    )
    bare.eos_token = None
    with pytest.raises(ValueError, match=r"neither a padding nor an end-of-sequence token; set tokenizer.pad_token"):
        predict(model, bare, ASKED)


def test_a_padding_token_whose_number_is_zero(tokenizer):
    assert tokenizer.pad_token_id == 0
    assert padding_token(tokenizer) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, 'batch size must be at least 1, or "auto"; got 0'),
        ({"padding_side": "both"}, "'left' or 'right', got 'both'"),
        ({"on_too_long": "truncate"}, "'error' or 'drop', got 'truncate'"),
    ],
)
def test_options_that_are_out_of_range(model, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        predict(model, tokenizer, ASKED, **options)


def test_progress_is_shown_when_asked_for(model, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    predict(model, tokenizer, ASKED, batch_size=4)
    assert capsys.readouterr().err == ""
    model.register_forward_pre_hook(lambda module, inputs: time.sleep(0.4))  # what is quick shows no bar
    predict(model, tokenizer, ASKED, batch_size=4, progress=True)
    err = capsys.readouterr().err
    assert "letters: 100%" in err
    assert "13/13" in err


def test_arguments_are_read_once_a_call(model, tokenizer, monkeypatch):
    calls = []
    original = ForwardArguments.of.__func__
    monkeypatch.setattr(
        ForwardArguments, "of", classmethod(lambda cls, inner: calls.append(1) or original(cls, inner))
    )
    predict(model, tokenizer, ASKED, batch_size=2)
    assert len(calls) == 1


@pytest.mark.parametrize("make", [tiny_llama, tiny_rwkv])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_automatic_batch_size_is_what_memory_holds(make, rows, tokenizer):
    """Of the longest prompt's length, that is; where there is room for one alone, whether padding matters is found
    on shorter ones."""
    model, asked = make(tokenizer), questions(9, choices=(4, 2))
    expected = predict(model, tokenizer, asked, batch_size=1)
    room = rows * max(len(item.input_ids) for item in encode_questions(asked, tokenizer))
    sizes = []

    def read(module, inputs):
        if inputs[0].numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(inputs[0]))

    model.get_input_embeddings().register_forward_pre_hook(read)
    np.testing.assert_allclose(
        scores(predict(model, tokenizer, asked, batch_size="auto")), scores(expected), atol=2e-5
    )
    assert max(sizes) >= min(rows, 2)
    if make is tiny_llama:
        with pytest.raises(torch.OutOfMemoryError):
            predict(model, tokenizer, asked, batch_size=9)
