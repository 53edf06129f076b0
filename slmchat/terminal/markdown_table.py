"""A Markdown table laid out in columns by display width.

Knows: rows, cells, alignment, how columns share a width. Refuses to know: when a table starts or ends, where it goes.
Columns are set apart by two spaces, without lines between them: what is selected and copied is the text.
"""

import re
from collections.abc import Iterator, Sequence

from slmchat.terminal.markdown_inline import render_inline
from slmchat.terminal.markdown_layout import BOLD, DIM, NONE, Piece, fold, merged, reach, text_width

_GAP = 2
# Columns narrower than this are no columns: each row then becomes a list of `header: cell`.
_LEAST_WIDTH = 4

_DELIMITER = re.compile(r"[ \t]*:?-+:?[ \t]*")
_BREAK = re.compile(r"<br */?>", re.IGNORECASE)
# An escaped character, a code span (pipes in it are text), or a pipe.
_CELL_PART = re.compile(r"\\.|(`+)(?!`).+?(?<!`)\1(?!`)|\|")


def split_row(line: str) -> list[str]:
    """The cells of a row that starts with a pipe."""
    cells, start = [], 0
    for part in _CELL_PART.finditer(line):
        if part[0] == "|":
            cells.append(line[start : part.start()])
            start = part.end()
    if line[start:].strip():
        cells.append(line[start:])
    return [cell.strip().replace("\\|", "|") for cell in cells[1:]]


def alignments(line: str) -> list[str] | None:
    """`<`, `>` or `^` for each column of a delimiter row (`|---|:-:|`); None when it is another kind of line."""
    cells = split_row(line)
    if not cells or not all(_DELIMITER.fullmatch(cell) for cell in cells):
        return None
    return ["^" if cell[0] == ":" == cell[-1] and len(cell) > 1 else ">" if cell[-1] == ":" else "<" for cell in cells]


class Table:
    """Rows that share their columns. The widths are settled when the first rows are drawn; later they only grow."""

    def __init__(self, header: list[str], aligns: list[str], *, has_color: bool) -> None:
        self._has_color = has_color
        self._header = header
        self._aligns = aligns
        self._count = max(len(header), len(aligns))
        self._waiting = [self._cells(header, BOLD)]
        self._widths: list[int] | None = None
        self._has_listed = False
        self.size = 0  # characters in the rows so far

    @property
    def is_drawn(self) -> bool:
        """Whether the first rows are out, so that the others go out as they come."""
        return self._widths is not None

    @property
    def waiting(self) -> int:
        """Rows that are not yet drawn."""
        return len(self._waiting)

    def add(self, row: list[str]) -> None:
        if len(row) > self._count:  # text must not be lost
            row = [*row[: self._count - 1], " | ".join(row[self._count - 1 :])]
        self.size += sum(map(len, row))
        self._waiting.append(self._cells(row, NONE))

    def draw(self, width: int) -> Iterator[list[Piece]]:
        """The lines of the rows that were added since the last call."""
        rows, self._waiting = self._waiting, []
        is_first = self._widths is None
        if self._widths is None:
            natural = [max(2, *(_natural(row[column]) for row in rows)) for column in range(self._count)]
            self._widths = _share(natural, width - _GAP * (self._count - 1))
        for index, row in enumerate(rows):
            is_header = is_first and index == 0
            if self._widths:
                self._make_room(row, width)
                yield from self._columns(row)
                if is_header:
                    yield [((" " * _GAP).join("─" * columns for columns in self._widths), DIM)]
            elif not is_header:
                if self._has_listed:
                    yield []
                self._has_listed = True
                yield from self._listed(row, width)

    def _make_room(self, row: list[list[Piece]], width: int) -> None:
        """A later row with a longer cell widens its column from here on, as long as the window has room."""
        assert self._widths is not None, "drawn before"
        spare = width - _GAP * (self._count - 1) - sum(self._widths)
        for column, cell in enumerate(row):
            more = min(_natural(cell) - self._widths[column], spare)
            if more > 0:
                self._widths[column] += more
                spare -= more

    def _cells(self, row: list[str], style: int) -> list[list[Piece]]:
        texts = [_BREAK.sub("\n", cell) for cell in row] + [""] * (self._count - len(row))
        return [self._inline(text, style) for text in texts]

    def _inline(self, text: str, style: int) -> list[Piece]:
        pieces: list[Piece] = []
        for part in text.split("\n"):
            if pieces:
                pieces.append(("\n", NONE))
            pieces += render_inline(part.strip(), style, has_color=self._has_color)
        return pieces

    def _columns(self, row: list[list[Piece]]) -> Iterator[list[Piece]]:
        """One row, as many lines as its tallest cell."""
        assert self._widths is not None, "drawn before"
        folded = [fold(cell, columns) for cell, columns in zip(row, self._widths, strict=True)]
        for number in range(max(map(len, folded))):
            line: list[Piece] = []
            missing = 0  # spaces due before the next text
            for lines, columns, align in zip(folded, self._widths, self._padded_aligns(), strict=True):
                part = lines[number] if number < len(lines) else []
                spare = max(0, columns - sum(text_width(text) for text, _ in part))
                before = spare if align == ">" else spare // 2 if align == "^" else 0
                if part:
                    line += [(" " * (missing + before), NONE), *part]
                    missing = spare - before + _GAP
                else:
                    missing += columns + _GAP
            yield merged(piece for piece in line if piece[0])

    def _padded_aligns(self) -> list[str]:
        return self._aligns + ["<"] * (self._count - len(self._aligns))

    def _listed(self, row: list[list[Piece]], width: int) -> Iterator[list[Piece]]:
        """A row where the window is too narrow for columns: one `header: cell` after the other."""
        names = [*self._header, *[""] * (self._count - len(self._header))]
        for name, cell in zip(names, row, strict=True):
            if cell:
                label = self._inline(name + ":" if name else "", BOLD)
                yield from fold([*label, (" ", NONE), *cell] if label else cell, width)


def _natural(cell: list[Piece]) -> int:
    """The width of a cell that is not folded."""
    return max(map(reach, "".join(text for text, _ in cell).split("\n")))


def _share(natural: Sequence[int], width: int) -> list[int]:
    """Widths that fit: narrow columns keep theirs, wide ones share the rest equally. Empty when there is no room."""
    if sum(natural) <= width:
        return list(natural)
    if width < _LEAST_WIDTH * len(natural):
        return []
    left, widths = width, list(natural)
    order = sorted(range(len(natural)), key=lambda column: natural[column])
    for position, column in enumerate(order):
        widths[column] = min(natural[column], left // (len(order) - position))
        left -= widths[column]
    return widths
