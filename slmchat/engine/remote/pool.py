"""Many completions of an endpoint at once, one connection for each that is under way (`RemotePool`).

Knows: threads, how many requests are open, when a failure is that of a row and when that of the endpoint.
Refuses to know: what is sent, what a status means, how often one request is tried (client.py), the order of records.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from slmchat.engine.api import FinishReason, Request, Result
from slmchat.engine.feed import Feed
from slmchat.engine.remote.client import PASSING
from slmchat.engine.remote.errors import Refusal
from slmchat.engine.remote.session import RemoteSession
from slmchat.engine.sequential_pool import result_of
from slmchat.errors import ExitCode, SlmError
from slmchat.wording import counted

# Requests at once when nobody asks: servers that batch gain from them, one that does not has them in its queue.
AT_ONCE = 8

# A row whose answer is lost on the way (after the client's own tries for a busy server) is asked this often, with a
# pause before each further time that grows; in seconds.
_TRIES = 3
_PAUSE_S = 1.0

# An endpoint is given up when this many rows more than there are requests at once fail on the way, and none succeeds.
_MORE_THAN_AT_ONCE = 2

_Task = tuple[Request, Feed[Request]]


class RemotePool:
    """Completions of an endpoint side by side. Implements `Pool`.

    A row that fails on the way waits until another one succeeds: then the failure was its own, and it comes out with
    its error. When none does, the endpoint is to blame, and `run` raises what it said.
    """

    def __init__(self, open_session: Callable[[], RemoteSession], most: int, why: str) -> None:
        """`most` requests at once; `why` says in words where that number comes from."""
        self._open_session = open_session
        self._most = most
        self._why = why
        self._is_cancelled = False
        self._feed: Feed[Request] | None = None
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._waiting: deque[Request] = deque()
        self._working: set[int] = set()  # ids of the requests that workers have
        self._doubtful: list[Result] = []  # failures that may be the endpoint's
        self._has_succeeded = False

    @property
    def report(self) -> str:
        """How many requests at once."""
        return f"{counted(self._most, 'request')} at once ({self._why})"

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests, as `Pool` says. Raises `SlmError` (NETWORK, USAGE, NO_MODEL) of the endpoint."""
        self._is_cancelled = False
        self._feed = Feed(requests, lambda request: request, ahead=self._most)
        return self._run(self._feed)

    def resubmit(self, request: Request) -> None:
        """Work on this request too, before those that wait."""
        self._waiting.appendleft(request)

    def cancel(self) -> None:
        """Close what is open and end `run`; from any thread or a signal handler."""
        self._is_cancelled = True
        for worker in self._workers:
            worker.session.cancel()
        if self._feed is not None:
            self._feed.wake()

    def close(self) -> None:
        """Close all connections."""
        self.cancel()
        for _ in self._workers:
            self._tasks.put(None)
        for worker in self._workers:
            worker.join(timeout=2)

    def _run(self, feed: Feed[Request]) -> Iterator[Result]:
        self._waiting.clear()
        self._working.clear()
        self._doubtful.clear()
        self._has_succeeded = False
        try:
            while not self._is_cancelled:
                while self._waiting and len(self._working) < self._most:
                    self._give(self._waiting.popleft(), feed)
                if feed.is_ended and not (self._working or self._waiting):
                    yield from self._last_doubts()
                    if not self._waiting:
                        return
                    continue
                item = feed.take(None)
                if isinstance(item, Request):
                    self._waiting.append(item)
                elif item is not None:
                    feed.make_room()
                    is_own = item.id in self._working
                    self._working.discard(item.id)
                    yield from self._judged(item) if is_own else (item,)
        finally:
            feed.stop()

    def _give(self, request: Request, feed: Feed[Request]) -> None:
        self._working.add(request.id)
        if len(self._working) > len(self._workers):
            worker = _Worker(self._tasks, self._open_session(), lambda: self._is_cancelled)
            self._workers.append(worker)
            worker.start()
        self._tasks.put((request, feed))

    def _judged(self, done: Result) -> Iterator[Result]:
        """The records that this one settles. Raises the error when it is the endpoint's."""
        error = done.error
        if error is None:
            self._has_succeeded = True
            settled, self._doubtful = [*self._doubtful, done], []
            yield from settled
            return
        is_lost = error.exit_code is ExitCode.NETWORK
        is_refused = error.exit_code is ExitCode.USAGE and not self._has_succeeded
        if error.exit_code is ExitCode.NO_MODEL:
            raise error
        if not (is_lost or is_refused):
            yield done
            return
        self._doubtful.append(done)
        if len(self._doubtful) >= self._most + _MORE_THAN_AT_ONCE:
            raise error

    def _last_doubts(self) -> Iterator[Result]:
        if self._doubtful and not self._has_succeeded:
            assert self._doubtful[0].error is not None
            raise self._doubtful[0].error
        doubtful, self._doubtful = self._doubtful, []
        yield from doubtful


def _may_pass(error: SlmError) -> bool:
    """Whether the same request may succeed later: it was lost on the way, or the server was busy for long."""
    if isinstance(error, Refusal):
        return error.status in PASSING or error.status < 400  # an error in the middle of an answer
    return error.exit_code is ExitCode.NETWORK


class _Worker(threading.Thread):
    """Asks for one request after the other, on a connection of its own."""

    def __init__(
        self, tasks: "SimpleQueue[_Task | None]", session: RemoteSession, is_cancelled: Callable[[], bool]
    ) -> None:
        super().__init__(daemon=True, name="requests")
        self.session = session
        self._tasks = tasks
        self._is_cancelled = is_cancelled

    def run(self) -> None:
        while (task := self._tasks.get()) is not None:
            request, feed = task
            try:
                done = self._done(request)
            except BaseException as error:  # noqa: BLE001 - raised again where the records are taken
                feed.fail(error)
                continue
            if done is not None:
                feed.add(done)
        self.session.close()

    def _done(self, request: Request) -> Result | None:
        """What came of the request; None when it was cancelled."""
        for number in range(1, _TRIES + 1):
            try:
                return self._asked(request)
            except SlmError as error:
                if number == _TRIES or not _may_pass(error):
                    return Result(request.id, error=error)
            if not self.session.pause(_PAUSE_S * number):
                return None
        raise AssertionError("the last try returns")

    def _asked(self, request: Request) -> Result | None:
        events = self.session.generate(request.prompt, request.sampler, request.limits)
        if self._is_cancelled():  # before generate() took notice of it
            return None
        done = result_of(request.id, events)
        return None if done.finish is None or done.finish.reason is FinishReason.INTERRUPTED else done
