"""The text of a word processor as it comes: paragraphs, items, tables, notes, boxes, counted as a reader counts them.

A note, and a box within a paragraph, stand behind that paragraph. Tables stand in tables: a row is one line `| a | b |`
with all that its cells hold. But where a single cell of a row has text, and has several paragraphs, that is layout, and
these are read as if there were no table around them (forms and letters are made so).

Knows: what ends a paragraph, a cell, a row. Refuses to know: which elements a format has for them.
"""

from dataclasses import field

from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.loaders.sections import SectionBuilder, table_row


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph or a row. `kind`: heading, item, text, row; `words`: of its cells; `number`: of its paragraph."""

    kind: str
    words: tuple[str, ...]
    number: int
    level: int = 0

    @property
    def in_cell(self) -> str:
        return " ".join(" ".join(self.words).split())


@dataclass(slots=True)
class _Row:
    """A row that is open. `before`: text of the paragraph around it; `blocks`: of the cell that is open."""

    number: int
    before: list[str]
    cells: list[list[_Block]] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)


class ParagraphFlow:
    """Takes text and where it ends, gives blocks to `builder`. Paragraphs count from 1, those in cells too."""

    def __init__(self) -> None:
        self.builder = SectionBuilder()
        self._number = 1
        self._words: list[str] = []  # of the paragraph that is open
        self._asides: list[list[str]] = []  # of the same
        self._n_asides = 0  # that are open
        self._rows: list[_Row] = []  # that are open
        self._before = ""  # kind of the block before

    def write(self, text: str) -> None:
        """Text of the paragraph that is open, or of what stands beside it."""
        (self._asides[-1] if self._n_asides else self._words).append(text)

    def begin_aside(self) -> None:
        """A note or a box in the paragraph that is open: its tables are text, and one in another is part of it."""
        self._n_asides += 1
        if self._n_asides == 1:
            self._asides.append([])

    def end_aside(self) -> None:
        self._n_asides = max(0, self._n_asides - 1)

    def begin_row(self) -> None:
        """A row of a table, perhaps in a cell of another one."""
        if not self._n_asides:
            self._rows.append(_Row(self._number, self._words))
            self._words = []

    def end_cell(self) -> None:
        if self._rows and not self._n_asides:
            self._rows[-1].cells.append(self._rows[-1].blocks)
            self._rows[-1].blocks = []

    def end_cell_of_row(self) -> None:
        """The same where nothing says that a row begins, nor that a paragraph ends: its first cell begins it."""
        if not self._rows:
            self._rows.append(_Row(self._number, []))
        self.end_paragraph()
        self.end_cell()

    def end_row(self) -> None:
        if not self._rows or self._n_asides:
            return
        row = self._rows.pop()
        self._words = row.before
        filled = [cell for cell in row.cells if cell]
        if len(filled) == 1 and (len(filled[0]) > 1 or self._rows):  # one cell in another: frames, thousands of them
            for block in filled[0]:
                self._put(block)
        elif filled:
            words = (" ".join(block.in_cell for block in cell) for cell in row.cells)
            self._put(_Block("row", tuple(words), row.number))

    def end_table(self) -> None:
        if not self._rows:
            self._before = "table"

    def end_paragraph(self, level: int = 0, *, is_item: bool = False) -> None:
        """A paragraph is over. `level`: of a heading, from 1."""
        if self._n_asides:
            self.write("\n")
            return
        kind = "heading" if level else "item" if is_item else "text"
        if text := " ".join("".join(self._words).split()):
            self._put(_Block(kind, (text,), self._number, level))
        for words in self._asides:
            lines = [" ".join(line.split()) for line in "".join(words).split("\n")]
            if any(lines):
                self._put(_Block("text", ("\n".join(filter(None, lines)),), self._number))
        self._words, self._asides = [], []
        self._number += 1

    def finish(self, level: int = 0, *, is_item: bool = False) -> None:
        """The text is over, whatever is still open."""
        self._n_asides = 0
        self.end_paragraph(level, is_item=is_item)
        while self._rows:
            if self._rows[-1].blocks:
                self.end_cell()
            self.end_row()

    def _put(self, block: _Block) -> None:
        if self._rows:
            self._rows[-1].blocks.append(block)
            return
        text = block.words[0]
        if block.kind == "heading":
            self.builder.heading(block.level, text, block.number)
        elif block.kind == "row":
            self.builder.unit(table_row(list(block.words)), block.number, is_joined=self._before == "row")
        elif block.kind == "item":
            self.builder.unit(f"- {text}", block.number, is_joined=self._before == "item")
        else:
            self.builder.unit(text, block.number)
        self._before = block.kind
