"""Whose turn it is with a model: one question at a time, from any thread, each of which can be cancelled.

A turn belongs to a question, not to a thread: a stream takes it in the thread that asks and gives it back in the one
that generates, and a question of an event loop waits in no thread at all. Knows: waiting in order, cancelling, that a
child process has no turns.
Refuses to know: what is asked.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from slmchat.engine.cancellable import CancelFlag
from slmchat.errors import ExitCode, SlmError, usage_error


class ModelTurn(CancelFlag):
    """One question to a model, from the call to the end of its generation."""

    def __init__(self) -> None:
        super().__init__()
        self.begin: Callable[[], bool] | None = None  # None: a thread waits for it


class Turns:
    """The turns with one model."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[ModelTurn] = deque()  # in the order of asking: else a thread that asks again at once has it
        self.current: ModelTurn | None = None  # the turn that is taken
        self._process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that loaded the model: llama.cpp's threads are not in it."""
        return os.getpid() != self._process

    def take(self, turn: ModelTurn) -> None:
        """Wait for the turn. Raises `SlmError`: USAGE in a forked child, INTERRUPTED when it is cancelled before."""
        self.check_process()
        with self._changed:
            try:
                self._line.append(turn)
                self._changed.wait_for(lambda: turn() or self._is_next(turn))
                if turn():
                    raise SlmError("this was cancelled before it began.", exit_code=ExitCode.INTERRUPTED)
                self.current = turn
            finally:
                with suppress(ValueError):  # Ctrl-C came before it stood there
                    self._line.remove(turn)
                self._go_on()

    def take_later(self, turn: ModelTurn, begin: Callable[[], bool]) -> None:
        """Stand in line without waiting. `begin` is called with the turn taken, by the thread that made way for it, and
        not at all when the turn is cancelled before. It comes back at once: whether it has begun what gives the turn
        back. Raises `SlmError` (USAGE) in a forked child."""
        self.check_process()
        turn.begin = begin
        with self._changed:
            self._line.append(turn)
            self._go_on()

    def _go_on(self) -> None:
        """Whoever stands first may, if nobody has the turn. Under the lock."""
        while self.current is None and self._line and (begin := self._line[0].begin) is not None:
            self.current = self._line.popleft()
            if not begin():
                self.current = None
        self._changed.notify_all()

    def _is_next(self, turn: ModelTurn) -> bool:
        return self.current is None and self._line[0] is turn

    def give_back(self, turn: ModelTurn) -> None:
        """The next one may, if it was this one's turn; from any thread."""
        if self.is_forked:  # the lock may have been held by a thread that is not here
            return
        with self._changed:
            if self.current is turn:
                self.current = None
                self._go_on()

    def cancel(self, turn: ModelTurn) -> None:
        """Cancel a turn that may still be waited for."""
        turn.cancel()
        with self._changed:
            if turn.begin is not None and turn in self._line:
                self._line.remove(turn)
            self._go_on()

    @contextmanager
    def taken(self, turn: ModelTurn | None = None) -> Iterator[None]:
        """While this lasts, it is its turn (None: a new one). Raises `SlmError` as `take` does."""
        turn = turn or ModelTurn()
        try:
            self.take(turn)
            yield
        finally:
            self.give_back(turn)

    def check_process(self) -> None:
        """Raises `SlmError` (USAGE) in a forked child: to use the model there would hang or crash."""
        if self.is_forked:
            raise usage_error(
                "this model was loaded before this process was forked, and cannot be used here.",
                'call load() in each process; or multiprocessing.get_context("spawn")',
            )
