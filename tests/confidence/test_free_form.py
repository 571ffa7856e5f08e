import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import hf_calib
from hf_calib.calibrators import by_name
from hf_calib.calibrators.cross_validation import held_out_predictions
from hf_calib.cli import main
from hf_calib.confidence import Asking, LocalModel, Predictions
from hf_calib.confidence.backend import Generation
from hf_calib.confidence.free_form import cluster, predict_free_form
from hf_calib.confidence.local import _Sampler
from hf_calib.confidence.recorded import Recorded, read_predictions, write_predictions
from hf_calib.reports import Measurement
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, QuestionError
from hf_calib.tasks.free_form import (
    FreeFormQuestion,
    contains,
    exact_match,
    load_free_form_questions,
    numeric_match,
)

ASKED = [
    FreeFormQuestion("Capital of France?", ("Paris",), "geography"),
    FreeFormQuestion("2 + 2?", ("4", "four"), "sums"),
    FreeFormQuestion("Open?"),
]


class Scripted:
    def __init__(self, *texts):
        self.texts = texts

    def generate(self, stage, asked, prompt_format, asking, **options):
        self.options = options
        self.prompts = [prompt_format.render(own, options=options["list_options"]) for own in asked]
        return [[Generation(text, True) for text in own] for own in self.texts]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("agreement", [0.5, 1.0]),
        ("distance", [0.25, 1.0]),
        ("entropy", [1 + (0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25)) / np.log(4), 1.0]),
    ],
)
def test_samples_are_clustered(method, expected):
    backend = Scripted(["paris.", "Rome", "Paris", "Oslo"], ["five"] * 4)
    found = predict_free_form(backend, ASKED[:2], PromptFormat(), Asking(), method=method, n_samples=4)
    assert found.texts == ("paris.", "five")
    np.testing.assert_allclose(found.predictions.confidences, expected)
    assert found.predictions.correct.tolist() == [True, False]
    assert found.predictions.subjects == ("geography", "sums")
    assert backend.prompts[0] == "Question: Capital of France?\nAnswer:"
    report = found.predictions.report(n_resamples=0)
    assert report.measures["accuracy"].value == 0.5
    assert report.measures["confidence"].value == pytest.approx(np.mean(expected))


def test_stated_confidence_in_words():
    backend = Scripted(["Paris, 30%"], ["four (very likely)"], ["who knows"])
    found = predict_free_form(backend, ASKED, PromptFormat(), Asking(), method="stated")
    assert found.texts == ("Paris", "four", "who knows")
    np.testing.assert_allclose(found.predictions.confidences, [0.3, 0.9, 0.0])
    assert found.predictions.answers.tolist() == [0, 0, -1]
    assert "from 0% to 100%" in backend.prompts[0]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Paris 90%", "Paris"),
        ("Paris - 90%", "Paris"),
        ("Paris. Confidence: 90%", "Paris"),
        ("Answer: Paris, 90%", "Paris"),
        ("The answer is 42. Confidence: 90%", "42"),
        ("Paris with 90% probability", "Paris"),
        ("Paris, with a confidence of 0.9", "Paris"),
        ("Paris, and I am 90% sure", "Paris"),
        ("**Paris** (90%)", "Paris"),
        ("Paris, 85 - 95%", "Paris"),
        ("42 - 90%", "42"),
        ("42 – 90%", "42"),
        ("1/2 - 90%", "1/2"),
        ("1,200 - 90%", "1,200"),
        ("New York, NY 90%", "New York, NY"),
        ("Vitamin A 90%", "Vitamin A"),
        ("I'm 90% sure it's 42", "I'm 90% sure it's 42"),
        ("Paris\n\nConfidence: 90%", "Paris"),
        ("Answer: Paris\n90%", "Paris"),
        ("<answer>Paris</answer>\n<confidence>90%</confidence>", "Paris"),
        ("**Answer:** Paris\n**Confidence:** 90%", "Paris"),
        ("<think>\nRome, 30%?\n\n</think>\n\nParis, 90%", "Paris"),
        # This would take hours if every way to split the repeated words were tried.
        ("with confidence " * 40 + "in Paris 90%", "with confidence " * 40 + "in Paris"),
    ],
)
def test_stated_confidence_is_cut_out_of_a_reply(reply, answer):
    backend = Scripted([reply])
    found = predict_free_form(backend, ASKED[:1], PromptFormat(chat=True), Asking(), method="stated")
    assert found.texts == (answer,)
    np.testing.assert_allclose(found.predictions.confidences, [0.9])
    np.testing.assert_allclose(found.predictions.option_mass, [1])
    assert backend.options["stop"] == ()


@pytest.mark.parametrize("top_k", [1, 3])
def test_replies_without_an_answer_and_a_confidence_have_half_of_the_mass(top_k):
    replies = ["<think>\nParis, 90%", "Paris", "90%", "Paris: 90%"][: 2 if top_k > 1 else 4]
    backend = Scripted(*([reply] for reply in replies))
    asked = [ASKED[0]] * len(replies)
    found = predict_free_form(backend, asked, PromptFormat(), Asking(), method="stated", top_k=top_k)
    assert found.texts == ("", "Paris", "90%", "Paris")[: len(replies)]
    np.testing.assert_allclose(found.predictions.confidences, [0, 0, 0, 0.9][: len(replies)])
    np.testing.assert_allclose(found.predictions.option_mass, [0.5, 0.5, 0.5, 1][: len(replies)])


@pytest.mark.parametrize("method", ["agreement", "entropy", "distance"])
def test_thoughts_in_samples_are_not_answers(method):
    thought = "<think>\nRome? Paris?\n</think>\n\n"
    cut_off = "<think>\nThe capital of France"
    backend = Scripted(
        [f"{thought}Paris", "Paris", "<think>Oslo?</think>paris", f"{thought}Paris."],
        [cut_off, cut_off, "5", cut_off],
        [cut_off] * 4,
    )
    found = predict_free_form(backend, ASKED, PromptFormat(chat=True), Asking(), method=method, n_samples=4)
    assert found.texts == ("Paris", "5", "")
    assert found.predictions.answers.tolist() == [0, 1, -1]
    # A reply without an answer agrees with no other.
    expected = {"agreement": [1, 0.25, 0], "entropy": [1, 0, 0], "distance": [1, 0, 0]}[method]
    np.testing.assert_allclose(found.predictions.confidences, expected, atol=1e-12)
    np.testing.assert_allclose(found.predictions.option_mass, [1, 1, 0.5])


@pytest.mark.parametrize("method", ["p-true", "levels", "base-tokens"])
def test_thoughts_are_not_answers_to_ask_after(model, tokenizer, method):
    replies = ["<think>\nRome?\n</think>\n\nParis", "Paris", "<think>\nThe capital"]

    class Thinking(LocalModel):
        def generate(self, stage, asked, *arguments, **options):
            return [[Generation(replies[row], row < 2)] for row in range(len(asked))]

    backend = Thinking(model, tokenizer)
    found = predict_free_form(backend, [ASKED[0]] * 3, PromptFormat(), Asking(), method=method, base=backend)
    assert found.texts == ("Paris", "Paris", "")
    assert found.cut_off == 1
    assert found.predictions.confidences[0] == pytest.approx(found.predictions.confidences[1], abs=1e-6)
    assert found.predictions.confidences[0] > 0 == found.predictions.confidences[2]
    np.testing.assert_allclose(found.predictions.option_mass, [1, 1, 0.5])


@pytest.mark.parametrize("method", ["p-true", "consistency", "stated"])
def test_replies_that_are_cut_off_are_told(model, tokenizer, monkeypatch, method):
    """Those of stated confidence only where they cannot be read."""
    replies = ["Paris, 90%", "<think>\nIs it", "<think>So"]

    def cut(self, stage, asked, *arguments, n_samples=1, **options):
        assert options["max_new_tokens"] == 8
        return [[Generation(reply, False)] * n_samples for reply in replies]

    monkeypatch.setattr(LocalModel, "generate", cut)
    options = {"n_samples": 2} if method == "consistency" else {}
    asked = {"own": [ASKED[0]] * 3}
    found = hf_calib.measure((model, tokenizer), asked, free_form="exact", method=method, max_new_tokens=8, **options)
    told = {warning.code: warning for warning in found.warnings}
    n = {"p-true": "3 replies", "consistency": "6 replies", "stated": "2 replies"}[method]
    expected = f"{n} were cut off after 8 tokens; only the text up to there was graded."
    assert told["cut_off_replies"].sentence == expected
    assert told["cut_off_replies"].options == ("--max-new-tokens 32",)
    unread = "no readable answer or confidence" if method == "stated" else "no readable answer"
    assert told["unread_replies"].sentence == (
        f"2 of 3 replies have {unread}; they count as answers with confidence 0."
    )


@pytest.mark.parametrize("method", ["stated", "stated-words", "stated-top-k"])
def test_unread_free_form_replies_are_told(model, tokenizer, monkeypatch, method):
    silent = lambda self, stage, asked, *arguments, **options: [[Generation("no idea", True)] for _ in asked]  # noqa: E731
    monkeypatch.setattr(LocalModel, "generate", silent)
    found = hf_calib.measure((model, tokenizer), {"own": ASKED[:2]}, free_form="exact", method=method)
    warning = found.warnings[0]
    assert warning.code == "unread_replies"
    assert warning.sentence == (
        "2 of 2 replies have no readable answer or confidence; they count as answers with confidence 0."
    )


def test_several_guesses():
    backend = Scripted(
        ["1. Rome: 20%\n2. Paris: 70%\nnothing"], ["four (unlikely)\nfive (very likely)"], ["who\nknows"]
    )
    found = predict_free_form(backend, ASKED, PromptFormat(), Asking(), method="stated", top_k=3, scale="words")
    assert found.texts == ("Paris", "five", "who")
    np.testing.assert_allclose(found.predictions.confidences, [0.7, 0.9, 0.0])
    assert found.predictions.answers.tolist() == [0, 1, -1]
    assert "Give your 3 best guesses" in backend.prompts[0]
    assert "almost certain" in backend.prompts[0]


def test_stated_confidence_is_asked_for_in_a_chat():
    backend = Scripted(["Paris, 30%"])
    predict_free_form(backend, ASKED[:1], PromptFormat(chat=True), Asking(), method="stated")
    assert backend.prompts[0].endswith("For example: Paris, 50%")
    shots = FewShotFormat.choose([Question("a?", ("b", "c"), 0)], 1)
    with pytest.raises(ValueError, match="examples show no stated confidence"):
        predict_free_form(backend, ASKED, shots, Asking(), method="stated")


@torch.no_grad()
def test_p_true_of_a_tiny_models_answers_by_hand(model, tokenizer):
    found = predict_free_form(
        LocalModel(model, tokenizer), ASKED, PromptFormat(), Asking(2), method="p-true", max_new_tokens=5
    )
    for row, question in enumerate(ASKED):
        ids = tokenizer(f"Question: {question.question}\nAnswer:")["input_ids"]
        start = len(ids)
        while len(ids) < start + 5 and "\n" not in tokenizer.decode(ids[start:]).lstrip():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        answer = tokenizer.decode(ids[start:], skip_special_tokens=True).strip().split("\n")[0].strip()
        assert found.texts[row] == answer
        prompt = (
            f"Question: {question.question}\nProposed answer: {answer}\nIs the proposed answer true?\n"
            "A. True\nB. False\nAnswer:"
        )
        logits = model(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].double()
        pair = [tokenizer(prompt + " " + letter)["input_ids"][-1] for letter in "AB"]
        assert found.predictions.confidences[row] == pytest.approx(float(torch.softmax(logits[pair], -1)[0]), abs=1e-5)


def test_an_empty_answer_is_not_asked_after(model, tokenizer):
    class Silent(LocalModel):
        def generate(self, stage, asked, *arguments, **options):
            return [[Generation("" if row == 1 else "it", True)] for row in range(len(asked))]

    found = predict_free_form(Silent(model, tokenizer), ASKED, PromptFormat(), Asking(), method="p-true")
    assert found.texts == ("it", "", "it")
    assert found.predictions.confidences[1] == 0
    assert (found.predictions.confidences[[0, 2]] > 0).all()


def test_an_equivalence_of_ones_own():
    same = lambda one, other: one[0].lower() == other[0].lower()  # noqa: E731
    assert cluster(["pear", "Plum", "apple", "peach"], same) == [["pear", "Plum", "peach"], ["apple"]]
    backend = Scripted(["Paris", "Prague", "Rome", "Pisa"])
    found = predict_free_form(backend, ASKED[:1], PromptFormat(), Asking(), equivalence=same, n_samples=4)
    assert found.predictions.confidences.tolist() == pytest.approx([0.75])


def test_a_tiny_models_words(model, tokenizer):
    backend = LocalModel(model, tokenizer)
    found = predict_free_form(backend, ASKED, PromptFormat(), Asking(), n_samples=3, max_new_tokens=4)
    written = backend.generate(
        "g", ASKED, PromptFormat(), Asking(), n_samples=3, temperature=1.0, max_new_tokens=4, stop=("\n",),
        list_options=False,
    )  # fmt: skip
    for text, samples in zip(found.texts, written, strict=True):
        assert text in [sample.text.strip() for sample in samples]


@torch.no_grad()
def test_the_probability_of_a_sample_by_hand(model, tokenizer, monkeypatch):
    # The tokens themselves in place of the text, which may be tokenized in another way.
    monkeypatch.setattr(_Sampler, "_text", lambda self, ids, opening: (" ".join(map(str, ids)), len(ids) == 4))
    options = {"n_samples": 4, "temperature": 0.7, "max_new_tokens": 6, "list_options": False}
    asked = [FreeFormQuestion("It?", ("a",)), FreeFormQuestion("What is it all about?", ("a",))]
    together, alone = (
        LocalModel(model, tokenizer).generate("g", asked, PromptFormat(), Asking(size), **options) for size in (2, 1)
    )
    for question, samples, same in zip(asked, together, alone, strict=True):
        prompt = tokenizer(f"Question: {question.question}\nAnswer:")["input_ids"]
        for sample, other in zip(samples, same, strict=True):
            ids = [int(token) for token in sample.text.split()]
            logs = (
                model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            )
            expected = sum(float(log[token]) for log, token in zip(logs, ids, strict=True))
            assert sample.log_probability == pytest.approx(expected, abs=1e-4)
            assert sample.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    options |= {"n_samples": 1, "temperature": 0.0}
    [one] = LocalModel(model, tokenizer).generate("g", asked[:1], PromptFormat(), Asking(), **options)
    assert one[0].log_probability is None


def test_confidence_at_k_of_sampled_answers_is_measured_and_saved(model, tokenizer, tmp_path, capsys):
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    backend = LocalModel(model, tokenizer)
    asked = [FreeFormQuestion(f"What is {i}?") for i in range(12)]
    options = {"n_samples": 3, "temperature": 1.0, "max_new_tokens": 32, "stop": ("\n",), "list_options": False}
    written = backend.generate("free_form", asked, PromptFormat(), Asking(), **options)
    best = [max(own, key=lambda sample: sample.log_probability).text.strip() for own in written]
    # The right answer of every other question is the most probable sample.
    rows = [
        {"question": own.question, "answer": text if i % 2 else "no such thing"}
        for i, (own, text) in enumerate(zip(asked, best, strict=True))
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["measure", "--model", tmp_path / "m", "--dataset", tmp_path / "q.jsonl", "--free-form", "exact"]
    words += ["--confidence", "consistency", "--n-samples", 3, "--out", tmp_path / "out"]
    assert main([*map(str, words), "--fail-if", "confidence_at_k<0.6", "--all"]) == 3
    assert "Confidence@k" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "report.json").read_text())["measures"]
    assert saved["confidence_at_k"]["value"] == pytest.approx(0.5)
    assert saved["confidence_at_k"]["low"] < 0.5 < saved["confidence_at_k"]["high"]
    assert saved["accuracy"]["value"] <= 0.5  # the majority's
    assert "Confidence@k" in (tmp_path / "out" / "report.html").read_text()
    loaded = Measurement.load(tmp_path / "out")
    assert loaded.confidence_at_k.value == pytest.approx(0.5)
    [own] = loaded.datasets.values()
    twice = Measurement("m", {"a": own, "b": own})
    assert twice.confidence_at_k.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("matcher", "answer", "other", "expected"),
    [
        (exact_match, "The Eiffel Tower.", "eiffel  tower", True),
        (exact_match, "Eiffel", "Eiffel Tower", False),
        (contains, "It is the Eiffel Tower, I think", "Eiffel Tower", True),
        (contains, "cart", "art", False),
        (numeric_match, "so 2 + 2 = 4", "4.0", True),
        (numeric_match, "1,200 km", "1200", True),
        (numeric_match, "-3", "3", False),
        (numeric_match, "none", "3", False),
        (numeric_match, "0.0000003", "0.0000001", False),
        (numeric_match, "0.30000001", ".3", True),
        (numeric_match, "\N{MINUS SIGN}3", "3", False),
        (numeric_match, "\N{MINUS SIGN}3", "-3", True),
        (numeric_match, "pages 10-12", "12", True),
        (numeric_match, "Apollo-11", "11", True),
        (numeric_match, "x=-3", "-3", True),
        # Right answers of articles or punctuation alone.
        (exact_match, "A.", "a", True),
        (exact_match, "The", "A", False),
        (exact_match, "...", "A", False),
        (exact_match, "The The", "the the!", True),
        (exact_match, "-", "+", False),
        (exact_match, " + ", "+", True),
        (contains, "Vitamin A", "A", True),
        (contains, "...", "A", False),
        (contains, "...", "The The", False),
        (contains, "a + sign", "+", True),
        (contains, "minus", "+", False),
    ],
)
def test_matchers(matcher, answer, other, expected):
    assert matcher(answer, other) is expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": "Paris"}, "the answers are 'Paris'; they must be a sequence of texts, empty if none is known"),
        ({"answers": None}, "the answers are None; they must be a sequence"),
        ({"answers": 4}, "the answers are 4; they must be a sequence"),
        ({"answers": (4,)}, "the answer is 4; it must be a text"),
        ({"subject": 3}, "the subject is 3; it must be a text, or None"),
    ],
)
def test_questions_refuse_what_is_not_text(fields, message):
    with pytest.raises(QuestionError, match=message):
        FreeFormQuestion("Capital of France?", **fields)
    assert FreeFormQuestion("Capital of France?", ["Paris"]) == FreeFormQuestion("Capital of France?", ("Paris",))


def test_loading(tmp_path):
    rows = [{"question": "a?", "answer": "b", "subject": "s"}, {"question": "c?", "answer": ["d", 4, 5.0]}]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_free_form_questions(path) == [
        FreeFormQuestion("a?", ("b",), "s"),
        FreeFormQuestion("c?", ("d", "4", "5")),
    ]
    assert len(load_free_form_questions(path, limit=1)) == 1
    for row, message in (
        ({"question": "a?"}, "no column 'answer'"),
        ({"question": " ", "answer": "b"}, "not empty"),
        ({"question": "a?", "answer": [""]}, "the answer is ''"),
        ({"question": "a?", "answer": ["b", None]}, "line 1: the answer is None"),
        (
            {"question": "a?", "choices": ["b", "c"], "answer": 1},
            "line 1: the question has options, in 'choices';",
        ),
        (
            {"question": "a?", "A": "b", "B": "c", "answer": "B"},
            "line 1: the question has options, in 'A', 'B';",
        ),
        ({"question": "a?", "answer": "b", "answers": ["c"]}, "line 1: both 'answer' and 'answers' have a value"),
        ({"question": "a?", "answers": {"text": ["b"]}}, r"line 1: the right answer is a dict, \{'text': \['b'\]\}"),
    ):
        path.write_text(json.dumps(row))
        with pytest.raises(QuestionError, match=message):
            load_free_form_questions(path)


def test_empty_columns_of_options_are_none(tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "a?", "answer": "b", "choices": [], "options": None}))
    assert load_free_form_questions(tmp_path / "q.jsonl") == [FreeFormQuestion("a?", ("b",))]


def test_wrong_settings():
    with pytest.raises(ValueError, match="one of stated"):
        predict_free_form(Scripted(), ASKED, PromptFormat(), Asking(), method="letters")
    with pytest.raises(ValueError, match="at least two samples"):
        predict_free_form(Scripted(), ASKED, PromptFormat(), Asking(), n_samples=1)


def test_lists_of_answers_in_a_csv_file(tmp_path):
    answers = ["Paris", "City of Light"]
    for cell in (json.dumps(answers), str(answers)):
        pd.DataFrame({"question": ["Capital of France?"], "answers": [cell]}).to_csv(tmp_path / "q.csv", index=False)
        assert load_free_form_questions(tmp_path / "q.csv")[0].answers == tuple(answers)
    (tmp_path / "q.csv").write_text('question,answer\nWhich interval?,"[0, 1]"\n')
    assert load_free_form_questions(tmp_path / "q.csv")[0].answers == ("[0, 1]",)
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "What is printed?", "answer": "['a', 'b']"}) + "\n")
    assert load_free_form_questions(tmp_path / "q.jsonl")[0].answers == ("['a', 'b']",)
    (tmp_path / "q.csv").write_text("question,answers\nWho?,\"['Ann' 'Bob']\"\n")
    with pytest.raises(QuestionError, match=r"line 2: .* lacks a comma between two strings"):
        load_free_form_questions(tmp_path / "q.csv")


def test_confidences_in_answers_that_are_not_the_most_probable_are_calibrated_as_events(tmp_path):
    rng = np.random.default_rng(0)
    c = rng.uniform(0.02, 0.98, 2000)
    right = rng.random(2000) < 0.5 * c
    table = {"p_A": c, "p_B": 1 - c, "predicted": 0, "answer": np.where(right, 0, 1)}
    pd.DataFrame(table).to_csv(tmp_path / "p.csv", index=False)
    for name in ("platt", "isotonic", "histogram", "temperature"):
        fitted = hf_calib.calibrate(tmp_path / "p.csv", calibrators=name)
        error = fitted.reports[name].measures["ece"].value
        assert error > 0.2 if name == "temperature" else error < 0.04
        if name == "temperature":
            continue
        expected = by_name(name).fit(c, right, kind="probabilities").transform(c, kind="probabilities")
        found = hf_calib.evaluation.measure_recorded(tmp_path / "p.csv", calibrator=fitted.calibrator).predictions
        np.testing.assert_allclose(found.confidences, expected, atol=1e-6)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
        assert (found.predicted == 0).all()


def test_maps_of_the_confidence_and_features_take_events_too():
    rng = np.random.default_rng(0)
    c, features = rng.uniform(0.05, 0.95, 300), rng.normal(size=(300, 2))
    right = rng.random(300) < 0.5 * c
    live = Predictions.from_answers(
        np.zeros(300, int), c, np.full(300, 2), np.where(right, 0, 1), (None,) * 300, np.arange(300)
    )
    live = replace(live, hidden_states=features)
    held_out = held_out_predictions(live, lambda: by_name("localized"))
    assert (
        held_out.report(n_resamples=0).measures["ece"].value < 0.1 < live.report(n_resamples=0).measures["ece"].value
    )
    fitted = by_name("localized").fit(live.confidences, right, kind="probabilities", features=features)
    expected = fitted.transform(live.confidences, kind="probabilities", features=features)
    np.testing.assert_allclose(live.calibrated(fitted).confidences, expected, atol=1e-6)


def test_a_calibrator_of_confidences_applies_to_predictions_from_memory_and_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    c, counts, answers = rng.uniform(0.5, 1, 400), np.full(400, 2), rng.integers(0, 2, 400)
    live = Predictions.from_answers(np.zeros(400, int), c, counts, answers, (None,) * 400, np.arange(400))
    write_predictions(tmp_path / "p.parquet", {"d": Recorded(live, (None,) * 400)})
    loaded = read_predictions(tmp_path / "p.parquet")["d"].predictions
    assert (live.chosen is None, loaded.chosen is None) == (False, True)  # a file has it where it is needed
    for one in (live, loaded):
        fitted = hf_calib.calibrate(
            Measurement("m", {"d": Recorded(one, (None,) * 400)}), calibrators="platt"
        ).calibrator
        np.testing.assert_allclose(
            live.calibrated(fitted).confidences, loaded.calibrated(fitted).confidences, atol=1e-6
        )
    with pytest.raises(ValueError, match=r"^reference_predictions: the calibrator 'platt' does not use"):
        hf_calib.calibrate(
            Measurement("m", {"d": Recorded(live, (None,) * 400)}), calibrators="platt", reference_predictions=live
        )
