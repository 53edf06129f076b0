"""One connection to an endpoint: names, addresses, a proxy's tunnel, TLS; every wait bounded and cancellable.

Knows: sockets. Refuses to know: HTTP beyond a proxy's CONNECT, what the bytes mean, sentences for people.

A `Wire` is what http.client takes for a socket. Nothing blocks but the wait of `Cancel`, so that a wish to stop closes
a connection in any state, a name that is being looked up included.
"""

import errno
import io
import json
import os
import re
import socket
import ssl
import threading
import time
from typing import Any

from slmchat.endpoints import Endpoint
from slmchat.engine.remote.cancel import Cancel
from slmchat.engine.remote.route import Dialer, Route

# Seconds for finding the name, connecting and the TLS handshake together.
CONNECT_S = 10.0
# Bytes of a proxy's answer to CONNECT.
_MOST_OF_A_TUNNEL = 16 * 1024
_SEND_STEP = 256 * 1024

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class TimedOut(Exception):
    """What was waited for did not come in time.

    `phase`: "connect", "answer" (its head), "rest", or "drip" (an answer that goes on, too slowly). `is_silent`: not a
    byte came in this time.
    """

    def __init__(self, phase: str, seconds: float, *, is_silent: bool = True) -> None:
        super().__init__(f"{phase} {seconds:g}")
        self.phase = phase
        self.seconds = seconds
        self.is_silent = is_silent


class NoSuchHost(Exception):
    """The name of the host is not known; the message is the system's."""


class ProxyRefused(Exception):
    """The proxy does not open a tunnel; the message is its status line."""


class Wire:
    """A connected stream. `allow` says what it waits for, and how long in all."""

    def __init__(self, stream: socket.socket, cancel: Cancel, timeout_s: float) -> None:
        self._stream = stream
        self._cancel = cancel
        self._files = 0
        self._is_closing = False
        self.received = 0  # bytes so far
        self.waited_s = 0.0  # seconds so far that it waited for the other side
        self.allow("connect", timeout_s)

    def allow(self, phase: str, seconds: float) -> None:
        """Wait for this until so many seconds from now, and no longer: bytes that trickle in do not extend it."""
        self._phase, self._seconds = phase, seconds
        self._end = time.monotonic() + seconds
        self._received_before = self.received

    def sendall(self, data: bytes) -> None:
        """Send it all; what was sent extends the time. Raises `TimedOut`, `Cancelled`, `OSError`."""
        view = memoryview(data)
        while view:
            sent = self._tried(self._stream.send, view[:_SEND_STEP])
            view = view[sent:]
            self.allow(self._phase, self._seconds)

    def receive_into(self, buffer: Any) -> int:
        """What is there, 0 at the end of the stream. Raises `TimedOut`, `Cancelled`, `OSError`."""
        self._cancel.check()
        if time.monotonic() > self._end:
            raise self._timed_out()
        count = int(self._tried(self._stream.recv_into, buffer))
        self.received += count
        return count

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on, with a host that proves to be this one. Raises `ssl.SSLError` too."""
        stream = context.wrap_socket(self._stream, server_hostname=host, do_handshake_on_connect=False)
        self._stream = stream
        self._tried(stream.do_handshake)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What http.client reads an answer from."""
        self._files += 1
        return io.BufferedReader(_Reading(self), 64 * 1024)

    def close(self) -> None:
        """Close it, after what still reads from it (as a socket does)."""
        self._is_closing = True
        if self._files <= 0:
            self._stream.close()

    def file_closed(self) -> None:
        self._files -= 1
        if self._is_closing:
            self.close()

    def is_dropped(self) -> bool:
        """Whether an idle connection has been closed by the other side (or has sent what nobody asked for)."""
        try:
            return self._cancel.wait_for(self._stream.fileno(), timeout_s=0.0)
        except (OSError, ValueError):
            return True

    def _tried(self, operation: Any, *arguments: Any) -> Any:
        while True:
            try:
                return operation(*arguments)
            except ssl.SSLWantReadError:
                is_writing = False
            except (ssl.SSLWantWriteError, BlockingIOError) as wanted:
                is_writing = isinstance(wanted, ssl.SSLWantWriteError) or operation == self._stream.send
            start = time.monotonic()
            is_ready = self._cancel.wait_for(self._stream.fileno(), writing=is_writing, timeout_s=self._end - start)
            self.waited_s += time.monotonic() - start
            if not is_ready:
                raise self._timed_out()

    def _timed_out(self) -> TimedOut:
        return TimedOut(self._phase, self._seconds, is_silent=self.received == self._received_before)


class _Reading(io.RawIOBase):
    """The reading side of a wire as a raw stream."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._wire.file_closed()


def connect(endpoint: Endpoint, route: Route, cancel: Cancel) -> Wire:
    """A connection to the endpoint, encrypted where its address says so.

    Raises `NoSuchHost`, `TimedOut`, `ProxyRefused`, `Cancelled`, `ssl.SSLError`, `OSError`.
    """
    end = time.monotonic() + CONNECT_S
    stream = _reached(route, cancel) if route.dialer is None else _dialed(route.dialer, cancel)
    wire = Wire(stream, cancel, max(1.0, end - time.monotonic()))
    try:
        _prepare(wire, endpoint, route)
    except BaseException:
        wire.close()
        raise
    return wire


def _reached(route: Route, cancel: Cancel) -> socket.socket:
    """A connection to one of the host's addresses, the first that answers. Raises as `connect` does."""
    end = time.monotonic() + CONNECT_S
    addresses = resolve(route.host, route.port, cancel)
    route.addresses.update(address[0] for _family, address in addresses)
    last: Exception = NoSuchHost("no address")
    for number, (family, address) in enumerate(addresses, 1):
        share = max(0.1, (end - time.monotonic()) / (len(addresses) - number + 1))
        try:
            return _connected(family, address, cancel, share)
        except (OSError, TimedOut) as error:
            last = error
    raise last


def dial(route: Route) -> tuple[bytes, socket.socket | None]:
    """What the process of a `Dialer` does: a connection, or in words (JSON) why there is none."""
    cancel = Cancel()
    try:
        return b"", _reached(route, cancel)
    except NoSuchHost as error:
        return json.dumps({"host": str(error)}).encode(), None
    except TimedOut as error:
        return json.dumps({"seconds": error.seconds}).encode(), None
    except OSError as error:
        return json.dumps({"errno": error.errno or errno.EIO}).encode(), None
    finally:
        cancel.close()


def _dialed(dialer: Dialer, cancel: Cancel) -> socket.socket:
    """A connection that another process has made. Raises as `connect` does."""

    def wait(descriptor: int) -> None:
        # A little longer than the other process takes to give up.
        if not cancel.wait_for(descriptor, timeout_s=CONNECT_S + 1):
            raise TimedOut("connect", CONNECT_S)

    words, stream = dialer.ask(wait)
    if stream is not None:
        return stream
    why = json.loads(words)
    if "host" in why:
        raise NoSuchHost(why["host"])
    if "seconds" in why:
        raise TimedOut("connect", why["seconds"])
    raise OSError(why["errno"], os.strerror(why["errno"]))


def _prepare(wire: Wire, endpoint: Endpoint, route: Route) -> None:
    if route.is_proxy and endpoint.is_encrypted:
        _open_tunnel(wire, endpoint, route)
    if endpoint.is_encrypted:
        wire.secure(ssl.create_default_context(), endpoint.host)


def resolve(host: str, port: int, cancel: Cancel) -> list[Address]:
    """The addresses of a host. Those of this device, and plain numbers, are found without asking anybody."""
    if host == "localhost":
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port) if family == socket.AF_INET else (host, port, 0, 0))]
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.append(error)
        cancel.poke()

    # In a thread: getaddrinfo cannot be interrupted, and may take half a minute.
    threading.Thread(target=ask, daemon=True, name="name lookup").start()
    if not cancel.wait_until(lambda: bool(answer), CONNECT_S):
        raise TimedOut("connect", CONNECT_S)
    if isinstance(answer[0], Exception):
        raise NoSuchHost(getattr(answer[0], "strerror", None) or str(answer[0])) from answer[0]
    return [(family, address) for family, _type, _protocol, _name, address in answer[0]]


def _connected(
    family: socket.AddressFamily, address: tuple[Any, ...], cancel: Cancel, timeout_s: float
) -> socket.socket:
    stream = socket.socket(family, socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = stream.connect_ex(address)
        if result in (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)):
            if not cancel.wait_for(stream.fileno(), writing=True, timeout_s=timeout_s):
                raise TimedOut("connect", timeout_s)
            result = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            raise OSError(result, os.strerror(result))
    except BaseException:
        stream.close()
        raise
    return stream


def _open_tunnel(wire: Wire, endpoint: Endpoint, route: Route) -> None:
    """A proxy's CONNECT. Its answer is read byte by byte: what follows it belongs to the TLS handshake."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [f"CONNECT {host}:{endpoint.port} HTTP/1.1", f"Host: {host}:{endpoint.port}"]
    if route.authorization:
        lines.append(f"Proxy-Authorization: {route.authorization}")
    wire.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    head = bytearray()
    byte = bytearray(1)
    while not head.endswith(b"\r\n\r\n"):
        if len(head) > _MOST_OF_A_TUNNEL or not wire.receive_into(byte):
            raise ProxyRefused("it does not answer like a proxy")
        head += byte
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if not re.match(r"HTTP/1\.[01] 2\d\d\b", status):
        raise ProxyRefused(status)
