"""ZIP archives with XML in them (DOCX, ODT, EPUB): members and what is parsed of them, each within its bounds.

Nothing is unpacked to the disk, no more bytes are unpacked than a document may have, whatever the archive says of its
size, and XML that declares entities is refused: such files are made to fill the memory.

Knows: ZIP, expat, their errors. Refuses to know: which members a format has, what its elements mean.
"""

import io
import xml.parsers.expat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slmchat.archives import NOT_READABLE
from slmchat.retrieval.loaders.bounds import DAMAGED, ENCRYPTED, MOST_BYTES, MOST_MEMBERS, TOO_LARGE, Unreadable


class ZippedFiles:
    """An archive that is open."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._left = MOST_BYTES

    def member(self, name: str) -> bytes | None:
        """The content of a member; None when there is none. Raises `Unreadable` when all of them are too large."""
        try:
            member = self._archive.open(name)
        except KeyError:
            return None
        with member:
            content = member.read(self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise Unreadable(TOO_LARGE)
        return content


@contextmanager
def opened(data: bytes) -> Iterator[ZippedFiles]:
    """An archive of these bytes. Raises `Unreadable`, also for what its members do while this lasts."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > MOST_MEMBERS:
                raise Unreadable(DAMAGED)
            yield ZippedFiles(archive)
    except (*NOT_READABLE, OSError) as error:
        is_encrypted = isinstance(error, RuntimeError) and "encrypted" in str(error)
        raise Unreadable(ENCRYPTED if is_encrypted else DAMAGED) from error


def parse(
    content: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None] = lambda _name: None,
    data: Callable[[str], None] = lambda _text: None,
) -> None:
    """Names come without their namespaces. Raises `Unreadable`."""
    parser = xml.parsers.expat.ParserCreate()

    def begin_doctype(_name: str, _system: str | None, _public: str | None, has_declarations: int) -> None:
        if has_declarations:
            raise Unreadable(DAMAGED)

    parser.StartDoctypeDeclHandler = begin_doctype
    parser.StartElementHandler = lambda name, attributes: start(
        name.rpartition(":")[2], {key.rpartition(":")[2]: value for key, value in attributes.items()}
    )
    parser.EndElementHandler = lambda name: end(name.rpartition(":")[2])
    parser.CharacterDataHandler = data
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except xml.parsers.expat.ExpatError as error:
        raise Unreadable(DAMAGED) from error


class ElementText:
    """The text of the first element of this name that has any: a title."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = ""
        self._is_open = False

    @classmethod
    def of(cls, content: bytes | None, name: str) -> str | None:
        """None where there is none. Raises `Unreadable`."""
        found = cls(name)
        if content is not None:
            parse(content, found._start, found._end, found._data)
        return found._text.strip() or None

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._is_open = name == self._name and not self._text.strip()

    def _end(self, _name: str) -> None:
        self._is_open = False

    def _data(self, text: str) -> None:
        if self._is_open:
            self._text += text
