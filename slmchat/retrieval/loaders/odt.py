"""ODT: a ZIP archive with XML in it, of which the text, the headings, the tables and the notes are taken.

Knows: text documents of OpenDocument (ISO 26300). Refuses to know: layout, pictures, comments, deleted text; what an
archive may cost (zipped.py).
"""

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders import zipped
from slmchat.retrieval.loaders.bounds import Unreadable, mislabelled
from slmchat.retrieval.loaders.paragraphs import ParagraphFlow
from slmchat.retrieval.loaders.zipped import ElementText

# Text that stands in the file and not on the page, or twice on it: the headings of a table of contents.
_UNSEEN = {"tracked-changes", "annotation", "note-citation", "table-of-content", "ruby-text", "title", "desc"}
_ASIDE = {"note-body", "text-box"}
_TITLE_STYLE = "Title"


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a document and its sections; lines are paragraphs. Raises `Unreadable`."""
    with zipped.opened(data) as archive:
        content = archive.member("content.xml")
        manifest = archive.member("META-INF/manifest.xml") or b""
        properties = archive.member("meta.xml")
    if b"encryption-data" in manifest:
        raise Unreadable(zipped.ENCRYPTED)
    if content is None:
        raise mislabelled(".odt")
    body = _Body()
    zipped.parse(content, body.start, body.end, body.data)
    return ElementText.of(properties, "title"), list(body.flow.builder.sections())


class _Body:
    """The paragraphs and tables of a document. A note, and a box within a paragraph, stand behind that paragraph."""

    def __init__(self) -> None:
        self.flow = ParagraphFlow()
        self._titles = {_TITLE_STYLE}  # names of styles
        self._level = 0
        self._n_items = 0  # lists stand in lists
        self._n_paragraphs = 0  # that are open: a note stands in a paragraph, and has its own
        self._n_unseen = 0
        self._n_asides = 0
        self._asides: list[list[str]] = []  # of the paragraph that is open

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._n_unseen or name in _UNSEEN or (name == "section" and attributes.get("display") == "none"):
            self._n_unseen += 1
        elif name == "style" and attributes.get("parent-style-name") == _TITLE_STYLE:
            self._titles.add(attributes.get("name", ""))
        elif name in _ASIDE and (self._n_asides or self._n_paragraphs):
            self._n_asides += 1
            if self._n_asides == 1:
                self._asides.append([])
        elif name in ("p", "h"):
            self._n_paragraphs += 1
            if self._n_paragraphs == 1:
                self._level = _level(attributes) if name == "h" else int(attributes.get("style-name") in self._titles)
        elif name in ("s", "tab", "line-break"):
            self._write(" ")
        elif self._n_asides:
            return
        elif name == "list-item":
            self._n_items += 1
        elif name == "table-row":
            self.flow.begin_row()
        elif name == "table-cell":
            self.flow.begin_cell()

    def end(self, name: str) -> None:
        if self._n_unseen:
            self._n_unseen -= 1
        elif name in _ASIDE and self._n_asides:
            self._n_asides -= 1
        elif name in ("p", "h"):
            self._n_paragraphs -= 1
            if self._n_paragraphs:
                self._write(" ")
            else:
                self._end_paragraph()
        elif self._n_asides:
            return
        elif name == "list-item":
            self._n_items -= 1
        elif name == "table-cell":
            self.flow.end_cell()
        elif name == "table-row":
            self.flow.end_row()
        elif name == "table":
            self.flow.end_table()

    def data(self, text: str) -> None:
        if self._n_paragraphs and not self._n_unseen:
            self._write(text)

    def _write(self, text: str) -> None:
        if self._n_asides:
            self._asides[-1].append(text)
        else:
            self.flow.write(text)

    def _end_paragraph(self) -> None:
        self.flow.end_paragraph(self._level, is_item=bool(self._n_items))
        for words in self._asides:
            self.flow.aside("".join(words))
        self._asides = []


def _level(attributes: dict[str, str]) -> int:
    found = attributes.get("outline-level", "1")
    return int(found) if found in tuple("123456789") else 1
