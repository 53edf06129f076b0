"""PDF: the text of each page, through pypdf.

pypdf was chosen because it is Python alone (no wheel to find on a phone), has no dependencies, a BSD licence, bounds of
its own for streams that unpack to too much, and a release every month (docs/decisions.md).

Knows: pypdf, its errors. Refuses to know: how long it may take (reading.py), pictures of text.
"""

import io
import logging
from collections.abc import Iterator

from slmchat.retrieval.documents import DocumentKind, Section
from slmchat.retrieval.loaders.bounds import MOST_CHARACTERS, MOST_PAGES, TOO_LONG, Unreadable
from slmchat.retrieval.loaders.plain import text_sections
from slmchat.retrieval.loaders.sections import HeadingPath


def read(data: bytes) -> Iterator[str | Section]:
    """The title, then the sections of each page as soon as it is read. Raises `Unreadable`."""
    import pypdf
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(
        logging.CRITICAL
    )  # it complains on stderr about files that it reads all the same
    n_characters = 0
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted")
        if len(reader.pages) > MOST_PAGES:
            raise Unreadable(f"has more than {MOST_PAGES:,} pages")
        yield _title(reader.metadata)
        path = HeadingPath()
        for number, page in enumerate(reader.pages, 1):
            text = page.extract_text().rstrip()
            n_characters += len(text)
            if n_characters > MOST_CHARACTERS:
                raise Unreadable(TOO_LONG)
            if text:
                yield from text_sections(text, DocumentKind.PDF, number, path)
    except Unreadable:
        raise
    except (PyPdfError, ArithmeticError, AttributeError, LookupError, NotImplementedError) as error:
        raise Unreadable(_reason(error)) from error
    except (RecursionError, OSError, TypeError, ValueError, AssertionError, MemoryError) as error:
        raise Unreadable(_reason(error)) from error
    if not n_characters:
        raise Unreadable("is scanned: its pages are pictures, without text")


def _title(metadata: object) -> str:
    title = getattr(metadata, "title", None)
    return title.strip() if isinstance(title, str) else ""


def _reason(error: Exception) -> str:
    """pypdf meets damage with errors of every kind, Python's own among them: a wrong number where a name should be."""
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    is_encrypted = isinstance(error, (DependencyError, FileNotDecryptedError, WrongPasswordError))
    return "is encrypted" if is_encrypted else "is damaged"
