"""Requests, or texts, taken from an iterator on a thread of its own, a few ahead.

Knows: threads and waiting. Refuses to know: what a request is, and who works on it.

An iterator may wait for a pipe or render a template; meanwhile the completions that have begun go on. The thread stays
behind when the iterator never comes back: it is a daemon, and nothing waits for it.
"""

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from slmchat.engine.results import Result

Given = TypeVar("Given")
Prepared = TypeVar("Prepared")


class _End:
    """The iterator has ended, with this error or without one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Feed(Generic[Prepared]):
    """What `prepare` makes of each request, at most `ahead` of them before `make_room`. A `Result` passes as it is."""

    def __init__(
        self, requests: Iterator[Given | Result], prepare: Callable[[Given], Prepared | Result], ahead: int
    ) -> None:
        self.is_ended = False
        # its put() may be called from a signal handler that interrupts its get(); that of queue.Queue may not
        self._ready: SimpleQueue[Prepared | Result | _End | None] = SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._preparing = threading.Lock()
        self._is_stopped = False
        threading.Thread(target=self._fetch, args=(requests, prepare), daemon=True, name="jobs").start()

    def take(self, wait_s: float | None) -> Prepared | Result | None:
        """The next one; None when there is none after `wait_s` seconds (None: as long as it takes), or no more.

        `is_ended` tells the two apart; `wake` ends the wait. Raises what the iterator raised.
        """
        try:
            item = self._ready.get(timeout=wait_s) if wait_s != 0 else self._ready.get(block=False)
        except Empty:
            return None
        if isinstance(item, _End):
            self.is_ended = True
            if item.error is not None:
                raise item.error
            return None
        return item

    def make_room(self) -> None:
        """One more may be fetched: call it once for each that was taken, now or when it is done."""
        self._room.release()

    def add(self, done: Result) -> None:
        """Let `take` return this too; from any thread."""
        self._ready.put(done)

    def fail(self, error: BaseException) -> None:
        """Let `take` raise this; from any thread."""
        self._ready.put(_End(error))

    def wake(self) -> None:
        """Let a `take` that waits come back; from any thread or signal handler."""
        self._ready.put(None)

    def stop(self) -> None:
        """Take no more from the iterator. Nothing is being prepared then: the model may be freed, with its words."""
        self._is_stopped = True
        self._room.release()
        with self._preparing:
            pass

    def _fetch(self, requests: Iterator[Given | Result], prepare: Callable[[Given], Prepared | Result]) -> None:
        try:
            while True:
                self._room.acquire()
                if self._is_stopped:
                    return
                request = next(requests, None)
                if request is None:
                    break
                with self._preparing:
                    if self._is_stopped:
                        return
                    prepared = request if isinstance(request, Result) else prepare(request)
                self._ready.put(prepared)
            self._ready.put(_End())
        except BaseException as error:  # noqa: BLE001 - raised again where the requests are taken
            self._ready.put(_End(error))
