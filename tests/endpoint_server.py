"""An OpenAI-compatible endpoint on the loopback interface that says what it was told to say, faults included.

    with EndpointServer() as server:
        server.script.append(stream("Hel", "lo"))
        ... server.url, server.requests

Every POST takes the next answer of the script, or `server.usual`. An answer is a function of the connection.
"""

import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from loopback import LoopbackServer, QuietHandler

Answer = Callable[["Handler"], None]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    port: int  # of the client: the same for requests on one connection


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: str | None = None, *, reason: str | None = None, **fields: object) -> dict[str, object]:
    said = {**({} if text is None else {"content": text}), **fields}
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": said, "finish_reason": reason}]}


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
DONE = b"data: [DONE]\n\n"


def events(*values: object, usage: object = None, reason: str | None = "stop", is_done: bool = True) -> list[bytes]:
    """The blocks of a stream: texts become deltas, dictionaries are sent as they are, bytes too."""
    blocks = [
        item if isinstance(item, bytes) else event(delta(item) if isinstance(item, str) else item) for item in values
    ]
    if reason:
        blocks.append(event(delta(reason=reason)))
    if usage:
        blocks.append(event({"choices": [], "usage": usage}))
    return [*blocks, *([DONE] if is_done else [])]


def stream(*values: object, **facts: Any) -> Answer:
    """A whole stream of events."""

    def answer(handler: "Handler") -> None:
        handler.begin()
        for block in events(*values, **facts):
            handler.block(block)
        handler.end()

    return answer


def cut(*values: object) -> Answer:
    """A stream whose connection is gone in the middle."""

    def answer(handler: "Handler") -> None:
        handler.begin()
        for block in events(*values, reason=None, is_done=False):
            handler.block(block)
        handler.drop()

    return answer


def status(code: int, body: object = None, **headers: str) -> Answer:
    """An answer that is not a completion."""
    data = body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": "no"}}).encode()

    def answer(handler: "Handler") -> None:
        handler.whole(code, data, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def raw(data: bytes) -> Answer:
    """These bytes and nothing else, then the connection closes."""

    def answer(handler: "Handler") -> None:
        handler.wfile.write(data)
        handler.wfile.flush()
        handler.drop()

    return answer


def hold(server: "EndpointServer", *values: object, begins: bool = True) -> Answer:
    """These events, then silence until the client has gone."""

    def answer(handler: "Handler") -> None:
        if begins:
            handler.begin()
            for block in events(*values, reason=None, is_done=False):
                handler.block(block)
        server.holding.set()
        handler.connection.settimeout(100)
        try:
            gone = handler.connection.recv(1) == b""
        except TimeoutError:
            gone = False
        except OSError:
            gone = True
        if gone:
            server.left.set()
        handler.close_connection = True

    return answer


class Handler(QuietHandler):
    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone
            self.close_connection = True

    def do_GET(self) -> None:
        owner: EndpointServer = self.server.owner
        self._record(b"")
        if owner.models_answer is not None:
            owner.models_answer(self)
        elif self.path.endswith("/models"):
            self.whole(200, json.dumps({"object": "list", "data": owner.models}).encode())
        else:
            self.whole(404, b'{"error": {"message": "nothing here"}}')

    def do_POST(self) -> None:
        owner: EndpointServer = self.server.owner
        self._record(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            answer = owner.script.popleft() if owner.script else owner.usual
        answer(self)

    def _record(self, body: bytes) -> None:
        self.body: dict[str, Any] = json.loads(body) if body else {}
        self.server.owner.requests.append(
            Request(
                self.command,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
                self.body,
                self.client_address[1],
            )
        )

    def begin(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def block(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def whole(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        given = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class EndpointServer:
    """The server; a context manager. `models` is what it lists."""

    def __init__(self, *, certificate: Path | None = None, ids: Sequence[str] = ("small",), owner: str = "") -> None:
        self.models: list[dict[str, object]] = [{"id": id, "object": "model", "owned_by": owner} for id in ids]
        self.models_answer: Answer | None = None
        self.script: deque[Answer] = deque()
        self.usual: Answer = stream("Hello", ".", usage=USAGE)
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.holding = threading.Event()
        self.left = threading.Event()
        self.closed = threading.Event()
        self._server = LoopbackServer(Handler)
        self._server.owner = self  # type: ignore[attr-defined]
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"{self._scheme}://{'localhost' if self._scheme == 'https' else '127.0.0.1'}:{self.port}"

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.stop()
