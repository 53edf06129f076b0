"""Turns: who computes next, in the order of asking.

The threads of llama.cpp wait for each other by spinning. Two models that compute at once on the same cores hold each
other up for many times what either would take, so that they take turns: a step of the answers, a group of texts to
vectors.

Knows: the order. Refuses to know: what is computed.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slmchat.server.connection import Gone

# How often one that waits looks whether anybody still wants it, in seconds.
_LOOK_S = 0.2


class Turns:
    """From any thread. Who has had a turn and wants another stands behind those that wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tickets: deque[object] = deque()

    @property
    def n_waiting(self) -> int:
        """Those that wait; who has the turn is not among them."""
        with self._changed:
            return max(0, len(self._tickets) - 1)

    @contextmanager
    def turn(self, is_gone: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait for the turn, and have it for as long as this lasts. Raises `Gone` when nobody wants it any more."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        try:
            with self._changed:
                while not self._changed.wait_for(lambda: self._tickets[0] is ticket, _LOOK_S):
                    if is_gone():
                        raise Gone
            yield
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()
