"""One line at the bottom of the terminal that stays while text scrolls above it.

Knows: scroll regions (DECSTBM, as xterm and the VT100 have them; apt draws its progress bar the same way).
Refuses to know: what the line says.

The cursor is saved and restored around every drawing, text is written as always, and what scrolls off the top of the
region goes into the scrollback. Nothing is drawn when the stream is no terminal, is dumb, or has too few lines.
"""

import time
from collections.abc import Callable

from slmchat.sanitize import sanitize
from slmchat.terminal import restore
from slmchat.terminal.markdown_layout import cut_to_width
from slmchat.terminal.screen import DIM, ControlSequences

MIN_LINES = 6
# Between two drawings, in seconds: fast enough to look alive, too slow to cost anything.
_PAUSE_S = 0.2


class StatusBar:
    """The line; `close` gives the terminal back as it was."""

    def __init__(
        self,
        send: Callable[[ControlSequences], None],
        *,
        is_enabled: bool,
        has_color: bool,
        size: Callable[[], tuple[int, int]],
    ) -> None:
        """`send` writes sequences to the terminal.

        `size` answers (columns, lines) of the terminal, asked at every drawing: resizing does no harm.
        """
        self._send = send
        self._size = size
        self._dim = DIM if has_color else ("", "")
        self._lines = 0
        self._drawn_at = 0.0
        self.is_enabled = is_enabled

    def draw(self, text: str, *, is_now: bool = False) -> None:
        """Show a line, made safe and cut to the width; not more often than needed."""
        now = time.monotonic()
        if not self.is_enabled or (now - self._drawn_at < _PAUSE_S and not is_now):
            return
        columns, lines = self._size()
        if lines < MIN_LINES:
            return
        self._drawn_at = now
        if lines != self._lines:
            self._reserve(lines)
        on, off = self._dim
        shown = cut_to_width(sanitize(text, one_line=True), columns - 1)
        self._send(ControlSequences(f"\x1b7\x1b[{lines};1H\x1b[0m{on}{shown}{off}\x1b[K\x1b8"))

    def close(self) -> None:
        """Clear the line and let the whole screen scroll again."""
        if self._lines:
            self._send(self._undoing())
            restore.ended("status line")
            self._lines = 0

    def _reserve(self, lines: int) -> None:
        """Keep the last line out of what scrolls; the cursor is moved up first if it stands there."""
        if self._lines:
            self._send(self._undoing())
        self._lines = lines
        restore.begun("status line", self._undoing())
        self._send(ControlSequences(f"\n\x1b[1A\x1b7\x1b[1;{lines - 1}r\x1b8"))

    def _undoing(self) -> ControlSequences:
        return ControlSequences(f"\x1b7\x1b[r\x1b[{self._lines};1H\x1b[K\x1b8")
