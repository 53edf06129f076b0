"""The model of a server: loaded when it is first asked, freed when nobody has asked for a while.

Knows: when the weights are there, how many are using them. Refuses to know: what is asked.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from slmchat.engine.api import Session
from slmchat.generation.generator import Generator
from slmchat.generation.prompt import PromptRequest
from slmchat.models.open import OpenModel
from slmchat.reporting import LogReporter, Reporter
from slmchat.server.queue import RequestQueue

# Requests that may wait beside those that are worked on; the next one is told to come back.
MOST_WAITING = 64

# A model that is being used is looked at again after so many seconds at the earliest.
_LOOK_AGAIN_S = 1.0


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


class _RequestReporter(LogReporter):
    """For what there is to say of a request: it may quote its words, which are no business of a log. Warnings are about
    the device."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        self._reporter.warn(text)


class ServedModel:
    """One model that comes and goes. From any thread."""

    def __init__(
        self,
        open_model: Callable[[], OpenModel],
        *,
        n_ctx: int | None,
        parallel: int | None,
        keep_alive_s: float | None,
    ) -> None:
        """`n_ctx`: the window of each request, None as suits the device. `keep_alive_s`: after so many seconds without
        a request the weights are freed; None: never."""
        self._open_model = open_model
        self._n_ctx = n_ctx
        self._parallel = parallel
        self._keep_alive_s = keep_alive_s
        self._changed = threading.Condition()
        self._loaded: ServedWeights | None = None
        self._is_changing = False  # it is being loaded or freed, by one thread, without the lock
        self._n_users = 0
        self._used_at = time.monotonic()

    @property
    def loaded(self) -> ServedWeights | None:
        """The model, when it is in memory."""
        return self._loaded

    @contextmanager
    def used(self) -> Iterator[ServedWeights]:
        """The loaded model, which stays while this lasts. Raises what its loading raises."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            self._n_users += 1
            self._is_changing = is_loading = self._loaded is None
        try:
            if is_loading:
                self._load()
            loaded = self._loaded
            assert loaded is not None
            yield loaded
        finally:
            with self._changed:
                self._n_users -= 1
                self._used_at = time.monotonic()

    def _load(self) -> None:
        loaded: ServedWeights | None = None
        try:
            opened = self._open_model()
            try:
                pool = opened.open_stream_pool(opened.window(self._n_ctx), self._parallel)
            except BaseException:
                opened.close()
                raise
            opened.reporter = _RequestReporter(opened.reporter)
            loaded = ServedWeights(opened, RequestQueue(pool, MOST_WAITING))
        finally:
            with self._changed:
                self._loaded, self._is_changing = loaded, False
                self._changed.notify_all()

    def unload_if_idle(self) -> float | None:
        """Free the weights if it is time; the seconds after which to ask again, None: never."""
        if self._keep_alive_s is None:
            return None
        with self._changed:
            if self._loaded is None or self._is_changing:  # nobody can have left them alone for long by then
                return self._keep_alive_s
            left = self._used_at + self._keep_alive_s - time.monotonic()
            if self._n_users or left > 0:
                return max(left, _LOOK_AGAIN_S)
        self.close()
        return self._keep_alive_s

    def close(self) -> None:
        """Free the weights; what is being answered ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            loaded, self._is_changing = self._loaded, True
        if loaded is not None:
            loaded.queue.close()
            loaded.opened.close()
        with self._changed:
            self._loaded, self._is_changing = None, False
            self._changed.notify_all()
