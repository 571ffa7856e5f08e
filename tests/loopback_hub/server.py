"""HTTP: reading requests, failing on demand, finding the route, writing answers."""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Fault
from .store import Account, HubRefusal


@dataclass
class Request:
    """What a route gets to see."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None
    origin: str

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Answer:
    """The response of a route; a body other than bytes is sent as JSON."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class LoggedRequest:
    """A request that was answered, for tests on what was asked in which order."""

    method: str
    path: str
    status: int
    authenticated: bool
    body_size: int


Route = Callable[..., Answer]


@dataclass
class Context:
    """What the handler threads share."""

    routes: list[tuple[str, re.Pattern[str], Route]]
    accounts: list[Account]
    faults: list[Fault] = field(default_factory=list)
    log: list[LoggedRequest] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)


class ConnectionDropped(Exception):
    """The fault asks for the connection to end here."""


def make_handler(context: Context) -> type[BaseHTTPRequestHandler]:
    """Make the handler class that serves `context`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output quiet."""

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            with context.lock:
                fault = next((fault for fault in context.faults if fault.strikes(self.command, path)), None)
            if fault is not None and fault.delay:
                time.sleep(fault.delay)
            try:
                body = self._read_body(fault)
                self._write(self._answer(body, fault), fault, len(body))
            except (ConnectionDropped, ConnectionError):
                self.close_connection = True

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

        def _answer(self, body: bytes, fault: Fault | None) -> Answer:
            parts = urlsplit(self.path)
            if fault is not None and fault.status is not None:
                message = f"Injected failure {fault.status}"
                return Answer({"error": message}, fault.status, {"X-Error-Message": message, **fault.headers})
            scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
            account = next((a for a in context.accounts if scheme == "Bearer" and a.token == token), None)
            request = Request(
                method=self.command,
                path=parts.path,
                query=parse_qs(parts.query),
                headers=dict(self.headers.items()),
                body=body,
                account=account,
                origin=f"http://{self.headers['Host']}",
            )
            try:
                for methods, pattern, route in context.routes:
                    match = pattern.fullmatch(parts.path)
                    if match and self.command in methods.split():
                        groups = {
                            name: unquote(value) for name, value in match.groupdict().items() if value is not None
                        }
                        with context.lock:
                            return route(request, **groups)
                raise HubRefusal(404, f"No route for {self.command} {parts.path}")
            except HubRefusal as refusal:
                headers = {"X-Error-Message": refusal.message}
                if refusal.code:
                    headers["X-Error-Code"] = refusal.code
                return Answer({"error": refusal.message, **(refusal.body or {})}, refusal.status, headers)

        def _read_body(self, fault: Fault | None) -> bytes:
            if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)
            length = int(self.headers.get("Content-Length") or 0)
            if fault is not None and fault.cut_upload is not None:
                self.rfile.read(int(length * fault.cut_upload))
                raise ConnectionDropped
            return self.rfile.read(length)

        def _write(self, answer: Answer, fault: Fault | None, body_size: int) -> None:
            content = answer.content()
            context.log.append(
                LoggedRequest(self.command, self.path, answer.status, "Authorization" in self.headers, body_size)
            )
            cut = None if fault is None or fault.cut_answer is None else int(len(content) * fault.cut_answer)
            if cut == 0:
                raise ConnectionDropped
            self.send_response(answer.status)
            headers = {"Content-Type": answer.content_type, "Content-Length": str(len(content)), **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:cut])
            if cut is not None:
                raise ConnectionDropped

    return Handler
