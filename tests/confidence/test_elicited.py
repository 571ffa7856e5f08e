"""Stated confidence, sampled answers and P(True), with scripted models and against tiny ones by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence import Asking, LocalModel, PTrue, SampleConsistency, StatedConfidence, predict
from hf_calib.confidence.backend import Generation
from hf_calib.confidence.elicited import about_answer, consistency
from hf_calib.confidence.parsing import EXPRESSIONS, parse_confidence, parse_guesses, parse_letter
from hf_calib.tasks import FewShotFormat, PromptFormat, Question
from tests.support import byte_level_tokenizer, questions, tiny_gpt2, tiny_llama

ASKED = questions(6, choices=(4, 2, 3))


class Scripted:
    """Returns given answers, and records what it is asked."""

    def __init__(self, *texts):
        self.texts, self.prompts, self.options = texts, [], {}

    def generate(self, stage, asked, prompt_format, asking, *, n_samples=1, **options):
        self.prompts = [prompt_format.render(question) for question in asked]
        self.options = options
        return [
            None if own is None else [Generation(text, True) for text in ([own] if isinstance(own, str) else own)]
            for own in self.texts
        ]


def ask(method, texts, asked=None, prompt_format=None):
    asked = asked or [Question(f"q{i}?", ("w", "x", "y", "z"), 1, "s") for i in range(len(texts))]
    backend = Scripted(*texts)
    return method.predict(backend, asked, prompt_format or PromptFormat(), Asking()), backend


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("85%", 0.85),
        ("I'm 85 percent sure", 0.85),
        ("between 70 and 80%", 0.75),
        ("Between 70% and 80%", 0.75),
        ("70-80%", 0.75),
        ("8/10", 0.8),
        ("80 out of 100", 0.8),
        ("Confidence: 0.4", 0.4),
        ("confidence is 90", 0.9),
        ("B, 0.75", 0.75),
        ("first 20%, then 60%", 0.6),
        ("B, I pick option 2 and 80%", 0.8),
        ("B, 1/2", 0.5),
        ("B, it's 50/50", 0.5),
        ("50 out of 50", 1.0),
        ("A, 80 to 90 percent", 0.85),
        ("3 out of 4", 0.75),
        ("1/2/2024", None),
        ("B, 50,5%", None),
        ("B, not likely", None),
        ("B, not very likely", None),
        ("It isn't at all certain", None),
        ("C. I am not certain", None),
        ("I am not 100% sure", None),
        ("I am not sure, but B is likely", 0.7),
        ("100%", 1.0),
        ("0%", 0.0),
        ("very unlikely", 0.05),
        ("Almost certain.", 0.95),
        ("120%", None),
        ("B", None),
        ("", None),
        ("in 1990 there were 3", None),
        ("99.5%", 0.995),
        ("<think>30%, or 90%?</think>A, 80%", 0.8),
        ("<think>30%, or 90%?</think>A", None),
        ("<think>Perhaps A, 30%", None),
    ],
)
def test_confidence_is_parsed(text, expected):
    assert parse_confidence(text) == (None if expected is None else pytest.approx(expected))


@given(st.integers(0, 100))
def test_any_percentage_is_read_in_any_sentence(value):
    for frame in ("{}%", "B, {} %", "The answer is B. I am {}% sure.", "A ({}%)"):
        assert parse_confidence(frame.format(value)) == pytest.approx(value / 100)


@pytest.mark.parametrize("words", EXPRESSIONS)
def test_every_expression_is_read_as_itself(words):
    assert parse_confidence(f"B, {words}.") == EXPRESSIONS[words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        (" B.", 1),
        ("(C) because", 2),
        ("**D**", 3),
        ("B, 80%", 1),
        ("B 80%", 1),
        ("B: 0.8", 1),
        ("The answer is C.", 2),
        ("Answer: (D)", 3),
        ("The answer is not easy. Answer: A", 0),
        ("A river is wet", None),
        ("I think so (B)", 1),
        ("(B) or (C)? both (B), (C)", 1),
        ("either (B) or (C)", None),
        ("E", None),
        ("x", 1),
        ("X.", 1),
        ("b", None),
        ("", None),
        ("Because", None),
        ("**Answer**: B", 1),
        ("ANSWER: B", 1),
        ("The answer is option C", 2),
        ("so A. Or rather $\\boxed{\\text{B}}$", 1),
        ("Option B", 1),
        ("B is correct.", 1),
        ("A, because B is wrong", 0),
        ("B\n\nExplanation: (C) is wrong", 1),
        ("I am not sure, but the answer is B", 1),
        ("I am not sure but the answer is B", 1),
        ("<think>\nThe answer is A? Hmm, maybe B.\n</think>\n\n**Answer**: C", 2),
        ("<think>\nThe answer is A", None),
        ("The answer is A? Hmm, maybe B.", None),
        ("The answer cannot be (A)", None),
        ("I don't think that the answer is A", None),
        ("The wrong answer is A", None),
        ("The answer A is wrong", None),
        ("(A) is wrong, (B) is right", None),
        ("B isn't right", None),
        ("Option A is wrong", None),
        ("Neither (A) nor B", None),
        ("either (B) or C", None),
        ("A) and B) are both right", None),
        ("Answer: B/C", None),
        ("Answer: neither B nor C", None),
    ],
)
def test_letters_are_parsed(text, expected):
    assert parse_letter(text, "ABCD", ("w", "x", "y", "z")) == expected


def test_named_answers_are_texts_before_they_are_letters():
    animals = ("A cat", "A dog", "A bee", "An ant")
    assert [parse_letter(f"Answer: {text}", "ABCD", animals) for text in ("A dog", "A cat.", "A", "B")] == [1, 0, 0, 1]
    for text in ("answer: A and B", "The answer is (B) or (C)"):
        assert parse_letter(text, "ABCD", animals) is None
    assert parse_letter("The answer is A because of B", "ABCD", animals) == 0
    assert [parse_letter(text, "ABCD", "BCAD") for text in ("Answer: A", "The answer is (A).", "A")] == [0, 0, 0]


def test_a_boxed_text_is_an_option():
    assert parse_letter(r"So \boxed{A dog}", "ABCD", ("A cat", "A dog")) == 1


def test_the_pronoun_is_no_letter():
    texts = ("Answer: I would say C.", "The answer is I", "Answer: I. Ohm", "Answer: (I) because")
    assert [parse_letter(text, "ABCDEFGHI") for text in texts] == [None, 8, 8, 8]


def test_guesses_are_parsed():
    text = "1. B: 60%\nG2: C 0.3\n- A: 5%\nnothing\nB: 10%\nD"
    for whole in (text, f"<think>\nA: 50%\n</think>\n{text}"):
        assert parse_guesses(whole, "ABCD") == pytest.approx({1: 0.6, 2: 0.3, 0: 0.05})


def test_guesses_in_one_line_keep_their_own_probabilities():
    for text in ("A: 60%, B: 30%; (C): 10%", "1. A: 60%, 2. B: 30%, 3. C: 10%", "A (60%), B (30%), C (10%)"):
        assert parse_guesses(text, "ABCD") == pytest.approx({0: 0.6, 1: 0.3, 2: 0.1})


def test_stated_confidence():
    found, backend = ask(StatedConfidence(), ["B, 80%", "C, 10%", "A", "what?", "B, very likely", "B, 150%"])
    assert found.predicted.tolist() == [1, 2, 0, 0, 1, 1]
    np.testing.assert_allclose(found.confidences, [0.8, 0.1, 0.25, 0.25, 0.9, 0.25])
    np.testing.assert_allclose(found.probabilities[0], [0.2 / 3, 0.8, 0.2 / 3, 0.2 / 3])
    np.testing.assert_allclose(found.option_mass, [1, 1, 0.5, 0, 1, 0.5], atol=1e-12)
    assert found.correct.tolist() == [True, False, False, False, True, True]
    assert backend.prompts[0].endswith("For example: A, 50%\nAnswer:")
    report = found.report(n_resamples=0)
    assert report.measures["accuracy"].value == pytest.approx(0.5)
    assert report.measures["confidence"].value == pytest.approx(found.confidences.mean())
    assert report.measures["ece"].value >= abs(0.5 - found.confidences.mean())


def test_stated_confidence_needs_an_unadorned_prompt():
    shots = FewShotFormat.choose(questions(3), 1)
    with pytest.raises(ValueError, match="examples show no stated confidence"):
        ask(StatedConfidence(), ["A"], prompt_format=shots)


def test_top_guesses_are_a_distribution():
    found, backend = ask(StatedConfidence(top_k=2), ["B: 60%\nA: 20%", "C: 80%\nA: 80%", "nothing", None])
    np.testing.assert_allclose(found.probabilities, [[0.2, 0.6, 0.1, 0.1], [0.5, 0, 0.5, 0], [0.25] * 4])
    np.testing.assert_allclose(found.option_mass, [1, 1, 0])
    assert found.rows.tolist() == [0, 1, 2]
    assert "2 best guesses" in backend.prompts[0]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("agreement", 0.75),
        ("distance", 0.5),
        ("entropy", 1 + (0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(4)),
    ],
)
def test_consistency(measure, expected):
    found, backend = ask(SampleConsistency(5, measure), [["B", "B.", "(B)", "A", "no idea"], ["?"] * 5])
    assert found.predicted.tolist() == [1, 0]
    np.testing.assert_allclose(found.confidences, [expected, 0.25])
    assert found.option_mass[1] == 0
    if measure == "agreement":
        np.testing.assert_allclose(found.probabilities[0], [0.25, 0.75, 0, 0])
        assert found.option_mass[0] == pytest.approx(0.8)
    assert backend.options["temperature"] == 1.0


@pytest.mark.parametrize("measure", ["agreement", "entropy"])
def test_the_most_probable_sample_may_not_be_the_most_frequent(measure):
    written = [
        [Generation(text, True, value) for text, value in own]
        for own in (
            [("A", -900.0), ("A", -901.0), ("B", -899.5)],
            [("B", -1.0), ("C", -1.0), ("C", -3.0)],
            [("what?", -0.1), ("C", -2.0), ("C", -2.0)],
        )
    ]
    asked = [replace(question, answer=1) for question in questions(3, choices=(4,))]
    found = SampleConsistency(3, measure).predict(Written(written), asked, PromptFormat(), Asking())
    assert found.most_confident_correct.tolist() == [1.0, 0.5, 0.0]
    assert found.subset(np.array([2, 0])).most_confident_correct.tolist() == [0.0, 1.0]
    confident = found.report().confidence_at_k
    assert confident.value == 0.5
    assert 0 < confident.low < confident.value < confident.high < 1
    served = [[*written[0][:2], Generation("B", True)], *written[1:]]
    unknown = [replace(asked[0], answer=None), *asked[1:]]
    for texts, rows in ((served, asked), (written, unknown)):
        found = SampleConsistency(3, measure).predict(Written(texts), rows, PromptFormat(), Asking())
        assert found.most_confident_correct is None


class Written:
    def __init__(self, samples):
        self.samples = samples

    def generate(self, stage, asked, prompt_format, asking, **options):
        return self.samples


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda own: sum(own) > 1e-3))
def test_consistency_is_a_confidence(shares):
    shares = np.array(shares)
    for measure in ("agreement", "entropy", "distance"):
        assert -1e-12 <= consistency(shares, measure) <= 1 + 1e-12
        assert consistency(np.eye(len(shares))[0], measure) == pytest.approx(1)


def test_p_true_is_a_second_question_about_the_answer(model, tokenizer):
    found = PTrue().predict(LocalModel(model, tokenizer), ASKED, PromptFormat(), Asking(batch_size=4))
    letters = predict(model, tokenizer, ASKED)
    assert found.predicted.tolist() == letters.predicted.tolist()
    for row, question in enumerate(ASKED):
        option = int(letters.predicted[row])
        options = "\n".join(
            f"{letter}. {text}" for letter, text in zip(question.letters, question.choices, strict=True)
        )
        prompt = (
            f"Question: {question.question}\n{options}\nProposed answer: {question.letters[option]}. "
            f"{question.choices[option]}\nIs the proposed answer true?\nA. True\nB. False\nAnswer:"
        )
        ids = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        pair = [tokenizer(prompt + " " + letter)["input_ids"][-1] for letter in "AB"]
        assert found.confidences[row] == pytest.approx(float(torch.softmax(logits[pair], -1)[0]), abs=1e-5)
    assert about_answer(ASKED[0], 1).choices == ("True", "False")


# Sampling itself


@torch.no_grad()
def greedy_by_hand(model, tokenizer, prompt, n):
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(n):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            return tokenizer.decode(ids[start:-1], skip_special_tokens=True), True
    return tokenizer.decode(ids[start:], skip_special_tokens=True), False


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("shares", [True, False])
def test_greedy_writing_is_token_by_token(tokenizer, make, shares):
    model = make(tokenizer).eval()
    backend = LocalModel(model, tokenizer)
    backend.forward.shares = None if shares else False
    written = backend.generate("g", ASKED, PromptFormat(), Asking(batch_size=4), max_new_tokens=6)
    for question, (sample,) in zip(ASKED, written, strict=True):
        assert (sample.text, sample.ended) == greedy_by_hand(model, tokenizer, PromptFormat().render(question), 6)


def test_samples_depend_on_the_seed_and_the_row_alone(model, tokenizer):
    def texts(batch_size, seed=0, shares=True):
        backend = LocalModel(model, tokenizer)
        backend.forward.shares = None if shares else False
        written = backend.generate(
            "s", ASKED, PromptFormat(), Asking(batch_size=batch_size),
            n_samples=5, temperature=1.0, max_new_tokens=4, seed=seed,
        )  # fmt: skip
        return [[sample.text for sample in own] for own in written]

    assert texts(1) == texts(6) == texts(4, shares=False)
    assert texts(6, seed=1) != texts(6)
    assert len({text for own in texts(6) for text in own}) > 10


def test_samples_are_drawn_from_the_softmax(model, tokenizer):
    backend = LocalModel(model, tokenizer)
    (written,) = backend.generate(
        "s", ASKED[:1], PromptFormat(), Asking(), n_samples=4000, temperature=2.0, max_new_tokens=1
    )
    ids = tokenizer(PromptFormat().render(ASKED[0]))["input_ids"]
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double() / 2, -1).numpy()
    for token in np.argsort(-p)[:5]:
        text = tokenizer.decode([token], skip_special_tokens=True)
        same = sum(p[i] for i in range(len(p)) if tokenizer.decode([i], skip_special_tokens=True) == text)
        share = np.mean([sample.text == text for sample in written])
        assert share == pytest.approx(same, abs=4 * np.sqrt(same * (1 - same) / 4000))


def test_the_prompt_is_read_once_for_all_samples(model, tokenizer):
    local, read = LocalModel(model, tokenizer), []
    # Whether padding and caches matter is known after this.
    local.generate("s", ASKED[:2], PromptFormat(), Asking(), max_new_tokens=2)
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: read.append(inputs[0].numel())
    )
    local.generate("s", ASKED[:2], PromptFormat(), Asking(), n_samples=8, temperature=1.0, max_new_tokens=3)
    hook.remove()
    assert read[0] == 2 * max(len(tokenizer(PromptFormat().render(q))["input_ids"]) for q in ASKED[:2])
    assert read[1:] == [16, 16]


def test_writing_ends_at_a_stop(model, tokenizer):
    backend = LocalModel(model, tokenizer)
    (plain,) = backend.generate("g", ASKED[:1], PromptFormat(), Asking(), max_new_tokens=8)
    text = plain[0].text
    stop = text.lstrip()[2:4]
    (cut,) = backend.generate("g", ASKED[:1], PromptFormat(), Asking(), max_new_tokens=8, stop=(stop,))
    assert cut[0].text == text[: text.index(stop, len(text) - len(text.lstrip()))]
    assert cut[0].ended


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_stop_in_a_thought_ends_nothing(tokens):
    for reply, kept in (("<think>\nRome?\n</think>\n\nParis", "\nsince"), ("<think>\nRome?", None)):
        backend = speaking(byte_level_tokenizer(), {reply + (kept or ""): 1.0})
        options = {"max_new_tokens": tokens, "stop": ("\n",)}
        (written,) = backend.generate("g", ASKED[:1], PromptFormat(), Asking(), **options)
        assert (written[0].text, written[0].ended) == (reply, kept is not None or tokens > 1)


def test_a_thought_that_the_prompt_begins_is_a_thought():
    asked = PromptFormat(cue="Answer: <think>")
    for reply, said in (("\nRome?\n</think>\n\nParis", "\nsince"), ("\nRome?", "")):
        backend = speaking(byte_level_tokenizer(), {reply + said: 1.0})
        (written,) = backend.generate("g", ASKED[:1], asked, Asking(), max_new_tokens=1, stop=("\n",))
        assert (written[0].text, written[0].ended) == (f"<think>{reply}", said != "")


# Against the distribution of a tiny model that writes sentences


def speaking(tokenizer, said):
    """Return a tokenizer that has these sentences as tokens, and a model that writes one after any prompt, then ends.

    Its weights are set by hand: no attention, no layers' output, so that the next token depends on the last alone.
    """
    tokenizer.add_tokens(list(said))
    n = len(tokenizer)
    width = 8 * -(-n // 8)
    model = tiny_llama(tokenizer, hidden_size=width, layers=1, positions=4096)
    ids = tokenizer.convert_tokens_to_ids(list(said))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(n, width))
        next_logits = torch.full((n, n), -60.0)  # of what follows, by what precedes
        next_logits[:, ids] = torch.tensor(list(said.values())).log()
        next_logits[ids] = -60.0
        next_logits[ids, tokenizer.eos_token_id] = 0.0
        scale = (1 / width + model.config.rms_norm_eps) ** 0.5  # undoes the last normalisation
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :n] = next_logits.T * scale
    return LocalModel(model.eval(), tokenizer)


SPOKEN = {" B, 80%": 0.5, " A, very likely": 0.3, " C: 70%\nA: 20%": 0.2}


@pytest.mark.parametrize(
    ("method", "said", "expected"),
    [
        (StatedConfidence(), SPOKEN, (1, 0.8)),
        (StatedConfidence(scale="words"), {" A, very likely": 0.6, " B, 80%": 0.4}, (0, 0.9)),
        (StatedConfidence(top_k=2), {" C: 60%\nA: 20%": 0.6, " B, 80%": 0.4}, (2, 0.6)),
        (StatedConfidence(top_k=2, scale="words"), {" C: likely\nA: unlikely": 0.6, " B, 80%": 0.4}, (2, 0.7)),
    ],
)
def test_a_tiny_model_states_its_most_probable_sentence(method, said, expected):
    backend = speaking(byte_level_tokenizer(), said)
    asked = [Question("Which?", ("w", "x", "y", "z"), 1)] * 3
    found = method.predict(backend, asked, PromptFormat(), Asking(batch_size=2))
    assert found.predicted.tolist() == [expected[0]] * 3
    np.testing.assert_allclose(found.confidences, expected[1])


@pytest.mark.parametrize("measure", ["agreement", "entropy", "distance"])
def test_consistency_of_a_tiny_models_samples_by_hand(measure):
    backend = speaking(byte_level_tokenizer(), SPOKEN)
    asked = [Question("Which?", ("w", "x", "y", "z"), 1)] * 5
    found = SampleConsistency(40, measure, seed=3).predict(backend, asked, PromptFormat(), Asking(batch_size=2))
    # The first token alone is a choice; the sentences stand in the order of their tokens.
    limits = np.cumsum(list(SPOKEN.values()))
    for row in range(5):
        draws = np.random.default_rng([3, row]).random((40, 16))[:, 0]
        shares = np.bincount(np.array([1, 0, 2])[np.searchsorted(limits, draws)], minlength=4) / 40
        first, second = np.sort(shares)[::-1][:2]
        entropy = -sum(p * np.log(p) for p in shares if p)
        by_hand = {"agreement": first, "distance": first - second, "entropy": 1 - entropy / np.log(4)}[measure]
        assert found.predicted[row] == shares.argmax()
        assert found.confidences[row] == pytest.approx(by_hand)


def test_the_scale_is_asked_for():
    words = ask(StatedConfidence(scale="words"), ["B, almost certain"])
    assert words[0].confidences.tolist() == pytest.approx([0.95])
    assert all(expression in words[1].prompts[0] for expression in EXPRESSIONS)
    assert "0%" not in words[1].prompts[0]
    with pytest.raises(ValueError, match="scale is one of numbers, words"):
        ask(StatedConfidence(scale="odds"), ["B"])
    with pytest.raises(ValueError, match="at least 1; got 0"):
        ask(StatedConfidence(top_k=0), ["B"])
