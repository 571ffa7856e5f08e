"""Answer typed decisions over HTTP: POST /v1/systemone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..confidence.decisions import DecisionBackend, answers_of
from ..tasks import QuestionError
from ..tasks.decisions import Case
from ..tasks.files import unique_keys

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_BODY = 2**20
MAX_QUESTIONS = 64


class RefusedRequest(Exception):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(
    backend: DecisionBackend, name: str, *, max_body: int = MAX_BODY, max_questions: int = MAX_QUESTIONS
) -> Starlette:
    """Return the server's application.

    Requests are answered one after the other, and no answer depends on another request. Errors are JSON,
    `{"error": {"message": ..., "type": ...}}`: 400 if the body is not a case of typed questions, 404 for an unknown
    path or model, 405 for another method, 413 if the body is too large, 415 if its content type is not JSON, and
    500 if the model fails.

    Parameters
    ----------
    backend : DecisionBackend
        For example, `hf_calib.confidence.LocalDecisions`.
    name : str
        Name of the model in answers. A request may omit `model`; another name is refused.
    max_body : int, default 1048576
        Maximum size of a request, in bytes.
    max_questions : int, default 64
        Maximum number of questions in a request.

    Raises
    ------
    ImportError
        If Starlette is not installed.
    ValueError
        If a limit is below 1.
    """
    for option, limit in (("max_body", max_body), ("max_questions", max_questions)):
        if limit < 1:
            raise ValueError(f"{option} must be at least 1, got {limit}")
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ImportError:
        raise ImportError('serving needs Starlette and uvicorn: pip install "hf-calib[serve]"') from None

    one_at_a_time = threading.Lock()

    def answer(body: bytes) -> dict[str, Any]:
        case = _read(body, name, max_questions)
        with one_at_a_time:
            (answers,) = backend.decide([case])
        return {"model": name, "answers": answers_of(case, answers)}

    async def systemone(request: Request) -> Response:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedRequest(415, f"the content type is {kind}; send application/json")
        body = await _body(request, max_body)
        return JSONResponse(await run_in_threadpool(answer, body))

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, RefusedRequest) else 400
        return _error(status, str(error))

    async def left(request: Request, error: Exception) -> Response:
        return _error(400, "the body ended early")

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(error.status_code, error.detail, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        return _error(500, f"the model failed: {type(error).__name__}")

    def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return JSONResponse({"error": {"message": message, "type": kind}}, status_code=status, headers=headers)

    app = Starlette(
        routes=[
            Route("/v1/systemone", systemone, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={
            RefusedRequest: refused,
            QuestionError: refused,
            ClientDisconnect: left,
            HTTPException: http_error,
            Exception: failed,
        },
    )
    app.router.redirect_slashes = False  # another path is an error, not an answer without a body
    return app


def serve(
    backend: DecisionBackend,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_body: int = MAX_BODY,
    max_questions: int = MAX_QUESTIONS,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    backend, name, max_body, max_questions
        As in `make_app`.
    host : str, default "127.0.0.1"
        Address to listen on; the default accepts only requests from this machine.
    port : int, default 8000
        Port to listen on; 0 for any free port.
    ready : callable, optional
        Called with the server's URL once it listens.

    Raises
    ------
    PermissionError
        If the server can't listen on the address.
    ValueError
        If the port or a limit is out of range.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port must be between 0 and 65535, got {port}")
    app = make_app(backend, name, max_body=max_body, max_questions=max_questions)
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(128)
        except OSError as error:
            raise PermissionError(
                f"--host {host} --port {port}: {error.strerror}; choose another host or port"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


async def _body(request: Request, limit: int) -> bytes:
    """Return the request's body; one that is too long is refused before all of it is read."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise RefusedRequest(413, f"the body has {declared} bytes; at most {limit} are accepted")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RefusedRequest(413, f"the body is too long; at most {limit} bytes are accepted")
        parts.append(part)
    return b"".join(parts)


def _read(body: bytes, name: str, max_questions: int) -> Case:
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest(400, f"the body is invalid JSON: {error}") from None
    if not isinstance(data, dict):
        raise RefusedRequest(400, f"the body is a {type(data).__name__}; send an object with state and questions")
    _check_fields(data, ("model", "state", "questions"), "the request")
    if data.get("model", name) not in (name, "default", None):
        raise RefusedRequest(404, f"there is no model {data['model']!r}; this server has {name!r}")
    questions = data["questions"] if isinstance(data.get("questions"), dict) else {}
    if len(questions) > max_questions:
        raise RefusedRequest(400, f"{len(questions)} questions; at most {max_questions} are answered at once")
    for question, own in questions.items():
        if isinstance(own, dict):
            _check_fields(own, ("type", "instructions", "criteria"), f"question {question!r}")
    return Case.from_dict(data)


def _check_fields(given: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RefusedRequest(
            400, f"{what} has the unknown field {', '.join(map(repr, unknown))}; it takes {', '.join(known)}"
        )


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON value")
