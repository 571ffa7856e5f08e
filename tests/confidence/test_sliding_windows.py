"""A model with sliding windows keeps its cache as long as no text goes beyond them."""

import pytest
import torch

from hf_calib.confidence import Asking, LocalModel
from hf_calib.tasks import PromptFormat
from tests.support import byte_level_tokenizer, questions
from tests.trainers.test_option_texts import tiny_gemma

ASKED = questions(6, choices=(4, 2, 3))


class Counted:
    """Counts the tokens that a model reads."""

    def __init__(self, model):
        self.n = 0
        model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, args, kwargs):
        self.n += kwargs["input_ids"].numel()


def written(window, *, shares=None, **options):
    tokenizer = byte_level_tokenizer()
    model = tiny_gemma(tokenizer, window)
    counted, source = Counted(model), LocalModel(model, tokenizer)
    if shares is not None:
        source.forward.shares = shares
    options = {"temperature": 1.0, "max_new_tokens": 12, "n_samples": 2, **options}
    found = source.generate("test", ASKED, PromptFormat(), Asking(3), **options)
    return [[sample.text for sample in own] for own in found], counted.n, source.forward.shares


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_within_the_window_the_cache_is_kept_and_the_samples_are_the_same(temperature):
    texts, n_tokens, shares = written(512, temperature=temperature)
    anew, n_anew, _ = written(512, temperature=temperature, shares=False)
    assert texts == anew
    assert shares
    assert n_tokens < n_anew / 3


def test_beyond_the_window_everything_is_read_anew():
    longest = max(len(byte_level_tokenizer()(PromptFormat().render(own))["input_ids"]) for own in ASKED) + 12
    assert written(longest)[2] is True
    assert written(longest - 1)[2] is False
    texts, _, shares = written(32)
    assert shares is False
    assert texts == written(32, shares=False)[0] != written(512)[0]


def test_texts_of_options_are_scored_alike_with_and_without_the_cache():
    tokenizer = byte_level_tokenizer()
    scores = []
    for shares in (None, False):
        source = LocalModel(tiny_gemma(tokenizer, 512), tokenizer)
        source.forward.shares, source.forward.packs = shares, False
        found = source.score_texts("test", ASKED, PromptFormat(), Asking(4))
        assert source.forward.shares is (shares is None)
        scores.append(torch.tensor([value for own in found for value in own.log_probabilities]))
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)
