"""What can be ended before its end: a generation, a pool at work, a measurement.

Who may end it (Ctrl-C, another thread, a client that has gone) is the business of the door, which gives a use case a
`CancelScope`: while the context lasts, the door may call `cancel`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Cancellable(Protocol):
    """A session, a pool, or what stands for one."""

    def cancel(self) -> None:
        """End soon; from any thread or a signal handler."""
        ...


CancelScope = Callable[[Cancellable], AbstractContextManager[None]]


class CancelFlag:
    """A `Cancellable` that remembers, and passes it on to what is at work. Call it to know."""

    def __init__(self, *at_work: Cancellable) -> None:
        self._is_set = False
        self._at_work = at_work

    def cancel(self) -> None:
        """Takes no lock: a signal handler or a garbage collection may call it anywhere."""
        self._is_set = True
        for work in self._at_work:
            work.cancel()

    def __call__(self) -> bool:
        return self._is_set

    @contextmanager
    def reaches(self, work: Cancellable) -> Iterator[None]:
        """While this lasts, a cancel ends this work, which has begun. A `CancelScope`."""
        self._at_work = (work,)
        try:
            if self._is_set:  # in the moment before it began
                work.cancel()
            yield
        finally:
            self._at_work = ()
