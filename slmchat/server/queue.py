"""Who is next: requests from any thread, one thread that works on them side by side.

Connections have threads of their own and wait here for what comes of their request. The engine is touched by one thread
alone, between whose batches requests begin and are given up.

Knows: the order of requests, how many may wait, when there is time to write a state to the disk.
Refuses to know: connections, HTTP, models, how a batch is computed (engine/stream_pool.py).
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from slmchat.engine.api import StreamPool
from slmchat.engine.requests import Adapter, Limits, Prompt, Request
from slmchat.engine.results import NEVER_BEGUN, Event, Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.server.turns import ComputeTurns
from slmchat.wording import counted

# How often a request that waits looks whether its client is still there, in seconds.
_LOOK_S = 0.2

# States are written when nothing has been asked for so long, in seconds.
_REST_S = 1.0

_Said = Event | SlmError


class Full(SlmError):
    """Too many requests wait. `retry_after`: seconds until it may be worth another try."""

    def __init__(self, n_waiting: int) -> None:
        super().__init__(
            f"{counted(n_waiting, 'request waits', 'requests wait')} already.",
            hint="try again in a moment",
            exit_code=ExitCode.NETWORK,
        )
        self.retry_after = 1 + n_waiting // 4


class RequestQueue:
    """The requests to one pool, and the thread that works on them."""

    def __init__(self, pool: StreamPool, most_waiting: int, turns: ComputeTurns | None = None) -> None:
        """`turns`: what is shared with others that compute in this process; None: nobody else does."""
        self._turns = turns or ComputeTurns()
        self.n_ctx = pool.n_ctx
        self.most = pool.most
        self.report = pool.report
        self._pool = pool
        self._most_waiting = most_waiting
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._cancelled: set[int] = set()
        self._heard: dict[int, SimpleQueue[_Said]] = {}
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
        self._thread.start()

    @property
    def n_open(self) -> int:
        """Requests that wait or are worked on."""
        with self._changed:
            return len(self._heard)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their turn."""
        with self._changed:
            return len(self._waiting)

    def submit(
        self, prompt: Prompt, sampler: SamplerSettings, limits: Limits, n_ctx: int | None = None
    ) -> tuple[int, "SimpleQueue[_Said]"]:
        """The number of a new request, and where its events come. `n_ctx`: its window, None: the pool's.

        Raises `Full`, `SlmError` (NETWORK) after `close`.
        """
        with self._changed:
            if self._is_closed:
                raise SlmError("the server is stopping.", exit_code=ExitCode.NETWORK)
            if len(self._waiting) >= self._most_waiting:
                raise Full(len(self._waiting))
            number, said = next(self._numbers), SimpleQueue[_Said]()
            self._heard[number] = said
            self._waiting.append(Request(number, prompt, sampler, limits, n_ctx=n_ctx))
            self._changed.notify_all()
        return number, said

    def cancel(self, number: int) -> None:
        """Give a request up: its last event is a `Finish` that says so. From any thread."""
        with self._changed:
            if number in self._heard:
                self._cancelled.add(number)
                self._changed.notify_all()

    def session(self, is_gone: Callable[[], bool] = lambda: False, n_ctx: int | None = None) -> "QueuedSession":
        """A session whose generations are requests; `is_gone` is asked whether anybody still waits for them. `n_ctx`:
        a smaller window than the pool's."""
        return QueuedSession(self, is_gone, n_ctx)

    def close(self) -> None:
        """Take no more requests, give up what is open, free the pool."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    # The thread that works

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                self._give_up_cancelled()
                self._begin_waiting()
                if not self._pool.is_idle:
                    self._step()
        finally:
            for number in list(self._heard):
                self._say(number, SlmError("the server is stopping.", exit_code=ExitCode.NETWORK))
            self._pool.close()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; False when the queue is closed."""
        has_rested = False
        while True:
            with self._changed:
                if self._is_closed:
                    return False
                if self._waiting or self._cancelled or not self._pool.is_idle:
                    return True
                if has_rested or not self._changed.wait_for(self._has_work, _REST_S):
                    has_rested = True
            if has_rested and not self._pool.keep_one():
                with self._changed:
                    self._changed.wait_for(self._has_work)
                has_rested = False

    def _has_work(self) -> bool:
        return bool(self._is_closed or self._waiting or self._cancelled)

    def _give_up_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            self._waiting = deque(request for request in self._waiting if request.id not in cancelled)
        for number in cancelled:
            if number in self._heard:
                self._say(number, self._pool.cancel(number) or NEVER_BEGUN)

    def _begin_waiting(self) -> None:
        while self._pool.has_room:
            with self._changed:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            try:
                self._say(request.id, self._pool.begin(request))
            except SlmError as error:
                self._say(request.id, error)

    def _step(self) -> None:
        try:
            with self._turns.turn():
                for number, event in self._pool.step():
                    self._say(number, event)
        except SlmError as error:  # llama.cpp failed: what was worked on is lost, what waits is not
            with self._changed:
                working = set(self._heard) - {request.id for request in self._waiting}
            for number in working:
                self._pool.cancel(number)
                self._say(number, error)

    def _say(self, number: int, event: _Said) -> None:
        with self._changed:
            said = self._heard.get(number)
            if isinstance(event, Finish | SlmError):
                self._heard.pop(number, None)
        if said is not None:
            said.put(event)


class QueuedSession:
    """Generations that take their turn in a queue. Implements `Session`."""

    def __init__(self, queue: RequestQueue, is_gone: Callable[[], bool], n_ctx: int | None = None) -> None:
        self.n_ctx = min(n_ctx or queue.n_ctx, queue.n_ctx)
        self._queue = queue
        self._is_gone = is_gone
        self._number: int | None = None

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """As `Session` says. Raises `Full` when too many wait; when the client is gone it ends as if cancelled."""
        self._number, said = self._queue.submit(prompt, sampler, limits, self.n_ctx)
        return self._events(self._number, said)

    def _events(self, number: int, said: "SimpleQueue[_Said]") -> Iterator[Event]:
        try:
            while True:
                try:
                    event = said.get(timeout=_LOOK_S)
                except Empty:
                    event = None
                if isinstance(event, SlmError):
                    raise event
                if event is not None:
                    yield event
                    if isinstance(event, Finish):
                        return
                if self._is_gone():
                    self._queue.cancel(number)
        finally:
            self._queue.cancel(number)

    def cancel(self) -> None:
        """End the generation that is running."""
        if self._number is not None:
            self._queue.cancel(self._number)

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Nothing: the pool keeps what is worth it by itself."""

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Raises `SlmError` (USAGE) for any: adapters belong to the whole pool."""
        if adapters:
            raise usage_error("adapters are chosen when the server starts.")

    def close(self) -> None:
        """End the generation that is running."""
        self.cancel()
