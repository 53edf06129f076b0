"""How far a batch is: rows, rate, time left.

Knows: clocks and wording. Refuses to know: rows and records. On a terminal a line that replaces itself; elsewhere a
line every ten seconds, with `-v` only.
"""

import time
from collections.abc import Callable

from slmchat.reporting import Reporter
from slmchat.wording import clock_time

_REDRAWN_EVERY = 0.2  # seconds
_TOLD_EVERY = 10.0


class Progress:
    """Is told of every record that is written."""

    def __init__(
        self, reporter: Reporter, total: int | None, begun: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`total` and `begun` in the unit of `Row.end`: how much input there is, how much was done before."""
        self._reporter = reporter
        self._total = total
        self._begun = begun
        self._clock = clock
        self._start = self._shown = self._told = clock()
        self.rows = 0
        self.failed = 0

    def add(self, end: int, *, is_failed: bool) -> None:
        """One more record is written; the input is done up to `end`."""
        self.rows += 1
        self.failed += is_failed
        now = self._clock()
        if now - self._shown >= _REDRAWN_EVERY:
            self._shown = now
            self._reporter.status(self.line(end))
        if now - self._told >= _TOLD_EVERY:
            self._told = now
            if not self._reporter.has_status_line:
                self._reporter.detail(self.line(end))

    def line(self, end: int) -> str:
        """`1,234 rows, 45.6 rows/s, 2 failed, 3:20 left`."""
        seconds = self._clock() - self._start
        parts = [f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}", f"{self._rate(seconds)} rows/s"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        done = end - self._begun
        if self._total is not None and done > 0 and seconds > 1:
            parts.append(f"{clock_time(seconds * max(0, self._total - end) / done)} left")
        return ", ".join(parts)

    def summary(self, n_tokens: int) -> str:
        """One line for the end of the batch."""
        seconds = max(self._clock() - self._start, 1e-6)
        rate = f"{self._rate(seconds)} rows/s, {n_tokens / seconds:,.0f} generation tok/s"
        return f"{self.rows:,} rows in {seconds:,.1f} s, {self.failed:,} failed, {rate}"

    def _rate(self, seconds: float) -> str:
        rate = self.rows / max(seconds, 1e-6)
        return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}" if rate < 1 else f"{rate:.1f}"
