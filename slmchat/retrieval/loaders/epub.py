"""EPUB: a ZIP archive of XHTML, read in the order of its pages. Chapters that do not name themselves are named by the
table of contents.

Paragraphs are counted below each heading: a book on a screen has no lines and no pages, but chapters that one opens.

Knows: container, package, reading order, tables of contents (EPUB 2 and 3). Refuses to know: XHTML (html.py), layout,
pictures; what an archive may cost (zipped.py).
"""

import posixpath
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from slmchat import text_files
from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders import html, zipped
from slmchat.retrieval.loaders.bounds import ENCRYPTED, Unreadable, mislabelled
from slmchat.retrieval.loaders.sections import ParagraphCounter
from slmchat.retrieval.loaders.zipped import ZippedFiles

_PAGES = ("application/xhtml+xml", "text/html")
_CONTENTS = "application/x-dtbncx+xml"
# Encryption that only keeps fonts from being taken out of a book.
_OF_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a book and its sections; lines are paragraphs below a heading. Raises `Unreadable`."""
    builder = _Book()
    with zipped.opened(data) as archive:
        package = _Package.of(archive)
        locked = _Encryption.of(archive)
        if any(page in locked for page in package.pages):
            raise Unreadable(ENCRYPTED)
        names = _names_of_pages(archive, package)
        for page in package.pages:
            content = archive.member(page)
            if content is not None:  # a book that lacks one can be read
                builder.begin_page(names.get(page))
                html.feed(_text(content), builder)
    return package.title, list(builder.sections())


class _Book(ParagraphCounter):
    """The text of all pages. A page goes on with the one before, unless it has a heading or a name."""

    def __init__(self) -> None:
        super().__init__(is_by_heading=True)
        self._name: str | None = None

    def begin_page(self, name: str | None) -> None:
        """`name`: what the table of contents calls it; used where it does not begin with a heading."""
        self._name = name

    def heading(self, level: int, text: str, line: int) -> None:
        self._name = None
        super().heading(level, text, line)

    def block(self, text: str, line: int, *, is_joined: bool = False) -> None:
        if self._name:
            self.heading(1, self._name, line)
        super().block(text, line, is_joined=is_joined)


@dataclass(frozen=True, slots=True)
class _Item:
    path: str
    media_type: str
    is_contents: bool


class _Package:
    """What the package says: the title, what there is, and in which order it is read."""

    def __init__(self, folder: str) -> None:
        self.title: str | None = None
        self.items: dict[str, _Item] = {}
        self._folder = folder
        self._order: list[str] = []
        self._is_title = False

    @classmethod
    def of(cls, archive: ZippedFiles) -> "_Package":
        """Raises `Unreadable`."""
        roots: list[str] = []
        container = archive.member("META-INF/container.xml")
        if container is None:
            raise mislabelled(".epub")
        zipped.parse(
            container,
            lambda name, attributes: roots.append(attributes.get("full-path", "")) if name == "rootfile" else None,
        )
        content = archive.member(roots[0]) if roots else None
        if content is None:
            raise mislabelled(".epub")
        found = cls(posixpath.dirname(roots[0]))
        zipped.parse(content, found._start, found._end, found._data)
        return found

    @property
    def pages(self) -> list[str]:
        """Names of members in reading order, without the table of contents."""
        items = [self.items[each] for each in dict.fromkeys(self._order) if each in self.items]
        return [item.path for item in items if item.media_type in _PAGES and not item.is_contents]

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._is_title = name == "title" and not self.title
        if name == "item":
            self.items[attributes.get("id", "")] = _Item(
                _path(self._folder, attributes.get("href", "")),
                attributes.get("media-type", ""),
                "nav" in attributes.get("properties", "").split(),
            )
        elif name == "itemref":
            self._order.append(attributes.get("idref", ""))

    def _end(self, _name: str) -> None:
        self._is_title = False

    def _data(self, text: str) -> None:
        if self._is_title:
            self.title = f"{self.title or ''}{text}".strip() or None


class _Encryption:
    """Members that cannot be read without a key."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self._method = ""

    @classmethod
    def of(cls, archive: ZippedFiles) -> set[str]:
        found = cls()
        if (content := archive.member("META-INF/encryption.xml")) is not None:
            zipped.parse(content, found._start)
        return found.paths

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "EncryptedData":
            self._method = ""
        elif name == "EncryptionMethod":
            self._method = attributes.get("Algorithm", "")
        elif name == "CipherReference" and self._method not in _OF_FONTS:
            self.paths.add(_path("", attributes.get("URI", "")))


def _names_of_pages(archive: ZippedFiles, package: _Package) -> dict[str, str]:
    """What the table of contents calls each page, where it has a name for its beginning."""
    contents = [item for item in package.items.values() if item.is_contents or item.media_type == _CONTENTS]
    found: dict[str, str] = {}
    for item in contents:
        made = _Contents(posixpath.dirname(item.path))
        if (content := archive.member(item.path)) is not None:
            with suppress(Unreadable):  # names are not needed to read it
                zipped.parse(content, made.start, made.end, made.data)
        found = {**made.names, **found}
    return found


def _text(content: bytes) -> str:
    try:
        return html.decode(content)
    except text_files.NotText:
        return content.decode("utf-8", "replace")


class _Contents:
    """A table of contents: `<a href>name</a>` in EPUB 3; in EPUB 2 `<text>name</text>`, then `<content src>`."""

    def __init__(self, folder: str) -> None:
        self.names: dict[str, str] = {}
        self._folder = folder
        self._words: list[str] | None = None
        self._target = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "a":
            self._words, self._target = [], attributes.get("href", "")
        elif name == "text":
            self._words = []
        elif name == "content":
            self._put(attributes.get("src", ""))

    def end(self, name: str) -> None:
        if name == "a":
            self._put(self._target)

    def data(self, text: str) -> None:
        if self._words is not None:
            self._words.append(text)

    def _put(self, target: str) -> None:
        name = " ".join("".join(self._words or ()).split())
        self._words = None
        if name and "#" not in target:
            self.names.setdefault(_path(self._folder, target), name)


def _path(folder: str, reference: str) -> str:
    """The name of a member to which a file in this folder refers."""
    return posixpath.normpath(posixpath.join(folder, unquote(urlsplit(reference).path)))
