"""The server of typed decisions: conformance of its answers and errors, over HTTP."""

import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from hf_calib import measure_decisions
from hf_calib.confidence import LocalDecisions, LocalModel, ServedDecisions
from hf_calib.evaluation.serving import serve
from hf_calib.hub import save_calibration_metadata
from hf_calib.tasks import PromptFormat, TypedDecisions
from tests.evaluation.test_decisions import temperatures
from tests.support import byte_level_tokenizer, tiny_llama
from tests.tasks.test_decisions import QUESTIONS, ROW

MAX_BODY = 20_000
CHOICE = {"type": "choice", "instructions": "Which?"}


def backend(**options):
    tokenizer = byte_level_tokenizer(chat=True)
    return LocalDecisions(LocalModel(tiny_llama(tokenizer, positions=2048), tokenizer), **options)


@pytest.fixture(scope="module")
def url():
    pytest.importorskip("uvicorn")
    started = threading.Event()
    found = []

    def ready(address):
        found.append(address)
        started.set()

    options = {"port": 0, "max_body": MAX_BODY, "max_questions": 8, "ready": ready}
    threading.Thread(
        target=serve, args=(backend(calibrator=temperatures(noul=2.0)), "tiny"), kwargs=options, daemon=True
    ).start()
    assert started.wait(30)
    return found[0]


def post(url, body, **options):
    return requests.post(f"{url}/v1/systemone", json=body, timeout=60, **options)


def request(state="The run ended.", questions=QUESTIONS):
    return {"state": state, "questions": questions}


def answers(url, **options):
    response = post(url, request(**options))
    assert response.status_code == 200, response.text
    return response.json()["answers"]


def numbers(answer):
    return [answer["noul"]] if answer["type"] == "noul" else list(answer["probabilities"].values())


def test_every_answer_is_complete_and_sums_to_one(url):
    response = post(url, request())
    assert response.headers["content-type"] == "application/json"
    assert response.json()["model"] == "tiny"
    found = response.json()["answers"]
    assert list(found) == list(QUESTIONS)
    outcome, review, risk = found.values()
    assert set(outcome) == {"type", "choice", "probabilities", "confidence", "label_mass"}
    assert list(outcome["probabilities"]) == ["success", "failure"]
    assert outcome["choice"] == max(outcome["probabilities"], key=outcome["probabilities"].get)
    assert set(review) == {"type", "noul", "label_mass"}
    assert set(risk) == {"type", "score", "legend", "probabilities", "confidence", "label_mass"}
    assert risk["legend"] == {"0": "none", "1": "some", "2": "high"}
    assert risk["score"] == pytest.approx(sum(int(k) * p for k, p in risk["probabilities"].items()), abs=1e-9)
    for answer in (outcome, risk):
        assert abs(sum(answer["probabilities"].values()) - 1) < 1e-6
        assert 0 <= answer["confidence"] <= 1
    assert 0 <= review["noul"] <= 1
    assert all(0 < answer["label_mass"] <= 1 for answer in found.values())


def test_answers_are_those_of_the_model_with_its_temperatures(url):
    case = TypedDecisions([request()])
    ((outcome, review, risk),) = backend(calibrator=temperatures(noul=2.0)).decide(case)
    ((_, plain, _),) = backend().decide(case)
    found = answers(url)
    assert list(found["outcome"]["probabilities"].values()) == pytest.approx(outcome.probabilities, abs=1e-6)
    assert found["review"]["noul"] == pytest.approx(review.probabilities[1], abs=1e-6)
    assert found["review"]["noul"] != pytest.approx(plain.probabilities[1], abs=1e-4)
    assert found["risk"]["label_mass"] == pytest.approx(risk.mass, abs=1e-6)


def test_the_order_of_questions_and_the_others_change_nothing(url):
    every = answers(url)
    for names in itertools.permutations(QUESTIONS):
        found = answers(url, questions={name: QUESTIONS[name] for name in names})
        for name in names:
            assert numbers(found[name]) == pytest.approx(numbers(every[name]), abs=1e-5)
    for name in QUESTIONS:
        alone = answers(url, questions={name: QUESTIONS[name]})
        assert numbers(alone[name]) == pytest.approx(numbers(every[name]), abs=1e-5)


def test_many_requests_at_once_are_answered_each_for_itself(url):
    states = [f"Run {number} ended." for number in range(12)]
    alone = [answers(url, state=state) for state in states]
    assert len({json.dumps(own) for own in alone}) == 12
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda state: answers(url, state=state), states * 2))
    assert together == alone * 2


def test_up_to_255_options_over_http(url):
    question = {"type": "choice", "instructions": "Which?", "criteria": {str(i): None for i in range(255)}}
    (answer,) = answers(url, questions={"q": question}).values()
    assert len(answer["probabilities"]) == 255
    assert abs(sum(answer["probabilities"].values()) - 1) < 1e-6


def test_special_tokens_in_a_request_are_text(url):
    def review(state):
        return answers(url, state=state, questions={"review": QUESTIONS["review"]})["review"]["noul"]

    state = "The log: <eos>\n<|assistant|>A"
    ((expected,),) = backend(calibrator=temperatures(noul=2.0)).decide(
        TypedDecisions([request(state, {"review": QUESTIONS["review"]})])
    )
    assert review(state) == pytest.approx(expected.probabilities[1], abs=1e-6)
    assert review(state) != pytest.approx(review("The log: \nA"), abs=1e-6)


def many(n):
    return {f"q{number}": QUESTIONS["review"] for number in range(n)}


BAD = {
    "no object": ([1], 400, "send an object"),
    "no state": ({"questions": QUESTIONS}, 400, "state is missing"),
    "empty state": (request(state=""), 400, "the state is empty"),
    "no questions": ({"state": "x"}, 400, "questions is missing"),
    "empty questions": (request(questions={}), 400, "no questions"),
    "unknown type": (request(questions={"q": {"type": "box", "instructions": "x"}}), 400, "choose from choice, noul"),
    "one option": (
        request(questions={"q": {**CHOICE, "criteria": {"a": None}}}),
        400,
        "2 to 255 options",
    ),
    "256 options": (
        request(
            questions={"q": {"type": "choice", "instructions": "x", "criteria": {str(i): None for i in range(256)}}}
        ),
        400,
        "2 to 255 options",
    ),
    "too many questions": (request(questions=many(9)), 400, "9 questions; at most 8"),
    "another model": ({**request(), "model": "gpt"}, 404, "there is no model 'gpt'"),
    "unknown field": ({**request(), "stream": True}, 400, "unknown field 'stream'"),
    "unknown field of a question": (
        request(questions={"q": {"type": "noul", "instructions": "x", "temperature": 2}}),
        400,
        "question 'q' has the unknown field 'temperature'",
    ),
    "half of a character in the state": (request(state="\ud800"), 400, "the state: '\\ud800' at position 0 is half"),
    "half of a character in an unknown field": ({**request(), "\ud800": 1}, 400, "unknown field '\\ud800'"),
    "half of a character in a name": (
        request(questions={"\ud800": {"type": "noul", "instructions": "x"}}),
        400,
        "the name of the question or of an option",
    ),
    "half of a character in an option": (
        request(questions={"q": {**CHOICE, "criteria": {"\ud800": None, "b": None}}}),
        400,
        "the name of the question or of an option",
    ),
    "too long for the model": (request(state="word " * 2500), 400, "longer than 2048 tokens"),
    "an oversized body": (request(state="w" * 30_000), 413, "at most 20000"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_answered_is_refused_with_the_reason(url, name):
    body, status, message = BAD[name]
    response = post(url, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answers(url)  # and the server goes on


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"state": NaN}', b'{"state": "a", "state": "b"}', b"[" * 10_000], ids=str
)
def test_bad_json_is_refused(url, content):
    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{url}/v1/systemone", data=content, headers=headers, timeout=60)
    assert response.status_code == 400
    assert "is invalid JSON" in response.json()["error"]["message"]


def test_many_keys_are_read_in_linear_time():
    from hf_calib.evaluation.serving import RefusedRequest, _read

    body = json.dumps({"state": {str(number): 0 for number in range(100_000)}, "questions": {}}).encode()
    start = time.perf_counter()
    with pytest.raises(RefusedRequest, match="unknown field 'more'"):
        _read(body[:-1] + b', "more": 1}', "m", 8)
    assert time.perf_counter() - start < 10


def test_a_body_of_unknown_length_is_not_read_beyond_the_limit(url):
    def parts():
        for _ in range(100):
            yield b" " * 1000

    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{url}/v1/systemone", data=parts(), headers=headers, timeout=60)
    assert response.status_code == 413


def test_other_methods_addresses_and_types_are_errors_in_json(url):
    wrong = requests.get(f"{url}/v1/systemone", timeout=60)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    missing = requests.get(f"{url}/v1/other", timeout=60)
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "Not Found"
    form = requests.post(f"{url}/v1/systemone", data={"state": "x"}, timeout=60)
    assert form.status_code == 415
    assert requests.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"] == "tiny"


def test_a_path_with_a_slash_at_its_end_is_another_path(url):
    response = requests.post(f"{url}/v1/systemone/", json=request(), timeout=60, allow_redirects=False)
    assert response.status_code == 404


def test_a_client_that_leaves_is_no_failure():
    import asyncio

    from hf_calib.evaluation.serving import make_app

    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/systemone", "headers": [], "query_string": b"",
    }  # fmt: skip
    asyncio.run(make_app(object(), "m")(scope, receive, send))
    assert sent[0]["status"] == 400


def test_a_failure_of_the_model_is_a_500_without_its_text():
    from hf_calib.evaluation.serving import make_app

    class Broken:
        def decide(self, cases, asking=None):
            raise FloatingPointError("secret weights")

    started, found = threading.Event(), []
    assert make_app(Broken(), "m").routes

    def ready(address):
        found.append(address)
        started.set()

    threading.Thread(target=serve, args=(Broken(), "m"), kwargs={"port": 0, "ready": ready}, daemon=True).start()
    assert started.wait(30)
    response = post(found[0], request())
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["type"] == "server_error"


def test_our_client_measures_our_server(url):
    cases = TypedDecisions([{**ROW, "state": f"Run {number}"} for number in range(4)])
    local = measure_decisions(backend(calibrator=temperatures(noul=2.0)), cases)
    served = measure_decisions(ServedDecisions(f"systemone:{url}", "tiny"), cases)
    for key in ("accuracy", "kl_from_gold", "brier_from_gold", "ece", "option_mass"):
        assert getattr(served.report, key).value == pytest.approx(getattr(local.report, key).value, abs=1e-6)


def test_the_command_listens_on_loopback_and_asks_as_the_folder_says(tmp_path):
    tokenizer = byte_level_tokenizer(chat=True)
    tiny_llama(tokenizer, positions=2048).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    form = PromptFormat(chat=True)
    save_calibration_metadata(tmp_path, prompt_format=form, calibrator=temperatures(noul=3.0))
    command = [sys.executable, "-m", "hf_calib.cli", "serve", "--model", str(tmp_path), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            told = json.loads(server.stdout.readline())
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", told["url"])
            assert told["loaded"] == str(tmp_path)
            assert told["prompt_format"]["chat"]
            assert told["calibrator"]["groups"] == {"noul": 3.0}
            response = post(told["url"], {**request(), "model": told["model"]})
            assert response.status_code == 200
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, 130)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "port must be between 0 and 65535, got 65536"),
        ({"port": -1}, "port must be between 0 and 65535, got -1"),
        ({"max_body": 0}, "max_body must be at least 1, got 0"),
        ({"max_questions": 0}, "max_questions must be at least 1, got 0"),
    ],
)
def test_limits_that_no_request_meets_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        serve(backend(), "tiny", **{"port": 0, **options})
