"""Many completions at once in sessions that compute elsewhere: a thread and a session for each (`SessionPool`).

Knows: threads, which request is in which session, how requests are given up. Refuses to know: what a session says to
whom, whether a failure is a request's own (the pools made of it), the order of records.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from slmchat.engine.api import Session
from slmchat.engine.feed import Feed
from slmchat.engine.requests import Request
from slmchat.engine.results import FinishReason, Result
from slmchat.engine.sequential_pool import result_of
from slmchat.errors import SlmError

AnySession = TypeVar("AnySession", bound=Session)


class SessionPool(Generic[AnySession]):
    """Implements `Pool`. A request that fails comes out with its error, unless a kind of pool has it otherwise."""

    def __init__(self, open_session: Callable[[], AnySession], most: int, report: str) -> None:
        """`most` requests at once, each in a session that is opened when it is needed."""
        self.report = report
        self._open_session = open_session
        self._most = most
        self._is_cancelled = False
        self._feed: Feed[Request] | None = None
        self._tasks: SimpleQueue[tuple[Request, Feed[Request]] | None] = SimpleQueue()
        self._sessions: list[AnySession] = []
        self._threads: list[threading.Thread] = []
        self._waiting: deque[Request] = deque()
        self._working: set[int] = set()  # ids of the requests that are in a session

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests, as `Pool` says."""
        self._is_cancelled = False
        self._feed = Feed(requests, lambda request: request, ahead=self._most)
        return self._run(self._feed)

    def resubmit(self, request: Request) -> None:
        """Work on this request too, before those that wait."""
        self._waiting.appendleft(request)

    def cancel(self) -> None:
        """Give up what is worked on and end `run`; from any thread or a signal handler."""
        self._is_cancelled = True
        for session in self._sessions:
            session.cancel()
        if self._feed is not None:
            self._feed.wake()

    def close(self) -> None:
        """End the threads, which close their sessions."""
        self.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=2)

    def _run(self, feed: Feed[Request]) -> Iterator[Result]:
        self._waiting.clear()
        self._working.clear()
        try:
            while not self._is_cancelled:
                while self._waiting and len(self._working) < self._most:
                    self._give(self._waiting.popleft(), feed)
                if feed.is_ended and not (self._working or self._waiting):
                    yield from self._left()
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
                    yield from self._settled(item) if is_own else (item,)
        finally:
            feed.stop()

    def _give(self, request: Request, feed: Feed[Request]) -> None:
        self._working.add(request.id)
        if len(self._working) > len(self._threads):
            session = self._open_session()
            self._sessions.append(session)
            self._threads.append(threading.Thread(target=self._work, args=(session,), daemon=True, name="requests"))
            self._threads[-1].start()
        self._tasks.put((request, feed))

    def _work(self, session: AnySession) -> None:
        while (task := self._tasks.get()) is not None:
            request, feed = task
            try:
                done = self._done(request, session)
            except BaseException as error:  # noqa: BLE001 - raised again where the records are taken
                feed.fail(error)
                continue
            if done is not None:
                feed.add(done)
        session.close()

    def _done(self, request: Request, session: AnySession) -> Result | None:
        """What came of the request; None when it was cancelled. What it raises ends `run`."""
        try:
            return self._asked(request, session)
        except SlmError as error:
            return Result(request.id, error=error)

    def _asked(self, request: Request, session: AnySession) -> Result | None:
        events = session.generate(request.prompt, request.sampler, request.limits)
        if self._is_cancelled:  # before generate() took notice of it
            return None
        done = result_of(request.id, events)
        return None if done.finish is None or done.finish.reason is FinishReason.INTERRUPTED else done

    def _settled(self, done: Result) -> Iterator[Result]:
        """The records that this one settles. What it raises ends `run`."""
        yield done

    def _left(self) -> Iterator[Result]:
        """The records that nothing has settled, when all requests are done."""
        return iter(())
