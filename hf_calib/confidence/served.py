"""A model behind an OpenAI-compatible server: vLLM, TGI, llama.cpp, SGLang and their like."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..tasks import PromptFormat, Question, QuestionError
from ..tasks.encoding import common_prefix
from .asking import Asking
from .backend import Generation, OptionScores, ServerError
from .parsing import up_to_stop
from .served_answers import echoed_tokens, first_choice, first_token_logprobs, letter_logprobs, text_logprob

# What may be over before it is asked again: too many requests, and a server that is busy, starting or restarting.
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)

# The most that OpenAI's own interface returns.
TOP_LOGPROBS = 20


class ServedModel:
    """A served model as a source of confidence.

    Plain prompts go to `/completions`, chat prompts to `/chat/completions`. Probabilities are those of the letters
    among the most probable tokens that the server returns; one that is not among them has at most the least
    probability returned, and at most what the returned ones leave. Those bounds are kept, nothing is put in their
    place. Options' texts are scored where the server echoes plain prompts with their log-probabilities.

    Parameters
    ----------
    base_url : str
        Ends in `/v1`, usually.
    model : str
        Its name at the server.
    top_logprobs : int, default 20
        How many tokens' log-probabilities to ask for.
    concurrency : int, default 8
        Requests under way at once.
    retries : int, default 6
        How many times to repeat a request after a temporary failure or if the response was cut off. The wait doubles
        each time, unless the server says how long to wait.
    backoff : float, default 0.5
        Seconds before the second repetition.
    timeout : float, default 300
        Seconds for an answer.

    Notes
    -----
    A key is taken from the environment, `OPENAI_API_KEY`, and written nowhere.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        top_logprobs: int = TOP_LOGPROBS,
        concurrency: int = 8,
        retries: int = 6,
        backoff: float = 0.5,
        timeout: float = 300.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"a server's address begins with http:// or https://, got {base_url!r}")
        if concurrency < 1 or top_logprobs < 1 or retries < 0:
            raise ValueError(
                "concurrency and top_logprobs must be at least 1 and retries at least 0, got "
                f"{concurrency}, {top_logprobs} and {retries}"
            )
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.top_logprobs = top_logprobs
        self.concurrency = concurrency
        self.retries, self.backoff, self.timeout = retries, backoff, timeout
        self.key_variable = "OPENAI_API_KEY"

    def score_letters(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Asking
    ) -> list[OptionScores | None]:
        """Return each question's letters' log-probabilities as far as the server returned them."""
        asking.note(questions, prompt_format)

        def one(session: Any, row: int) -> list[Any]:
            question = questions[row]
            answer = self._ask(session, prompt_format, question, max_tokens=1, temperature=0.0, logprobs=True)
            top = first_token_logprobs(answer)
            prefix = "" if prompt_format.chat else prompt_format.answer_prefix
            values = letter_logprobs(top, question.letters, prefix)
            bound = 0.0
            if None in values:
                least = math.exp(min(top.values()))
                left = max(0.0, 1 - math.fsum(math.exp(value) for value in top.values()))
                bound = min(least, left) if len(top) >= self.top_logprobs else left
            # JSON has no infinity.
            return [values, bound]

        outcomes = self._run(stage, len(questions), asking, one)
        return [
            OptionScores(
                tuple(-math.inf if value is None else min(value, 0.0) for value in values), (1,) * len(values), bound
            )
            for values, bound in outcomes
        ]

    def score_texts(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        list_options: bool = False,
    ) -> list[OptionScores | None]:
        """Return the log-probabilities of each question's options' texts, from echoed prompts.

        A request an option and one for the prompt alone, which tells where the options begin.

        Raises
        ------
        ValueError
            If it is a chat prompt, which a server renders by itself and does not echo.
        QuestionError
            If an option's text adds no token to the prompt.
        ServerError
            If the server does not echo prompts with their log-probabilities.
        """
        if prompt_format.chat:
            raise ValueError(
                "a server does not return the log-probabilities of given texts in a chat; ask in plain text, or read "
                "its confidence off the letters, what it states or its samples"
            )

        asking.note(questions, prompt_format, list_options=list_options)

        def echoed(session: Any, text: str) -> list[tuple[str, float | None]]:
            settings = {"max_tokens": 1, "temperature": 0.0, "logprobs": 1, "echo": True}
            return echoed_tokens(self._post(session, "completions", {"prompt": text, **settings}))

        def one(session: Any, row: int) -> list[Any]:
            question = questions[row]
            stem = prompt_format.render(question, options=list_options)
            start = [token for token, _ in echoed(session, stem)]
            choices = [choice.strip() for choice in question.choices]
            wholes = [echoed(session, stem + prompt_format.answer_prefix + choice) for choice in choices]
            # A tokenizer may merge the prompt's end with an option's beginning; what all agree on is the prompt.
            n = min(common_prefix(start, [token for token, _ in whole]) for whole in wholes)
            scores = []
            for letter, choice, whole in zip(question.letters, choices, wholes, strict=True):
                if len(whole) == n:
                    raise QuestionError(f"row {row}, counted from 0: choice {letter} adds no token to the prompt")
                scores.append([text_logprob(whole[n:], choice), len(whole) - n])
            return scores

        outcomes = self._run(stage, len(questions), asking, one)
        return [
            OptionScores(tuple(min(value, 0.0) for value, _ in scores), tuple(n for _, n in scores))
            for scores in outcomes
        ]

    def generate(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        n_samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        list_options: bool = True,
        seed: int = 0,
    ) -> list[list[Generation] | None]:
        """Sample answers, each with a seed of its own that depends on `seed`, the row and the sample alone."""
        asking.note(questions, prompt_format, list_options=list_options)
        # A server would also stop within a train of thought, with which a chat may begin.
        sent = None if prompt_format.chat else list(stop) or None

        def one(session: Any, row: int) -> list[tuple[str, bool]]:
            seeds = np.random.SeedSequence([seed, row]).generate_state(n_samples)
            samples = []
            for own in seeds:
                answer = self._ask(
                    session,
                    prompt_format,
                    questions[row],
                    list_options=list_options,
                    max_tokens=max_new_tokens,
                    temperature=temperature,
                    seed=int(own) % 2**31,
                    stop=sent,
                )
                choice = first_choice(answer)
                text = choice.get("text")
                if text is None:
                    text = (choice.get("message") or {}).get("content")
                text, stopped = up_to_stop(str(text or ""), stop)
                samples.append((text, stopped or choice.get("finish_reason") != "length"))
            return samples

        outcomes = self._run(stage, len(questions), asking, one)
        return [[Generation(text, ended) for text, ended in samples] for samples in outcomes]

    def _run(self, stage: str, n: int, asking: Asking, one: Callable[[Any, int], Any]) -> list[Any]:
        """Send the requests of a batch side by side; what has been answered is kept batch by batch."""
        size = 4 * self.concurrency
        batches = [range(start, min(start + size, n)) for start in range(0, n, size)]
        with self._session() as session, ThreadPoolExecutor(self.concurrency) as pool:
            return asking.run(stage, batches, lambda rows: list(pool.map(lambda row: one(session, row), rows)))

    def _session(self) -> Any:
        import requests
        from requests.adapters import HTTPAdapter

        session = requests.Session()
        adapter = HTTPAdapter(pool_maxsize=self.concurrency)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        key = os.environ.get(self.key_variable)
        if key:
            session.headers["Authorization"] = f"Bearer {key}"
        return session

    def _whole_response(self, session: Any, url: str, body: Mapping[str, Any]) -> Any:
        """Return the response to a request, repeated after temporary failures and if the response is cut off."""
        import requests
        from urllib3.exceptions import MaxRetryError
        from urllib3.util import Retry

        passing = (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        )
        # An adapter's own retries end when the headers arrive, so they miss a body that is cut off.
        retry = Retry(total=self.retries, backoff_factor=self.backoff, status_forcelist=_PASSING, allowed_methods=None)
        while True:
            response, failure = None, None
            try:
                response = session.post(url, json=body, timeout=self.timeout)
                again = retry.is_retry("POST", response.status_code, "Retry-After" in response.headers)
                if not again and not _is_cut_off(response):
                    return response
            except passing as error:
                failure = error
            raw = getattr(response, "raw", None)
            try:
                retry = retry.increment("POST", url, response=raw, error=failure)
            except MaxRetryError:
                if failure is not None:
                    raise failure from None
                return response
            retry.sleep(raw)

    def _ask(
        self,
        session: Any,
        prompt_format: PromptFormat,
        question: Question,
        *,
        list_options: bool = True,
        logprobs: bool = False,
        **settings: Any,
    ) -> Mapping[str, Any]:
        body = {name: value for name, value in settings.items() if value is not None}
        if prompt_format.chat:
            body["messages"] = prompt_format.messages(question, options=list_options)
            if logprobs:
                body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
            return self._post(session, "chat/completions", body)
        body["prompt"] = prompt_format.render(question, options=list_options)
        if logprobs:
            body["logprobs"] = self.top_logprobs
        return self._post(session, "completions", body)

    def _post(self, session: Any, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        import requests

        url = f"{self.base_url}/{path}"
        try:
            response = self._whole_response(session, url, {"model": self.model, **body})
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
            raise ServerError(f"{url} cut off its response: {error}") from None
        except requests.RequestException as error:
            raise ServerError(f"{url} can't be reached: {error}") from None
        if response.status_code != 200:
            raise ServerError(f"{url} answers {response.status_code}: {response.text[:300].strip()}")
        try:
            answer = response.json()
        except ValueError:
            how = "cut off its response" if _is_cut_off(response) else "does not answer in JSON"
            raise ServerError(f"{url} {how}: {response.text[:300].strip()}") from None
        if not isinstance(answer, Mapping):
            raise ServerError(f"{url} answers with a {type(answer).__name__}, expected an object")
        return answer


def _is_cut_off(response: Any) -> bool:
    """Return whether a successful response begins a JSON object but is not valid JSON."""
    if response.status_code != 200 or not response.text.lstrip().startswith("{"):
        return False
    try:
        response.json()
    except ValueError:
        return True
    return False
