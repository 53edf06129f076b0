"""What was typed in earlier chats: one file, one JSON string a line, newest last.

Knows: the file (0600), its bound, how two chats append at once, that a damaged line is skipped.
Refuses to know: keys and searching (line_editor.py). A history that cannot be used never stops a chat: `problem` says
in a sentence what is wrong, and the entries of this chat stay in memory.

An entry may have any number of lines: JSON writes a line end as two characters, so a line of the file is an entry.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from slmchat import file_locks
from slmchat.private_files import create_private, replace_file

# The newest entries that are kept. The file is rewritten when it is a tenth longer, so that not every chat does it.
MAX_ENTRIES = 10_000
# A history of pasted documents: more is neither read nor kept. In bytes.
MAX_BYTES = 32 << 20
# How often, and with which pause in seconds, another chat's lock is waited for. Then we append without it: a write
# with O_APPEND is whole on a local disk, and a prompt that hangs would be worse than an entry that is lost.
_TRIES, _PAUSE_S = 20, 0.01
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)  # Windows would write \r\n


class InputHistory:
    """The entries; `file` None keeps them in memory only and writes nothing."""

    def __init__(self, file: Path | None) -> None:
        self.problem: str | None = None
        self._file = file
        self._entries: list[str] | None = None
        self._lines = 0  # lines of the file, damaged ones included
        if file is not None:
            try:
                if file.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                create_private(file)
            except OSError as error:
                self._give_up(error)

    def entries(self) -> Sequence[str]:
        """All entries, oldest first. The file is read at the first call."""
        if self._entries is None:
            self._entries = self._load()
        return self._entries

    def append(self, text: str) -> bool:
        """Keep an entry; False when it is empty or repeats the one before."""
        entries = self.entries()
        if not text.strip() or not is_unicode(text) or (entries and entries[-1] == text):
            return False
        assert self._entries is not None
        self._entries.append(text)
        del self._entries[:-MAX_ENTRIES]
        if self._file is not None:
            try:
                self._write(self._file, json.dumps(text, ensure_ascii=False).encode() + b"\n")
            except OSError as error:
                self._give_up(error)
        return True

    def _load(self) -> list[str]:
        if self._file is None:
            return []
        try:
            data, is_whole = _tail(self._file)
            self._lines = data.count(b"\n")
            if self._lines > MAX_ENTRIES + MAX_ENTRIES // 10 or not is_whole:
                self._compact(self._file)
        except OSError as error:
            self._give_up(error)
            return []
        return _entries_of(data)[-MAX_ENTRIES:]

    def _write(self, file: Path, line: bytes) -> None:
        with _opened(file) as descriptor:
            size = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(0, size - 1), os.SEEK_SET)
            if size and os.read(descriptor, 1) != b"\n":
                line = b"\n" + line  # a line that was cut (power loss, full disk) must not swallow this one
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, size)
                raise OSError("the disk is full")
        self._lines += 1
        if self._lines > MAX_ENTRIES + MAX_ENTRIES // 10:
            self._compact(file)

    def _compact(self, file: Path) -> None:
        """Keep the newest entries. Under the lock, so that what another chat appends meanwhile is not lost."""
        with _opened(file):
            lines = [json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in _entries_of(_tail(file)[0])]
            kept = lines[-MAX_ENTRIES:]
            while len(kept) > 1 and sum(map(len, kept)) > MAX_BYTES // 2:
                del kept[: max(1, len(kept) // 10)]
            replace_file(file, b"".join(kept))
        self._lines = len(kept)

    def _give_up(self, error: OSError) -> None:
        self.problem = f"the input history {self._file} cannot be used ({error.strerror or error})"
        self._file = None


def _entries_of(data: bytes) -> list[str]:
    """The entries in `data`, oldest first; what is not a JSON string of Unicode text, or repeats, is left out."""
    entries: list[str] = []
    for line in data.split(b"\n"):
        if not line.startswith(b'"'):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, str) and is_unicode(entry) and (not entries or entries[-1] != entry):
            entries.append(entry)
    return entries


def is_unicode(text: str) -> bool:
    """No lone surrogates: they cannot be written, and the line editor marks folded pastes with them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tail(file: Path) -> tuple[bytes, bool]:
    """The whole lines in the last `MAX_BYTES` of the file, and whether that is all of it."""
    with file.open("rb") as stream:
        start = max(0, os.fstat(stream.fileno()).st_size - MAX_BYTES)
        stream.seek(start)
        data = stream.read(MAX_BYTES)
    return (data, True) if start == 0 else (data[data.find(b"\n") + 1 :], False)


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    """The file, open for appending and locked. After waiting it is looked up again: it may have been replaced."""
    while True:
        descriptor = os.open(file, _FLAGS, 0o600)
        try:
            _lock(descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    yield descriptor
                    return
        finally:
            os.close(descriptor)  # gives the lock back


def _lock(descriptor: int) -> None:
    import time

    for _ in range(_TRIES):
        if file_locks.hold(descriptor):
            return
        time.sleep(_PAUSE_S)  # held by another chat
