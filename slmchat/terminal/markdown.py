"""Markdown on a terminal as it streams: headings, lists, quotes, tables, code. What is written is final.

Knows: which blocks are open, and how they stand on the page. Refuses to know: streams, models, what a terminal can do.

Text goes out word by word as it comes; nothing is redrawn and the cursor never moves back, so scrollback stays clean
and a resized window does no harm (the width is asked again for every block). Held back are only: the start of a line
until its kind is sure, markup that is still open (markdown_inline.py), headings and lines of coloured code to their
end, formulas, and tables to their end or up to TABLE_LIMIT; from there their rows go out as they come, in the columns
settled by then. Every decision depends on the characters before it, never on chunks: any split gives the same bytes.

Where we leave CommonMark, because of what small models write:
- A line end stays a line end: models break lines in verse and addresses, and do not wrap prose.
- Deeper means two columns deeper: an item, paragraph or fence belongs to the list item whose marker is two or more
  columns to its left; a line further left ends the list. Numbers are shown as written.
- A fence closes at any indentation. Indented text is code only after a blank line and when it looks like it.
- `===` under a line is text, `---` a rule: the line above is already out. Tables need a pipe at the start of each row.

Code stands at the left edge, without a frame, even in a list, so that selecting it copies it; blank lines set it apart.
"""

import re
from collections.abc import Callable

from slmchat.lazy_dataclasses import dataclass
from slmchat.sanitize import Sanitizer
from slmchat.terminal import latex
from slmchat.terminal.markdown_blocks import Block, Kind, recognise
from slmchat.terminal.markdown_code import LINE_LIMIT, Highlighter, highlighter
from slmchat.terminal.markdown_inline import HOLD_LIMIT, Inline
from slmchat.terminal.markdown_layout import BOLD, CYAN, DIM, GREEN, MAGENTA, NONE, UNDERLINE, Piece
from slmchat.terminal.markdown_page import Page
from slmchat.terminal.markdown_table import Table, alignments, split_row
from slmchat.terminal.screen import ControlSequences

# Rows and characters of a table that are held back to find the widths of its columns.
TABLE_LIMIT = (12, 1500)
_RULE_WIDTH = 40  # a longer rule wraps when the window gets smaller
_NESTING_LIMIT = 12
_HEADINGS = (BOLD | UNDERLINE | MAGENTA, BOLD | MAGENTA, BOLD | CYAN, BOLD | GREEN, BOLD, BOLD)
_BULLETS = "•◦-"
_PLAIN_CODE = CYAN  # code in a language without colours

_MATH_CLOSE = {"\\[": "\\]", "$$": "$$"}
_CODE_LIKE = re.compile(
    r".*[;{}]$|(?:def|class|if|for|while|with|else|try|elif)\b.*:$|(?:from \S+ )?import [\w.*, ]+$|return\b|#include\b"
    r"|[\w.\[\]\"']+ [-+*/]?= \S|[\w.]+\(.*\)$|(?:\$|>>>|sudo|pip|git|npm|cd|apt) \S|</?\w+.*>$"
)


@dataclass(frozen=True, slots=True)
class _Level:
    """An open list item: the column of its marker in the source, and where its content stands on the screen."""

    marker: int
    indent: int


@dataclass(frozen=True, slots=True)
class _Code:
    """An open fence."""

    fence: str
    indent: int
    depth: int
    colors: Highlighter | None


class MarkdownStream:
    """One answer. `feed` takes it in any chunks; `close` ends it, finished or not, at the start of a line."""

    def __init__(
        self, write: Callable[[ControlSequences], None], *, width: Callable[[], int], has_color: bool = True
    ) -> None:
        self._write = write
        self._view = Sanitizer(show_invisible=True)
        self._has_color = has_color
        self._out: list[str] = []
        self._page = Page(self._out.append, width, has_color=has_color)
        self._inline = Inline(self._page.wrapper.feed, has_color=has_color)
        # What is open over several lines.
        self._levels: list[_Level] = []
        self._code: _Code | None = None
        self._math = ""  # what closes it
        self._math_lines: list[str] | None = None  # of it so far, while they are held
        self._is_indented_code = False
        self._row: str | None = None  # what may be the header of a table
        self._table: Table | None = None
        self._table_place = (0, 0)  # depth and indent
        self._last_depth = 0
        self._start_line()

    def goes_on_behind(self, text: str) -> None:
        """Before the first part: this is on the screen, and code that is open in it is not over."""
        before = MarkdownStream(lambda _shown: None, width=lambda: 80, has_color=self._has_color)
        before.feed(f"{text}\n")
        self._code = before._code

    def feed(self, text: str) -> None:
        """Part of the answer, as it was said."""
        self._take_safe(self._view.feed(text))
        self._flush()

    def close(self) -> None:
        """The answer is over: show what is held, reset styles, end the line."""
        self._take_safe(self._view.flush())
        if self._is_mid_line:
            self._end_line()
        self._end_math()
        self._end_table()
        self._flush()

    def _take_safe(self, text: str) -> None:
        for number, part in enumerate(text.split("\n")):
            if number:
                self._end_line()
            if part:
                self._is_mid_line = True
                self._sink(part)

    def _flush(self) -> None:
        if self._out:
            self._write(ControlSequences("".join(self._out)))
            self._out.clear()

    def _start_line(self) -> None:
        self._is_mid_line = False
        self._line = ""  # what is not yet decided about
        self._is_space = True  # nothing but white space in it
        self._depth = 0  # quote marks taken from it
        self._column = 0  # where `_line` starts in the source
        self._markers: list[Piece] = []  # list markers taken from it
        self._outer = 0  # the indent on the screen that they start at
        self._sink: Callable[[str], None] = self._take  # where the rest of the line goes

    def _take(self, text: str) -> None:
        self._line += text
        self._is_space = self._is_space and text.isspace()
        if not self._is_space:
            self._read(is_end=False)

    def _end_line(self) -> None:
        if self._sink == self._take:
            self._read(is_end=True)
        if self._sink not in (self._take, self._ignore):
            self._inline.end()
            self._page.end()
        self._start_line()

    def _read(self, *, is_end: bool) -> None:
        """Find out what the line is, mark by mark, and act on it as soon as it is sure."""
        if self._code:
            self._read_code(self._code, is_end)
            return
        if self._math:
            self._read_math(is_end)
            return
        while True:
            text = self._line.lstrip(" \t")
            self._is_space = not text
            indent = _columns(self._line[: len(self._line) - len(text)], self._column)
            if self._is_indented_code and text and not self._depth:
                self._is_indented_code = indent >= 4
                if self._is_indented_code:
                    self._stream_verbatim(self._line, _PLAIN_CODE)
                    return
                self._page.set_apart()
            block = recognise(text, is_end=is_end, is_item=bool(self._markers))
            if block is None or (
                block.kind is Kind.PARAGRAPH and not is_end and len(text) <= HOLD_LIMIT and self._may_be_code(indent)
            ):
                return
            if block.kind is Kind.QUOTE:
                self._depth += 1
                self._line, self._column = text[block.length :], 0
            elif block.kind in (Kind.BULLET, Kind.ORDERED) and len(self._markers) < _NESTING_LIMIT:
                self._take_marker(block, text, indent)
            else:
                if block.kind is Kind.TASK:
                    text = self._take_task(block, text)
                self._act(block, text, indent, is_end)
                return

    def _take_marker(self, block: Block, text: str, indent: int) -> None:
        """The marker of a list item: the rest of the line is looked at again."""
        self._line = text[block.length :]
        self._column = indent + block.length
        if not self._markers:
            self._end_table()
            self._settle(indent)
            self._outer = self._indent()
        mark = block.groups[0] if block.kind is Kind.ORDERED else _BULLETS[min(len(self._levels), 2)]
        self._markers.append((mark + " ", CYAN))
        self._levels.append(_Level(indent, self._outer + self._markers_width()))

    def _take_task(self, block: Block, text: str) -> str:
        """A box behind a list marker; it takes the place of a bullet. Returns the rest of the line."""
        box: Piece = ("[ ] ", NONE) if block.groups[0] == " " else ("[x] ", GREEN)
        if self._markers[-1][0][0] in _BULLETS:
            self._markers.pop()
        self._markers.append(box)
        self._levels[-1] = _Level(self._levels[-1].marker, self._outer + self._markers_width())
        return text[block.length :]

    def _markers_width(self) -> int:
        return sum(len(text) for text, _ in self._markers)

    def _settle(self, indent: int) -> None:
        """A line whose quote marks are known, at this indent: end what does not go on in it."""
        if self._depth != self._last_depth:
            self._end_table()
            self._levels.clear()
        self._last_depth = self._depth
        while self._levels and indent < self._levels[-1].marker + 2:
            self._end_table()
            self._levels.pop()

    def _act(self, block: Block, text: str, indent: int, is_end: bool) -> None:
        if block.kind is not Kind.ROW:
            self._end_table()
        if block.kind is Kind.BLANK:
            if self._markers:
                self._show_empty_item()
            else:
                self._page.blank(self._depth)
            return
        if not self._markers:
            self._settle(indent)
        if block.kind is Kind.HEADING:
            self._begin(needs_gap=not self._markers)
            level, heading = block.groups
            self._inline.begin(_HEADINGS[len(level) - 1])
            self._inline.feed(heading)
            self._sink = self._inline.feed
        elif block.kind is Kind.RULE:
            columns = self._begin()
            self._page.wrapper.end()
            if not self._page.pen.is_line_start:  # a list marker that found no room in the prefix
                self._page.pen.newline()
            self._page.line([("─" * min(columns, _RULE_WIDTH), DIM)])
        elif block.kind is Kind.FENCE:
            self._open_fence(block, text, indent)
        elif block.kind is Kind.ROW:
            self._add_row(text)
        elif block.kind is Kind.MATH and not (self._depth or self._markers):
            self._math, self._math_lines = _MATH_CLOSE[block.groups[0]], [text]
            self._sink = self._ignore
        else:
            self._start_paragraph(text, indent, is_end)

    def _show_empty_item(self) -> None:
        self._begin()
        self._page.end()

    def _start_paragraph(self, text: str, indent: int, is_end: bool) -> None:
        if self._may_be_code(indent) and is_end and len(text) <= HOLD_LIMIT and _CODE_LIKE.match(text.rstrip()):
            self._is_indented_code = True
            self._stream_verbatim(self._line, _PLAIN_CODE)
            return
        if indent >= 4 and not self._levels:
            self._page.begin(self._depth, indent)
        else:
            self._begin()
        self._inline.begin()
        self._inline.feed(text)
        self._sink = self._inline.feed

    def _may_be_code(self, indent: int) -> bool:
        is_outside = not (self._levels or self._markers or self._depth)
        return indent >= 4 and is_outside and self._page.is_after_gap

    def _indent(self) -> int:
        return self._levels[-1].indent if self._levels else 0

    def _begin(self, *, needs_gap: bool = False) -> int:
        """Start a block where this line stands."""
        return self._page.begin(self._depth, self._indent(), self._markers, self._outer, needs_gap=needs_gap)

    # Code and mathematics: lines shown as they are.

    def _open_fence(self, block: Block, text: str, indent: int) -> None:
        if self._markers:
            self._show_empty_item()
            self._markers = []
        fence, info = block.groups
        language = re.split(r"[\s,{:]", info.strip().lstrip("{."), maxsplit=1)[0].rstrip("}")
        colors = highlighter(language) if self._has_color else None
        self._code = _Code(fence, indent, self._depth, colors)
        self._page.set_apart()
        if not self._has_color:  # nothing else would show that it is code
            self._show_code([(text, NONE)])

    def _read_code(self, code: _Code, is_end: bool) -> None:
        line = self._line
        if code.depth:
            if not is_end:
                return
            prefix = re.match(rf"(?:[ \t]*> ?){{{code.depth}}}", line)
            if not prefix:  # the quote is over, and its code
                self._close_fence()
                self._read(is_end=True)
                return
            line = line[prefix.end() :]
        self._depth = code.depth
        mark, is_long = line.strip(" \t"), len(line) > LINE_LIMIT
        if mark.count(code.fence[0]) == len(mark) and not is_long and (not is_end or len(mark) >= len(code.fence)):
            if is_end:
                if not self._has_color:
                    self._show_code([(mark, NONE)])
                self._close_fence()
            return  # it may be the closing fence
        if code.colors and not is_long:
            if is_end:
                self._show_code(code.colors.line(_unindented(line, code.indent)))
        else:
            self._stream_verbatim(_unindented(line, code.indent), _PLAIN_CODE)

    def _close_fence(self) -> None:
        self._code = None
        self._page.set_apart()

    def _show_code(self, pieces: list[Piece]) -> None:
        self._page.begin(self._depth, 0)
        self._page.line(pieces)

    def _stream_verbatim(self, text: str, style: int) -> None:
        """A line that is not wrapped and has no markup, from here to its end."""
        self._page.begin(self._depth, 0)
        self._sink = lambda part: self._page.pen.put(part, style)
        if text:
            self._sink(text)

    def _stream_words(self, text: str) -> None:
        """A line that is wrapped but has no markup, from here to its end."""
        self._begin()
        self._sink = self._page.wrapper.feed
        self._sink(text)

    def _read_math(self, is_end: bool) -> None:
        """A line of mathematics; a blank line ends it too, in case it is never closed. Held until it is whole."""
        text = self._line.lstrip(" \t")
        if not text or (not is_end and len(text) <= LINE_LIMIT):
            if is_end:
                self._end_math()
                self._read(is_end=True)
            return
        is_closed = len(text) <= LINE_LIMIT and text.rstrip(" \t").endswith(self._math)
        if self._math_lines is not None:
            self._math_lines.append(text)
            inside = " ".join(self._math_lines[1:]).rstrip(" \t").removesuffix(self._math)
            made = latex.to_unicode(inside) if is_closed else None
            if made is not None:
                self._math, self._math_lines = "", None
                self._stream_words(made)
                return
            if not is_closed and is_end and len(inside) <= latex.MOST_CHARACTERS:
                self._sink = self._ignore
                return
            self._math_lines.pop()
            self._end_math(is_open=not is_closed)
        if is_closed:
            self._math = ""
        self._stream_words(text)

    def _end_math(self, *, is_open: bool = False) -> None:
        """What was held is shown as it was written; `is_open`: more of it comes, as it was written, too."""
        lines, self._math_lines = self._math_lines or [], None
        if not is_open:
            self._math = ""
        for line in lines:
            self._begin()
            self._page.wrapper.feed(line)
            self._page.end()

    def _ignore(self, _text: str) -> None:
        """The rest of a line that is held: nothing but blanks."""

    # Tables.

    def _add_row(self, line: str) -> None:
        if self._table:
            self._table.add(split_row(line))
            rows, characters = TABLE_LIMIT
            if self._table.is_drawn or self._table.waiting > rows or self._table.size > characters:
                self._draw_table(self._table)
            return
        if self._row is not None:
            aligns = alignments(line)
            if aligns:
                header = split_row(self._row)
                self._table = Table(header, aligns, has_color=self._has_color)
                self._row = None
                return
            self._end_table()
        self._row = line
        self._table_place = (self._depth, self._indent())

    def _draw_table(self, table: Table) -> None:
        columns = self._page.begin(*self._table_place, needs_gap=not table.is_drawn)
        for line in table.draw(columns):
            self._page.line(line)

    def _end_table(self) -> None:
        """The table is complete, or what looked like its header is just a line."""
        row, table, self._row, self._table = self._row, self._table, None, None
        if table:
            if table.waiting:
                self._draw_table(table)
            self._page.set_apart()
        elif row is not None:
            self._page.begin(*self._table_place)
            self._inline.begin()
            self._inline.feed(row)
            self._inline.end()
            self._page.end()


def _columns(space: str, start: int) -> int:
    """The column behind this white space; tab stops are four apart."""
    column = start
    for char in space:
        column += 4 - column % 4 if char == "\t" else 1
    return column


def _unindented(line: str, columns: int) -> str:
    """A line without its first columns, as far as they are white space."""
    taken = 0
    while taken < len(line) and line[taken] in " \t" and _columns(line[: taken + 1], 0) <= columns:
        taken += 1
    return line[taken:]
