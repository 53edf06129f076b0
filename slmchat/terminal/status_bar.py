"""One line at the bottom of the terminal that stays while text scrolls above it.

Knows: scroll regions (DECSTBM, as xterm and the VT100 have them; apt draws its progress bar the same way), and what a
terminal does with one when its window changes. Refuses to know: what the line says, when it is drawn.

Text is written as always, and what scrolls off the top of the region goes into the scrollback. The cursor is saved and
restored around every drawing. Nothing lies below it but the line itself: so that is how the line is found again
after a change of the window, which moves rows up or down and lifts the region. Never by the number of its row.
"""

from collections.abc import Callable

from slmchat.sanitize import sanitize
from slmchat.terminal.markdown_layout import cut_to_width
from slmchat.terminal.screen import DIM, ControlSequences

MIN_LINES = 6

# The whole screen scrolls again (which sends the cursor home), and what lies below the cursor's row goes: from the next
# row on, because a cursor behind the last column stands on the last letter. IND, not a line feed: the cursor moves
# down, or the text up where it stands in the last row, and its column stays (a terminal's driver makes CR LF of a line
# feed).
UNDOING = "\x1b7\x1b[r\x1b8\x1bD\x1b[2K\x1b[J\x1b[A"


class StatusBar:
    """The line; `close` gives the terminal back as it was."""

    def __init__(
        self, send: Callable[[ControlSequences], None], *, has_color: bool, size: Callable[[], tuple[int, int]]
    ) -> None:
        """`send` writes sequences to the terminal. `size` answers (columns, lines) of the terminal, now."""
        self._send = send
        self._size = size
        self._dim = DIM if has_color else ("", "")
        self._window = (0, 0)  # in which the last line is kept; no lines: none is
        self._shown: str | None = None

    @property
    def has_room(self) -> bool:
        """Whether the window is high enough for it."""
        return self._size()[1] >= MIN_LINES

    def fit(self) -> None:
        """Keep the last line of the window as it is now, if it is high enough; before anything else is written."""
        columns, lines = self._size()
        if (columns, lines) == self._window:  # a window of another width has lost the region, too
            return
        self.close()
        if lines >= MIN_LINES:
            self._window = (columns, lines)
            self._send(ControlSequences(f"{UNDOING}\x1b7\x1b[1;{lines - 1}r\x1b8"))

    def draw(self, text: str) -> None:
        """Show a line, made safe and cut to the width."""
        self.fit()
        columns, lines = self._window
        if lines and text != self._shown:
            self._shown = text
            on, off = self._dim
            shown = cut_to_width(sanitize(text, one_line=True), columns - 1)
            self._send(ControlSequences(f"\x1b7\x1b[{lines};1H\x1b[0m{on}{shown}{off}\x1b[K\x1b8"))

    def close(self) -> None:
        """Take the line away and let the whole screen scroll again."""
        if self._window[1]:
            self._window, self._shown = (0, 0), None
            self._send(ControlSequences(UNDOING))
