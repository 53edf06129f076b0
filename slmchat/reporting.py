"""What a use case says while it works, and to whom: the console of a command, the logger of a program.

A use case does not know whether a terminal, a notebook or a server started it. It gets a `Reporter` and says what
happens; the door decides what is shown. The answer itself never goes this way.

Knows: the kinds of things that are said. Refuses to know: streams, terminals, verbosity flags.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class ByteProgress(Protocol):
    """Called while bytes are moved: `done` of `total` bytes (None: the total is not known)."""

    def __call__(self, done: int, total: int | None) -> None: ...


class Reporter(Protocol):
    """Implemented by the console (terminal/console.py) and by `LogReporter`. Texts are whole lines without "\\n"."""

    @property
    def is_verbose(self) -> bool:
        """Whether `detail` is shown: ask before details that cost time to collect."""

    @property
    def shows_engine_log(self) -> bool:
        """Whether what the engine itself says is shown, as details: a hundred lines for each model."""

    @property
    def has_status_line(self) -> bool:
        """Whether `status` is shown. Where it is not, what takes long may say so in a `detail` now and then."""

    def note(self, text: str) -> None:
        """What is happening, or what to do next."""

    def detail(self, text: str) -> None:
        """A line for those who want to know more."""

    def warn(self, text: str) -> None:
        """Something the user should know: the work goes on, or ends with less than was asked for."""

    def status(self, text: str) -> None:
        """What is being done at this moment. The next status replaces it; an empty one takes it away."""

    def progress(self, label: str) -> AbstractContextManager[ByteProgress]:
        """Shows how far a transfer is, until the context ends."""

    def ask(self, question: str) -> bool:
        """A yes-or-no question; False when nobody can answer."""


class LogReporter:
    """For programs: all goes to the logger `slmchat`. A library writes on no stream of its program."""

    has_status_line = False

    def __init__(self) -> None:
        import logging  # here: the commands, which start in milliseconds, do without it

        self._logger = logging.getLogger("slmchat")
        self._debug = logging.DEBUG

    @property
    def is_verbose(self) -> bool:
        return self._logger.isEnabledFor(self._debug)

    @property
    def shows_engine_log(self) -> bool:
        return self.is_verbose

    def note(self, text: str) -> None:
        self._logger.info("%s", text)

    def detail(self, text: str) -> None:
        self._logger.debug("%s", text)

    def warn(self, text: str) -> None:
        self._logger.warning("%s", text)

    def status(self, text: str) -> None:
        """Nobody watches: a log keeps what has happened, not what is happening."""

    @contextmanager
    def progress(self, label: str) -> Iterator[ByteProgress]:
        """Nobody watches."""
        yield lambda done, total: None

    def ask(self, question: str) -> bool:
        """Nobody can answer."""
        return False
