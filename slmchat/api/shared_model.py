"""What a model and its chats share in a Python program: the weights, whose turn it is, the stream that is open.

Knows: one at a time; that all is freed when nobody holds it any more. Refuses to know: what is asked.
"""

import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from slmchat.api.documents import ModelDocuments
from slmchat.api.parameters import says_parameters
from slmchat.api.stream import Stream
from slmchat.api.turns import ModelTurn, Turns
from slmchat.engine.cancellable import Cancellable
from slmchat.errors import SlmError, usage_error
from slmchat.generation.attempts import FALLBACK
from slmchat.generation.generator import Generator
from slmchat.generation.response import Completion, Response, StreamHandler


class Closable(Protocol):
    """What holds a context window of its own."""

    def close(self) -> None: ...


class SharedModel:
    """The place where one model is asked."""

    def __init__(self, generator: Generator) -> None:
        self.opened = generator.opened
        self.turns = Turns()
        self.chats: weakref.WeakSet[Closable] = weakref.WeakSet()
        self.documents = ModelDocuments(generator.opened)
        self._generator: Generator | None = generator
        self._stream: weakref.ref[Stream] | None = None

    @property
    def is_closed(self) -> bool:
        return self._generator is None

    @property
    def generator(self) -> Generator:
        """The open window. Raises `SlmError` (USAGE) when the model has been closed, or belongs to another process."""
        self.turns.check_process()
        if self._generator is None:
            raise usage_error(f"{self.opened.model.key} has been closed.", "load() it again")
        return self._generator

    def check_answers(self) -> None:
        """Raises `SlmError` (USAGE) for an embedding model."""
        if self.opened.model.embeds:
            raise usage_error(
                f"{self.opened.model.key} is an embedding model: it makes vectors and answers nothing.",
                "embed(texts); or load() a model that answers",
            )

    def delegate(self, handler: StreamHandler, *, is_streamed: bool = False) -> "CompletionDelegate":
        """Who hears one answer."""
        return CompletionDelegate(self, handler, is_streamed=is_streamed)

    def streamed(self, turn: ModelTurn, work: Callable[[StreamHandler], Completion]) -> Stream:
        """A stream of what `work` shows. The turn, which the caller has taken, ends with the generation."""
        stream = Stream(says_parameters(work), turn, lambda: self.turns.give_back(turn))
        self._stream = weakref.ref(stream)
        return stream

    def running(self, session: Cancellable) -> AbstractContextManager[None]:
        """While this lasts, whoever cancels the present turn ends what this session (or pool) does."""
        turn = self.turns.current
        assert turn is not None  # nothing is asked of a model out of turn
        return turn.reaches(session)

    def cancel(self) -> None:
        """End what is being generated, if anything is."""
        turn = self.turns.current
        if turn is not None:
            turn.cancel()

    def close_stream(self) -> None:
        """End the stream that is open, if one is."""
        stream = self._stream() if self._stream is not None else None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """Free everything, after what is being answered now. A second call, or one in a forked child, does nothing."""
        if self.turns.is_forked:
            return
        self.close_stream()
        for chat in list(self.chats):
            chat.close()
        with self.turns.taken():
            self._free()

    def _free(self) -> None:
        generator, self._generator = self._generator, None
        if generator is not None:
            self.documents.close()
            generator.close()

    def __del__(self) -> None:
        # at the end the memory goes with the process; a forked child has none of the threads that freeing waits for
        if not (sys.is_finalizing() or self.turns.is_forked):
            self._free()


class CompletionDelegate:
    """Implements `GenerationDelegate` for one answer."""

    def __init__(self, shared: SharedModel, handler: StreamHandler, *, is_streamed: bool) -> None:
        """`is_streamed`: what came has been read, and cannot be replaced by a second attempt."""
        self._shared = shared
        self._handler = handler
        self._is_streamed = is_streamed

    def handler(self) -> StreamHandler:
        return self._handler

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._shared.running(session)

    @property
    def may_retry(self) -> bool:
        return not self._is_streamed

    def on_retry(self, error: SlmError) -> None:
        self._shared.opened.reporter.note(f"{error.message.rstrip('.')}; trying once more, with more room.")

    def on_fallback(self, response: Response) -> None:
        self._shared.opened.reporter.warn(FALLBACK)
