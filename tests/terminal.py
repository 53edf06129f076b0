"""A terminal for tests: the real program on a pty, its screen kept by an emulator (pyte).

Tests ask what is on the screen, not what was written. Nothing here waits for a time: `wait_for` reads until the screen
says what is expected, or the program ends, or the deadline passes.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pexpect
import pyte
from conftest import environment


class _Screen(pyte.HistoryScreen):  # type: ignore[misc]
    """Answers the questions that programs ask a terminal (where is the cursor?), and changes its height as xterm and
    VTE do: the scroll region is lifted, the row of the cursor stays, and rows come back from the scrollback."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], None]) -> None:
        super().__init__(columns, lines, history=5000, ratio=0.5)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        if columns is not None and columns != self.columns:
            super().resize(self.lines, columns)
        self.set_margins()
        if lines is None:
            return
        y = self.cursor.y
        for _ in range(max(0, y + 1 - lines)):  # what would be cut off above the cursor scrolls out
            self.cursor.y = self.lines - 1
            self.index()
        y = min(y, lines - 1)
        for row in range(lines, self.lines):
            self.buffer.pop(row, None)
        n_back = min(len(self.history.top), max(0, lines - self.lines))
        for row in range(self.lines - 1, -1, -1) if n_back else ():
            self.buffer[row + n_back] = self.buffer.pop(row, self.buffer[row])
        for row in range(n_back - 1, -1, -1):
            self.buffer[row] = self.history.top.pop()
        self.lines, self.cursor.y = lines, y + n_back
        self.dirty.update(range(lines))


# How long a test waits for anything. It only ends a hang: a busy machine may need a hundred times as long as an idle one.
PATIENCE_S = 300

# Bracketed paste is on while a line is edited, and while an answer streams. The line editor's drawing of a prompt, which
# takes keys by then, goes on with the mode of the arrows (DECCKM, the first time) or the cursor.
_OPENED, _CLOSED = "\x1b[?2004h", "\x1b[?2004l"
_EDITS = (f"{_OPENED}\x1b[?1l", f"{_OPENED}\x1b[?25l")


class Terminal:
    """A running `slm` (or another program) and what its user sees."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        home: Path,
        env: Mapping[str, str] | None = None,
        columns: int = 100,
        lines: int = 30,
        program: Sequence[str] = (sys.executable, "-m", "slmchat"),
        cwd: Path | None = None,
        echo: bool = False,
    ) -> None:
        """`echo`: the terminal echoes what is typed, as it does for a person until a program switches that off."""
        from spawn import Spawn  # there is none on Windows

        command, *rest = [*program, *map(str, arguments)]
        self.child = Spawn(
            command,
            rest,
            env=environment(home, {"EDITOR": "", "VISUAL": "", **(env or {})}),
            dimensions=(lines, columns),
            cwd=str(cwd) if cwd else None,
            encoding="utf-8",
            codec_errors="replace",
            echo=echo,
        )
        self.child.delaybeforesend = None
        self.screen = _Screen(columns, lines, self._write)
        self._stream = pyte.Stream(self.screen)
        self.raw = ""
        self._entered_at = -1

    def _write(self, data: str) -> None:
        if self.child.isalive():
            self.child.send(data)

    @property
    def text(self) -> str:
        """What is on the screen, line by line."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def everything(self) -> str:
        """Scrollback and screen."""
        top = ["".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in self.screen.history.top]
        return "\n".join([*top, self.text])

    def wait_for(self, expected: str | Callable[[], bool], timeout: float = PATIENCE_S) -> None:
        """Read until the pattern (a regular expression over scrollback and screen) or the condition holds.

        The pattern may be folded over lines: how long a path is depends on where the tests run.
        """
        holds = (lambda: self._shows(expected)) if isinstance(expected, str) else expected
        deadline = time.monotonic() + timeout
        while not holds():
            left = deadline - time.monotonic()
            assert left > 0, f"{expected!r} did not come; the screen says:\n{self.everything[-3000:]}"
            try:
                data = self.child.read_nonblocking(65536, timeout=min(left, 1))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert holds(), f"the program ended before {expected!r} came:\n{self.everything[-3000:]}"
                return
            self._take(data)

    def _shows(self, pattern: str) -> bool:
        told = self.everything
        folded = (re.sub(r"\n +", between, told) for between in ("", " "))
        return any(re.search(pattern, text) for text in (told, *folded, told.replace("\n", "")))

    def _take(self, data: str) -> None:
        self.raw += data
        self._stream.feed(data)

    def wait_for_count(self, pattern: str, count: int, timeout: float = PATIENCE_S) -> None:
        """Read until the pattern stands there `count` times."""
        self.wait_for(lambda: len(re.findall(pattern, self.everything)) >= count, timeout)

    def type(self, text: str) -> None:
        """Send keys as they are, to slm's line editor where there is one: once it takes keys."""
        self._wait_for_prompt()
        self.child.send(text)

    def press(self, keys: str) -> None:
        """Send keys now: to what is not slm's line editor, or to an answer that streams."""
        self.child.send(keys)

    def enter(self, text: str) -> None:
        """Type a line and press Enter. Keys that are typed afterwards wait for the next prompt."""
        self.type(text + "\r")
        if _OPENED in self.raw:
            self._entered_at = len(self.raw)

    def _wait_for_prompt(self) -> None:
        """Until the editor takes keys: between two prompts Enter, Tab, Esc and Ctrl-C are other keys, and what comes
        right behind an Enter is a paste."""

        def is_open() -> bool:
            closed = self.raw.rfind(_CLOSED)
            return _OPENED not in self.raw or max(map(self.raw.rfind, _EDITS)) > closed >= self._entered_at

        self.wait_for(is_open)

    def interrupt(self) -> None:
        """Ctrl-C as the terminal sends it."""
        self.child.send("\x03")

    def kill(self) -> None:
        """kill -9: the program gets no chance to tidy up."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def resize(self, columns: int, lines: int) -> None:
        """As a person does it: what was written before is on the screen by then."""
        with contextlib.suppress(pexpect.TIMEOUT):
            while True:
                self._take(self.child.read_nonblocking(65536, timeout=0))
        self.screen.resize(lines, columns)
        self.child.setwinsize(lines, columns)

    def end(self, timeout: float = PATIENCE_S) -> int:
        """Read to the end of the program; its exit code."""
        self.wait_for(lambda: not self.child.isalive(), timeout)
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self._take(self.child.read_nonblocking(65536, timeout=0))
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_error: object) -> None:
        self.child.close(force=True)
