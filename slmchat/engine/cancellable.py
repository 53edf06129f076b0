"""What can be ended before its end: a generation, a pool at work, a measurement.

Who may end it (Ctrl-C, another thread, a client that has gone) is the business of the door, which gives a use case a
`CancelScope`: while the context lasts, the door may call `cancel`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Cancellable(Protocol):
    """A session, a pool, or what stands for one."""

    def cancel(self) -> None:
        """End soon; from any thread or a signal handler."""
        ...


CancelScope = Callable[[Cancellable], AbstractContextManager[None]]


class CancelFlag:
    """A `Cancellable` that only remembers. Call it to know."""

    def __init__(self) -> None:
        self._is_set = False

    def cancel(self) -> None:
        self._is_set = True

    def __call__(self) -> bool:
        return self._is_set
