"""Streams: stdout carries the completion (or the asked-for listing), stderr everything else.

Nothing else writes to them: text of any origin is made safe here (screen.py), and what a terminal is to obey comes as
`ControlSequences`. A pipe gets a completion as data.

Knows: what is a terminal, how wide, whether colour is wanted; decided once, here.
Refuses to know: models, conversations, commands. The only file that uses `rich`, and only when a table or a progress
bar is drawn.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from slmchat.errors import SlmError
from slmchat.reporting import ByteProgress
from slmchat.sanitize import sanitize
from slmchat.terminal.screen import DIM, ControlSequences, Screen, Style, is_tty


class Console:
    """The three streams of this process and what they can show. Tests pass their own. Implements `Reporter`."""

    def __init__(
        self,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.stdin = stdin if stdin is not None else sys.stdin
        self.stdout = stdout if stdout is not None else sys.stdout
        self.stderr = stderr if stderr is not None else sys.stderr
        self.environ = environ if environ is not None else os.environ
        self._out, self._err = Screen(self.stdout), Screen(self.stderr)
        self.is_quiet = False
        self.is_verbose = False
        self.is_dumb = self.environ.get("TERM") == "dumb"
        self.is_interactive = is_tty(self.stdin) and self._out.is_tty

    @property
    def is_stdout_tty(self) -> bool:
        return self._out.is_tty

    @property
    def is_stderr_tty(self) -> bool:
        return self._err.is_tty

    @property
    def has_color(self) -> bool:
        """Styles on stderr and stdout: a terminal, not dumb, and NO_COLOR unset (no-color.org)."""
        return self.is_stdout_tty and not self.is_dumb and not self.environ.get("NO_COLOR")

    @property
    def has_status_line(self) -> bool:
        """Whether stderr is a terminal that can take a line back."""
        return self.is_stderr_tty and not self.is_dumb and not self.is_quiet

    def write(self, text: str, style: Style | None = None) -> None:
        """Part of the answer, as it comes. Raises BrokenPipeError when the reader has gone."""
        self._out.write(text, style)

    def send(self, sequences: ControlSequences) -> None:
        """Part of the answer with sequences that a terminal is to obey."""
        self._out.send(sequences)

    def print(self, text: str = "") -> None:
        """One line of an asked-for listing on stdout."""
        self._end()
        self.write(sanitize(text) + "\n")

    def print_json(self, value: object) -> None:
        """A value on stdout. What a terminal would obey is escaped: names and titles come from anywhere."""
        from slmchat import safe_json

        self.write(safe_json.encode(value))

    def note(self, text: str) -> None:
        """A line about what is happening, on stderr; `-q` leaves it out."""
        if not self.is_quiet:
            self._tell(text)

    def detail(self, text: str) -> None:
        """A line that only `-v` shows."""
        if self.is_verbose and not self.is_quiet:
            self._tell(text)

    def warn(self, text: str) -> None:
        if not self.is_quiet:
            self._tell(f"slm: {text}")

    def error(self, error: SlmError) -> None:
        self._tell(f"slm: {error.message}")
        if error.hint:
            self._tell(f"hint: {error.hint}")

    def draw(self, sequences: ControlSequences) -> None:
        """Pixels or styled text for a terminal, on stderr beside the other notes; nothing elsewhere."""
        if self.has_status_line:
            self._end()
            self.status("")
            self._err.send(sequences)

    def aside(self, text: str) -> None:
        """Part of a text that is not the answer (thinking), on stderr as it comes; `-q` leaves it out."""
        if not self.is_quiet:
            is_dim = self.is_stderr_tty and not self.is_dumb and not self.environ.get("NO_COLOR")
            self._err.write(text, DIM if is_dim else None)

    def status(self, text: str) -> None:
        """A line on a terminal's stderr that the next status (or an empty one) replaces."""
        if self.has_status_line:
            self._err.send(ControlSequences("\r\x1b[K" + sanitize(text, one_line=True)))

    def ask(self, question: str) -> bool:
        """A yes-or-no question on the terminal; False when nobody can answer."""
        if not (is_tty(self.stdin) and self.is_stderr_tty):
            return False
        return self.ask_text(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def ask_text(self, question: str) -> str:
        """A line typed by the user after the question on stderr; empty at the end of the input."""
        self._end()
        self._err.send(ControlSequences(sanitize(question)))
        return self.stdin.readline()

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns on stdout, aligned by display width; never cut when stdout is a pipe."""
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        rich = RichConsole(
            file=self.stdout,
            width=None if self.is_stdout_tty else 10_000,
            no_color=not self.has_color,
            highlight=False,
            soft_wrap=not self.is_stdout_tty,
        )
        drawn = Table(box=box.SIMPLE_HEAD if self.has_color else None, pad_edge=False, padding=(0, 2, 0, 0))
        for header in headers:
            drawn.add_column(sanitize(header, one_line=True), overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(sanitize(cell, one_line=True)) for cell in row))
        with rich.capture() as captured:
            rich.print(drawn)
        self.send(ControlSequences("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())))

    @contextmanager
    def progress(self, label: str) -> Iterator[ByteProgress]:
        """A byte progress bar with speed and time left on a terminal's stderr; silent elsewhere."""
        if not self.has_status_line:
            yield lambda done, total: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        console = RichConsole(file=self.stderr, no_color=bool(self.environ.get("NO_COLOR")))
        with RichProgress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(sanitize(label, one_line=True), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _tell(self, text: str) -> None:
        self._end()
        self.status("")
        self._err.send(ControlSequences(sanitize(text) + "\n"))

    def _end(self) -> None:
        """Another text begins: what waits of the ones that stream comes out before it."""
        self._out.end()
        self._err.end()
