"""Waiting for the network in a way that can be ended at once, from any thread or signal handler.

Knows: a pair of sockets that wakes up whoever waits. Refuses to know: what is waited for, and why it ends.

A blocking read cannot be cancelled: closing its socket from another thread leaves it hanging on some systems, and
Python goes back into it after a signal. So nothing here blocks but this one wait, for the socket or the wish to stop.
"""

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

_HAS_POLL = hasattr(select, "poll")  # Windows has none; select() cannot take descriptors above 1023


class Cancelled(Exception):
    """Somebody wished to stop."""


class Cancel:
    """The wish to stop. `set` counts until `reset`."""

    def __init__(self) -> None:
        self.is_set = False
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)

    def set(self) -> None:
        """Stop; from any thread or a signal handler."""
        self.is_set = True
        self.poke()

    def poke(self) -> None:
        """Let a wait look again at what it waits for."""
        with suppress(OSError):  # full: it is awake already; closed: nobody waits
            self._writer.send(b"x")

    def reset(self) -> None:
        """Start anew."""
        self.is_set = False
        self._drain()

    def check(self) -> None:
        """Raise `Cancelled` if it is wished."""
        if self.is_set:
            raise Cancelled

    def wait_for(self, descriptor: int, *, writing: bool = False, timeout_s: float) -> bool:
        """Wait until the descriptor can be read (or written); False after `timeout_s`. Raises `Cancelled`."""
        end = time.monotonic() + timeout_s
        while True:
            self.check()
            is_ready, is_poked = _ready(descriptor, self._reader.fileno(), writing, end - time.monotonic())
            if is_poked:
                self._drain()
                continue
            if is_ready or time.monotonic() >= end:
                return is_ready

    def wait_until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until this is true; it is looked at after every `poke`. False after `timeout_s`. Raises `Cancelled`."""
        end = time.monotonic() + timeout_s
        while not is_done():
            self.check()
            left = end - time.monotonic()
            if left <= 0:
                return False
            _ready(self._reader.fileno(), None, False, left)
            self._drain()
        self.check()
        return True

    def sleep(self, seconds: float) -> None:
        """A pause that the wish to stop ends. Raises `Cancelled`."""
        self.wait_until(lambda: False, seconds)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _drain(self) -> None:
        with suppress(OSError):
            while self._reader.recv(64):
                pass


def _ready(descriptor: int, other: int | None, writing: bool, timeout_s: float) -> tuple[bool, bool]:
    """Whether the descriptor, and the other one, are ready after at most this time."""
    timeout_s = max(0.0, timeout_s)
    if not _HAS_POLL:
        readers = ([] if writing else [descriptor]) + ([] if other is None else [other])
        writers = [descriptor] if writing else []
        reading, writable, _ = select.select(readers, writers, writers, timeout_s)
        return descriptor in reading or descriptor in writable, other in reading
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    if other is not None:
        poll.register(other, select.POLLIN)
    found = dict(poll.poll(timeout_s * 1000))
    return descriptor in found, other in found
