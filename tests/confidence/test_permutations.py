"""A model that looks at the options alone gives permuted options permuted probabilities, in every prompt."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_calib.confidence import Asking, LocalModel, Marginalized, OptionLetters, OptionTexts, predict
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, permute_options
from tests.support import byte_level_tokenizer, questions, tiny_llama

TOKENIZER = byte_level_tokenizer(chat=True)
SOLVED = questions(3, seed=5, choices=(3, 4))
FORMATS = {
    "plain": PromptFormat(),
    "in brackets": PromptFormat(choice="({letter}) {choice}", cue="The answer is", answer_prefix=" ("),
    "with a header": PromptFormat(header="About {subject}.\n", question="{question}"),
    "chat": PromptFormat(chat=True, system="Be brief."),
    "few-shot": FewShotFormat.choose(SOLVED, 1),
    "few-shot chat": FewShotFormat.choose(SOLVED, 1, prompt_format=PromptFormat(chat=True)),
}


class Reader(nn.Module):
    """Gives each letter a logit that depends on the text of its option in the last question, and on nothing else."""

    def __init__(self, line):
        super().__init__()
        self.line = re.compile(line.format(letter="([A-Z])", choice="(.+)"))
        self.anything = nn.Parameter(torch.zeros(1))
        self.config = tiny_llama(TOKENIZER).config

    def forward(self, input_ids, attention_mask):
        logits = torch.zeros(*input_ids.shape, len(TOKENIZER))
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            text = TOKENIZER.decode(ids[mask.bool()])
            options = dict(self.line.findall(text))  # of several questions the last one's
            for letter, choice in options.items():
                for form in (letter, " " + letter):
                    last = TOKENIZER(form, add_special_tokens=False)["input_ids"][-1]
                    logits[row, :, last] = sum(map(ord, choice)) % 97 / 20
        return type("Output", (), {"logits": logits})()


def ways_to_ask(model, prompt_format):
    yield lambda asked: predict(model, TOKENIZER, asked, prompt_format=prompt_format, batch_size=3)
    for batch_size in (1, "auto"):
        yield lambda asked, size=batch_size: OptionLetters().predict(
            LocalModel(model, TOKENIZER), asked, prompt_format, Asking(size)
        )


drawn = st.lists(
    st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=4, max_size=6, unique=True).flatmap(
        lambda choices: st.tuples(st.just(choices), st.permutations(range(len(choices))))
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10, deadline=None)
@given(drawn)
def test_permuting_the_options_permutes_the_probabilities(name, drawn):
    prompt_format = FORMATS[name]
    model = Reader(re.escape(prompt_format.choice).replace(r"\{", "{").replace(r"\}", "}").replace(r"\ ", " "))
    asked = [Question("Which?", choices, 0, SOLVED[0].subject) for choices, _ in drawn]
    orders = [np.array(order) for _, order in drawn]
    permuted = [permute_options(question, order) for question, order in zip(asked, orders, strict=True)]
    for ask in ways_to_ask(model, prompt_format):
        straight, other = ask(asked), ask(permuted)
        for row, order in enumerate(orders):
            expected = np.array([sum(map(ord, choice)) % 97 / 20 for choice in asked[row].choices])
            expected = np.exp(expected) / np.exp(expected).sum()
            np.testing.assert_allclose(straight.probabilities[row, : len(order)], expected, atol=1e-6)
            np.testing.assert_allclose(other.probabilities[row, : len(order)], expected[order], atol=1e-6)
            assert other.answers[row] == list(order).index(0)
        back = other.with_options_back(orders)
        np.testing.assert_allclose(back.probabilities, straight.probabilities, atol=1e-6)
        assert back.answers.tolist() == straight.answers.tolist()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("method", [OptionTexts(), Marginalized(n_orders=4)], ids=["texts", "all rotations"])
def test_a_language_model_too_where_the_order_is_not_shown_or_averaged_out(name, method):
    model, prompt_format = tiny_llama(TOKENIZER).eval(), FORMATS[name]
    rotation = [2, 3, 0, 1]
    asked = [Question(q.question, q.choices, q.answer, SOLVED[0].subject) for q in questions(5, seed=1)]
    source = LocalModel(model, TOKENIZER)
    straight = method.predict(source, asked, prompt_format, Asking(3))
    other = method.predict(
        source, [permute_options(question, rotation) for question in asked], prompt_format, Asking(3)
    )
    np.testing.assert_allclose(other.probabilities, straight.probabilities[:, rotation], atol=1e-5)
    assert np.ptp(straight.probabilities, axis=1).max() > 0.01
