"""Servers of typed decisions, against one on the loopback that follows the contract, and that breaks it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from hf_calib.cli import main
from hf_calib.confidence import ServedDecisions, ServerError
from hf_calib.tasks import TypedDecisions
from tests.tasks.test_decisions import ROW

CASES = TypedDecisions([{**ROW, "id": f"case {number}", "state": {"run": number}} for number in range(5)])


def distribution(options, salt):
    weights = np.random.default_rng([len(options), salt]).dirichlet(np.ones(len(options)))
    return dict(zip(options, weights.tolist(), strict=True))


def systemone(body):
    salt, answers = len(json.dumps(body["state"])), {}
    for name, question in body["questions"].items():
        if question["type"] == "noul":
            answers[name] = {"type": "noul", "noul": 0.25, "label_mass": 0.5}
            continue
        criteria = question["criteria"]
        options = list(criteria) if question["type"] == "choice" else list(map(str, range(len(criteria))))
        p = distribution(options, salt)
        answers[name] = {"type": question["type"], "probabilities": p, "confidence": 0.1, "label_mass": 0.75}
    return {"model": body["model"], "answers": answers}


def decisions(body):
    answers = []
    for question in body["questions"]:
        if question["type"] == "predicate":
            answers.append({"type": "predicate", "name": question["name"], "probability": 0.25})
            continue
        options = [own.get("value", own.get("label")) for own in question.get("choices", question.get("levels"))]
        values = [
            {"value": int(name) if question["type"] == "score" else name, "probability": p}
            for name, p in distribution(options, len(body["input"])).items()
        ]
        answers.append({"type": question["type"], "name": question["name"], "probabilities": values})
    return {"model": body["model"], "answers": answers}


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with made.lock:
                made.requests.append((self.path, body, dict(self.headers)))
                made.under_way += 1
                made.most = max(made.most, made.under_way)
                fault = made.faults.pop(0) if made.faults else None
            time.sleep(made.delay)
            cut = fault if isinstance(fault, str) else None
            if isinstance(fault, tuple):
                status, content = fault
            else:
                status = 200
                answer = decisions(body) if self.path == "/v1/decisions" else systemone(body)
                content = json.dumps(answer if made.change is None else made.change(answer))
            with made.lock:
                made.under_way -= 1
            self.send_response(status)
            sent = content.encode()
            if cut is not None:  # half of the response
                sent = sent[: len(sent) // 2]
                self.close_connection = True
            if cut == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
                sent = f"{len(content.encode()):x}\r\n".encode() + sent
            elif cut != "closed":
                self.send_header("Content-Length", str(len(sent if cut == "json" else content.encode())))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *arguments):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.requests, made.faults, made.change, made.delay = [], [], None, 0.0
    made.under_way = made.most = 0
    made.lock = threading.Lock()
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def served(server, kind="systemone", **options):
    return ServedDecisions(f"{kind}:{server.url}", "tiny", **{"backoff": 0.01, **options})


@pytest.mark.parametrize(
    ("kind", "path"),
    [("systemone", "/v1/systemone"), ("decisions", "/v1/decisions"), ("openrouter", "/decisions")],
)
def test_one_request_a_case_with_every_probability_in_its_place(server, kind, path):
    answers = served(server, kind).decide(CASES)
    assert [own[0] for own in server.requests] == [path] * 5
    by_state = {json.dumps(body.get("state", body.get("input"))): body for _, body, _ in server.requests}
    assert len(by_state) == 5
    for case, own in zip(CASES, answers, strict=True):
        outcome, review, risk = own
        salt = len(case.state_text)
        assert outcome.probabilities == pytest.approx(tuple(distribution(["success", "failure"], salt).values()))
        assert review.probabilities == (0.75, 0.25)
        assert risk.probabilities == pytest.approx(tuple(distribution(["0", "1", "2"], salt).values()))
        masses = (None, None, None) if kind == "decisions" else (0.75, 0.5, 0.75)
        assert tuple(answer.mass for answer in own) == masses


def test_what_is_sent(server):
    served(server).decide(CASES[:1])
    assert server.requests[0][1] == {
        "model": "tiny",
        "state": {"run": 0},
        "questions": {
            "outcome": {
                "type": "choice",
                "instructions": "How did the run end?",
                "criteria": {"success": "All steps passed.", "failure": None},
            },
            "review": {
                "type": "noul",
                "instructions": {"ask": "Does it need review?"},
                "criteria": {"true": "By a person"},
            },
            "risk": {"type": "score", "instructions": "How risky is it?", "criteria": ["none", "some", "high"]},
        },
    }
    served(server, "decisions").decide(CASES[:1])
    assert server.requests[1][1] == {
        "model": "tiny",
        "input": '{"run": 0}',
        "questions": [
            {
                "type": "choice",
                "name": "outcome",
                "instructions": "How did the run end?",
                "choices": [{"value": "success", "description": "All steps passed."}, {"value": "failure"}],
            },
            {
                "type": "predicate",
                "name": "review",
                "instructions": '{"ask": "Does it need review?"}\nYes: By a person',
            },
            {
                "type": "score",
                "name": "risk",
                "instructions": "How risky is it?",
                "levels": [
                    {"label": "0", "description": "none"},
                    {"label": "1", "description": "some"},
                    {"label": "2", "description": "high"},
                ],
            },
        ],
    }


@pytest.mark.parametrize("variable", ["SYSTEMONE_API_KEY", "OPENROUTER_API_KEY", "OPENAI_API_KEY"])
def test_each_kind_of_server_gets_its_own_key_only(server, variable, monkeypatch):
    for name in ("SYSTEMONE_API_KEY", "OPENROUTER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "secret")
    for kind, own in (("systemone", 0), ("openrouter", 1), ("decisions", 2)):
        served(server, kind).decide(CASES[:1])
        wanted = ("SYSTEMONE_API_KEY", "OPENROUTER_API_KEY", "OPENAI_API_KEY")[own] == variable
        assert ("Authorization" in server.requests[-1][2]) == wanted


def test_what_fails_in_passing_is_asked_again(server):
    server.faults = [(429, "{}"), (503, "{}"), (500, "{}")]
    assert len(served(server, concurrency=1).decide(CASES)) == 5
    assert len(server.requests) == 8
    server.faults = [(503, '{"error": "starting"}')] * 9
    with pytest.raises(ServerError, match=r"answers 503: .*starting"):
        served(server, concurrency=1, retries=2).decide(CASES[:1])


@pytest.mark.parametrize("cut", ["length", "chunked", "json", "closed"])
def test_a_response_that_is_cut_off_is_asked_again(server, cut):
    whole = served(server).decide(CASES)
    server.requests.clear()
    server.faults = [cut, (503, "{}"), cut]
    assert served(server, concurrency=1, retries=3).decide(CASES) == whole
    assert len(server.requests) == 8
    server.requests.clear()
    server.faults = [cut, (503, "{}"), cut, cut]
    with pytest.raises(ServerError, match=r"^case 0 \(case 0\), counted from 0: .* cut off its response: "):
        served(server, concurrency=1, retries=3).decide(CASES[:1])
    assert len(server.requests) == 4


def test_requests_are_side_by_side_up_to_the_limit(server):
    server.delay = 0.1
    served(server, concurrency=3).decide(CASES)
    assert 1 < server.most <= 3


def test_a_base_address_with_v1_is_not_doubled(server):
    ServedDecisions(f"systemone:{server.url}/v1").decide(CASES[:1])
    assert server.requests[0][0] == "/v1/systemone"
    assert server.requests[0][1]["model"] == "default"


ERRORS = {
    "400": ((400, '{"error": {"message": "label Q is more than one token"}}'), "answers 400: .*more than one token"),
    "401": ((401, "no key"), "answers 401: no key"),
    "404": ((404, "no such model"), "answers 404"),
    "413": ((413, "too large"), "answers 413"),
    "422": ((422, "state is missing"), "answers 422: state is missing"),
    "501": ((501, "no read strategy"), "answers 501: no read strategy"),
    "empty 200": ((200, ""), "does not answer in JSON"),
    "no JSON": ((200, "<html>"), "does not answer in JSON: <html>"),
    "a list": ((200, "[]"), "answers with a list"),
    "an empty object": ((200, "{}"), "has no answers"),
    "no answers": ((200, '{"answers": null}'), "has no answers"),
    "empty answers": ((200, '{"answers": {}}'), r"answered \[\]; the questions were"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_of_a_server_is_told_with_its_case(server, name):
    fault, message = ERRORS[name]
    server.faults = [fault]
    with pytest.raises(ServerError, match=rf"^case 0 \(case 0\), counted from 0: .*{message}"):
        served(server, concurrency=1).decide(CASES)


def changed(name, **changes):
    def change(answer):
        answer["answers"][name] = {**answer["answers"][name], **changes}
        return answer

    return change


BROKEN = {
    "another type": (changed("outcome", type="score"), "'outcome' has the type 'score'; expected 'choice'"),
    "a sum below one": (
        changed("outcome", probabilities={"success": 0.5, "failure": 0.4}),
        "'outcome' has probabilities that sum to 0.9; they must sum to 1",
    ),
    "a sum that is off by more than 1e-6": (
        changed("outcome", probabilities={"success": 0.512345678, "failure": 0.487657}),
        "sum to 1.00000268; they must sum to 1",
    ),
    "an option too few": (changed("risk", probabilities={"0": 0.5, "1": 0.5}), "must list all options; missing: 2"),
    "an option too many": (
        changed("outcome", probabilities={"success": 0.5, "failure": 0.25, "other": 0.25}),
        "must list all options; unknown: other",
    ),
    "no probabilities": (changed("outcome", probabilities=None), "has no probabilities for the options"),
    "a negative one": (
        changed("outcome", probabilities={"success": 1.5, "failure": -0.5}),
        "'outcome', 'success', is 1.5; expected a probability",
    ),
    "not a number": (changed("review", noul="often"), "'review' is 'often'; expected a probability"),
    "nothing": (changed("review", noul=None), "'review' is None; expected a probability"),
    "NaN": (changed("review", noul=float("nan")), "'review' is nan; expected a probability"),
    "a mass above one": (changed("review", label_mass=2.0), "label_mass, is 2.0"),
    "a refusal": (changed("review", type="refusal", reason="unsafe"), "'review' is a refusal: unsafe"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_against_the_contract_is_refused(server, name):
    server.change, message = BROKEN[name]
    with pytest.raises(ServerError, match=message):
        served(server).decide(CASES[:1])


def test_lists_are_checked_too(server):
    def swapped(answer):
        answer["answers"][0]["name"], answer["answers"][1]["name"] = "review", "outcome"
        return answer

    server.change = swapped
    with pytest.raises(ServerError, match="answered 'review' in place of 'outcome'"):
        served(server, "decisions").decide(CASES[:1])
    server.change = lambda answer: {"answers": answer["answers"][:2]}
    with pytest.raises(ServerError, match="gave 2 answers to 3 questions"):
        served(server, "decisions").decide(CASES[:1])
    server.change = lambda answer: {"answers": [1, 2, 3]}
    with pytest.raises(ServerError, match="is a int; expected an object"):
        served(server, "decisions").decide(CASES[:1])


def test_rounded_probabilities_are_accepted_and_said(server, tmp_path, capsys):
    server.change = changed("risk", probabilities={"0": 0.33, "1": 0.33, "2": 0.33})
    (case,) = served(server).decide(CASES[:1])
    assert sum(case[2].probabilities) == pytest.approx(1)
    assert case[2].rounding == 0.005
    assert case[0].rounding == 0.0
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    arguments = ["measure", "--task", "typed-decisions", "--model", f"systemone:{server.url}", "--dataset", str(path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "The server rounds probabilities, each by up to 0.005" in out
    assert "Probability mass on the options" in out
    server.faults = [(400, "no")]
    assert main(arguments) == 1
    assert "case 0 (a1), counted from 0" in capsys.readouterr().err
    assert main([*arguments, "--chat-template"]) == 1
    assert "--chat-template: does not apply to a server of typed decisions" in capsys.readouterr().err


def test_a_server_that_cannot_be_reached_and_addresses_that_are_none():
    with pytest.raises(ServerError, match="can't be reached"):
        ServedDecisions("systemone:http://127.0.0.1:9", retries=0).decide(CASES[:1])
    with pytest.raises(ValueError, match="is not an address of typed decisions"):
        ServedDecisions("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="begins with http"):
        ServedDecisions("systemone:127.0.0.1:9")
