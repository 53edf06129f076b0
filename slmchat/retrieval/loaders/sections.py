"""Sections as they grow, for readers that meet headings, paragraphs and tables one after the other (HTML, DOCX, EPUB).

Paragraphs become blocks of text with a blank line between them, rows of a table lines `| a | b |`, as in Markdown.

Knows: which heading stands above a text, how paragraphs are counted. Refuses to know: the format that it comes from.
"""

from collections.abc import Iterator

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders.bounds import MOST_CHARACTERS, TOO_LONG, Unreadable


class HeadingPath:
    """The headings above a place, the outermost first."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, text: str) -> None:
        """A heading of this level: those of the same level and below are over."""
        self._open = [one for one in self._open if one[0] < level] + [(level, text)]

    @property
    def above(self) -> tuple[str, ...]:
        return tuple(text for _, text in self._open)


class SectionBuilder:
    """Takes blocks in their order, gives sections."""

    def __init__(self) -> None:
        self._path = HeadingPath()
        self._done: list[Section] = []
        self._lines: list[str] = []
        self._numbers: list[int] = []
        self._n_characters = 0

    def enter(self, level: int, title: str) -> None:
        """A section begins below this title, whose text comes as a block."""
        self._finish()
        self._path.enter(level, title)

    def heading(self, level: int, text: str, line: int) -> None:
        """A heading, which begins a section of its own and is its first line."""
        self.enter(level, text)
        self._put([text], [line])

    def block(self, text: str, line: int, *, is_joined: bool = False) -> None:
        """A paragraph that begins on this line. `is_joined`: it goes on with the block before it (a row, an item)."""
        lines = text.split("\n")
        if self._lines and not is_joined:
            self._put([""], [line])
        self._put(lines, [line + number for number in range(len(lines))])

    def unit(self, text: str, number: int, *, is_joined: bool = False) -> None:
        """A block, all of which has one number: a paragraph of several lines, a cell."""
        lines = text.split("\n")
        if self._lines and not is_joined:
            self._put([""], [number])
        self._put(lines, [number] * len(lines))

    def _put(self, lines: list[str], numbers: list[int]) -> None:
        self._n_characters += sum(map(len, lines)) + len(lines)
        if self._n_characters > MOST_CHARACTERS:
            raise Unreadable(TOO_LONG)
        self._lines += lines
        self._numbers += numbers

    def _finish(self) -> None:
        if self._lines:
            text = "\n".join(self._lines)
            first = self._numbers[0]
            is_plain = self._numbers == list(range(first, first + len(self._numbers)))
            lines = None if is_plain else tuple(self._numbers)
            self._done.append(Section(text, first, heading=self._path.above, lines=lines))
        self._lines, self._numbers = [], []

    def sections(self) -> Iterator[Section]:
        """All of them, at the end."""
        self._finish()
        yield from self._done


class ParagraphCounter(SectionBuilder):
    """Counts paragraphs, where lines of the file are nothing that its reader sees: items and rows count as one each.

    `is_by_heading`: below each heading from 1 again, as one looks for a place in a book; else through the whole text.
    """

    def __init__(self, *, is_by_heading: bool) -> None:
        super().__init__()
        self._is_by_heading = is_by_heading
        self._count = 0

    def heading(self, level: int, text: str, line: int) -> None:
        """As everywhere; the line of the file does not count."""
        self._count = 0 if self._is_by_heading else self._count + 1
        super().heading(level, text, max(1, self._count))

    def block(self, text: str, line: int, *, is_joined: bool = False) -> None:
        """The next paragraph."""
        self._count += 1
        self.unit(text, self._count, is_joined=is_joined)


def table_row(cells: list[str]) -> str:
    """A row as Markdown writes it; a bar in a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
