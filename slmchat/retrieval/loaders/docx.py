"""DOCX: a ZIP archive with XML in it, of which the text, the headings, the tables and the notes are taken.

Knows: WordprocessingML (ECMA-376 part 1). Refuses to know: layout, pictures, comments, deleted text, the head and foot
of pages, the numbers of lists; what an archive may cost (zipped.py).
"""

import posixpath
import re

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders import zipped
from slmchat.retrieval.loaders.bounds import ENCRYPTED, Unreadable, mislabelled
from slmchat.retrieval.loaders.paragraphs import ParagraphFlow
from slmchat.retrieval.loaders.text_elements import ElementRole, TextElements
from slmchat.retrieval.loaders.zipped import ElementText, ZippedFiles

# The stream of a compound file (kinds.py) that a document with a password is.
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
# Levels of w:outlineLvl; 9 is body text.
_OUTLINE = tuple("012345678")
# Text that stands in the file and not on the page, or twice in the file (ECMA-376: w:del, w:instrText; mc:Fallback).
_UNSEEN = ("del", "moveFrom", "instrText", "delText", "Fallback", "sectPr")
_NOTES = ("footnote", "endnote")
_OFF = ("0", "false", "off")
_PARTS = {
    **{
        "p": ElementRole.PARAGRAPH,
        "t": ElementRole.TEXT,
        "tbl": ElementRole.TABLE,
        "tr": ElementRole.ROW,
        "tc": ElementRole.CELL,
    },
    **dict.fromkeys(("tab", "ptab", "br", "cr"), ElementRole.BLANK),
    "txbxContent": ElementRole.ASIDE,
    **dict.fromkeys(_UNSEEN, ElementRole.UNSEEN),
}


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a document and its sections; lines are paragraphs. Raises `Unreadable`."""
    if not data.startswith(b"PK"):
        raise Unreadable(ENCRYPTED) if _ENCRYPTED in data else mislabelled(".docx")
    with zipped.opened(data) as archive:
        path = _document_path(archive)
        document = archive.member(path)
        if document is None:
            raise mislabelled(".docx")
        folder = posixpath.dirname(path)
        styles, *notes = (archive.member(f"{folder}/{name}s.xml") for name in ("style", *_NOTES))
        properties = archive.member("docProps/core.xml")
    title = ElementText.of(properties, "title")
    noted = _Notes()
    for part in notes:
        if part is not None:
            zipped.parse(part, noted.start, noted.end, noted.data)
    body = _Body(_Styles.of(styles), noted.texts)
    zipped.parse(document, body.start, body.end, body.data)
    return title, list(body.flow.builder.sections())


def _document_path(archive: ZippedFiles) -> str:
    """The member that is the document, which a program may call as it likes."""
    found = ["word/document.xml"]

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "Relationship" and attributes.get("Type", "").endswith("/officeDocument"):
            found.append(attributes.get("Target", "").lstrip("/"))

    if (content := archive.member("_rels/.rels")) is not None:
        zipped.parse(content, start)
    return found[-1]


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


class _Runs(TextElements):
    """Text in runs, of which those that are hidden are left out."""

    def __init__(self) -> None:
        super().__init__(_PARTS)
        self._is_run = False
        self._is_hidden = False

    @property
    def is_item(self) -> bool:
        return False

    def is_unseen(self, name: str, attributes: dict[str, str]) -> bool:
        return self._is_hidden and name == "t"

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "r":
            self._is_run, self._is_hidden = True, False
        elif name == "vanish" and self._is_run:
            self._is_hidden = attributes.get("val") not in _OFF
        elif name == "noBreakHyphen":
            self.flow.write("-")

    def finish(self, name: str) -> None:
        if name == "r":
            self._is_run = self._is_hidden = False


class _Notes(_Runs):
    """The text of notes, by their kind and number."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[tuple[str, str], str] = {}
        self._id = ""

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        super().begin(name, attributes)
        if name in _NOTES:
            self._id = attributes.get("id", "")
            self.flow = ParagraphFlow()

    def finish(self, name: str) -> None:
        super().finish(name)
        if name in _NOTES:
            self.texts[name, self._id] = "\n".join(section.text for section in self.flow.builder.sections())


class _Body(_Runs):
    """The paragraphs and tables of a document."""

    def __init__(self, levels: dict[str, int], notes: dict[tuple[str, str], str]) -> None:
        super().__init__()
        self._levels = levels
        self._notes = notes
        self._is_item = False
        self._is_drop_cap = False

    @property
    def is_item(self) -> bool:
        return self._is_item

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        super().begin(name, attributes)
        if name.endswith("noteReference"):
            self.flow.begin_aside()
            self.flow.write(self._notes.pop((name.removesuffix("Reference"), attributes.get("id", "")), ""))
            self.flow.end_aside()
        elif self.n_paragraphs != 1:
            return
        elif name == "pStyle":
            self.level = self._levels.get(attributes.get("val", ""), 0)
        elif name == "outlineLvl" and attributes.get("val", "") in _OUTLINE:
            self.level = self.level or int(attributes["val"]) + 1
        elif name == "numPr":
            self._is_item = True
        elif name == "framePr":
            self._is_drop_cap = attributes.get("dropCap") in ("drop", "margin")

    def end_paragraph(self) -> None:
        if self._is_drop_cap and not self.n_paragraphs:  # a large letter: its paragraph goes on in the next one
            self._is_drop_cap = False
            return
        super().end_paragraph()
        if not self.n_paragraphs:
            self._is_item = False
