"""The text of a word processor as it comes: paragraphs, items and tables, which are counted as its reader counts them.

Knows: what ends a paragraph, cells, tables in tables. Refuses to know: which elements a format has for them.
"""

from slmchat.retrieval.loaders.sections import SectionBuilder, table_row


class ParagraphFlow:
    """Takes text and where it ends, gives blocks to `builder`. Paragraphs count from 1, those in cells too."""

    def __init__(self) -> None:
        self.builder = SectionBuilder()
        self._number = 1
        self._row_number = 1  # of the first one of a row
        self._words: list[str] = []
        self._cells: list[list[str]] = []  # rows that are open: tables stand in tables
        self._before = ""  # kind of the block before

    def write(self, text: str) -> None:
        """Text of the paragraph that is open."""
        self._words.append(text)

    def begin_row(self) -> None:
        """A row of a table, perhaps in a cell of another one."""
        self._row_number = self._row_number if self._cells else self._number
        self._cells.append([])

    def begin_cell(self) -> None:
        """A cell: what stands before it in its row is no part of it."""
        self._words = []

    def end_cell(self) -> None:
        if self._cells:
            self._cells[-1].append(self._taken())

    def end_cell_of_row(self) -> None:
        """The same where nothing says that a row begins: its first cell begins it."""
        if not self._cells:
            self.begin_row()
        self.end_paragraph()
        self.end_cell()

    def end_row(self) -> None:
        if not self._cells:
            return
        row = self._cells.pop()
        if self._cells:
            self._words.append(" ".join(row) + " ")
        elif any(row):
            self.builder.block(table_row(row), self._row_number, is_joined=self._before == "row")
            self._before = "row"

    def end_table(self) -> None:
        if not self._cells:
            self._before = "table"

    def end_paragraph(self, level: int = 0, *, is_item: bool = False) -> None:
        """A paragraph is over. `level`: of a heading, from 1; within a table it is none."""
        if self._cells:
            self._words.append(" ")
        else:
            self._put(self._taken(), level, is_item)
        self._number += 1

    def aside(self, text: str) -> None:
        """What stands beside the paragraph before, and is counted with it: a note, a box."""
        text = " ".join(text.split())
        if self._cells:
            self._words.append(f" {text} ")
        elif text:
            self.builder.block(text, self._number - 1)
            self._before = "text"

    def _put(self, text: str, level: int, is_item: bool) -> None:
        if not text:
            return
        if level:
            self.builder.heading(level, text, self._number)
            self._before = "heading"
        elif is_item:
            self.builder.block(f"- {text}", self._number, is_joined=self._before == "item")
            self._before = "item"
        else:
            self.builder.block(text, self._number)
            self._before = "text"

    def _taken(self) -> str:
        text = " ".join("".join(self._words).split())
        self._words = []
        return text
