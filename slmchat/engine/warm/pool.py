"""Many completions at once in the memory of a server of this user (`WarmPool`): a connection for each under way.

Knows: threads, which request is on which connection. Refuses to know: what is said on one (session.py), the order of
records.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

from slmchat.engine.api import FinishReason, Request, Result
from slmchat.engine.feed import Feed
from slmchat.engine.sequential_pool import result_of
from slmchat.engine.warm.session import WarmSession
from slmchat.errors import ExitCode, SlmError

_Task = tuple[Request, Feed[Request]]


class WarmPool:
    """Implements `Pool`. A server that is gone ends `run` with its error; all else is a request's own."""

    def __init__(self, sessions: Sequence[WarmSession]) -> None:
        """As many at once as there are sessions, which are its own from here on."""
        self.report = f"{len(sessions)} at once, in the memory of slm serve"
        self._sessions = sessions
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._n_working = 0
        self._is_cancelled = False
        self._feed: Feed[Request] | None = None
        for session in sessions:
            threading.Thread(target=self._work, args=(session,), daemon=True, name="requests").start()

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests, as `Pool` says. Raises `SlmError` (NETWORK) when the server is gone."""
        self._is_cancelled = False
        self._feed = Feed(requests, lambda request: request, ahead=len(self._sessions))
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
        """End the threads."""
        self.cancel()
        for _ in self._sessions:
            self._tasks.put(None)

    def _run(self, feed: Feed[Request]) -> Iterator[Result]:
        self._waiting.clear()
        self._n_working = 0
        try:
            while not self._is_cancelled:
                while self._waiting and self._n_working < len(self._sessions):
                    self._n_working += 1
                    self._tasks.put((self._waiting.popleft(), feed))
                if feed.is_ended and not (self._n_working or self._waiting):
                    return
                item = feed.take(None)
                if isinstance(item, Request):
                    self._waiting.append(item)
                elif item is not None:
                    feed.make_room()
                    self._n_working -= 1
                    yield item
        finally:
            feed.stop()

    def _work(self, session: WarmSession) -> None:
        while (task := self._tasks.get()) is not None:
            request, feed = task
            try:
                done = self._done(request, session)
            except BaseException as error:  # noqa: BLE001 - raised again where the records are taken
                feed.fail(error)
                continue
            if done is not None:
                feed.add(done)

    def _done(self, request: Request, session: WarmSession) -> Result | None:
        """What came of the request; None when it was cancelled."""
        events = session.generate(request.prompt, request.sampler, request.limits)
        if self._is_cancelled:  # before generate() took notice of it
            return None
        try:
            done = result_of(request.id, events)
        except SlmError as error:
            if error.exit_code is ExitCode.NETWORK:
                raise
            return Result(request.id, error=error)
        return None if done.finish is None or done.finish.reason is FinishReason.INTERRUPTED else done
