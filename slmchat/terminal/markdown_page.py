"""How the blocks of an answer stand under each other: blank lines, quote bars, indentation, list markers.

Knows: what the lines of a block start with, and when a blank line is due. Refuses to know: what kind of block it is.
"""

from collections.abc import Callable, Sequence

from slmchat.terminal.markdown_layout import DIM, NONE, Pen, Piece, Wrapper

_BAR: Piece = ("│ ", DIM)


class Page:
    """The growing page. After `begin`, `wrapper` takes text that is wrapped and `pen` text that is not."""

    def __init__(self, write: Callable[[str], None], width: Callable[[], int], *, has_color: bool) -> None:
        self._width = width
        self.pen = Pen(write, has_color=has_color)
        self.wrapper = Wrapper(self.pen, keeps_addresses=True)
        self._has_output = False
        self._last_depth = 0  # quote bars of the block above
        self._blank: int | None = None  # a blank line is due, with so many quote bars
        self._owes_gap = False  # what stands above is set apart from what follows

    @property
    def is_after_gap(self) -> bool:
        """Whether the next block comes first, or after a blank line of the answer."""
        return self._blank is not None or not self._has_output

    def blank(self, depth: int) -> None:
        """A blank line of the answer; several show as one, and none at the start or the end."""
        self._blank = depth if self._blank is None else min(self._blank, depth)

    def set_apart(self) -> None:
        """The next block does not touch what stands above it."""
        self._owes_gap = True

    def begin(
        self, depth: int, indent: int, markers: Sequence[Piece] = (), outer: int = 0, *, needs_gap: bool = False
    ) -> int:
        """Start a block behind `depth` quote bars, indented; list markers stand in its indent, from `outer` on.

        Returns the columns it may use. The width of the window is asked here.
        """
        if self._has_output and (needs_gap or self._owes_gap or self._blank is not None):
            inside = min(depth, self._last_depth)  # a blank line between two quotes shows their common bars
            self.pen.begin([_BAR] * (inside if self._blank is None else min(inside, self._blank)), ())
            self.pen.newline()
        self._has_output, self._owes_gap, self._blank, self._last_depth = True, False, None, depth
        width = max(self._width() or 80, 2)
        limit = (width - 2) // 2  # a prefix never takes more than half of the line
        bars = [_BAR] * min(depth, limit // 2)
        left = min(indent, limit - 2 * len(bars))
        rest = [*bars, *_space(left)]
        has_room = left == indent
        self.pen.begin([*bars, *_space(outer), *markers] if markers and has_room else rest, rest)
        columns = width - 2 * len(bars) - left
        self.wrapper.begin(columns)
        if not has_room:  # the markers are words of the text
            for marker in markers:
                self.wrapper.feed(*marker)
        return columns

    def line(self, pieces: Sequence[Piece]) -> None:
        """A whole line that is not wrapped."""
        for piece in pieces:
            self.pen.put(*piece)
        self.pen.newline()

    def end(self) -> None:
        """End the block's last line."""
        self.wrapper.end()
        self.pen.newline()


def _space(columns: int) -> list[Piece]:
    return [(" " * columns, NONE)] if columns > 0 else []
