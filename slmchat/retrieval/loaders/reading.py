"""A file becomes a document: read whole, told by its kind, parsed here or in a process of its own.

Text is parsed here. All else has structure that can be made to harm its reader; it goes to a child process (child.py),
which is killed when it takes too long, and only with the file it is reading.

Knows: files that change while they are read, the child and its limits of time. Refuses to know: formats, the index.
"""

import hashlib
import json
import os
import queue
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from slmchat import text_files
from slmchat.interpreter import interpreter
from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.documents import Document, DocumentKind, Section
from slmchat.retrieval.loaders import markdown, plain
from slmchat.retrieval.loaders.bounds import (
    DAMAGED,
    MOST_BYTES,
    MOST_S,
    MOST_SILENCE_S,
    MOST_WHOLE_S,
    TOO_LARGE,
    NotDocument,
    Unreadable,
)
from slmchat.retrieval.loaders.kinds import FIRST_BYTES, kind_of, why_not_text
from slmchat.sanitize import Sanitizer

_CHANGES = "changed while it was read"
_HERE = (DocumentKind.TEXT, DocumentKind.MARKDOWN, DocumentKind.CSV, DocumentKind.CODE)
_OTHER_SPACE = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")
_C1 = re.compile(r"[\x80-\x9f]")
_OBEYED = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LINE_END = re.compile(r"([\n\r\u2028\u2029])")
_TICK_S = 0.2  # a cancellation is seen within this time
_CHILD = """import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from slmchat.retrieval.loaders.child import main
main()"""


class ReadingEnded(Exception):
    """The reading was ended before its end."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """The bytes of a file as they were at one moment; `mtime` in nanoseconds. `refusal`: why it is not what its name
    says, else empty."""

    path: Path
    kind: DocumentKind
    data: bytes
    mtime: int
    refusal: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def content_of(path: Path) -> FileContent:
    """Read a file. Raises `Unreadable`: not a regular file, no permission, too large, changed meanwhile, and
    `NotDocument`."""
    try:
        # a pipe would be waited for; O_NONBLOCK means nothing to a file
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise Unreadable("is not a regular file")
            if before.st_size > MOST_BYTES:
                raise Unreadable(TOO_LARGE)
            first = file.read(FIRST_BYTES) or b""  # None: a file of the kernel's (/proc) that would be waited for
            kind, refusal = _kind_or_refusal(path, first)
            data = first + (file.read(MOST_BYTES + 1 - len(first)) or b"")
            after = os.fstat(descriptor)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from error
    if len(data) != before.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Unreadable(_CHANGES)
    return FileContent(path, kind, data, before.st_mtime_ns, refusal)


def _kind_or_refusal(path: Path, first: bytes) -> tuple[DocumentKind, str]:
    """A file that claims to be a document is remembered with its refusal. Raises `NotDocument` for others."""
    try:
        return kind_of(path, first), ""
    except NotDocument:
        raise
    except Unreadable as error:
        return DocumentKind.TEXT, error.reason


class DocumentReader:
    """Reads documents; keeps the child process for the next one. Close it at the end."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled
        self._child: _Child | None = None

    def read(self, content: FileContent) -> Document:
        """The document. Raises `Unreadable`, and `ReadingEnded`."""
        if content.refusal:
            raise Unreadable(content.refusal)
        is_here = content.kind in _HERE
        title, sections = _read_here(content) if is_here else self._read_in_child(content)
        if not any(section.text.strip() for section in sections):
            raise Unreadable("is empty")
        if title is None and not is_here:
            title = next((section.heading[0] for section in sections if section.heading), None)
        pages = [section.page for section in sections if section.page is not None]
        name = content.path.name.encode("utf-8", "replace").decode()
        return Document(
            content.path, " ".join(_clean(title or name).split()), content.kind, sections, max(pages, default=None)
        )

    def _read_in_child(self, content: FileContent) -> tuple[str | None, tuple[Section, ...]]:
        if self._child is None or not self._child.is_alive:
            self._child = _Child()
        title: str | None = None
        sections = []
        for record in self._child.records(content, self._is_cancelled):
            if "title" in record:
                title = record["title"]
            else:
                sections.append(_section(record))
        return title, tuple(sections)

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _read_here(content: FileContent) -> tuple[str | None, tuple[Section, ...]]:
    try:
        text = text_files.with_line_feeds(text_files.decode(content.data))
        text = _clean(
            text if "\n" in text else text.replace("\r", "\n")
        )  # lines of old Macintoshes, which Excel writes
    except text_files.NotText as error:
        raise Unreadable(why_not_text(content.data)) from error
    if content.kind is DocumentKind.MARKDOWN:
        return markdown.title(text), tuple(markdown.sections(text))
    return None, tuple(plain.text_sections(text, content.kind))


def _section(record: dict[str, Any]) -> Section:
    lines = record["lines"]
    return Section(
        _clean(record["text"]),
        int(record["first_line"]),
        record["page"],
        tuple(_clean(each) for each in record["heading"]),
        None if lines is None else tuple(lines),
    )


def _clean(text: str) -> str:
    """What can be encoded and kept: halves of pairs and null characters, which PDFs have, become the mark for such.

    What a terminal would obey, as the colours in a log, is gone: a model cannot quote it. Each line stays a line.
    """
    if "\0" in text or not text.isascii():
        text = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    if _OBEYED.search(text):
        text = "".join(part if _LINE_END.fullmatch(part) else _shown(part) for part in _LINE_END.split(text))
    return text


def _shown(text: str) -> str:
    sanitizer = Sanitizer(show_invisible=False)
    text = _C1.sub("", _OTHER_SPACE.sub(" ", text))  # C1 are quotation marks of Windows, read as another encoding
    return sanitizer.feed(text) + sanitizer.flush()


class _Child:
    """The process, and the lines that it writes, which a thread of ours takes as they come."""

    def __init__(self) -> None:
        """Raises `Unreadable` where no process can be started."""
        program = interpreter()
        if program is None:
            raise Unreadable("needs a Python to be started that reads it, and there is none")
        roots = [root for root in (str(Path(__file__).parents[3]), *sys.path) if root]
        try:
            self._process = subprocess.Popen(
                [program, "-I", "-c", _CHILD, json.dumps(roots)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=sys.platform != "win32",  # Ctrl-C is not meant for it
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise Unreadable(f"needs a process that reads it, and none can be started ({error.strerror})") from error
        self._lines: queue.Queue[bytes] = queue.Queue(1_000)
        threading.Thread(target=self._listen, daemon=True, name="documents").start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def records(self, content: FileContent, is_cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """What the child finds in this file. Raises `Unreadable`, also when it dies or is too slow; `ReadingEnded`."""
        threading.Thread(target=self._send, args=(content,), daemon=True, name="document").start()
        begin = heard = monotonic()
        most_silence = MOST_SILENCE_S if content.kind is DocumentKind.PDF else MOST_WHOLE_S
        while True:
            try:
                line = self._lines.get(timeout=_TICK_S)
            except queue.Empty:
                line = None
            now = monotonic()
            if is_cancelled():
                self.close()
                raise ReadingEnded
            if now - begin > MOST_S or (line is None and now - heard > most_silence):
                self.close()
                raise Unreadable("takes too long to read")
            if line is None:
                continue
            heard = now
            if not line:  # it died: too much memory, a crash
                self.close()
                raise Unreadable(DAMAGED)
            record = json.loads(line)
            if "reason" in record:
                raise Unreadable(record["reason"])
            if "end" in record:
                return
            yield record

    def _send(self, content: FileContent) -> None:
        """On a thread of its own: the child may stop to read."""
        order = json.dumps({"kind": content.kind.value, "n_bytes": len(content.data)})
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.write(content.data)
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has died, or was ended: whoever listens learns it
            return

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
