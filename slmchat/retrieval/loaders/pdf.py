"""PDF: the text of each page, through pypdf.

pypdf was chosen because it is Python alone (no wheel to find on a phone), has no dependencies, a BSD licence, bounds of
its own for streams that unpack to too much, and a release every month (docs/decisions.md).

Knows: pypdf, its errors. Refuses to know: how long it may take (reading.py), pictures of text.
"""

import io
import logging
from collections.abc import Iterator

from slmchat.retrieval.documents import DocumentKind, Section
from slmchat.retrieval.loaders.bounds import DAMAGED, ENCRYPTED, MOST_CHARACTERS, MOST_PAGES, TOO_LONG, Unreadable
from slmchat.retrieval.loaders.plain import text_sections
from slmchat.retrieval.loaders.sections import HeadingPath


def read(data: bytes) -> Iterator[str | Section]:
    """The title, then the sections of each page as soon as it is read. Raises `Unreadable`."""
    import pypdf

    logging.getLogger("pypdf").setLevel(
        logging.CRITICAL
    )  # it complains on stderr about files that it reads all the same
    n_characters, damage = 0, None
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(ENCRYPTED)
        if len(reader.pages) > MOST_PAGES:
            raise Unreadable(f"has more than {MOST_PAGES:,} pages")
        yield _title(reader.metadata)
    except _errors() as error:
        raise _unreadable(error) from error
    path = HeadingPath()
    for number in range(len(reader.pages)):
        try:
            text = reader.pages[number].extract_text().rstrip()
        except _errors() as error:  # the other pages can be read
            damage = error
            continue
        n_characters += len(text)
        if n_characters > MOST_CHARACTERS:
            raise Unreadable(TOO_LONG)
        if text:
            yield from text_sections(text, DocumentKind.PDF, number + 1, path)
    if damage is not None and not n_characters:
        raise _unreadable(damage) from damage
    if not n_characters:
        raise Unreadable("is scanned: its pages are pictures, without text")


def _errors() -> tuple[type[Exception], ...]:
    """pypdf meets damage with errors of every kind, Python's own among them: a wrong number where a name should be."""
    from pypdf.errors import DependencyError, PyPdfError

    return (
        *(PyPdfError, DependencyError, ArithmeticError, AttributeError, LookupError, NotImplementedError),
        *(RecursionError, OSError, TypeError, ValueError, AssertionError, MemoryError),
    )


def _title(metadata: object) -> str:
    title = getattr(metadata, "title", None)
    return title.strip() if isinstance(title, str) else ""


def _unreadable(error: Exception) -> Unreadable:
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    if isinstance(error, DependencyError):  # AES, which Python has not
        return Unreadable(f"{ENCRYPTED} with AES (where it opens without a password: pip install cryptography)")
    is_encrypted = isinstance(error, (FileNotDecryptedError, WrongPasswordError))
    return Unreadable(ENCRYPTED if is_encrypted else DAMAGED)
