"""An answer that a program takes piece by piece, while a thread generates it.

Knows: handing pieces from one thread to another; that the generation never waits for the reader, so that a stream that
nobody reads keeps nobody else from the model. Refuses to know: models.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Literal, NamedTuple, NoReturn

from slmchat.api.turns import ModelTurn
from slmchat.errors import usage_error
from slmchat.generation.response import Completion, NullHandler, StreamHandler


class StreamEvent(NamedTuple):
    """A piece of an answer, or of what a reasoning model says before it."""

    kind: Literal["thinking", "answer"]
    text: str


class _Pipe(NullHandler):
    """What both threads hold. A handler of the generation; None at the end of the events."""

    def __init__(self) -> None:
        # no bound but the answer's own: max_tokens, or the context window
        self.events: SimpleQueue[StreamEvent | None] = SimpleQueue()
        self.completion: Completion | None = None
        self.error: BaseException | None = None

    def thinking(self, text: str) -> None:
        self.events.put(StreamEvent("thinking", text))

    def answer(self, text: str) -> None:
        self.events.put(StreamEvent("answer", text))

    def run(self, work: Callable[[StreamHandler], Completion], when_done: Callable[[], None]) -> None:
        """The generating thread, from beginning to end."""
        try:
            self.completion = work(self)
        except BaseException as error:  # noqa: BLE001 - raised again where the stream is read
            self.error = error
        finally:
            when_done()
            self.events.put(None)


class Stream(Iterator[str]):
    """Pieces of an answer, in order; none is empty. Also a context manager.

    The answer is generated whether it is read or not. Closing the stream, deleting it, or Ctrl-C while it is waited for
    ends the generation.
    """

    def __init__(
        self, work: Callable[[StreamHandler], Completion], turn: ModelTurn, when_done: Callable[[], None]
    ) -> None:
        """`work` generates, in a thread of its own, and shows the answer to the handler that it is given.

        `turn` can end it. `when_done` is called once, in that thread, when the generation has ended.
        """
        self._pipe = _Pipe()
        self._turn = turn
        self._is_over = False
        # it holds the pipe and not the stream, so that a forgotten stream can be deleted; daemon: it may outlive main
        self._thread = threading.Thread(target=self._pipe.run, args=(work, when_done), daemon=True, name="slm stream")
        self._thread.start()

    @property
    def completion(self) -> Completion | None:
        """The whole answer, once all of it has been read or the stream was closed; None before, and after an error."""
        return self._pipe.completion if self._is_over else None

    def __next__(self) -> str:
        """The next piece of the answer. Raises `SlmError` when the generation failed."""
        while (event := self._event()) is not None:
            if event.kind == "answer":
                return event.text
        raise StopIteration

    def events(self) -> Iterator[StreamEvent]:
        """The pieces that have not been read yet, each with its kind: "thinking" or "answer".

        Raises `SlmError` when the generation failed.
        """
        while (event := self._event()) is not None:
            yield event

    def _event(self) -> StreamEvent | None:
        if self._is_over:
            return None
        try:
            event = self._pipe.events.get()
        except BaseException:  # Ctrl-C: nobody knows whether the reader comes back, and the model is wanted again
            self._turn.cancel()
            raise
        if event is not None:
            return event
        self._is_over = True
        if self._pipe.error is not None:
            raise self._pipe.error
        return None

    def cancel(self) -> None:
        """End the generation soon. What came before can still be read; its `finish_reason` is "interrupted"."""
        self._turn.cancel()

    def close(self) -> None:
        """End the generation soon and wait for that. A second call, or one at the end, does nothing."""
        if self._is_over:
            return
        self._turn.cancel()
        self._thread.join()
        self._is_over = True

    def __reduce__(self) -> NoReturn:
        raise usage_error(
            "a Stream cannot be pickled or copied: its answer is generated in this process.",
            "read it, and take its text or its completion",
        )

    def __repr__(self) -> str:
        state = "over" if self._is_over else "generating" if self._thread.is_alive() else "to be read"
        return f"<slmchat.Stream {state}>"

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_turn"):
            self._turn.cancel()
