"""What a model and its chats share in a Python program: the weights, whose turn it is, the stream that is open.

Knows: one at a time; that all is freed when nobody holds it any more. Refuses to know: what is asked.
"""

import contextlib
import io
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from slmchat.api.records import Completion
from slmchat.api.stream import Stream
from slmchat.engine.api import Adapter, Session
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.generator import Generator
from slmchat.generation.response import StreamHandler
from slmchat.models.backend import LocalModel
from slmchat.models.loader import Cancellable, Loading
from slmchat.options import GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.sanitize import Sanitizer

_logger = logging.getLogger("slmchat")


class LogConsole(Console):
    """What the commands say on stderr goes to the logger `slmchat`; a library writes on no stream of its program."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), io.StringIO(), io.StringIO(), {})
        self.is_verbose = self.shows_engine_log = _logger.isEnabledFor(logging.DEBUG)

    def note(self, text: str) -> None:
        _logger.info("%s", text)

    def detail(self, text: str) -> None:
        _logger.debug("%s", text)

    def warn(self, text: str, hint: str | None = None) -> None:
        _logger.warning("%s", text)


@dataclass(frozen=True, slots=True)
class Loaded(LocalModel):
    """An installed model whose loading has begun already, once for all that use it."""

    loading: Loading = field(kw_only=True)

    def start(self, options: GenerationOptions, settings: Settings) -> Loading:
        return self.loading

    def report(self, loading: Loading, console: Console) -> None:
        """It was told when it was loaded."""


class ModelLock:
    """The turns with one model. One may be given back by another thread than the one that took it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def take(self) -> None:
        """Wait for the turn. Raises `SlmError` (USAGE) when this thread has it already: it would wait for itself."""
        me = threading.get_ident()
        if self._owner == me:  # nobody else sets it to this thread
            raise SlmError(
                "this thread still has a stream of this model open.",
                hint="read the stream to its end, or close() it, before asking anything else",
                exit_code=ExitCode.USAGE,
            )
        self._lock.acquire()
        self._owner = me

    def give_back(self) -> None:
        """The next one may."""
        self._owner = None
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()


class Closable(Protocol):
    """What holds a context window of its own."""

    def close(self) -> None: ...


class SharedModel:
    """The place where one model is asked."""

    def __init__(
        self, model: Loaded, asker: Generator, settings: Settings, console: LogConsole, laid: Sequence[Adapter] = ()
    ) -> None:
        """`laid`: the LoRA adapters that count."""
        self.model = model
        self.laid = laid
        self.settings = settings
        self.console = console
        self.turns = ModelLock()
        self.chats: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._asker: Generator | None = asker
        self._running: Cancellable | None = None
        self._stream: weakref.ref[Stream] | None = None

    @property
    def is_closed(self) -> bool:
        return self._asker is None

    @property
    def asker(self) -> Generator:
        """The open window. Raises `SlmError` (USAGE) when the model has been closed."""
        if self._asker is None:
            raise SlmError(f"{self.model.key} has been closed.", hint="load() it again", exit_code=ExitCode.USAGE)
        return self._asker

    def listener(self, view: StreamHandler) -> "Listening":
        """Who hears one answer."""
        return CompletionDelegate(self, view)

    def streamed(self, work: Callable[[StreamHandler], Completion]) -> Stream:
        """A stream of what `work` shows. The turn, which the caller has taken, is given back when it is over."""
        try:
            stream = Stream(work, self.turns.give_back)
        except BaseException:  # no thread could be started
            self.turns.give_back()
            raise
        self._stream = weakref.ref(stream)
        return stream

    @contextlib.contextmanager
    def running(self, session: Cancellable) -> Iterator[None]:
        """While this lasts, `cancel` ends what this session (or pool) does."""
        self._running = session
        try:
            yield
        finally:
            self._running = None

    def cancel(self) -> None:
        """End what is being generated, if anything is."""
        running = self._running
        if running is not None:
            running.cancel()

    def close_stream(self) -> None:
        """End the stream that is open, if one is."""
        stream = self._stream() if self._stream is not None else None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """Free everything, after what is being answered now. A second call does nothing."""
        self.close_stream()
        for chat in list(self.chats):
            chat.close()
        with self.turns:
            self._free()

    def _free(self) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            asker.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():  # then the memory goes with the process
            self._free()


class CompletionDelegate:
    """Implements `GenerationDelegate` for one answer."""

    def __init__(self, desk: SharedModel, view: StreamHandler) -> None:
        self._desk = desk
        self._view = view

    def view(self) -> StreamHandler:
        return self._view

    def sanitizer(self) -> Sanitizer:
        return self._desk.console.sanitizer()

    def cancellable(self, session: Session) -> AbstractContextManager[None]:
        return self._desk.running(session)

    def on_retry(self, error: SlmError) -> None:
        self._desk.console.note(f"{error.message.rstrip('.')}; trying once more, with more room.")
