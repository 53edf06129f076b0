"""The one way of text to a stream that may be a terminal.

Whoever writes does not have to remember that text is untrusted: `write` makes all of it safe where a terminal reads it.
What slm itself wants a terminal to obey has a type of its own, `ControlSequences`, that no text turns into by mistake.

Knows: what a terminal reads, styles, what is held back of a text that streams.
Refuses to know: which stream it is, what is told when, whether colour is wanted.
"""

from typing import NamedTuple, NewType, TextIO

from slmchat.sanitize import Sanitizer

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


class Screen:
    """One stream. A pipe or a file gets text as it is: what reads it obeys nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._view = Sanitizer(show_invisible=True) if is_tty(stream) else None

    @property
    def is_tty(self) -> bool:
        return self._view is not None

    def write(self, text: str, style: Style | None = None) -> None:
        """Part of a text that streams: a character that what follows decides about waits for it.

        White space around styled text is left alone. Raises BrokenPipeError when the reader has gone.
        """
        if self._view:
            text = self._view.feed(text)
        core = text.strip()
        if style and core:
            before, _, after = text.partition(core)
            text = f"{before}{style.on}{core}{style.off}{after}"
        if self._view is None:
            self._write_lines(text)
            return
        self._stream.write(text)
        self._stream.flush()

    def _write_lines(self, text: str) -> None:
        """Whole lines go out at once, unmixed with those of another program (`xargs -P`); the rest waits."""
        lines, end, rest = text.rpartition("\n")
        if end:
            self._stream.write(lines + end)
            self._stream.flush()
        self._stream.write(rest)

    def end(self) -> None:
        """The text that streamed is over, wherever it stopped: what waits comes out."""
        waiting = self._view.flush() if self._view else ""
        if waiting:
            self._stream.write(waiting)

    def send(self, sequences: ControlSequences) -> None:
        """What a terminal is to obey; it may come in the middle of a text that streams."""
        self._stream.write(sequences)
        self._stream.flush()


def is_tty(stream: TextIO) -> bool:
    """Whether a terminal is behind the stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
