"""ODT: a ZIP archive with XML in it, of which the text, the headings, the tables and the notes are taken.

Knows: text documents of OpenDocument (ISO 26300). Refuses to know: layout, pictures, comments, deleted text; what an
archive may cost (zipped.py).
"""

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders import zipped
from slmchat.retrieval.loaders.bounds import ENCRYPTED, Unreadable, mislabelled
from slmchat.retrieval.loaders.text_elements import ElementRole, TextElements
from slmchat.retrieval.loaders.zipped import ElementText

# Text that stands in the file and not on the page, or twice on it: the headings of a table of contents.
_UNSEEN = ("tracked-changes", "annotation", "note-citation", "table-of-content", "ruby-text", "title", "desc")
_TITLE_STYLE = "Title"
_PARTS = {
    **dict.fromkeys(("p", "h"), ElementRole.PARAGRAPH),
    **dict.fromkeys(("s", "tab", "line-break"), ElementRole.BLANK),
    **{"table": ElementRole.TABLE, "table-row": ElementRole.ROW, "table-cell": ElementRole.CELL},
    **dict.fromkeys(("note-body", "text-box"), ElementRole.ASIDE),
    **dict.fromkeys(_UNSEEN, ElementRole.UNSEEN),
}


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a document and its sections; lines are paragraphs. Raises `Unreadable`."""
    with zipped.opened(data) as archive:
        content = archive.member("content.xml")
        manifest = archive.member("META-INF/manifest.xml") or b""
        properties = archive.member("meta.xml")
    if b"encryption-data" in manifest:
        raise Unreadable(ENCRYPTED)
    if content is None:
        raise mislabelled(".odt")
    body = _Body()
    zipped.parse(content, body.start, body.end, body.data)
    return ElementText.of(properties, "title"), list(body.flow.builder.sections())


class _Body(TextElements):
    """The paragraphs and tables of a document."""

    def __init__(self) -> None:
        super().__init__(_PARTS)
        self._titles = {_TITLE_STYLE}  # names of styles
        self._n_items = 0  # lists stand in lists

    @property
    def is_item(self) -> bool:
        return bool(self._n_items)

    def is_unseen(self, name: str, attributes: dict[str, str]) -> bool:
        return name == "section" and attributes.get("display") == "none"

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "style" and attributes.get("parent-style-name") == _TITLE_STYLE:
            self._titles.add(attributes.get("name", ""))
        elif name in ("p", "h") and self.n_paragraphs == 1:
            self.level = _level(attributes) if name == "h" else int(attributes.get("style-name") in self._titles)
        elif name == "list-item":
            self._n_items += 1

    def finish(self, name: str) -> None:
        if name == "list-item":
            self._n_items -= 1


def _level(attributes: dict[str, str]) -> int:
    found = attributes.get("outline-level", "1")
    return int(found) if found in tuple("123456789") else 1
