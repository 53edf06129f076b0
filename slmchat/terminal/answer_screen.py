"""The one owner of the terminal between Enter and the next prompt, while an answer is made and streams.

It holds what belongs together and must be given back together: the last line of the window (status_bar.py), the modes
of the terminal, what is typed ahead (typed_ahead.py), and the signals that stop and continue slm. A thread reads keys,
another draws the line; text goes on being written by whoever writes it, one at a time (screen.WriteGate).

Where the window has no room for the line, or nothing may be redrawn, what it would say comes as a line of its own now
and then, until the answer begins.

Knows: when the terminal is changed and given back: Ctrl-Z and `fg`, questions in between, ends of all kinds.
Refuses to know: what the line says, what an answer looks like, models.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from slmchat.errors import SlmError
from slmchat.terminal import interrupts, restore
from slmchat.terminal.console import Console
from slmchat.terminal.key_modes import KeyModes
from slmchat.terminal.key_reader import KeyReader
from slmchat.terminal.screen import ControlSequences
from slmchat.terminal.status_bar import UNDOING, StatusBar
from slmchat.terminal.ticker import Ticker
from slmchat.terminal.typed_ahead import TypedAhead

# Between two drawings, in seconds: fast enough to look alive, too slow to cost anything.
_PERIOD_S = 0.2
# Between two lines where none can be redrawn, in seconds.
_TELL_S = 5.0
# When the first of them comes, in seconds after Enter.
_TELL_FIRST_S = 0.25


class AnswerScreen:
    """`held` around everything that happens between Enter and the next prompt; from the main thread."""

    def __init__(self, console: Console, typed: TypedAhead, line: Callable[[], str], *, is_redrawn: bool) -> None:
        """`line`: what is to be said now, asked from another thread while `held`.

        Not `is_redrawn`: nothing that stands on the terminal may be changed.
        """
        self._console = console
        self._typed = typed
        self._line = line
        self._is_redrawn = is_redrawn and console.is_stdout_tty and not console.is_dumb
        # a plain prompt gets whole lines from the terminal, also those that were typed before
        self._takes_keys = not (console.is_dumb or console.is_accessible)
        self._bar = StatusBar(console.send, has_color=console.has_color, size=lambda: console.size)
        self._is_held = False  # threads run
        self._is_up = False  # the screen and the modes are slm's
        self._modes = KeyModes(console.stdin)
        self._keys: KeyReader | None = None
        self._ticker: Ticker | None = None
        self._said = ""  # what the program does now, by its own words
        self._told_at, self._told = 0.0, ""
        self._has_begun = False
        self._has_status = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The terminal is slm's own: the line is there, keys are kept for the next prompt. May be nested."""
        if self._is_held:
            yield
            return
        with self._console.status_shown_by(self._say), self._signals():
            try:
                with interrupts.postponed():
                    self._take()
                yield
            finally:
                self._give_back_whole()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """In the middle of it, somebody else has the terminal: a question, an editor."""
        if not self._is_held:
            yield
            return
        with interrupts.postponed():
            self._give_back()
        try:
            yield
        finally:
            with interrupts.postponed():
                self._take()

    def begins(self) -> None:
        """The first text of the answer comes: where there is no line to draw, nothing more is told."""
        if not self._has_begun:
            self._has_begun = True
            self._console.gate.run(self._clear_status)

    # The terminal is taken and given back

    def _take(self) -> None:
        self._is_held, self._has_begun = True, False
        self._told_at, self._told = time.monotonic() + _TELL_FIRST_S - _TELL_S, ""
        self._take_keys()
        self._console.gate.run(self._put_up)
        self._ticker = Ticker(self._tick, _PERIOD_S)
        if self._modes.is_taken and self._takes_keys:
            self._keys = KeyReader(self._modes.descriptor, self._typed, on_escape=_press_ctrl_c)

    def _give_back_whole(self) -> None:
        """Also when Ctrl-C comes just now: a thread that went on reading keys would take them from the next prompt."""
        try:
            with interrupts.postponed():
                self._give_back()
        except KeyboardInterrupt:
            if self._is_held:  # it came before that; a second one is not raised so soon
                self._give_back()
            raise

    def _give_back(self) -> None:
        self._is_held = False
        for thread in (self._ticker, self._keys):
            if thread is not None:
                thread.stop()
        self._ticker = self._keys = None
        self._said = ""
        self._console.gate.run(self._put_away)
        self._modes.give_back()

    def _take_keys(self) -> None:
        if self._console.is_interactive:
            self._modes.take(keeps_keys=self._takes_keys)

    def _put_up(self) -> None:
        self._is_up = True
        if self._is_redrawn:
            restore.begun("answer", UNDOING + restore.PASTE_OFF)
            self._console.gate.before = self._make_way
            self._console.send(ControlSequences(restore.PASTE_ON))
            self._draw()

    def _put_away(self) -> None:
        self._is_up = False
        self._clear_status()
        self._console.gate.before = None
        if self._is_redrawn:
            self._bar.close()
            self._console.send(ControlSequences(restore.PASTE_OFF))
            restore.ended("answer")

    # What is shown

    def _say(self, text: str) -> None:
        self._said = text

    def _text(self) -> str:
        said = self._said or self._line()
        waiting = self._typed.shown
        # its end is what is being typed: the beginning of a long one is left out
        room = max(10, self._console.size[0] // 2)
        tail = waiting if len(waiting) <= room else "…" + waiting[1 - room :]
        return f"queued: {tail} · {said}" if tail else said

    def _tick(self) -> None:
        with contextlib.suppress(OSError, SlmError):  # the main thread writes too, and is told of it
            self._console.gate.run(self._draw if self._is_redrawn else self._tell)

    def _tell(self) -> None:
        """Where nothing can be redrawn: a line now and then, until the answer begins."""
        if not self._has_begun and time.monotonic() - self._told_at >= _TELL_S:
            self._told_at = time.monotonic()
            if (text := self._text()) != self._told:  # the same again would be noise
                self._told = text
                self._console.note(f"({text})")

    def _draw(self) -> None:
        """The line in its place, else (a window too low for it) where the cursor is, until the answer begins there."""
        if not self._is_up:
            return
        if self._bar.has_room:
            self._bar.draw(self._text())
        elif not self._has_begun:
            self._console.draw_status(self._text())
            self._has_status = True

    def _make_way(self) -> None:
        """Before anything is written."""
        self._bar.fit()
        self._clear_status()

    def _clear_status(self) -> None:
        if self._has_status:
            self._has_status = False
            self._console.draw_status("")

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-Z stops slm with the terminal as it was, and `fg` takes it again."""
        if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGTSTP: self._on_stop, signal.SIGCONT: self._on_continue}
        ours = [number for number in handlers if signal.getsignal(number) is signal.SIG_DFL]
        for number in ours:
            signal.signal(number, handlers[number])
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, signal.SIG_DFL)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._console.gate.interrupt(self._stop)

    def _stop(self) -> None:
        was_up = self._is_up
        if was_up:
            self._put_away()
            self._modes.give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)  # to this thread: slm has stopped when it comes back
        signal.signal(signal.SIGTSTP, self._on_stop)
        if was_up:
            self._take_keys()
            self._put_up()

    def _on_continue(self, _number: int, _frame: FrameType | None) -> None:
        """After a stop that nobody could hear: others had the terminal meanwhile."""
        self._console.gate.interrupt(self._take_again)

    def _take_again(self) -> None:
        if self._is_up:
            self._put_away()
            if self._modes.is_taken:
                self._take_keys()
            self._put_up()


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
