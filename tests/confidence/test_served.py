"""A served model, against a server on the loopback that answers with a tiny model."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

import hf_calib
from hf_calib.cli import main
from hf_calib.confidence import (
    Asking,
    Journal,
    LocalModel,
    OptionLetters,
    OptionTexts,
    PTrue,
    SampleConsistency,
    ServedModel,
    ServerError,
    predict,
)
from hf_calib.confidence.backend import Generation, OptionScores
from hf_calib.confidence.served_answers import echoed_tokens, first_token_logprobs, letter_logprobs, text_logprob
from hf_calib.tasks import FewShotFormat, PromptFormat
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.support import byte_level_tokenizer, question_rows, questions, tiny_llama
from tests.tasks import small_tokenizers

ASKED = questions(9, choices=(4, 2, 3))
PLAIN = PromptFormat()


class Server:
    """Answers completions and chats with a model; `faults` are statuses to answer with first."""

    def __init__(self, form="completions", chat=True):
        self.tokenizer = byte_level_tokenizer(chat=chat)
        self.model = tiny_llama(self.tokenizer).eval()
        self.form, self.faults, self.requests, self.delay = form, [], [], 0.0
        self.echoes = True
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append((self.path, body, dict(self.headers)))
                    outer.under_way += 1
                    outer.most = max(outer.most, outer.under_way)
                    fault = outer.faults.pop(0) if outer.faults else None
                time.sleep(outer.delay)
                status, answer = (fault, {"error": "try later"}) if fault else (200, outer.answer(self.path, body))
                with outer.lock:
                    outer.under_way -= 1
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, path, body):
        chat = path.endswith("/chat/completions")
        if chat:
            text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        else:
            text = body["prompt"]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        with self.lock, torch.no_grad():
            every = torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        log_probabilities = logits = every[-1]
        if body.get("echo") and self.echoes:
            written = int(log_probabilities.argmax())
            tokens = [self.tokenizer.decode([own]) for own in (*ids, written)]
            values = [None, *(float(every[i, own]) for i, own in enumerate((*ids[1:], written)))]
            if self.echoes == "shifted":
                values = [*values[1:-1], float(every[-1, ids[-1]]), values[-1]][: len(ids)]
                tokens = tokens[: len(ids)]
            top = [None] * (len(tokens) - 1) + [{tokens[-1]: values[-1], "best": float(log_probabilities.max())}]
            logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top}
            return {"choices": [{"text": text, "logprobs": logprobs}], "usage": {"completion_tokens": 1}}
        if not body.get("logprobs"):
            generator = torch.Generator().manual_seed(body["seed"])
            p = torch.softmax(logits / max(body["temperature"], 1e-6), -1)
            token = int(torch.multinomial(p, 1, generator=generator))
            own = self.tokenizer.decode([token])
            return {"choices": [{"message": {"content": own}} if chat else {"text": own, "finish_reason": "length"}]}
        k = body["top_logprobs"] if chat else body["logprobs"]
        values, tokens = log_probabilities.topk(k)
        pairs = [(self.tokenizer.decode([int(t)]), round(float(v), 6)) for v, t in zip(values, tokens, strict=True)]
        if chat or self.form == "content":
            top = [{"token": token, "logprob": value} for token, value in pairs]
            return {"choices": [{"logprobs": {"content": [{"token": pairs[0][0], "top_logprobs": top}]}}]}
        return {"choices": [{"text": pairs[0][0], "logprobs": {"top_logprobs": [dict(pairs)]}}]}


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def served(server, **options):
    return ServedModel(server.url, "tiny", **{"top_logprobs": 379, "backoff": 0.01, **options})


@pytest.mark.parametrize("form", ["completions", "content"])
@pytest.mark.parametrize("chat", [False, True])
def test_letters_are_those_of_the_local_model(server, form, chat):
    server.form = form
    prompt_format = PromptFormat(chat=chat)
    found = OptionLetters().predict(served(server), ASKED, prompt_format, Asking())
    expected = OptionLetters().predict(LocalModel(server.model, server.tokenizer), ASKED, prompt_format, Asking())
    there = np.isfinite(expected.option_log_probabilities)
    np.testing.assert_allclose(
        found.option_log_probabilities[there], expected.option_log_probabilities[there], atol=1e-4
    )
    assert found.missing_bounds is None
    assert found.answers.tolist() == expected.answers.tolist()


@pytest.mark.parametrize("method", [OptionTexts(), OptionTexts("tokens"), OptionTexts(list_options=True)])
@pytest.mark.parametrize("shots", [0, 1])
def test_texts_are_those_of_the_local_model(server, method, shots):
    prompt_format = FewShotFormat.choose(questions(3, seed=5), shots) if shots else PromptFormat()
    found = method.predict(served(server), ASKED, prompt_format, Asking())
    expected = method.predict(LocalModel(server.model, server.tokenizer), ASKED, prompt_format, Asking())
    there = np.isfinite(expected.option_log_probabilities)
    np.testing.assert_allclose(
        found.option_log_probabilities[there], expected.option_log_probabilities[there], atol=1e-3
    )
    assert len(server.requests) == sum(1 + len(question.choices) for question in ASKED)


def test_a_text_that_merges_with_the_prompt(server):
    # The colon and the space before the option are one token, so the prompt ends before it.
    server.tokenizer = small_tokenizers.byte_pairs([(":", "Ġ")])
    server.model = tiny_llama(server.tokenizer).eval()
    local = LocalModel(server.model, server.tokenizer)
    found = OptionTexts().predict(served(server), ASKED, PromptFormat(), Asking())
    expected = OptionTexts().predict(local, ASKED, PromptFormat(), Asking())
    there = np.isfinite(expected.option_log_probabilities)
    np.testing.assert_allclose(
        found.option_log_probabilities[there], expected.option_log_probabilities[there], atol=1e-3
    )


def test_echoes_that_cannot_be_read():
    def answer(tokens, values, n=1, top=None):
        logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top}
        return {"choices": [{"logprobs": logprobs}], "usage": {"completion_tokens": n}}

    assert echoed_tokens(answer(["a", "b", "c"], [None, -1, -2])) == [("a", None), ("b", -1.0)]
    assert echoed_tokens(answer(["a", "b"], [None, -1], n=0)) == [("a", None), ("b", -1.0)]
    for wrong in ({"choices": [{"text": "c"}]}, answer(["c"], [-1]), answer(["a", "b"], [None])):
        with pytest.raises(ServerError, match="echo with logprobs"):
            echoed_tokens(wrong)
    assert text_logprob([(":", -0.5), (" re", -1.0), ("d", -2.0)], "red") == -3.5
    with pytest.raises(ServerError, match="spell out 'blue', not the option 'red'"):
        text_logprob([(" blue", -1.0)], "red")
    with pytest.raises(ServerError, match="log-probability None"):
        text_logprob([(" red", None)], "red")


def test_options_that_were_not_returned_are_bounded(server):
    found = OptionLetters().predict(served(server, top_logprobs=120), ASKED, PromptFormat(), Asking())
    truth = predict(server.model, server.tokenizer, ASKED)
    missing = np.isneginf(found.option_log_probabilities) & np.isfinite(truth.option_log_probabilities)
    assert missing.any()
    assert not missing.all()
    p = np.exp(truth.option_log_probabilities)
    low, high = found.confidence_bounds
    for row in range(len(ASKED)):
        if missing[row].any():
            assert p[row][missing[row]].max() <= found.missing_bounds[row]
        else:
            assert found.missing_bounds[row] == 0
        if not missing[row, truth.predicted[row]]:
            assert low[row] - 1e-5 <= truth.confidences[row] <= high[row] + 1e-5


def test_what_is_not_returned_is_told(server, tmp_path):
    with (tmp_path / "q.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in question_rows(9, choices=(4,)))
    options = ["measure", "--model", f"openai:{server.url}", "--model-name", "tiny", "--out", str(tmp_path / "out")]
    assert main([*options, "--dataset", str(tmp_path / "q.jsonl")]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    run = json.loads((tmp_path / "out" / "report.json").read_text())["run"]
    assert run["model_name"] == "tiny"
    told = run["options_not_returned"][str(tmp_path / "q.jsonl")]
    assert 0 < told["questions"] <= 9
    assert told["mean_confidence_at_least"] < told["mean_confidence_at_most"]
    assert "questions the server left out some options" in " ".join(page.split())
    assert {request[1]["logprobs"] for request in server.requests} == {20}


def test_sampled_answers_have_seeds_of_their_own(server):
    method = SampleConsistency(6, max_new_tokens=1)
    first = method.predict(served(server), ASKED[:3], PromptFormat(), Asking())
    seeds = [request[1]["seed"] for request in server.requests]
    assert len(set(seeds)) == 18
    again = method.predict(served(server, concurrency=1), ASKED[:3], PromptFormat(), Asking())
    np.testing.assert_array_equal(first.option_log_probabilities, again.option_log_probabilities)
    assert sorted(seeds) == sorted(request[1]["seed"] for request in server.requests[18:])


class Partial(ServedModel):
    """A server that returns some letters: for each question, their probabilities and the bound of the others."""

    def __init__(self, answers, asked):
        super().__init__("http://localhost/v1", "m")
        self.returned = [answers, asked]

    def score_letters(self, stage, questions, prompt_format, asking):
        asking.note(questions, prompt_format)
        with np.errstate(divide="ignore"):
            return [OptionScores(tuple(np.log(p)), (1,) * len(p), bound) for p, bound in self.returned.pop(0)]

    def generate(self, stage, questions, *arguments, **options):
        return [[Generation("it", True)] for _ in questions]


ALL, NONE = ([0.5, 0.2, 0.1, 0.1], 0.0), ([0.0] * 4, 0.9)
TRUE_AND_FALSE = [([0.6, 0.2], 0.0), ([0.5, 0.0], 0.05), ([0.0, 0.5], 0.05), ([0.0, 0.0], 0.2)]


def test_p_true_of_letters_that_were_not_returned():
    asked = questions(5)
    found = PTrue().predict(Partial([ALL] * 4 + [NONE], [*TRUE_AND_FALSE, ([0.6, 0.2], 0.0)]), asked, PLAIN, Asking())
    np.testing.assert_allclose(found.confidences, [0.75, 1, 0, 0.25, 0.25])
    low, high = found.confidence_bounds
    np.testing.assert_allclose(low, [0.75, 0.5 / 0.55, 0, 0, 0])
    np.testing.assert_allclose(high, [0.75, 1, 0.05 / 0.55, 1, 1])
    assert (found.option_mass == 0).tolist() == [False, False, False, True, True]


def test_p_true_of_letters_that_were_not_returned_in_free_form():
    asked = [FreeFormQuestion(f"Q{i}?", ("it",)) for i in range(4)]
    measured = hf_calib.measure(Partial(TRUE_AND_FALSE, None), asked, free_form="exact", method="p-true")
    found = measured.predictions
    np.testing.assert_allclose(found.confidences, [0.75, 1, 0, 0.5])
    np.testing.assert_allclose(found.confidence_bounds, [[0.75, 0.5 / 0.55, 0, 0], [0.75, 1, 0.05 / 0.55, 1]])
    told = {warning.code: warning.sentence for warning in measured.warnings}
    assert told["options_not_returned"].startswith("For 3 questions the server left out some options")
    assert "some_unread_replies" not in told
    assert "unread_replies" not in told


def test_a_stop_in_a_thought_ends_nothing(server, monkeypatch):
    replies = ["<think>\nRome?\n</think>\n\nParis\nsince", "<think>\nRome?", None, "Paris\n"]

    def answer(path, body):
        said = replies[len(server.requests) - 1]
        return {"choices": [{"message": {"content": said}, "finish_reason": "length"}]}

    monkeypatch.setattr(server, "answer", answer)
    served = ServedModel(server.url, "tiny", concurrency=1)
    options = {"n_samples": 4, "stop": ("\n",)}
    (written,) = served.generate("g", ASKED[:1], PromptFormat(chat=True), Asking(), **options)
    assert [(own.text, own.ended) for own in written] == [
        ("<think>\nRome?\n</think>\n\nParis", True), ("<think>\nRome?", False), ("", False), ("Paris", True)
    ]  # fmt: skip
    assert not any("stop" in body for _, body, _ in server.requests)


def test_requests_side_by_side_are_bounded(server):
    server.delay = 0.02
    OptionLetters().predict(served(server, concurrency=3), ASKED, PromptFormat(), Asking())
    assert 2 <= server.most <= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_waited_for(server, status):
    server.faults = [status] * 3
    found = OptionLetters().predict(served(server), ASKED[:2], PromptFormat(), Asking())
    assert len(found) == 2
    assert len(server.requests) == 5


def test_lasting_faults_are_told(server):
    server.faults = [503] * 50
    with pytest.raises(ServerError, match="503"):
        OptionLetters().predict(served(server, retries=2), ASKED[:1], PromptFormat(), Asking())
    assert len(server.requests) == 3
    server.faults = [404]
    with pytest.raises(ServerError, match=r"answers 404: .*try later"):
        OptionLetters().predict(served(server), ASKED[:1], PromptFormat(), Asking())
    gone = ServedModel("http://127.0.0.1:9/v1", "tiny", retries=0)
    with pytest.raises(ServerError, match="can't be reached"):
        OptionLetters().predict(gone, ASKED[:1], PromptFormat(), Asking())


def test_what_was_answered_is_not_asked_again(server, tmp_path):
    model = served(server, concurrency=1)
    server.faults = [None] * 6 + [404]
    with pytest.raises(ServerError):
        OptionLetters().predict(model, ASKED, PromptFormat(), Asking(journal=Journal(tmp_path, {})))
    answered = len(Journal(tmp_path, {}).read("letters"))
    assert answered == 4
    before = len(server.requests)
    found = OptionLetters().predict(model, ASKED, PromptFormat(), Asking(journal=Journal(tmp_path, {})))
    assert len(server.requests) - before == len(ASKED) - answered
    assert len(found) == len(ASKED)


def test_a_key_is_sent_and_not_kept(server, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    OptionLetters().predict(served(server), ASKED[:1], PromptFormat(), Asking(journal=Journal(tmp_path, {})))
    assert server.requests[0][2]["Authorization"] == "Bearer a-secret"
    assert all("a-secret" not in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "holds no choice"),
        ({"choices": [{"text": "A"}]}, "returned no log-probabilities"),
        ({"choices": [{"logprobs": {"top_logprobs": [{"A": 0.5}]}}]}, "the log-probability 0.5"),
        ({"choices": [{"logprobs": {"top_logprobs": [{"A": "x"}]}}]}, "log-probabilities cannot be read .*could not"),
        ({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "A"}]}]}}]}, "cannot be read .*'logprob'"),
        ({"choices": [{"logprobs": [1, 2]}]}, "cannot be read"),
    ],
)
def test_answers_that_cannot_be_read(answer, message):
    with pytest.raises(ServerError, match=message):
        first_token_logprobs(answer)


def test_a_log_probability_of_null_is_none():
    answer = {"choices": [{"logprobs": {"top_logprobs": [{" A": -0.1, " B": None}]}}]}
    assert first_token_logprobs(answer) == {" A": -0.1}


def test_letters_with_and_without_a_space():
    assert letter_logprobs({" A": -1.0, "A": -3.0, " B": -2.0}, "ABC", " ") == [-1.0, -2.0, None]
    assert letter_logprobs({"A": -1.0, "B": -2.0}, "AB", " ") == [-1.0, -2.0]
    assert letter_logprobs({"A": -1.0, " the": -2.0}, "AB", " ") == [None, None]
    assert letter_logprobs({"▁A": -1.0, "▁B": -2.0}, "AB", " ") == [-1.0, -2.0]
    assert letter_logprobs({"A": -1.0, " B": -2.0}, "AB", "") == [-1.0, None]


def test_what_a_server_cannot_do(server, capsys):
    with pytest.raises(ValueError, match="of given texts in a chat"):
        OptionTexts().predict(served(server), ASKED, PromptFormat(chat=True), Asking())
    for echoes, message in ((False, "echo with logprobs"), ("shifted", "do not belong to its tokens")):
        server.echoes = echoes
        with pytest.raises(ServerError, match=message):
            OptionTexts().predict(served(server), ASKED, PromptFormat(), Asking())
    with pytest.raises(ValueError, match="begins with http"):
        ServedModel("localhost:80", "tiny")
    assert main(["measure", "--model", "openai:http://127.0.0.1:9/v1", "--dataset", "gone.jsonl"]) == 1
