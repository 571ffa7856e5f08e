"""Parsing of an OpenAI-compatible server's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..measures.validation import LOG_ROUNDING
from .backend import ServerError

_NO_ECHO = (
    "the server does not return the log-probabilities of a given text (echo with logprobs, which vLLM, SGLang and "
    "llama-cpp-python have); read its confidence off the letters, what it states or its samples"
)

# Representations of a space in tokens, including spaces themselves, which some servers leave out.
_SPACES = str.maketrans("", "", " \t\n▁ĠĊ")


def first_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first of a server's answers to a request.

    Raises
    ------
    ServerError
        If there is none.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise ServerError(f"the server's answer holds no choice: {str(dict(answer))[:300]}")
    return choices[0]


def first_token_logprobs(answer: Mapping[str, Any]) -> dict[str, float]:
    """Return the log-probabilities of the first token's alternatives, by their texts.

    Both forms are supported: `top_logprobs` as a mapping for each token, as in completions, and `content` with a list
    of alternatives for each token, as in chats and llama.cpp's completions. Tokens with the same text are added up.

    Raises
    ------
    ServerError
        If there are none.
    """
    logprobs = first_choice(answer).get("logprobs") or {}
    pairs: list[tuple[Any, float]] = []
    try:
        if logprobs.get("content"):
            first = logprobs["content"][0]
            given = [(own["token"], own["logprob"]) for own in first.get("top_logprobs") or ()]
        else:
            given = list(((logprobs.get("top_logprobs") or [None])[0] or {}).items())
        # Some servers write null for -inf, which JSON lacks.
        pairs = [(token, float(value)) for token, value in given if value is not None]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            f"the server's log-probabilities cannot be read ({error!r}): {str(logprobs)[:300]}"
        ) from None
    found: dict[str, float] = {}
    for token, number in pairs:
        if not number <= LOG_ROUNDING:
            raise ServerError(f"the server gives the token {token!r} the log-probability {number!r}")
        found[str(token)] = float(np.logaddexp(found.get(str(token), -np.inf), number))
    if not found:
        raise ServerError(
            "the server returned no log-probabilities; start it so that it does, or read its confidence off what it "
            "states or its samples"
        )
    return found


def letter_logprobs(top: Mapping[str, float], letters: str, prefix: str) -> list[float | None]:
    """Return each letter's log-probability, None for one that was not returned.

    The letters' tokens have `prefix` before them, unless it is a space and no token at all begins with one: then the
    server leaves leading spaces out.
    """
    spaces_left_out = prefix == " " and not any(token.startswith((" ", "▁")) for token in top)
    before = "" if spaces_left_out else prefix
    return [top.get(before + letter, top.get("▁" + letter) if before == " " else None) for letter in letters]


def echoed_tokens(answer: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the prompt's tokens, each with its log-probability after those before it; None for the first.

    Parameters
    ----------
    answer : mapping
        To a completion of at most one token, the most probable one, with `echo` and `logprobs`.

    Raises
    ------
    ServerError
        If the server did not echo the prompt, or its log-probabilities do not belong to its tokens: some servers'
        are those of the next tokens where the model has no token that begins every text.
    """
    logprobs = first_choice(answer).get("logprobs") or {}
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise ServerError(_NO_ECHO)
    n_written = (answer.get("usage") or {}).get("completion_tokens", 1)
    if len(tokens) - n_written < 1:
        raise ServerError(_NO_ECHO)
    top = (logprobs.get("top_logprobs") or [None])[-1]
    # What was written is the most probable token, so its own log-probability is the largest where they line up.
    if n_written and top and (values[-1] is None or values[-1] < max(top.values()) - 1e-4):
        raise ServerError(
            "the server's log-probabilities of the prompt do not belong to its tokens; serve the model with a token "
            "that begins every text (BOS), or read its confidence off the letters"
        )
    n = len(tokens) - n_written
    pairs = zip(tokens[:n], values[:n], strict=True)
    return [(str(token), None if value is None else float(value)) for token, value in pairs]


def text_logprob(tokens: Sequence[tuple[str, float | None]], text: str) -> float:
    """Return the log-probability of a text from that of its tokens, which are the last of an echoed prompt.

    Raises
    ------
    ServerError
        If a token has none, or the tokens are not those of the text.
    """
    if text.isascii():  # of other characters' bytes, a token may hold a part
        spelled = "".join(token for token, _ in tokens).translate(_SPACES)
        if not spelled.endswith(text.translate(_SPACES)):
            raise ServerError(f"the server's last tokens spell out {spelled!r}, not the option {text!r}")
    total = 0.0
    for token, value in tokens:
        if value is None or not value <= LOG_ROUNDING:
            raise ServerError(f"the server gives the prompt's token {token!r} the log-probability {value!r}")
        total += value
    return total
