"""What a model and its chats share in a Python program: the weights, whose turn it is, the stream that is open.

Knows: one at a time; that all is freed when nobody holds it any more. Refuses to know: what is asked.
"""

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from slmchat.api.stream import Stream
from slmchat.engine.cancellable import Cancellable
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.generator import Generator
from slmchat.generation.response import Completion, StreamHandler


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

    def __init__(self, generator: Generator) -> None:
        self.opened = generator.opened
        self.turns = ModelLock()
        self.chats: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._generator: Generator | None = generator
        self._running: Cancellable | None = None
        self._stream: weakref.ref[Stream] | None = None

    @property
    def is_closed(self) -> bool:
        return self._generator is None

    @property
    def generator(self) -> Generator:
        """The open window. Raises `SlmError` (USAGE) when the model has been closed."""
        if self._generator is None:
            raise SlmError(
                f"{self.opened.model.key} has been closed.", hint="load() it again", exit_code=ExitCode.USAGE
            )
        return self._generator

    def delegate(self, handler: StreamHandler) -> "CompletionDelegate":
        """Who hears one answer."""
        return CompletionDelegate(self, handler)

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
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():  # then the memory goes with the process
            self._free()


class CompletionDelegate:
    """Implements `GenerationDelegate` for one answer."""

    def __init__(self, shared: SharedModel, handler: StreamHandler) -> None:
        self._shared = shared
        self._handler = handler

    def handler(self) -> StreamHandler:
        return self._handler

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._shared.running(session)

    def on_retry(self, error: SlmError) -> None:
        self._shared.opened.reporter.note(f"{error.message.rstrip('.')}; trying once more, with more room.")
