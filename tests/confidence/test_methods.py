"""Ways to read confidence, each against a computation by hand on a tiny model."""

import numpy as np
import pytest
import torch

from hf_calib.confidence import Asking, LocalModel, Marginalized, OptionLetters, OptionTexts, predict
from hf_calib.confidence import local as local_module
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, QuestionError, permute_options
from tests.support import byte_level_tokenizer, questions, tiny_gpt2, tiny_llama

ASKED = questions(11, choices=(4, 2, 5, 3))
MODELS = {"rotary": tiny_llama, "absolute": tiny_gpt2}


@pytest.fixture(scope="module", params=MODELS)
def any_model(request, tokenizer):
    return MODELS[request.param](tokenizer).eval()


@torch.no_grad()
def log_probability(model, prompt, continuation):
    """Return the log-probability of a continuation from all positions' logits, without padding or cache."""
    logits = model(input_ids=torch.tensor([[*prompt, *continuation]])).logits[0].double()
    log_probabilities = torch.log_softmax(logits, dim=-1)
    return sum(float(log_probabilities[len(prompt) - 1 + i, token]) for i, token in enumerate(continuation))


def texts_by_hand(model, tokenizer, question, prompt):
    ids = tokenizer(prompt)["input_ids"]
    whole = [tokenizer(f"{prompt} {choice}")["input_ids"] for choice in question.choices]
    assert all(own[: len(ids)] == ids for own in whole)
    return [log_probability(model, ids, own[len(ids) :]) for own in whole]


def finite(predictions, row):
    values = predictions.option_log_probabilities[row]
    n = int(predictions.n_choices[row])
    assert (values[n:] == -np.inf).all()
    return values[:n]


def ask(method, model, tokenizer, asked=ASKED, prompt_format=None, **asking):
    return method.predict(LocalModel(model, tokenizer), asked, prompt_format or PromptFormat(), Asking(**asking))


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_letters_are_predicts(any_model, tokenizer, batch_size):
    expected = predict(any_model, tokenizer, ASKED)
    found = ask(OptionLetters(), any_model, tokenizer, batch_size=batch_size)
    for row in range(len(ASKED)):
        np.testing.assert_allclose(finite(found, row), finite(expected, row), atol=2e-5)
    assert found.answers.tolist() == expected.answers.tolist()
    assert found.n_choices.tolist() == expected.n_choices.tolist()
    assert found.subjects == expected.subjects


@pytest.mark.parametrize("batch_size", [1, 3, 11])
def test_texts_are_scored_token_by_token(any_model, tokenizer, batch_size, monkeypatch):
    monkeypatch.setattr(local_module, "LOGITS_BUDGET", 5 * len(tokenizer) * 4)  # several forwards a batch
    found = ask(OptionTexts(), any_model, tokenizer, batch_size=batch_size)
    for row, question in enumerate(ASKED):
        expected = texts_by_hand(any_model, tokenizer, question, f"Question: {question.question}\nAnswer:")
        np.testing.assert_allclose(finite(found, row), expected, atol=1e-4)


def test_texts_after_the_listed_options(model, tokenizer):
    found = ask(OptionTexts(list_options=True), model, tokenizer)
    for row, question in enumerate(ASKED):
        expected = texts_by_hand(model, tokenizer, question, PromptFormat().render(question))
        np.testing.assert_allclose(finite(found, row), expected, atol=1e-4)


@pytest.mark.parametrize("normalization", ["characters", "tokens"])
def test_normalised_texts(model, tokenizer, normalization):
    asked = [Question("Which?", ("a", "red stone and river", "green"), 1), *ASKED[:2]]
    found = ask(OptionTexts(normalization), model, tokenizer, asked)
    plain = ask(OptionTexts(), model, tokenizer, asked)
    for row, question in enumerate(asked):
        lengths = [len(choice) for choice in question.choices]
        if normalization == "tokens":
            lengths = [len(tokenizer(" " + choice)["input_ids"]) for choice in question.choices]
        np.testing.assert_allclose(finite(found, row), finite(plain, row) / lengths, atol=1e-9)
    assert not found.has_mass
    assert "option_mass" not in found.report(n_resamples=0).measures
    assert "option_mass" in plain.report(n_resamples=0).measures


def test_a_few_shot_prompt_is_scored_as_a_whole(any_model, tokenizer):
    shots = FewShotFormat.choose(questions(3, seed=5), 1)
    for method, expected in (
        (OptionLetters(), lambda q: [" " + letter for letter in q.letters]),
        (OptionTexts(), lambda q: [" " + choice for choice in q.choices]),
    ):
        found = ask(method, any_model, tokenizer, prompt_format=shots, batch_size=4)
        for row, question in enumerate(ASKED):
            prompt = shots.render(question, options=isinstance(method, OptionLetters))
            ids = tokenizer(prompt)["input_ids"]
            by_hand = [
                log_probability(any_model, ids, tokenizer(prompt + text)["input_ids"][len(ids) :])
                for text in expected(question)
            ]
            np.testing.assert_allclose(finite(found, row), by_hand, atol=1e-4)


def test_a_shared_prefix_is_computed_once(model, tokenizer):
    shots = FewShotFormat.choose([Question(q.question, q.choices, q.answer) for q in questions(6, seed=5)], 6)
    read = []
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: read.append(inputs[0].numel())
    )
    asked = questions(40, seed=6)
    ask(OptionLetters(), model, tokenizer, asked, shots, batch_size=4)
    hook.remove()
    lengths = [len(tokenizer(shots.render(question))["input_ids"]) for question in asked]
    assert sum(read) < 0.4 * sum(lengths)


def test_a_model_without_a_cache_gives_the_same(model, tokenizer):
    shots = FewShotFormat.choose(questions(3, seed=5), 1)
    backend = LocalModel(model, tokenizer)
    expected = OptionTexts().predict(backend, ASKED[:4], shots, Asking())
    backend.forward.shares = False
    found = OptionTexts().predict(backend, ASKED[:4], shots, Asking())
    for row in range(4):
        np.testing.assert_allclose(finite(found, row), finite(expected, row), atol=1e-4)


def test_marginalised_over_orders_and_wordings(model, tokenizer):
    other = PromptFormat(question="Q: {question}", cue="A:")
    found = ask(Marginalized(n_orders=3, formats=(other,)), model, tokenizer)
    for row, question in enumerate(ASKED):
        n = len(question.choices)
        total = np.zeros(n)
        count = 0
        for wording in (PromptFormat(), other):
            for start in [round(i * n / min(3, n)) for i in range(min(3, n))]:
                order = [(start + place) % n for place in range(n)]
                part = predict(model, tokenizer, [permute_options(question, order)], prompt_format=wording)
                for place, option in enumerate(order):
                    total[option] += part.probabilities[0, place]
                count += 1
        np.testing.assert_allclose(found.probabilities[row, :n], total / count, atol=1e-5)
    assert found.answers.tolist() == [question.answer for question in ASKED]


def test_a_chat_prompt(tokenizer):
    chat = byte_level_tokenizer(chat=True)
    model = tiny_llama(chat)
    found = ask(OptionTexts(), model, chat, prompt_format=PromptFormat(chat=True))
    for row, question in enumerate(ASKED):
        prompt = f"<|user|>\nQuestion: {question.question}<eos>\n<|assistant|>\n"
        ids = chat(prompt, add_special_tokens=False)["input_ids"]
        expected = [
            log_probability(model, ids, chat(prompt + c, add_special_tokens=False)["input_ids"][len(ids) :])
            for c in question.choices
        ]
        np.testing.assert_allclose(finite(found, row), expected, atol=1e-4)


def test_too_long_prompts_are_refused_or_left_out(model, tokenizer):
    asked = [*ASKED[:3], Question("What " * 200 + "?", ("a", "b"), 0)]
    with pytest.raises(QuestionError, match=r"1 of 4 .* longer than 200 tokens \(the longest is row 3"):
        OptionTexts().predict(LocalModel(model, tokenizer, max_length=200), asked, PromptFormat(), Asking())
    with pytest.warns(UserWarning, match="dropped"):
        found = OptionTexts().predict(
            LocalModel(model, tokenizer, max_length=200, on_too_long="drop"), asked, PromptFormat(), Asking()
        )
    assert found.rows.tolist() == [0, 1, 2]
