"""DOCX: a ZIP archive with XML in it, of which the text, the headings and the tables are taken.

Nothing is unpacked to the disk, no more bytes are unpacked than a document may have, whatever the archive says of its
size, and XML that declares entities is refused: such files are made to fill the memory.

Knows: WordprocessingML (ECMA-376 part 1). Refuses to know: layout, pictures, comments, deleted text.
"""

import io
import re
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Callable

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders.bounds import MOST_BYTES, MOST_MEMBERS, TOO_LARGE, Unreadable
from slmchat.retrieval.loaders.sections import SectionBuilder, table_row

_DAMAGED = "is damaged"
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
# Levels of w:outlineLvl; 9 is body text.
_OUTLINE = tuple("012345678")
# Text that stands in the file and not on the page, or twice in the file (ECMA-376: w:del, w:instrText; mc:Fallback).
_UNSEEN = {"del", "moveFrom", "instrText", "delText", "Fallback", "sectPr", "rPr"}


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a document and its sections; lines are paragraphs. Raises `Unreadable`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > MOST_MEMBERS:
                raise Unreadable(_DAMAGED)
            document = _member(archive, "word/document.xml")
            if document is None:
                raise Unreadable("is called .docx and is not one")
            levels = _Styles.of(_member(archive, "word/styles.xml"))
            notes = [_member(archive, f"word/{kind}.xml") for kind in ("footnotes", "endnotes")]
            title = _Title.of(_member(archive, "docProps/core.xml"))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        is_encrypted = isinstance(error, RuntimeError) and "encrypted" in str(error)
        raise Unreadable("is encrypted" if is_encrypted else _DAMAGED) from error
    body = _Body(levels)
    for part in (document, *notes):
        if part is not None:
            _parse(part, body.start, body.end, body.data)
            body.end_paragraph()
    return title, list(body.builder.sections())


def _member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """The content of a member; None when there is none. Raises `Unreadable` for one that is too large."""
    try:
        member = archive.open(name)
    except KeyError:
        return None
    with member:
        content = member.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise Unreadable(TOO_LARGE)
    return content


def _parse(
    content: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    data: Callable[[str], None],
) -> None:
    """Names come without their namespaces. Raises `Unreadable`."""
    parser = xml.parsers.expat.ParserCreate()

    def refuse(*_declaration: object) -> None:
        raise Unreadable(_DAMAGED)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda name, attributes: start(
        name.rpartition(":")[2], {key.rpartition(":")[2]: value for key, value in attributes.items()}
    )
    parser.EndElementHandler = lambda name: end(name.rpartition(":")[2])
    parser.CharacterDataHandler = data
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except xml.parsers.expat.ExpatError as error:
        raise Unreadable(_DAMAGED) from error


class _Styles:
    """Levels of headings by the id of their style. The names of built-in styles are English in every language."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {f"Heading{level}": level for level in range(1, 7)}
        self._id = ""

    @classmethod
    def of(cls, content: bytes | None) -> dict[str, int]:
        found = cls()
        if content is not None:
            _parse(content, found._start, lambda _name: None, lambda _text: None)
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


class _Title:
    """The title in the properties of a document."""

    def __init__(self) -> None:
        self.text = ""
        self._is_open = False

    @classmethod
    def of(cls, content: bytes | None) -> str | None:
        found = cls()
        if content is not None:
            _parse(content, found._start, found._end, found._data)
        return found.text.strip() or None

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._is_open = name == "title"

    def _end(self, _name: str) -> None:
        self._is_open = False

    def _data(self, text: str) -> None:
        if self._is_open:
            self.text += text


class _Body:
    """The paragraphs and tables of a document."""

    def __init__(self, levels: dict[str, int]) -> None:
        self.builder = SectionBuilder()
        self._levels = levels
        self._number = 1  # of the paragraph, from 1
        self._row_number = 1  # of the first one of a row
        self._words: list[str] = []
        self._level = 0
        self._is_text = False
        self._n_unseen = 0
        self._cells: list[list[str]] = []  # rows that are open: tables stand in tables
        self._is_item = False
        self._before = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._n_unseen or name in _UNSEEN:
            self._n_unseen += 1
            return
        if name == "t":
            self._is_text = True
        elif name in ("tab", "br", "cr") and (self._words or name != "tab"):
            self._words.append(" ")
        elif name == "noBreakHyphen":
            self._words.append("-")
        elif name == "pStyle":
            self._level = self._levels.get(attributes.get("val", ""), 0)
        elif name == "outlineLvl" and attributes.get("val", "") in _OUTLINE:
            self._level = self._level or int(attributes["val"]) + 1
        elif name == "numPr":
            self._is_item = True
        elif name == "tr":
            self._row_number = self._row_number if self._cells else self._number
            self._cells.append([])
        elif name == "tc":
            self._words = []

    def end(self, name: str) -> None:
        if self._n_unseen:
            self._n_unseen -= 1
            return
        if name == "t":
            self._is_text = False
        elif name == "p":
            if self._cells:
                self._words.append(" ")
                self._level, self._is_item = 0, False
            else:
                self.end_paragraph()
            self._number += 1
        elif name == "tc" and self._cells:
            self._cells[-1].append(self._taken())
        elif name == "tr" and self._cells:
            row = self._cells.pop()
            if self._cells:
                self._words.append(" ".join(row) + " ")
            elif any(row):
                self.builder.block(table_row(row), self._row_number, is_joined=self._before == "row")
                self._before = "row"
        elif name == "tbl" and not self._cells:
            self._before = "table"

    def data(self, text: str) -> None:
        if self._is_text and not self._n_unseen:
            self._words.append(text)

    def end_paragraph(self) -> None:
        """The paragraph is over, outside of every table."""
        text = self._taken()
        level, is_item, self._level, self._is_item = self._level, self._is_item, 0, False
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
