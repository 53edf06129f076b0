"""One connection of HTTP/1.1 on a socket: requests in bounds, answers whole or as a stream of events.

Knows: h11, deadlines, chunked bodies, Expect, keep-alive, what is too large or too slow.
Refuses to know: paths, keys, what is asked and answered (app.py, openai.py).
"""

import contextlib
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

import h11

from slmchat import __version__, safe_json
from slmchat.lazy_dataclasses import dataclass

# What a request may be, in bytes: its head, and its body (pictures are in it as text).
_MOST_HEAD = 32 * 1024
MOST_BODY = 32 * 1024 * 1024

# Seconds for a head, for a body, between two requests, and for a client that does not read what it asked for.
_HEAD_S = 15.0
_BODY_S = 60.0
IDLE_S = 75.0
_WRITE_S = 30.0

_BLOCK = 64 * 1024

_STILL_WORKING = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")


class Gone(Exception):
    """The client has closed the connection, or does not take what is sent."""


class RefusedRequest(Exception):
    """A request that is not answered as it asks: with this status, and the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, with names of headers in small letters. Of several headers of one name the last counts."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Connection:
    """One connection. For one thread."""

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
        self._is_lost = False  # the client does not read what it is sent
        self._is_head = False  # it is to be told the head of an answer alone
        self._headers: list[tuple[bytes, bytes]] = []

    def begins_with(self, data: bytes) -> bool:
        """Whether this is the first that the client says. Raises OSError."""
        self.socket.settimeout(IDLE_S)
        is_so = self.socket.recv(len(data), socket.MSG_PEEK) == data
        self.socket.settimeout(None)
        return is_so

    def receive(self) -> HttpRequest | None:
        """The next request; None when there is none any more. Raises `RefusedRequest`, `Gone`."""
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state in (h11.CLOSED, h11.MUST_CLOSE):
            return None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        self._headers = []
        try:
            head = self._event(time.monotonic() + (_HEAD_S if self._has_begun() else IDLE_S))
            if not isinstance(head, h11.Request):
                return None
            return self._with_body(head)
        except h11.RemoteProtocolError as error:
            raise RefusedRequest(error.error_status_hint, f"this is not HTTP as it should be: {error}.") from error

    def _has_begun(self) -> bool:
        return bool(self._http.trailing_data[0])

    def _with_body(self, head: h11.Request) -> HttpRequest:
        self._is_head = head.method == b"HEAD"
        told = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if told > MOST_BODY:  # before it is sent, where the client waits to be told so
            raise _too_long()
        if self._http.they_are_waiting_for_100_continue:
            self._send(self._http.send(_STILL_WORKING))
        body, deadline = bytearray(), time.monotonic() + _BODY_S
        while True:
            event = self._event(deadline)
            if isinstance(event, h11.EndOfMessage):
                break
            if not isinstance(event, h11.Data):
                raise Gone
            body += event.data
            if len(body) > MOST_BODY:
                raise _too_long()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
        target = head.target.decode("latin-1")
        return HttpRequest(head.method.decode("latin-1"), target, headers, bytes(body))

    def _event(self, deadline: float) -> Any:
        """The next event of the client. Raises `Gone` at the end of the connection or of the time."""
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            left = deadline - time.monotonic()
            if left <= 0:
                raise Gone
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(_BLOCK)
            except OSError as error:
                raise Gone from error
            self._http.receive_data(data)
            if data and self._http.their_state is h11.IDLE:  # a head has begun: it has to come soon
                deadline = min(deadline, time.monotonic() + _HEAD_S)

    def is_gone(self) -> bool:
        """Whether nobody reads any more. For the thread of this connection.

        A client that has closed its side may have gone, or only have said its last word: the answer to a word of ours
        tells. In a stream there are such words; before an answer HTTP/1.1 has one that says nothing (RFC 9110, 15.2).
        """
        try:
            if self._is_lost or not select.select([self.socket], [], [], 0)[0]:
                return self._is_lost
            if self.socket.recv(1, socket.MSG_PEEK):
                return False
            if not self.has_begun_answer:
                if self._http.their_http_version == b"1.0":
                    self._is_lost = True
                else:
                    self._send(self._http.send(_STILL_WORKING))
        except (Gone, OSError, ValueError):  # told once: afterwards the end looks like that of one who listens
            self._is_lost = True
        return self._is_lost

    def allow_origin(self, origin: str) -> None:
        """Pages of this origin may read the answer to this request."""
        self._headers += [(b"Access-Control-Allow-Origin", origin.encode("latin-1", "replace")), (b"Vary", b"Origin")]

    def answer(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer: JSON, or bytes as they are. Raises `Gone`."""
        data = body if isinstance(body, bytes) else safe_json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        kind = "text/plain; charset=utf-8" if isinstance(body, bytes) else "application/json"
        self._begin(status, {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})})
        if data and not self._is_head:
            self._send(self._http.send(h11.Data(data=data)))
        self._send(self._http.send(h11.EndOfMessage()))

    def begin_events(self) -> None:
        """An answer that is a stream of events from here on. Raises `Gone`."""
        self._begin(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})

    def event(self, data: object, name: str | None = None) -> None:
        """One event; text is sent as it is, all else as JSON. Raises `Gone`."""
        text = data if isinstance(data, str) else safe_json.dumps(data, ensure_ascii=False)
        head = f"event: {name}\n" if name else ""
        self.send(f"{head}data: {text}\n\n".encode("utf-8", "replace"))

    def send(self, data: bytes) -> None:
        """A piece of an answer that has begun. Raises `Gone`."""
        self._send(self._http.send(h11.Data(data=data)))

    def end(self) -> None:
        """The end of an answer that has begun. Raises `Gone`."""
        self._send(self._http.send(h11.EndOfMessage()))

    @property
    def has_begun_answer(self) -> bool:
        """Whether the head of an answer has been sent, so that no other status can be."""
        return self._http.our_state is not h11.IDLE and self._http.our_state is not h11.SEND_RESPONSE

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        told = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        told += [*self._headers, (b"Server", f"slm/{__version__}".encode())]
        if status >= 400 and self._http.their_state not in (h11.DONE, h11.IDLE, h11.MUST_CLOSE):
            told.append((b"Connection", b"close"))  # what is left of the request is not read
        self._send(self._http.send(h11.Response(status_code=status, headers=told)))

    def _send(self, data: bytes | None) -> None:
        try:
            self.socket.settimeout(_WRITE_S)
            self.socket.sendall(data or b"")
        except OSError as error:
            raise Gone from error

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def _too_long() -> RefusedRequest:
    return RefusedRequest(413, f"the request is longer than {MOST_BODY >> 20} MiB.")
