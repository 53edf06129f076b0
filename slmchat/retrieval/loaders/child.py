"""The process that reads all but plain text: whatever such a file does to its reader, it does it here.

It is closed in completely: no network, no file to write, no more memory and time than a document may cost. It gets the
bytes of one file after the other on its standard input, and answers in lines of JSON: a title, sections, at last an end
or a reason.

Knows: the protocol, its limits. Refuses to know: names of files, who asks (reading.py).
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from typing import Any

from slmchat import text_files
from slmchat.retrieval.documents import DocumentKind, Section
from slmchat.retrieval.loaders import bounds
from slmchat.retrieval.loaders.bounds import Unreadable

_READERS = {
    DocumentKind.DOCX: "docx",
    DocumentKind.ODT: "odt",
    DocumentKind.RTF: "rtf",
    DocumentKind.EPUB: "epub",
    DocumentKind.EMAIL: "mail",
    DocumentKind.NOTEBOOK: "notebook",
    DocumentKind.HTML: "html",
}
"""The modules that read whole files; a PDF is read page by page."""


def main() -> None:
    """Read documents until the input ends."""
    _close_in()
    source, out = sys.stdin.buffer, sys.stdout
    while head := source.readline():
        order = json.loads(head)
        data = source.read(order["n_bytes"])
        try:
            for record in _records(DocumentKind(order["kind"]), data):
                out.write(json.dumps(record) + "\n")
                out.flush()
            ending: dict[str, Any] = {"end": True}
        except Unreadable as error:
            ending = {"reason": error.reason}
        out.write(json.dumps(ending) + "\n")
        out.flush()


def _close_in() -> None:
    from slmchat.privacy.seal import seal

    seal(is_required=False)
    with contextlib.suppress(ImportError):  # Windows
        import resource

        for limit, most in ((resource.RLIMIT_AS, bounds.MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(OSError, ValueError):  # a system without this limit, or with a lower one
                resource.setrlimit(limit, (most, most))


def _records(kind: DocumentKind, data: bytes) -> Iterator[dict[str, Any]]:
    for found in _read(kind, data):
        yield asdict(found) if isinstance(found, Section) else {"title": found}


def _read(kind: DocumentKind, data: bytes) -> Iterator[str | Section | None]:
    try:
        if kind is DocumentKind.PDF:
            from slmchat.retrieval.loaders import pdf

            yield from pdf.read(data)
            return
        title, sections = _whole(kind, data)
    except text_files.NotText as error:
        from slmchat.retrieval.loaders.kinds import why_not_text

        raise Unreadable(why_not_text(data)) from error
    except (MemoryError, RecursionError) as error:
        raise Unreadable(bounds.DAMAGED) from error
    yield title
    yield from sections


def _whole(kind: DocumentKind, data: bytes) -> tuple[str | None, list[Section]]:
    """Raises `Unreadable`, `NotText`, and what a file without an end to its nesting does to Python."""
    reader = import_module(f"slmchat.retrieval.loaders.{_READERS[kind]}")  # one of them alone: each start counts
    read: Callable[[bytes], tuple[str | None, list[Section]]] = reader.read
    return read(data)
