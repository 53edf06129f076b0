"""Streams: stdout carries the completion (or the asked-for listing), stderr everything else.

Nothing else writes to them: text of any origin is made safe here (screen.py), and what a terminal is to obey comes as
`ControlSequences`. A pipe gets a completion as data.

Knows: what is a terminal, how wide, whether colour is wanted; decided once, here.
Refuses to know: models, conversations, commands. The only file that uses `rich`, and only when a progress bar is drawn.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, TextIO

from slmchat.errors import SlmError
from slmchat.reporting import ByteProgress
from slmchat.sanitize import sanitize
from slmchat.terminal import standard_streams
from slmchat.terminal.markdown_layout import cut_to_width
from slmchat.terminal.screen import BOLD, DIM, ControlSequences, Screen, Style, WriteGate, closed_output, is_tty
from slmchat.terminal.size import terminal_size
from slmchat.wording import counted, in_bytes

if TYPE_CHECKING:
    from slmchat.terminal.tables import Column

# Seconds between two lines of one kind for somebody who hears them.
_SAID_EVERY_S = 10.0
# Rows of a listing that a terminal gets: a table of 10,000 takes seconds to lay out.
_LISTED = 50


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
        self.gate = WriteGate()
        self._out = Screen(self.stdout, gate=self.gate)
        self._err = Screen(self.stderr, is_answer=False, gate=self.gate)
        self._status_owner: Callable[[str], None] | None = None
        self._said_at: dict[str, float] = {}  # what stands before the number of a status -> when it was said
        self.is_quiet = False
        self.is_verbose = False
        self.shows_engine_log = False  # -vv
        self.is_accessible = False  # nothing is written twice, and no colour
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
        is_able = self.is_stdout_tty and not self.is_dumb and not self.is_accessible
        return is_able and not self.environ.get("NO_COLOR")

    @property
    def has_status_line(self) -> bool:
        """Whether stderr is a terminal that can take a line back."""
        return self.is_stderr_tty and not self.is_dumb and not self.is_accessible and not self.is_quiet

    @property
    def says_status(self) -> bool:
        """Whether stderr is a terminal of somebody who hears it."""
        return self.is_stderr_tty and self.is_accessible and not self.is_quiet

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal that stdout is, now."""
        return terminal_size(self.stdout, self.environ)

    @property
    def width(self) -> int | None:
        """Columns that a listing may take; None in a pipe or a file, where lines have no end."""
        return self.size[0] if self.is_stdout_tty else None

    def check_stdout(self) -> None:
        """Before an answer is computed: there is somewhere to write it. Raises `SlmError` (STORAGE)."""
        if standard_streams.is_read_only(self.stdout):
            raise closed_output()

    def flush(self) -> None:
        """Everything is written now. Raises BrokenPipeError when the reader has gone, `SlmError` (STORAGE)."""
        self._end()
        self._out.flush()
        self._err.flush()

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

    def tell(self, text: str) -> None:
        """A sentence on stdout, folded between words where a terminal is narrow."""
        from slmchat.terminal.tables import paragraphs

        for line in paragraphs(sanitize(text), self.width):
            self.print(line)

    def print_json(self, value: object) -> None:
        """A value on stdout. What a terminal would obey is escaped: names and titles come from anywhere."""
        from slmchat import safe_json

        self.write(safe_json.encode(value))

    def note(self, text: str) -> None:
        """A line about what is happening, on stderr; `-q` leaves it out."""
        if not self.is_quiet:
            self._tell(text)

    def verbatim(self, text: str) -> None:
        """As `note`, for a text whose lines are its own: only the terminal breaks them."""
        if not self.is_quiet:
            self._end()
            self._err.send(ControlSequences(sanitize(text) + "\n"))

    def ring(self) -> None:
        """The bell of the terminal."""
        if self.is_stderr_tty and not self.is_quiet:
            self._err.send(ControlSequences("\a"))

    def detail(self, text: str) -> None:
        """A line that only `-v` shows."""
        if self.is_verbose and not self.is_quiet:
            self._tell(text)

    def warn(self, text: str, hint: str | None = None) -> None:
        """Something to know of what goes on all the same; `-q` leaves it out."""
        self.note(f"slm: warning: {text}")
        if hint:
            self.note(f"hint: {hint}")

    def error(self, error: SlmError) -> None:
        """Why slm, or a part of what it was asked to do, ends here. Also with `-q`."""
        self._tell(f"slm: {error.message}")
        if error.hint:
            self._tell(f"hint: {error.hint}")

    def draw(self, sequences: ControlSequences) -> None:
        """Pixels or styled text for a terminal, on stderr beside the other notes; nothing elsewhere."""
        if self.has_status_line:
            self._end()
            if self._status_owner is None:
                self.draw_status("")
            self._err.send(sequences)

    def aside(self, text: str) -> None:
        """Part of a text that is not the answer (thinking), on stderr as it comes; `-q` leaves it out."""
        if not self.is_quiet:
            is_able = self.is_stderr_tty and not self.is_dumb and not self.is_accessible
            is_dim = is_able and not self.environ.get("NO_COLOR")
            self._err.write(text, DIM if is_dim else None)

    def status(self, text: str) -> None:
        """A line on a terminal's stderr that the next status (or an empty one) replaces.

        For people who do not see the screen it is a line of its own: the first of its kind, and one in ten seconds.
        """
        if self._status_owner is not None:
            self._status_owner(text)
        else:
            self.draw_status(text)

    def draw_status(self, text: str) -> None:
        """The line of `status` itself, where the cursor is, cut to the window."""
        if self.has_status_line:
            shown = cut_to_width(sanitize(text, one_line=True), terminal_size(self.stderr, self.environ)[0] - 1)
            self._err.send(ControlSequences("\r\x1b[K" + shown))
        elif text and self.says_status:
            kind, now = "".join(takewhile(lambda one: not one.isdigit(), text)), time.monotonic()
            if now - self._said_at.get(kind, float("-inf")) >= _SAID_EVERY_S:
                self._said_at[kind] = now
                self._err.send(ControlSequences(f"({self._folded(text)})\n"))

    @contextmanager
    def status_shown_by(self, owner: Callable[[str], None]) -> Iterator[None]:
        """While this lasts, `owner` shows what `status` says: it has a line of its own for it."""
        before, self._status_owner = self._status_owner, owner
        try:
            yield
        finally:
            self._status_owner = before

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to answer."""
        return is_tty(self.stdin) and self.is_stderr_tty

    def ask(self, question: str) -> bool:
        """A yes-or-no question on the terminal; False when nobody can answer."""
        if not self.can_ask:
            return False
        return self.ask_text(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def ask_text(self, question: str) -> str:
        """A line typed by the user after the question on stderr; empty at the end of the input."""
        self._end()
        asked = self._folded(question.rstrip(" "))
        self._err.send(ControlSequences(asked + question[len(question.rstrip(" ")) :]))
        answer = ""
        try:
            answer = self.stdin.readline()
        finally:
            if not answer.endswith("\n"):  # Ctrl-C or Ctrl-D: what comes now, a shell's prompt too, begins a line
                self._err.send(ControlSequences("\n"))
        return answer

    def table(self, columns: Sequence["Column"], rows: Sequence[Sequence[str]]) -> None:
        """Columns on stdout, aligned by display width. A pipe gets all of them, a terminal those that fit it."""
        from slmchat.terminal.tables import layout

        safe = [[sanitize(cell, one_line=True) for cell in row] for row in rows]
        named = [replace(column, header=sanitize(column.header, one_line=True)) for column in columns]
        made = layout(named, safe, self.width)
        for number, line in enumerate(made.lines):
            is_heading = number < made.n_headings and self.has_color
            self.send(ControlSequences(f"{BOLD.on}{line}{BOLD.off}\n" if is_heading else f"{line}\n"))
        if made.left_out:
            self.note(f"no room here for: {', '.join(made.left_out)} (a wider window or a pipe has it)")

    def listing(
        self, columns: Sequence["Column"], rows: Sequence[Sequence[str]], what: str, more: str, most: int | None = None
    ) -> None:
        """A table of `most` rows (None: 50) on a terminal; a pipe gets a line for each, with tabs between its cells.

        `what` a row is, and the command that shows `more` of them, are said where a terminal does not get them all.
        """
        if self.is_stdout_tty:
            most = most or _LISTED
            self.table(columns, rows[:most])
            if len(rows) > most:
                self.note(f"{counted(len(rows) - most, what)} more: {more}")
        else:
            lines = ("\t".join(sanitize(cell, one_line=True) for cell in row) + "\n" for row in rows)
            self.write("".join(lines))

    def labelled(self, label: str, text: str) -> None:
        """A label and a text beside it on stdout, folded under its own beginning where a terminal is narrow."""
        from slmchat.terminal.tables import hanging

        for line in hanging(sanitize(label, one_line=True), sanitize(text, one_line=True), self.width):
            self.print(line)

    @contextmanager
    def progress(self, label: str) -> Iterator[ByteProgress]:
        """A byte progress bar with speed and time left on a terminal's stderr, or lines that say how far; silent
        elsewhere."""
        if self.says_status:

            def say(done: int, total: int | None) -> None:
                self.status(f"{label}: {in_bytes(done)}" + (f" of {in_bytes(total)}" if total else ""))

            yield say
            return
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
        # without them rich asks the terminal (terminal/size.py says why)
        environ = {name: value for name, value in self.environ.items() if name not in ("COLUMNS", "LINES")}
        console = RichConsole(file=self.stderr, no_color=bool(self.environ.get("NO_COLOR")), _environ=environ)
        with RichProgress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(sanitize(label, one_line=True), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _tell(self, text: str) -> None:
        self._end()
        if self._status_owner is None:
            self.draw_status("")
        self._err.send(ControlSequences(self._folded(text) + "\n"))

    def _folded(self, text: str) -> str:
        """Safe, and folded between words on a terminal."""
        if not self.is_stderr_tty:
            return sanitize(text)
        from slmchat.terminal.tables import paragraphs

        return "\n".join(paragraphs(sanitize(text), terminal_size(self.stderr, self.environ)[0]))

    def _end(self) -> None:
        """Another text begins: what waits of the ones that stream comes out before it."""
        self._out.end()
        self._err.end()


# The console of the command line that runs in this context.
_current: ContextVar[Console | None] = ContextVar("console", default=None)


@contextmanager
def console_of_call(console: Console) -> Iterator[None]:
    """While this lasts, `current_console` is this one."""
    token = _current.set(console)
    try:
        yield
    finally:
        _current.reset(token)


def current_console() -> Console:
    """For what is called by a library and gets nothing from its caller, as the help is."""
    return _current.get() or Console()
