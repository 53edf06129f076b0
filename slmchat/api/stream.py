"""An answer that a program takes piece by piece, while a thread generates it.

Knows: handing pieces from one thread to another, never many ahead of the reader, and what happens when the reader
goes. Refuses to know: models.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from queue import Queue

from slmchat.engine.api import Prefill
from slmchat.generation.response import Completion, StreamHandler

# Pieces that may wait for the reader; the model rests when there are more.
_AHEAD = 16


class _Gone(Exception):
    """Nobody reads any more."""


class _Pipe:
    """What both threads hold. A handler of the generation; None at the end of the pieces."""

    def __init__(self) -> None:
        self.pieces: Queue[str | None] = Queue(maxsize=_AHEAD)
        self.is_closed = False
        self.completion: Completion | None = None
        self.error: BaseException | None = None

    def prefill(self, event: Prefill) -> None:
        self._check()

    def logprob(self, logprob: float) -> None: ...

    def thinking(self, text: str) -> None:
        self._check()

    def answer(self, text: str) -> None:
        self._check()
        self.pieces.put(text)

    def close(self) -> None: ...

    def run(self, work: Callable[[StreamHandler], Completion]) -> None:
        """The generating thread, from beginning to end."""
        try:
            self.completion = work(self)
        except _Gone:
            pass  # whoever closed the stream knows
        except BaseException as error:  # noqa: BLE001 - raised again where the stream is read
            self.error = error
        self.pieces.put(None)

    def _check(self) -> None:
        if self.is_closed:
            raise _Gone


class Stream(Iterator[str]):
    """Pieces of an answer, in order; none is empty. Also a context manager.

    A stream that is not read to its end keeps its model busy until it is closed (or deleted).
    """

    def __init__(self, work: Callable[[StreamHandler], Completion], when_over: Callable[[], None]) -> None:
        """`work` generates, in a thread of its own, and shows the answer to the handler that it is given.

        `when_over` is called once, when all has been read or the stream has been closed.
        """
        self._pipe = _Pipe()
        self._is_over = False
        self._when_over = when_over
        # it holds the pipe and not the stream, so that a forgotten stream can be deleted; daemon: it may outlive main
        self._thread = threading.Thread(target=self._pipe.run, args=(work,), daemon=True, name="slm stream")
        self._thread.start()

    @property
    def completion(self) -> Completion | None:
        """The whole answer, once all of it has been read; None before, and when the stream was closed early."""
        return self._pipe.completion if self._is_over else None

    def __next__(self) -> str:
        """The next piece. Raises `SlmError` when the generation failed."""
        if self._is_over:
            raise StopIteration
        piece = self._pipe.pieces.get()
        if piece is not None:
            return piece
        self._end()
        if self._pipe.error is not None:
            raise self._pipe.error
        raise StopIteration

    def close(self) -> None:
        """End the generation soon and wait for that. A second call, or one at the end, does nothing."""
        if self._is_over:
            return
        self._pipe.is_closed = True
        if (
            threading.current_thread() is self._thread
        ):  # deleted by a garbage collection there; it cannot wait for itself
            threading.Thread(target=self._drain, daemon=True, name="slm stream end").start()
        else:
            self._drain()

    def _drain(self) -> None:
        while self._pipe.pieces.get() is not None:
            pass
        self._end()

    def _end(self) -> None:
        self._is_over = True
        self._thread.join()
        self._when_over()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_thread"):
            self.close()
