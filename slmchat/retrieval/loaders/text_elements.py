"""XML of a word processor, element by element: which of them is a paragraph, a cell, a note, and which is not seen.

DOCX and ODT have the same parts under other names. Here is what both do with them; a format says what they are called.

Knows: elements within elements. Refuses to know: names of elements, archives (zipped.py).
"""

from collections.abc import Mapping
from enum import Enum, auto

from slmchat.retrieval.loaders.paragraphs import ParagraphFlow


class ElementRole(Enum):
    """What an element is."""

    PARAGRAPH = auto()
    TEXT = auto()
    """Holds text that is seen; where a format has none, a paragraph does."""
    BLANK = auto()
    TABLE = auto()
    ROW = auto()
    CELL = auto()
    ASIDE = auto()
    """A note, or a box: beside the paragraph in which it stands, else paragraphs as all others."""
    UNSEEN = auto()


class TextElements:
    """Feeds `flow`. Subclasses know headings and items."""

    def __init__(self, parts: Mapping[str, ElementRole]) -> None:
        """`parts`: what elements of these names are."""
        self._parts = parts
        self.flow = ParagraphFlow()
        self.level = 0
        """Of the heading that the outermost paragraph is."""
        self.n_paragraphs = 0
        """That are open: a note stands in a paragraph, and has its own."""
        self._text_part = ElementRole.TEXT if ElementRole.TEXT in parts.values() else ElementRole.PARAGRAPH
        self._n_texts = 0
        self._n_unseen = 0
        self._are_asides: list[bool] = []  # of the boxes that are open: whether one stands in a paragraph

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        part = self._parts.get(name)
        if self._n_unseen or part is ElementRole.UNSEEN or self.is_unseen(name, attributes):
            self._n_unseen += 1
            return
        self._n_texts += part is self._text_part
        if part is ElementRole.PARAGRAPH:
            self.n_paragraphs += 1
        elif part is ElementRole.BLANK:
            self.flow.write(" ")
        elif part is ElementRole.ROW:
            self.flow.begin_row()
        elif part is ElementRole.ASIDE:
            self._are_asides.append(self.n_paragraphs > 0)
            if self._are_asides[-1]:
                self.flow.begin_aside()
        self.begin(name, attributes)

    def end(self, name: str) -> None:
        """An element ends."""
        if self._n_unseen:
            self._n_unseen -= 1
            return
        part = self._parts.get(name)
        self._n_texts -= part is self._text_part
        if part is ElementRole.PARAGRAPH:
            self.n_paragraphs -= 1
            self.end_paragraph()
        elif part is ElementRole.CELL:
            self.flow.end_cell()
        elif part is ElementRole.ROW:
            self.flow.end_row()
        elif part is ElementRole.TABLE:
            self.flow.end_table()
        elif part is ElementRole.ASIDE and self._are_asides.pop():
            self.flow.end_aside()
        self.finish(name)

    def data(self, text: str) -> None:
        """Characters, in whatever element."""
        if self._n_texts and not self._n_unseen:
            self.flow.write(text)

    def end_paragraph(self) -> None:
        """A paragraph ends; where it is the outermost one, its heading does, too."""
        self.flow.end_paragraph(self.level, is_item=self.is_item)
        if not self.n_paragraphs:
            self.level = 0

    @property
    def is_item(self) -> bool:
        """Whether the paragraph that ends is one of a list."""
        raise NotImplementedError

    def is_unseen(self, name: str, attributes: dict[str, str]) -> bool:
        """Whether an element stands in the file and not on the page, for what else it says."""
        return False

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """What a format knows of an element besides."""

    def finish(self, name: str) -> None:
        """The same at its end."""
