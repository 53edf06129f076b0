"""Rows in columns that fit the window, and never a broken name: what is copied from a table has to work.

Only prose is folded, between words. Where a table is still too wide, columns are left out, by the rank that the command
gave them. A first cell that is much longer than the others has a line of its own, as long options have in a help page;
the rest of its row follows below. Where even what must be shown does not fit side by side, each row is a short list.

Knows: display widths, which column may be folded or left out. Refuses to know: streams, colour, what the rows mean.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slmchat.lazy_dataclasses import dataclass
from slmchat.terminal.markdown_layout import NONE, fold, text_width

_GAP = 2
# What a line begins with that its other lines stand under: a word of slm's, or the first column of a list.
_LABEL = re.compile(r"(?:slm: warning: |slm: |hint: | *\S.{0,40}? {2,}| +)(?=\S)")
# Prose narrower than this cannot be read; and a word that is no longer than this, a name maybe, stays in one piece.
_LEAST_PROSE = 14
_WORD = 20


@dataclass(frozen=True, slots=True)
class Column:
    """A header and what may be done with the column. `rank` 0: always there; the greater, the sooner it is left out."""

    header: str
    rank: int = 0
    is_prose: bool = False


class TableLayout(NamedTuple):
    """The lines, the first of which are the `n_headings` headers, and the headers of the columns that had no room."""

    lines: list[str]
    n_headings: int
    left_out: list[str]


def layout(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> TableLayout:
    """The table in `width` columns of the display; None: a pipe or a file, which gets everything in one line a row."""
    if width is None:
        return _drawn(columns, rows, [_natural(columns, rows, number) for number in range(len(columns))], [])
    kept = [number for number in range(len(columns)) if not rows or any(row[number] for row in rows)]
    left_out: list[int] = []
    while True:
        shown = [columns[number] for number in kept]
        cells = [[row[number] for number in kept] for row in rows]
        widths = _widths(shown, cells, width)
        names = [columns[number].header for number in sorted(left_out) if columns[number].header]
        if widths is not None:
            return _drawn(shown, cells, widths, names)
        rank = max(column.rank for column in shown)
        if rank == 0:
            return TableLayout(list(_listed(shown, cells, width)), 0, names)
        number = max(number for number in kept if columns[number].rank == rank)
        kept.remove(number)
        left_out.append(number)


def hanging(label: str, text: str, width: int | None) -> list[str]:
    """A label and a text beside it, folded between words under its own beginning. None: in one line.

    A word that is longer than the room stays in one piece: it may be a path or a name to copy.
    """
    if width is None:
        return [label + text]
    indent, first = " " * text_width(label), label
    if width - len(indent) < _LEAST_PROSE:  # the text goes below the label
        indent = first = "  "
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and text_width(longer) > width - len(indent):
            lines.append(word)
        else:
            lines[-1] = longer
    begun = [] if first == label else [label.rstrip()]
    return [*begun, *(f"{indent if number else first}{line}" for number, line in enumerate(lines))]


def paragraphs(text: str, width: int | None) -> Iterator[str]:
    """What slm says in lines, each folded between words under where its own text begins: behind `slm: `, behind the
    first column of a list, else two columns further in. None: the lines as they are."""
    for line in text.split("\n"):
        if width is None or text_width(line) <= width:
            yield line
            continue
        label = _LABEL.match(line)
        if label is not None:
            yield from hanging(label[0], line[len(label[0]) :], width)
        else:
            first, *rest = hanging("", line, width)
            yield first
            yield from hanging("  ", " ".join([first, *rest])[len(first) + 1 :], width)


def _natural(columns: Sequence[Column], rows: Sequence[Sequence[str]], number: int) -> int:
    return max(text_width(columns[number].header), *(text_width(row[number]) for row in rows), 0)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The width of each column, or None where there is no room for all of them."""
    room = width - _GAP * (len(columns) - 1)
    widths = [_natural(columns, rows, number) for number in range(len(columns))]
    if sum(widths) <= room:
        return widths
    least = [
        max(text_width(column.header), min(natural, _LEAST_PROSE), _longest_word(rows, number))
        if column.is_prose
        else natural
        for number, (column, natural) in enumerate(zip(columns, widths, strict=True))
    ]
    if sum(least) > room and not columns[0].is_prose:
        usual = [size for row in rows if (size := text_width(row[0])) <= width // 2]
        least[0] = widths[0] = max(text_width(columns[0].header), *usual, 0)
    spare = room - sum(least)
    if spare < 0:
        return None
    order = sorted(range(len(columns)), key=lambda number: widths[number] - least[number])
    for position, number in enumerate(order):  # those that need little first; wide ones share what is left
        more = min(widths[number] - least[number], spare // (len(order) - position))
        least[number] += more
        spare -= more
    return least


def _longest_word(rows: Sequence[Sequence[str]], number: int) -> int:
    sizes = (text_width(word) for row in rows for word in row[number].split())
    return max((size for size in sizes if size <= _WORD), default=0)


def _drawn(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int], left_out: list[str]
) -> TableLayout:
    head = list(_lines([column.header for column in columns], columns, widths))
    return TableLayout([*head, *(line for row in rows for line in _lines(row, columns, widths))], len(head), left_out)


def _lines(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[str]:
    """One row: several lines where prose is folded, or the first cell is longer than its column."""
    is_alone = text_width(cells[0]) > widths[0] and not columns[0].is_prose
    if is_alone:
        yield cells[0]
    folded = [
        _folded(cell, width) if column.is_prose and text_width(cell) > width else [cell]
        for cell, column, width in zip(cells, columns, widths, strict=True)
    ]
    if is_alone:
        folded[0] = [""]
        if not any(cells[1:]):
            return
    for number in range(max(map(len, folded))):
        line = ""
        for lines, width in zip(folded, widths, strict=True):
            cell = lines[number] if number < len(lines) else ""
            line += cell + " " * (width - text_width(cell) + _GAP)
        yield line.rstrip()


def _listed(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A row where nothing fits side by side: its first cell, and below it one `header: cell` after the other."""
    for row in rows:
        yield from _folded(row[0], width) if columns[0].is_prose else [row[0]]
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if cell:
                text = f"{column.header}: {cell}" if column.header else cell
                lines = _folded(text, width - 2) if column.is_prose else [text]
                yield from (f"  {line}" for line in lines)


def _folded(text: str, width: int) -> list[str]:
    return ["".join(piece for piece, _ in line).rstrip() for line in fold([(text, NONE)], max(1, width))]
