"""Connections to one place for a process that may not make any: another process makes them and hands them over.

The kernel sees the kind of a socket and the port of a connection, never the host behind a name. So the process that
talks to an endpoint gives up sockets as a sealed one does, and takes connections from a process of its own (forked.py)
that was started before and connects to that one place and no other. What crosses the channel to it is the wish for one
more connection, and nothing else.

Knows: the channel, descriptors that cross it. Refuses to know: how a connection is made, what it is for.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from slmchat.privacy import forked
from slmchat.privacy.steps import NotOffered

_NUMBER = struct.Struct("=Q")
_MOST_OF_AN_ANSWER = 4096


class DialerProcess:
    """Asks for connections. For any thread; those that ask at the same time wait for one another."""

    def __init__(self, connect: Callable[[], tuple[bytes, socket.socket | None]], *, port: int, names: bool) -> None:
        """`connect` is called in the other process for each connection: words for the asker, and the connection.

        `port` is the only one of TCP that it needs; `names`: whether it looks names up.
        Raises `OSError` where no process can be started. Only where `forked.is_possible`.
        """
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._number = 0
        self._failed: tuple[float, bytes] | None = None
        with other:
            self._child = forked.start(lambda: _serve(other, connect, port, names), (other.fileno(),))

    @property
    def descriptor(self) -> int:
        """Of the channel: it has to survive the seal."""
        return self._channel.fileno()

    def ask(self, wait: Callable[[int], None]) -> tuple[bytes, socket.socket | None]:
        """What `connect` has given. `wait` waits until a descriptor can be read, and may raise; that ends the wish.

        A connection that could not be made while this one waited its turn is the answer to this wish too: many that
        ask a place that is down need not wait for it one after the other. Raises `OSError` when the process has gone.
        """
        since = time.monotonic()
        with self._lock:
            if self._failed is not None and self._failed[0] > since:
                return self._failed[1], None
            self._number += 1
            self._channel.send(_NUMBER.pack(self._number))
            words, connection = self._received(wait)
            if connection is None:
                self._failed = (time.monotonic(), words)
            return words, connection

    def _received(self, wait: Callable[[int], None]) -> tuple[bytes, socket.socket | None]:
        """The answer to the last wish; those to wishes that were given up are thrown away."""
        while True:
            wait(self._channel.fileno())
            data, descriptors, _flags, _address = socket.recv_fds(self._channel, _MOST_OF_AN_ANSWER, 1)
            if not data:
                raise ConnectionAbortedError("the process that makes the connections was ended")
            if _NUMBER.unpack_from(data)[0] == self._number:
                return data[_NUMBER.size :], socket.socket(fileno=descriptors[0]) if descriptors else None
            for descriptor in descriptors:
                os.close(descriptor)


def _serve(
    channel: socket.socket, connect: Callable[[], tuple[bytes, socket.socket | None]], port: int, names: bool
) -> None:
    """The other process: one connection for each wish, until the channel is closed."""
    _narrow(port, names)
    while wish := channel.recv(_NUMBER.size):
        words, connection = connect()
        data = (wish + words)[:_MOST_OF_AN_ANSWER]
        if connection is None:
            channel.send(data)
            continue
        with connection:
            socket.send_fds(channel, [data], [connection.fileno()])


def _narrow(port: int, names: bool) -> None:
    """No file, no other port, no other process: as far as this system can."""
    from slmchat.privacy import landlock, seccomp

    with suppress(NotOffered):
        seccomp.install_dialer(is_loopback=not names)
        landlock.restrict((), has_scopes=False, port=port)
