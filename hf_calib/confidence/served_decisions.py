"""Typed decisions answered by a server: vLLM, SGLang, OpenRouter and others with the same contracts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..tasks.decisions import Case, Decision, shown
from .asking import Asking
from .backend import ServerError
from .decisions import Decided
from .served import ServedModel

# How far the sum of a server's probabilities may be from one.
_TOLERANCE = 1e-6
# Servers may round probabilities to this many decimals or more, which moves the sum further.
_DECIMALS = 2


@dataclass(frozen=True)
class Contract:
    """The requests and answers of a kind of server.

    Parameters
    ----------
    path : str
        Path after the server's address; a `/v1` that ends the address is not repeated.
    key : str
        Environment variable with the API key.
    as_list : bool
        Whether questions and answers are lists, as in OpenAI's Decisions API, rather than objects by name.
    """

    path: str
    key: str
    as_list: bool = False


CONTRACTS = {
    "systemone": Contract("/v1/systemone", "SYSTEMONE_API_KEY"),
    "decisions": Contract("/v1/decisions", "OPENAI_API_KEY", as_list=True),
    "openrouter": Contract("/decisions", "OPENROUTER_API_KEY"),
}
"""By the prefix of the address: vLLM and compatible servers; SGLang and OpenAI; OpenRouter
(https://openrouter.ai/api/alpha)."""


class ServedDecisions:
    """Asks a server typed decisions, one request per case.

    Parameters
    ----------
    address : str
        "systemone:http://host:port", "decisions:http://host:port" or "openrouter:https://openrouter.ai/api/alpha".
    model : str, optional
        Model name on the server; by default "default", for servers with one model.
    concurrency, retries, backoff, timeout
        As in `ServedModel`: number of concurrent requests, and how temporary failures are retried.

    Raises
    ------
    ValueError
        If the address has another form.

    Notes
    -----
    API keys are read from environment variables: SYSTEMONE_API_KEY, OPENAI_API_KEY, OPENROUTER_API_KEY.
    """

    def __init__(
        self,
        address: str,
        model: str | None = None,
        *,
        concurrency: int = 8,
        retries: int = 6,
        backoff: float = 0.5,
        timeout: float = 300.0,
    ) -> None:
        kind, _, base = address.partition(":")
        if kind not in CONTRACTS or not base:
            raise ValueError(
                f"model: {address!r} is not an address of typed decisions; write one of "
                f"{', '.join(f'{name}:http://host:port' for name in CONTRACTS)}"
            )
        self.address = address
        self.model = model or "default"
        self.contract = CONTRACTS[kind]
        self._client = ServedModel(
            base, self.model, concurrency=concurrency, retries=retries, backoff=backoff, timeout=timeout
        )
        self._client.key_variable = self.contract.key
        path = self.contract.path
        self._path = (path.removeprefix("/v1") if self._client.base_url.endswith("/v1") else path).lstrip("/")

    def decide(self, cases: Sequence[Case], asking: Asking | None = None) -> list[list[Decided | None]]:
        """Return an answer to each question of each case.

        Raises
        ------
        ServerError
            If the server can't be reached, refuses a request, or violates its contract; the message names the case and
            the question.
        """

        def one(session: Any, number: int) -> list[list[Any]]:
            case = cases[number]
            request = self._request(case)
            try:
                answers = self._answers(self._client._post(session, self._path, request), case)
                return [[*self._answer(answers[decision.name], decision)] for decision in case.decisions]
            except ServerError as error:
                name = f" ({case.name})" if case.name else ""
                raise ServerError(f"case {number}{name}, counted from 0: {error}") from None

        outcomes = self._client._run("decisions", len(cases), asking or Asking(), one)
        return [[Decided(tuple(values), mass, rounding) for values, mass, rounding in case] for case in outcomes]

    def _request(self, case: Case) -> dict[str, Any]:
        if not self.contract.as_list:
            return {
                "state": case.state,
                "questions": {
                    decision.name: {key: value for key, value in decision.to_dict().items() if value is not None}
                    for decision in case.decisions
                },
            }
        return {"input": case.state_text, "questions": [_listed(decision) for decision in case.decisions]}

    def _answers(self, body: Mapping[str, Any], case: Case) -> dict[str, Mapping[str, Any]]:
        """Return the answers by question, after checking that each question has exactly one."""
        answers = body.get("answers")
        names = [decision.name for decision in case.decisions]
        if self.contract.as_list and isinstance(answers, list):
            if len(answers) != len(names):
                raise ServerError(f"the server gave {len(answers)} answers to {len(names)} questions")
            for name, answer in zip(names, answers, strict=True):
                own = answer.get("name") if isinstance(answer, Mapping) else None
                if own is not None and own != name:
                    raise ServerError(f"the server answered {own!r} in place of {name!r}")
            answers = dict(zip(names, answers, strict=True))
        if not isinstance(answers, Mapping):
            raise ServerError(f"the server's response has no answers: {str(dict(body))[:300]}")
        if set(answers) != set(names):
            raise ServerError(f"the server answered {sorted(map(str, answers))}; the questions were {sorted(names)}")
        for name, answer in answers.items():
            if not isinstance(answer, Mapping):
                raise ServerError(f"the answer to {name!r} is a {type(answer).__name__}; expected an object")
        return dict(answers)

    def _answer(self, answer: Mapping[str, Any], decision: Decision) -> tuple[list[float], float | None, float]:
        what = f"the answer to {decision.name!r}"
        kind = answer.get("type", decision.type)
        if kind == "refusal":
            raise ServerError(f"{what} is a refusal: {str(answer.get('reason', dict(answer)))[:200]}")
        if ("noul" if kind == "predicate" else kind) != decision.type:
            raise ServerError(f"{what} has the type {kind!r}; expected {decision.type!r}")
        if decision.type == "noul":
            yes = _probability(answer.get("noul", answer.get("probability")), what)
            given = {"false": 1 - yes, "true": yes}
        else:
            given = {
                name: _probability(value, f"{what}, {name!r},")
                for name, value in _by_option(answer.get("probabilities"), what).items()
            }
        if set(given) != set(decision.options):
            missing = sorted(set(decision.options) - set(given))
            unknown = sorted(set(given) - set(decision.options))
            raise ServerError(
                f"{what} must list all options"
                + f"; missing: {', '.join(missing)}" * bool(missing)
                + f"; unknown: {', '.join(unknown)}" * bool(unknown)
            )
        values = [given[option] for option in decision.options]
        total, rounding = math.fsum(values), _rounding(values)
        if abs(total - 1) > max(_TOLERANCE, len(values) * rounding):
            raise ServerError(f"{what} has probabilities that sum to {total:.9g}; they must sum to 1")
        mass = answer.get("label_mass")
        return (
            [value / total for value in values],
            None if mass is None else _probability(mass, f"{what}, label_mass,"),
            0.0 if abs(total - 1) <= _TOLERANCE else rounding,
        )


def _listed(decision: Decision) -> dict[str, Any]:
    """Return a question in the form of OpenAI's Decisions API, which has no descriptions of yes and no."""
    instructions = shown(decision.instructions, "the instructions")
    base = {"name": decision.name, "instructions": instructions}
    if decision.type == "noul":
        outcomes = [text for text in decision.texts if ": " in text]
        return {"type": "predicate", **base, "instructions": "\n".join([instructions, *outcomes])}
    if decision.type == "score":
        levels = [
            {"label": option, "description": text}
            for option, text in zip(decision.options, decision.texts, strict=True)
        ]
        return {"type": "score", **base, "levels": levels}
    described = {
        name: text.removeprefix(f"{name}: ") for name, text in zip(decision.options, decision.texts, strict=True)
    }
    choices = [{"value": name, **({"description": text} if text != name else {})} for name, text in described.items()]
    return {"type": "choice", **base, "choices": choices}


def _by_option(probabilities: Any, what: str) -> dict[str, Any]:
    """Return probabilities by option from either form: an object, or a list of values with probabilities."""
    if isinstance(probabilities, Mapping):
        return {str(name): value for name, value in probabilities.items()}
    if isinstance(probabilities, list) and all(isinstance(own, Mapping) and "value" in own for own in probabilities):
        named = {str(own["value"]): own.get("probability") for own in probabilities}
        if len(named) == len(probabilities):
            return named
    raise ServerError(f"{what} has no probabilities for the options: {str(probabilities)[:200]}")


def _probability(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 + _TOLERANCE:
        raise ServerError(f"{what} is {value!r}; expected a probability between 0 and 1")
    return min(float(value), 1.0)


def _rounding(values: Sequence[float]) -> float:
    """Return the largest rounding error of the values, given their number of decimals; 0 if they have many."""
    decimals = max(len(f"{value:.12f}".rstrip("0").partition(".")[2]) for value in values)
    return 0.5 * 10.0 ** -max(decimals, _DECIMALS) if decimals <= 6 else 0.0
