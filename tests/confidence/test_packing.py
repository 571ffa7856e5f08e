"""Options' texts packed after one copy of the prompt: the same numbers as one text at a time, from fewer tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPTNeoConfig, GPTNeoForCausalLM, Qwen2Config, Qwen2ForCausalLM

from hf_calib.confidence import Asking, LocalModel
from hf_calib.confidence import local as local_module
from hf_calib.confidence.packing import PackedRows, packed_mask
from hf_calib.tasks import FewShotFormat, PromptFormat, Question
from tests.support import byte_level_tokenizer, questions, tiny_gpt2, tiny_llama, tiny_rwkv
from tests.tasks.small_tokenizers import byte_pairs
from tests.trainers.test_option_texts import tiny_gemma


def tiny_qwen(tokenizer):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def tiny_gpt_neo(tokenizer, window):
    """Return a model whose local attention counts tokens by their place in the row, whatever their positions are."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_layers=2, num_heads=4, window_size=window,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=512, initializer_range=0.3,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return GPTNeoForCausalLM(config)


MODELS = {
    "llama": tiny_llama,
    "qwen": tiny_qwen,
    "gemma": lambda tokenizer: tiny_gemma(tokenizer, 512),
    "gpt2": tiny_gpt2,
}
TOKENIZERS = {"plain": byte_level_tokenizer(), "merging": byte_pairs([("Ġ", "a"), (":", "Ġ"), ("a", "b")])}
SOURCES = {
    (model, name): [LocalModel(make(tokenizer).eval(), tokenizer) for _ in range(2)]
    for model, make in MODELS.items()
    for name, tokenizer in TOKENIZERS.items()
}
MIXED = [
    *questions(7, choices=(4, 2, 3)),
    Question("What?", ("a green apple and a river", "b", "the white window of the garden, with a stone"), 2),
    Question("What colour is " + "the river and " * 8 + "the sea?", ("a", "b"), 1),
]
texts = st.text("ab :", min_size=1, max_size=12).filter(str.strip)
asked = st.lists(
    st.builds(
        lambda words, choices: Question(" ".join(["ab", *words]), tuple(choices), None),
        st.lists(texts, max_size=6),
        st.lists(texts, min_size=2, max_size=6, unique_by=str.strip),
    ),
    min_size=1,
    max_size=7,
)


def scores(source, questions, batch_size=4, prompt_format=None):
    found = source.score_texts("test", questions, prompt_format or PromptFormat(), Asking(batch_size))
    return np.array([value for own in found for value in own.log_probabilities])


def unpacked(model, tokenizer):
    source = LocalModel(model, tokenizer)
    source.forward.packs = False
    return source


def read_by(model):
    """Return the list to which the number of tokens of every forward is appended."""
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=12)
@given(asked, st.integers(1, 5), st.sampled_from((2**26, 20_000)))
def test_packed_texts_have_their_own_log_probabilities(model, tokenizer, asked, batch_size, budget):
    packing, plain = SOURCES[model, tokenizer]
    plain.forward.packs = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_module, "LOGITS_BUDGET", budget)
        found = scores(packing, asked, batch_size)
    np.testing.assert_allclose(found, scores(plain, asked, 1), atol=2e-5, rtol=2e-6)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_token_is_read_once(make, tokenizer):
    source = LocalModel(make(tokenizer).eval(), tokenizer)
    first = scores(source, MIXED, 1)
    assert source.forward.packs
    seen = read_by(source.model)
    np.testing.assert_array_equal(scores(source, MIXED, 1), first)
    items = source.encoder.texts(MIXED, PromptFormat(), list_options=False)
    assert sum(seen) == sum(len(item.input_ids) + sum(len(option) - 1 for option in item.options) for item in items)
    seen.clear()
    scores(source, MIXED, 3)
    assert len(seen) == 3
    plain = unpacked(source.model, tokenizer)
    scores(plain, MIXED, 3)
    seen.clear()
    scores(plain, MIXED, 3)
    assert len(seen) > 3


def test_rows_are_batched_by_their_length_with_the_options(tokenizer):
    long, short = "the white window of the garden " * 4, "red"
    asked = [
        question
        for words in range(4)
        for question in (
            Question("What is " + "a river " * words + "?", (long + "a", long + "b green river"), 0),
            Question("What is " + "a river " * words + "?", (short, "green"), 0),
        )
    ]
    source = LocalModel(tiny_llama(tokenizer).eval(), tokenizer)
    scores(source, asked)
    seen = read_by(source.model)
    scores(source, asked, 4)
    items = source.encoder.texts(asked, PromptFormat(), list_options=False)
    assert sum(seen) < 1.15 * sum(item.packed_length for item in items)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_texts_after_a_shared_prefix_are_packed_too(make, tokenizer):
    model = make(tokenizer).eval()
    shots = FewShotFormat.choose([replace(own, subject=None) for own in questions(4, seed=5)], 4)
    source, plain = LocalModel(model, tokenizer), unpacked(model, tokenizer)
    found = scores(source, MIXED, 4, shots)
    assert source.forward.packs
    np.testing.assert_allclose(found, scores(plain, MIXED, 4, shots), atol=2e-5)
    plain.forward.shares = False
    np.testing.assert_allclose(found, scores(plain, MIXED, 1, shots), atol=2e-5)
    seen = read_by(model)
    again = scores(source, MIXED, 9, shots)
    np.testing.assert_allclose(again, found, atol=2e-5)
    items = source.encoder.texts(MIXED, shots, list_options=False)
    assert sum(seen) < 0.5 * sum(len(item.input_ids) for item in items)


@pytest.mark.parametrize(
    "make",
    [tiny_rwkv, lambda tokenizer: tiny_gemma(tokenizer, 8), lambda tokenizer: tiny_gpt_neo(tokenizer, 16)],
    ids=["recurrent", "sliding windows", "windows of places"],
)
def test_models_that_tell_packed_texts_from_others_read_them_apart(make, tokenizer):
    model = make(tokenizer).eval()
    source = LocalModel(model, tokenizer)
    found = scores(source, MIXED)
    assert source.forward.packs is False
    np.testing.assert_allclose(found, scores(unpacked(model, tokenizer), MIXED, 1), atol=5e-5)


def test_a_longer_row_is_checked_anew(tokenizer):
    model = tiny_gpt_neo(tokenizer, 32).eval()
    source, short = LocalModel(model, tokenizer), [Question("What?", ("red a", "green"), 0)]
    scores(source, short)
    assert source.forward.packs
    expected = scores(unpacked(model, tokenizer), MIXED, 1)
    np.testing.assert_allclose(scores(source, MIXED), expected, atol=5e-5)
    assert source.forward.packs is False


def test_what_a_forward_holds_is_bounded(tokenizer, monkeypatch):
    source = LocalModel(tiny_llama(tokenizer).eval(), tokenizer)
    expected = scores(source, MIXED, 9)
    held = []
    source.model.lm_head.register_forward_hook(lambda module, given, logits: held.append(logits.numel()))
    scores(source, MIXED, 9)
    assert len(held) == 1
    budget = max(held) // 3
    monkeypatch.setattr(local_module, "LOGITS_BUDGET", budget)
    held.clear()
    np.testing.assert_allclose(scores(source, MIXED, 9), expected, atol=2e-5)
    assert 3 <= len(held) < 9
    assert max(held) <= budget


def test_a_question_that_memory_does_not_hold_in_one_row_is_read_in_parts(tokenizer, monkeypatch):
    source = LocalModel(tiny_llama(tokenizer).eval(), tokenizer)
    expected = scores(source, MIXED)
    monkeypatch.setattr(local_module, "LOGITS_BUDGET", 8 * len(tokenizer))
    widest = []
    source.model.lm_head.register_forward_hook(lambda module, given, logits: widest.append(logits.shape[1]))
    np.testing.assert_allclose(scores(source, MIXED), expected, atol=2e-5)
    assert max(widest) <= max(
        len(option)
        for item in source.encoder.texts(MIXED, PromptFormat(), list_options=False)
        for option in item.options
    )


@pytest.mark.parametrize("make", [tiny_llama, tiny_rwkv])
def test_answers_are_read_with_their_prompts(make, tokenizer):
    model = make(tokenizer).eval()
    answers = [question.choices[-1] for question in MIXED]
    found, expected = (
        source.score_answers("test", MIXED, answers, PromptFormat(), Asking(4))
        for source in (LocalModel(model, tokenizer), unpacked(model, tokenizer))
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_one_answer_alone_tells_whether_texts_can_be_packed(tokenizer):
    for make, packs in ((tiny_llama, True), (tiny_rwkv, False)):
        source = LocalModel(make(tokenizer).eval(), tokenizer)
        source.forward._reach, source.forward.packs = np.inf, None
        source.score_answers("test", MIXED[:1], ["red"], PromptFormat(), Asking(4))
        assert source.forward.packs is packs


@pytest.mark.parametrize("left", [True, False])
def test_the_layout_of_packed_rows(left):
    rows = PackedRows.of([((7, 8), [(1, 2, 3), (4,), (1, 2, 5), (6, 9)]), ((5,), [(1,)])], 0, left=left)
    ids, positions, owners = [7, 8, 1, 2, 6], [0, 1, 2, 3, 2], [0, 0, 1, 1, 3]
    pad = [0] * 4
    assert rows.input_ids.tolist() == [ids, [*pad, 5] if left else [5, *pad]]
    assert rows.position_ids.tolist()[0] == positions
    # Texts that begin alike are one text, and the one without anything to read has a number alone.
    assert rows.texts.tolist()[0] == owners
    assert rows.texts.tolist()[1] == ([-1] * 4 + [0] if left else [0] + [-1] * 4)
    assert rows.rows.tolist() == [0] * 9 + [1]
    expected = [-4, -3, -2, -4, -4, -3, -2, -4, -1, -1 if left else -5]
    assert rows.columns.tolist() == expected
    seen = packed_mask(rows.texts)[0, 0]
    assert seen[4].tolist() == [True, True, False, False, True]
    assert seen[3].tolist() == [True, True, True, True, False]
