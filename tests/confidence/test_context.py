"""A question's context in every way to ask, in what is kept of a run, and in what is shown."""

from dataclasses import asdict, replace

import numpy as np
import pytest

import hf_calib
from hf_calib.confidence import (
    Asking,
    LocalModel,
    Marginalized,
    OptionLetters,
    OptionTexts,
    PTrue,
    SampleConsistency,
    ServedModel,
    StatedConfidence,
    predict,
)
from hf_calib.confidence.backend import Generation, OptionScores
from hf_calib.confidence.free_form import METHODS, predict_free_form
from hf_calib.confidence.recorded import Recorded, read_predictions, write_predictions
from hf_calib.confidence.recorded_lm_eval import _question
from hf_calib.reports import Measurement
from hf_calib.reports.page import confident_mistakes
from hf_calib.tasks import FewShotFormat, PromptFormat, Question
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.support import questions

ASKED = [replace(own, context=f"<context {row}>") for row, own in enumerate(questions(5, choices=(4, 2, 3)))]
EXAMPLE = Question("Who slept?", ("Cleo", "Dan"), 0, context="<example>")
WAYS = [
    OptionLetters(),
    OptionTexts(),
    OptionTexts(list_options=True),
    Marginalized(),
    PTrue(),
    StatedConfidence(),
    StatedConfidence(top_k=2),
    SampleConsistency(n_samples=2),
]


class Listener:
    """Keeps the text of every prompt."""

    def __init__(self):
        self.prompts = []

    def _listen(self, asked, prompt_format, options):
        for question in asked:
            if prompt_format.chat:
                messages = prompt_format.messages(question, options=options)
                self.prompts.append((question, "\n".join(own["content"] for own in messages)))
            else:
                self.prompts.append((question, prompt_format.render(question, options=options)))

    def score_letters(self, stage, asked, prompt_format, asking):
        self._listen(asked, prompt_format, True)
        return [OptionScores((-5.0,) * len(own.choices), (1,) * len(own.choices)) for own in asked]

    def score_texts(self, stage, asked, prompt_format, asking, *, list_options=False):
        self._listen(asked, prompt_format, list_options)
        return [OptionScores((-5.0,) * len(own.choices), (1,) * len(own.choices)) for own in asked]

    def generate(self, stage, asked, prompt_format, asking, *, n_samples=1, list_options=True, **options):
        self._listen(asked, prompt_format, list_options)
        return [[Generation("A, 50%", True)] * n_samples for _ in asked]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("few_shot", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.name}-{way}")
def test_every_way_to_ask_shows_the_context_once(way, few_shot, chat):
    prompt_format = PromptFormat(chat=chat, context="Passage: {context}")
    if few_shot:
        if isinstance(way, StatedConfidence):
            pytest.skip("examples show no stated confidence")
        prompt_format = FewShotFormat.choose([EXAMPLE], 1, prompt_format=prompt_format)
    backend = Listener()
    way.predict(backend, ASKED, prompt_format, Asking())
    assert len(backend.prompts) >= len(ASKED)
    for question, text in backend.prompts:
        assert text.count("<context") == 1
        assert text.count(f"Passage: {question.context}\n") == 1
        assert text.count("<example>") == (few_shot and "Proposed answer" not in text)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "base-tokens"])
def test_free_form_questions_show_it_in_every_way(method, chat):
    asked = [FreeFormQuestion(f"q{row}?", ("A",), context=f"<context {row}>") for row in range(3)]
    backend = Listener()
    predict_free_form(backend, asked, PromptFormat(chat=chat), Asking(), method=method, n_samples=2)
    assert len(backend.prompts) == (6 if method in ("p-true", "levels") else 3)
    assert all(text.count("<context") == text.count(question.context) == 1 for question, text in backend.prompts)
    measured = hf_calib.measure(
        backend, {"a": asked}, prompt=PromptFormat(chat=chat), free_form="exact", method="stated"
    )
    shown = measured.datasets["a"].questions
    assert [own.context for own in shown] == [own.context for own in asked]


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_gets_it(chat, monkeypatch):
    sent = []
    monkeypatch.setattr(ServedModel, "_post", lambda self, session, path, body: sent.append(body) or {})
    ServedModel("http://x", "m")._ask(None, PromptFormat(chat=chat), ASKED[0])
    (body,) = sent
    assert (body["messages"][0]["content"] if chat else body["prompt"]).startswith("<context 0>\nQuestion: ")


def test_it_changes_what_a_model_says_and_what_a_run_is_known_by(model, tokenizer):
    without = [replace(own, context=None) for own in ASKED]
    assert not np.allclose(
        predict(model, tokenizer, ASKED).probabilities, predict(model, tokenizer, without).probabilities
    )
    kept = [hf_calib.measure((model, tokenizer), {"a": asked}).run["datasets"]["a"] for asked in (ASKED, without)]
    assert kept[0]["sha256"] != kept[1]["sha256"]
    assert asdict(ASKED[0])["context"] == "<context 0>"
    found = OptionLetters().predict(LocalModel(model, tokenizer), ASKED, PromptFormat(), Asking())
    np.testing.assert_allclose(found.probabilities, predict(model, tokenizer, ASKED).probabilities, atol=1e-5)


def test_it_is_kept_with_predictions_and_shown_with_mistakes(model, tokenizer, tmp_path):
    asked = [*ASKED[:-1], replace(ASKED[-1], context=None)]
    recorded = Recorded(predict(model, tokenizer, asked), tuple(asked))
    write_predictions(tmp_path / "p.parquet", {"a": recorded})
    back = read_predictions(tmp_path / "p.parquet")["a"]
    assert [own.context for own in back.questions] == [own.context for own in asked]
    for mistake in confident_mistakes(Measurement("m", {"a": back})):
        context = asked[mistake.row].context
        assert mistake.question == ("" if context is None else f"{context}\n") + asked[mistake.row].question


def test_the_harness_gives_it_back():
    row = {"context": "A story.", "question": "Who?", "choices": ["x", "y"]}
    assert _question(row, ["A", "B"], 1) == Question("Who?", ("x", "y"), 1, context="A story.")
    assert _question({**row, "context": ""}, ["A", "B"], 1).context is None
