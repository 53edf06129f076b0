"""The one way of text to a stream that may be a terminal.

Whoever writes does not have to remember that text is untrusted: `write` makes all of it safe where a terminal reads it.
What slm itself wants a terminal to obey has a type of its own, `ControlSequences`, that no text turns into by mistake.

Knows: what a terminal reads, styles, what is held back of a text that streams, that one thread writes at a time, what a
stream that refuses means.
Refuses to know: what is told when, whether colour is wanted.
"""

import errno
import threading
from collections.abc import Callable
from typing import NamedTuple, NewType, TextIO

from slmchat.errors import ExitCode, SlmError
from slmchat.sanitize import Sanitizer
from slmchat.terminal import standard_streams

# What goes to a terminal as it is: control sequences of slm's own, and lines that hold some. Text in them has been
# sanitised by the one who made them.
ControlSequences = NewType("ControlSequences", str)


class Style(NamedTuple):
    """How a text looks: the sequences before and behind it (ECMA-48 8.3.117, SGR)."""

    on: ControlSequences
    off: ControlSequences


BOLD = Style(ControlSequences("\x1b[1m"), ControlSequences("\x1b[22m"))
DIM = Style(ControlSequences("\x1b[2m"), ControlSequences("\x1b[22m"))
UNDERLINE = Style(ControlSequences("\x1b[4m"), ControlSequences("\x1b[24m"))
BOLD_UNDERLINE = Style(ControlSequences("\x1b[1m\x1b[4m"), ControlSequences("\x1b[24m\x1b[22m"))


class WriteGate:
    """One writer at a time, for all streams of one terminal: a thread that draws a line must not hit half a word.

    `before` is called ahead of what is written (not of what it writes itself): who owns a part of the screen puts that
    in order there.
    """

    def __init__(self) -> None:
        self.before: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._depth = 0
        self._waiting: Callable[[], None] | None = None

    def run(self, write: Callable[[], None]) -> None:
        """Write, while nobody else does."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1 and self.before is not None:
                    self.before()
                write()
            finally:
                self._depth -= 1
        if self._waiting is not None and threading.current_thread() is threading.main_thread():
            action, self._waiting = self._waiting, None
            self.interrupt(action)

    def interrupt(self, action: Callable[[], None]) -> None:
        """From the handler of a signal: between two writes, so at once, or at the end of the one that it has hit."""
        with self._lock:
            if not self._depth:
                action()
            else:
                self._waiting = action


# Of a line that does not end, so many characters wait for its end. The buffer of Python 3.14 holds 128 KiB.
_MOST_HELD = 8192


class Screen:
    """One stream. A pipe or a file gets text as it is: what reads it obeys nothing."""

    def __init__(self, stream: TextIO, *, is_answer: bool = True, gate: WriteGate | None = None) -> None:
        """`is_answer`: what cannot be written is an error. Messages about the answer are lost instead: nobody is there
        to be told, and the answer itself may still arrive. `gate`: shared with the other streams of the terminal."""
        self._stream = stream
        self._gate = gate or WriteGate()
        self._is_answer = is_answer
        self._is_lost = False
        self._held = 0  # characters of a line of a pipe that has not ended
        self._view = Sanitizer(show_invisible=True) if is_tty(stream) else None

    @property
    def is_tty(self) -> bool:
        return self._view is not None

    def write(self, text: str, style: Style | None = None) -> None:
        """Part of a text that streams: a character that what follows decides about waits for it.

        White space around styled text is left alone. Raises BrokenPipeError when the reader has gone, `SlmError`
        (STORAGE) when the stream is closed or its disk is full.
        """
        if self._view:
            text = self._view.feed(text)
        if style and (core := text.strip()):
            before, _, after = text.partition(core)
            text = f"{before}{style.on}{core}{style.off}{after}"
        if self._view is None:  # whole lines go out at once, unmixed with those of another program (`xargs -P`)
            end = text.rfind("\n") + 1
            self._put(text[:end], is_flushed=end > 0)
            text = text[end:]
            self._held = len(text) + (0 if end else self._held)
        is_flushed = self._view is not None or self._held >= _MOST_HELD
        self._put(text, is_flushed=is_flushed)
        if is_flushed:
            self._held = 0

    def end(self) -> None:
        """The text that streamed is over, wherever it stopped: what waits comes out."""
        waiting = self._view.flush() if self._view else ""
        if waiting:
            self._put(waiting, is_flushed=False)

    def send(self, sequences: ControlSequences) -> None:
        """What a terminal is to obey; it may come in the middle of a text that streams."""
        self._put(sequences)

    def flush(self) -> None:
        """Everything is out, or it raises as `write` does."""
        self._put("")

    def _put(self, text: str, *, is_flushed: bool = True) -> None:
        if self._is_lost:
            return

        def write() -> None:
            if text:
                self._stream.write(text)
            if is_flushed:
                self._stream.flush()

        try:
            self._gate.run(write)
        except OSError as error:
            standard_streams.give_up(self._stream)
            if self._is_answer:
                raise error if isinstance(error, BrokenPipeError) else unwritable(error) from error
            self._is_lost = True


def is_tty(stream: TextIO) -> bool:
    """Whether a terminal is behind the stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def closed_output() -> SlmError:
    """The sentence for a standard output that is closed."""
    return SlmError("standard output is closed.", hint="give it a place: > FILE", exit_code=ExitCode.STORAGE)


def unwritable(error: OSError) -> SlmError:
    """The sentence for a standard output that takes nothing."""
    if error.errno == errno.EBADF:
        return closed_output()
    reason = (error.strerror or str(error)).lower()
    return SlmError(f"standard output cannot be written: {reason}.", exit_code=ExitCode.STORAGE)
