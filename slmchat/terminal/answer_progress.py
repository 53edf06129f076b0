"""What a generation is doing at this moment, in words for a line that is drawn again and again.

It is asked from a timer's thread while the main thread computes: a prompt of thousands of tokens takes seconds before
the engine says anything by itself.

Knows: time left of a prompt, speed of an answer. Refuses to know: how and where the line is drawn, models.
"""

import time
from collections.abc import Callable
from typing import Protocol

# Before so much of a prompt has been timed, nothing is said about the time left, in seconds.
_TIMED_S = 0.5
# A speed measured over less is noise, in seconds.
_MEASURED_S = 0.3


class ReadPrompt(Protocol):
    """How much of a prompt is evaluated, in tokens: `engine.results.Prefill`, or what a server says of it."""

    @property
    def total(self) -> int: ...

    @property
    def cached(self) -> int: ...

    def now(self) -> float:
        """Tokens that are done by now."""
        ...


class AnswerProgress:
    """One generation from the prompt to its last token. Written by one thread, read by any."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began_at = clock()
        self._prefill: ReadPrompt | None = None
        self._prefill_at = 0.0
        self._first_at: float | None = None
        self.n_tokens = 0

    def reads(self, event: ReadPrompt) -> None:
        """The engine has told how far the prompt is."""
        if self._prefill is None:
            self._prefill_at = self._clock()
        self._prefill = event

    def came(self) -> None:
        """One more token of the thinking or the answer."""
        if self._first_at is None:
            self._first_at = self._clock()
        self.n_tokens += 1

    @property
    def n_used(self) -> int:
        """Tokens of the context window in use by now; 0: not known yet."""
        return self._prefill.total + self.n_tokens if self._prefill is not None else 0

    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began_at

    @property
    def is_answering(self) -> bool:
        return self._first_at is not None

    def speed(self) -> str:
        """Tokens a second of the answer, "" while that is not known."""
        elapsed = self._clock() - self._first_at if self._first_at is not None else 0.0
        return f"{(self.n_tokens - 1) / elapsed:.0f} tok/s" if elapsed > _MEASURED_S and self.n_tokens > 1 else ""

    def reading(self) -> str:
        """How many tokens are read, and how long that still takes where it can be told."""
        event = self._prefill
        if event is None:
            return "reading"
        n_new = event.total - event.cached
        text = f"reading {n_new:,} {'token' if n_new == 1 else 'tokens'}"
        n_read = event.now() - event.cached
        elapsed = self._clock() - self._prefill_at
        if n_read <= 0 or elapsed < _TIMED_S or n_read >= n_new:
            return text
        return f"{text}, {elapsed * (n_new - n_read) / n_read:,.0f} s left"
