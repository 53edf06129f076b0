"""DOCX: a ZIP archive with XML in it, of which the text, the headings and the tables are taken.

Knows: WordprocessingML (ECMA-376 part 1). Refuses to know: layout, pictures, comments, deleted text; what an archive
may cost (zipped.py).
"""

import re

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders import zipped
from slmchat.retrieval.loaders.bounds import mislabelled
from slmchat.retrieval.loaders.paragraphs import ParagraphFlow
from slmchat.retrieval.loaders.zipped import ElementText

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
# Levels of w:outlineLvl; 9 is body text.
_OUTLINE = tuple("012345678")
# Text that stands in the file and not on the page, or twice in the file (ECMA-376: w:del, w:instrText; mc:Fallback).
_UNSEEN = {"del", "moveFrom", "instrText", "delText", "Fallback", "sectPr", "rPr"}


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a document and its sections; lines are paragraphs. Raises `Unreadable`."""
    with zipped.opened(data) as archive:
        document = archive.member("word/document.xml")
        if document is None:
            raise mislabelled(".docx")
        styles = archive.member("word/styles.xml")
        notes = [archive.member(f"word/{kind}.xml") for kind in ("footnotes", "endnotes")]
        properties = archive.member("docProps/core.xml")
    levels = _Styles.of(styles)
    title = ElementText.of(properties, "title")
    body = _Body(levels)
    for part in (document, *notes):
        if part is not None:
            zipped.parse(part, body.start, body.end, body.data)
    return title, list(body.flow.builder.sections())


class _Styles:
    """Levels of headings by the id of their style. The names of built-in styles are English in every language."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {f"Heading{level}": level for level in range(1, 7)}
        self._id = ""

    @classmethod
    def of(cls, content: bytes | None) -> dict[str, int]:
        found = cls()
        if content is not None:
            zipped.parse(content, found._start)
        return found.levels

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "style":
            self._id = attributes.get("styleId", "")
        elif name == "name" and self._id:
            named = attributes.get("val", "")
            if level := _HEADING.fullmatch(named):
                self.levels[self._id] = int(level[1])
            elif named.lower() == "title":
                self.levels[self._id] = 1


class _Body:
    """The paragraphs and tables of a document."""

    def __init__(self, levels: dict[str, int]) -> None:
        self.flow = ParagraphFlow()
        self._levels = levels
        self._level = 0
        self._is_item = False
        self._is_text = False
        self._n_unseen = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._n_unseen or name in _UNSEEN:
            self._n_unseen += 1
            return
        if name == "t":
            self._is_text = True
        elif name in ("tab", "br", "cr"):
            self.flow.write(" ")
        elif name == "noBreakHyphen":
            self.flow.write("-")
        elif name == "pStyle":
            self._level = self._levels.get(attributes.get("val", ""), 0)
        elif name == "outlineLvl" and attributes.get("val", "") in _OUTLINE:
            self._level = self._level or int(attributes["val"]) + 1
        elif name == "numPr":
            self._is_item = True
        elif name == "tr":
            self.flow.begin_row()
        elif name == "tc":
            self.flow.begin_cell()

    def end(self, name: str) -> None:
        if self._n_unseen:
            self._n_unseen -= 1
            return
        if name == "t":
            self._is_text = False
        elif name == "p":
            self.flow.end_paragraph(self._level, is_item=self._is_item)
            self._level, self._is_item = 0, False
        elif name == "tc":
            self.flow.end_cell()
        elif name == "tr":
            self.flow.end_row()
        elif name == "tbl":
            self.flow.end_table()

    def data(self, text: str) -> None:
        if self._is_text and not self._n_unseen:
            self.flow.write(text)
