"""The model that a server chats with, in memory: its weights, and the queue in front of them.

Knows: how it is opened for many, which session a request gets. Refuses to know: what is asked, when it comes and goes
(on_demand.py).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from slmchat.engine import heap
from slmchat.engine.api import Session
from slmchat.generation.generator import Generator
from slmchat.generation.prompt import PromptRequest
from slmchat.models.open import OpenModel
from slmchat.reporting import LogReporter, Reporter
from slmchat.server.queue import RequestQueue
from slmchat.server.turns import Turns

# Requests that may wait beside those that are worked on; the next one is told to come back.
MOST_WAITING = 64


@dataclass(frozen=True, slots=True)
class ServedWeights:
    """A model with its weights in memory, and the queue in front of it."""

    opened: OpenModel
    queue: RequestQueue
    _seeing: threading.Lock = field(default_factory=threading.Lock)  # pictures are looked at one request at a time

    @contextmanager
    def session_for(self, request: PromptRequest, is_gone: Callable[[], bool]) -> Iterator[Session]:
        """The session of one request: its turn in the queue, or a window of its own where there are pictures.

        Raises `SlmError` (USAGE) where the model does not see.
        """
        if not request.pictures:
            yield self.queue.session(is_gone)
            return
        self.opened.model.check_vision(self.opened.settings)
        with self._seeing:
            session = self.opened.open_plain_session(self.queue.n_ctx)
            try:
                yield session
            finally:
                session.close()

    @property
    def report(self) -> str:
        """One line about how it works."""
        return self.queue.report

    def generator(self, session: Session) -> Generator:
        """What makes one answer, in this session."""
        generator = Generator(self.opened)
        generator.use(session)
        return generator

    def close(self) -> None:
        """Free the weights; what is being answered ends."""
        self.queue.close()
        self.opened.close()
        heap.give_back()


def weights_of(opened: OpenModel, n_ctx: int | None, parallel: int | None, turns: Turns | None = None) -> ServedWeights:
    """Wait for a model and make its queue. `n_ctx`: the window of each request; None, as `parallel`: as suits the
    device. `turns`: as `RequestQueue` has them. Raises what its loading raises, and `SlmError` (NO_FIT)."""
    try:
        pool = opened.open_stream_pool(opened.window(n_ctx), parallel)
    except BaseException:
        opened.close()
        raise
    opened.reporter = RequestReporter(opened.reporter)
    return ServedWeights(opened, RequestQueue(pool, MOST_WAITING, turns))


class RequestReporter(LogReporter):
    """For what there is to say of a request: it may quote its words, which are no business of a log. Warnings are about
    the device."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        self._reporter.warn(text)
