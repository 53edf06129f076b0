"""What is said while several answers are made side by side: nothing of them is shown before one is chosen.

Knows: how many have come, how long it has taken. Refuses to know: models, which answer counts.
"""

import time
from types import TracebackType

from slmchat.terminal.console import Console
from slmchat.terminal.ticker import Ticker

# Between two drawings of the line, in seconds.
_PERIOD_S = 0.25


class CandidatesLine:
    """The status line of a terminal, from the beginning of the answers to their end."""

    def __init__(self, console: Console, n: int) -> None:
        """`n`: so many answers are made."""
        self._console = console
        self._n = n
        self._n_there = 0
        self._begun = time.monotonic()
        self._ticker: Ticker | None = None

    def __enter__(self) -> "CandidatesLine":
        if self._console.has_status_line:
            self._ticker = Ticker(lambda: self._console.gate.run(self._tell), _PERIOD_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._console.status("")

    def came(self) -> None:
        """One more answer is there."""
        self._n_there += 1

    def _tell(self) -> None:
        seconds = time.monotonic() - self._begun
        self._console.status(f"{self._n} answers: {self._n_there} done, {seconds:.0f} s (Ctrl-C stops)")
