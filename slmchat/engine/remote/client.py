"""HTTP to one endpoint: requests, answers in bounds, redirects that stay on the host, patience with a busy server.

Knows: http.client, keep-alive, status codes, when to try again and for how long.
Refuses to know: what is asked and answered (dialect.py, engine.py), the sentences for what goes wrong (errors.py).

The key goes to the endpoint's own origin (scheme, host and port) and nowhere else: a redirect that leaves it is an
error, never followed. Nothing of a request is logged.
"""

import email.utils
import http.client
import json
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urljoin, urlsplit

from slmchat import __version__
from slmchat.endpoints import Endpoint
from slmchat.engine.remote import errors
from slmchat.engine.remote.cancel import Cancel
from slmchat.engine.remote.error_words import ErrorWords
from slmchat.engine.remote.events import EventStream
from slmchat.engine.remote.route import Route
from slmchat.engine.remote.wire import TimedOut, Wire, connect
from slmchat.errors import SlmError

# What is read of an answer that is no stream, and of one that says what went wrong, in bytes.
MOST_OF_AN_ANSWER = 16 << 20
MOST_OF_AN_ERROR = 64 << 10

# Too many requests; a server or gateway that is ill, loading or overloaded (529 is Anthropic's and Cloudflare's).
PASSING = frozenset({429, 500, 502, 503, 504, 529})
MOST_TRIES = 5
# Seconds before the second try, doubled before every other one; the most that a server may ask slm to wait.
_FIRST_PAUSE_S = 0.5
MOST_PAUSE_S = 60.0
_MOST_REDIRECTS = 3
_BLOCK = 64 * 1024


class Client:
    """One connection to an endpoint, opened when it is needed and kept. For one thread at a time, except `cancel`."""

    def __init__(
        self, endpoint: Endpoint, key: str | None, route: Route, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        """`tell` is told, in a sentence, whenever a request has to be tried again."""
        self.endpoint = endpoint
        self.cancel = Cancel()
        self._key = key
        self._route = route
        self.tell = tell
        self._connection: _Connection | None = None
        self._is_at_end = False

    def get(self, path: str) -> Any:
        """The JSON at this path. Raises `SlmError`, `Cancelled`."""
        return self._document(f"{self.endpoint.path}{path}")

    def get_beside(self, path: str) -> Any:
        """The JSON at a path of the server that is no part of the API. Raises as `get` does."""
        return self._document(f"{self.endpoint.path.removesuffix('/v1')}{path}")

    def _document(self, target: str) -> Any:
        body = self._whole(self._answered("GET", target, None), MOST_OF_AN_ANSWER)
        return errors.as_json(body, self.endpoint)

    def events(self, path: str, body: dict[str, Any]) -> Generator[str]:
        """The data of the events that answer this request.

        An endpoint that answers with one JSON document and no stream: that document is the only event.
        Raises `SlmError`, `Cancelled`. Closed before its end, it closes the connection.
        """
        response = self._answered("POST", f"{self.endpoint.path}{path}", json.dumps(body).encode())
        kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        with self._translated(on_failure=self.close, is_begun=True):
            beginning = self._beginning(response)
        if _is_document(kind, beginning):
            yield self._whole(response, MOST_OF_AN_ANSWER, beginning).decode("utf-8-sig", "replace")
        elif kind == "text/event-stream" or beginning.startswith((b"data:", b"event:")):
            yield from self._stream(response, beginning)
        else:
            page = self._whole(response, MOST_OF_AN_ERROR, beginning, is_cut=True)
            raise errors.wrong_type(self.endpoint, kind, page)

    def _beginning(self, response: http.client.HTTPResponse) -> bytes:
        """The first bytes of an answer, from the first that is not white space on: some servers mistake its type."""
        while block := response.read1(_BLOCK):
            if beginning := block.lstrip():
                return beginning
        return b""

    def _stream(self, response: http.client.HTTPResponse, beginning: bytes) -> Iterator[str]:
        stream = EventStream()
        is_whole = self._is_at_end = False
        try:
            with self._translated(is_begun=True):
                yield from stream.feed(beginning)
                while block := self._block(response):
                    yield from stream.feed(block)
                if stream.is_in_an_event:
                    raise errors.truncated(self.endpoint)
            is_whole = True
            response.close()  # http.client takes no other request before
        finally:
            if not is_whole:  # what is left of the stream must not be taken for the next answer
                self.close()

    def _block(self, response: http.client.HTTPResponse) -> bytes:
        """The next bytes of a stream; none at its end."""
        try:
            return response.read1(_BLOCK)
        except (TimedOut, OSError, http.client.HTTPException):
            if not self._is_at_end:
                raise
            self.close()
            return b""

    def expect_end(self, seconds: float) -> None:
        """All has been said: read on for this long, so that the connection can be kept, and then close it."""
        self._is_at_end = True
        self.allow("rest", seconds)

    @property
    def waited_s(self) -> float:
        """Seconds that the connection has waited for the endpoint since it is open."""
        return self._connection.wire.waited_s if self._connection is not None else 0.0

    def allow(self, phase: str, seconds: float) -> None:
        """Wait for the rest of the answer so long, and no longer. `phase`: as `TimedOut` names it."""
        if self._connection is not None:
            self._connection.wire.allow(phase, seconds)

    def _answered(self, method: str, target: str, body: bytes | None) -> http.client.HTTPResponse:
        """An answer with a good status, after as many tries as it is worth."""
        for number in range(1, MOST_TRIES + 1):
            response = self._sent(method, target, body)
            if response.status < 300:
                encoding = response.getheader("Content-Encoding", "identity").lower()
                if encoding != "identity":
                    self.close()
                    raise errors.garbled(self.endpoint, f"it is compressed ({encoding[:20]}), which nobody asked for")
                return response
            text = self._whole(response, MOST_OF_AN_ERROR, is_cut=True)
            said = ErrorWords(text)  # llama-server answers 500 to pictures that its model does not see
            is_final = said.is_about_context or said.is_about_pictures
            if response.status not in PASSING or is_final or number == MOST_TRIES:
                raise self.refusal(response.status, text)
            self._pause(number, response, text)
        raise AssertionError("the last try returns or raises")

    def refusal(self, status: int, body: bytes | str) -> SlmError:
        """The sentence for an answer with this bad status; some say it inside of a good one."""
        return errors.of_status(self.endpoint, status, body, self._key is not None, self._route.proxy)

    def _pause(self, number: int, response: http.client.HTTPResponse, text: bytes) -> None:
        """Wait before the next try: as long as the server asks for, else longer each time."""
        asked = _asked_pause(response.getheader("Retry-After"))
        if asked is not None and asked > MOST_PAUSE_S:
            raise errors.asks_too_long(self.endpoint, response.status, asked, text)
        pause = asked if asked is not None else _FIRST_PAUSE_S * 2 ** (number - 1) * random.uniform(0.8, 1.2)
        self.tell(
            f"{self.endpoint.address} answers {response.status} ({errors.meaning(response.status)}); "
            f"try {number + 1} of {MOST_TRIES} in {pause:.1f} s"
        )
        self.cancel.sleep(pause)

    def _sent(self, method: str, target: str, body: bytes | None) -> http.client.HTTPResponse:
        """The answer to one request, redirects on the same origin followed."""
        for _ in range(_MOST_REDIRECTS + 1):
            with self._translated():
                response = self._exchange(method, target, body)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            place = response.getheader("Location") or ""
            self._whole(response, MOST_OF_AN_ERROR, is_cut=True)
            target = self._followed(target, place)
            if method == "POST" and response.status not in (307, 308):
                raise errors.redirected(self.endpoint, place)  # it would become a GET without the question
        raise errors.garbled(self.endpoint, "it redirects in a circle")

    def _followed(self, target: str, place: str) -> str:
        try:
            there = urlsplit(urljoin(f"{self.endpoint.scheme}://{self.endpoint.address}{target}", place))
            origin = (there.scheme, there.hostname, there.port or {"http": 80, "https": 443}.get(there.scheme))
        except ValueError as error:
            raise errors.redirected(self.endpoint, place) from error
        if origin != (self.endpoint.scheme, self.endpoint.host, self.endpoint.port) or not there.path.isascii():
            raise errors.redirected(self.endpoint, place)
        return there.path + (f"?{there.query}" if there.query else "")

    def _exchange(self, method: str, target: str, body: bytes | None) -> http.client.HTTPResponse:
        """Send a request and read the head of its answer; once more on a kept connection that turns out closed."""
        is_kept = self._connection is not None
        if self._connection is not None and self._connection.wire.is_dropped():
            self.close()
            is_kept = False
        while True:
            connection = self._connection or self._open()
            try:
                connection.wire.allow("answer", self.endpoint.timeout_s)
                received = connection.wire.received
                connection.request(method, self._written(target), body, self._headers(body))
                response = connection.getresponse()
                connection.wire.allow("rest", self.endpoint.timeout_s)
                return response
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                is_untouched = connection.wire.received == received
                self.close()
                if not (is_kept and is_untouched):
                    raise
                is_kept = False
            except BaseException:
                self.close()
                raise

    def _open(self) -> "_Connection":
        self._connection = _Connection(self.endpoint, connect(self.endpoint, self._route, self.cancel))
        return self._connection

    def _written(self, target: str) -> str:
        """The target as the request line has it: a plain proxy wants the whole address."""
        is_for_proxy = self._route.is_proxy and not self.endpoint.is_encrypted
        return f"http://{self.endpoint.address}{target}" if is_for_proxy else target

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {
            "Host": self.endpoint.address,
            "User-Agent": f"slm/{__version__}",
            "Accept": "application/json" if body is None else "text/event-stream, application/json",
            "Accept-Encoding": "identity",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        if self._route.authorization and not self.endpoint.is_encrypted:
            headers["Proxy-Authorization"] = self._route.authorization
        return headers

    def _whole(
        self, response: http.client.HTTPResponse, most: int, beginning: bytes = b"", *, is_cut: bool = False
    ) -> bytes:
        """A body to its end, after the `beginning` that was read. A longer one is refused, or with `is_cut` cut."""
        pieces = bytearray(beginning)
        with self._translated(on_failure=self.close, is_begun=True):
            while len(pieces) <= most and (block := response.read1(_BLOCK)):
                pieces += block
            if response.length and len(pieces) <= most:  # read1 does not notice a body that ends early
                raise http.client.IncompleteRead(bytes(pieces), response.length)
        if len(pieces) > most:
            self.close()
            if not is_cut:
                raise errors.garbled(self.endpoint, f"it is longer than {most >> 20} MiB")
        response.close()  # http.client takes no other request before
        return bytes(pieces[:most])

    def _translated(
        self, on_failure: Callable[[], None] = lambda: None, *, is_begun: bool = False
    ) -> AbstractContextManager[None]:
        return errors.translated(self.endpoint, self._route.proxy, on_failure, is_begun=is_begun)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()


class _Connection(http.client.HTTPConnection):
    """http.client on a wire. `auto_open` is off: the client decides when there is another connection."""

    auto_open = 0

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        super().__init__(endpoint.host, endpoint.port)
        self.wire = wire
        self.sock: Any = wire
        self._answer: http.client.HTTPResponse | None = None

    def getresponse(self) -> http.client.HTTPResponse:
        self._answer = super().getresponse()
        return self._answer

    def drop(self) -> None:
        """Close everything now, an answer that is being read included."""
        if self._answer is not None:
            self._answer.close()
        self.close()
        self.wire.close()


def _is_document(kind: str, beginning: bytes) -> bool:
    """Whether an answer of this type that begins so is one JSON document and no stream of events."""
    is_json = beginning.removeprefix(b"\xef\xbb\xbf").startswith((b"{", b"["))
    if kind == "application/json":
        return is_json or not beginning.startswith((b"data:", b"event:", b":"))
    return is_json


def _asked_pause(value: str | None) -> float | None:
    """Seconds that a Retry-After asks for: a number, or a date of the server's clock. None: it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
