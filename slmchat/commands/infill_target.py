"""Places in files, as FILE:LINE[:COL], and inserting text there without touching another byte.

Knows: that lines and columns count from 1, columns in characters, that only a line feed ends a line (with or without a
carriage return before it), byte order marks. Refuses to know: what is inserted and why.
"""

import os
import re
import sys
from pathlib import Path

from slmchat import text_files
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.text_files import encode_like, text_of, with_line_feeds
from slmchat.user_paths import user_path


@dataclass(frozen=True, slots=True)
class InfillPlace:
    """A cursor in a file. `column` None: at the end of the line."""

    file: str
    line: int
    column: int | None = None

    @property
    def path(self) -> Path:
        """The file itself, links followed. Raises `SlmError` (USAGE)."""
        return resolved(self.file)


@dataclass(frozen=True, slots=True)
class InfillTarget:
    """A file as it was read. `text` is without a byte order mark, `offset` the cursor in it."""

    place: InfillPlace
    data: bytes
    text: str
    offset: int

    @property
    def column(self) -> int:
        """The cursor's column, from 1."""
        return self.offset - self.text.rfind("\n", 0, self.offset)

    def with_text(self, text: str) -> bytes:
        """The file with `text` at the cursor, in the file's own line ends; every other byte as it was."""
        if 2 * self.text.count("\r\n") > self.text.count("\n"):
            text = with_line_feeds(text).replace("\n", "\r\n")
        whole = self.text[: self.offset] + text + self.text[self.offset :]
        return encode_like(self.data, whole)


def place_of(text: str) -> InfillPlace:
    """FILE:LINE or FILE:LINE:COL, where FILE may have colons itself. Raises `SlmError` (USAGE)."""
    found = re.fullmatch(r"(.+?):([0-9]+)(?::([0-9]+))?", text, re.DOTALL)
    if found is None:
        raise usage_error(f"'{text}' is not a place in a file.", "FILE:LINE or FILE:LINE:COL, as in main.py:12")
    file, line, column = found.groups()
    if column is not None and not os.path.exists(file) and os.path.exists(f"{file}:{line}"):
        return InfillPlace(f"{file}:{line}", int(column))
    return InfillPlace(file, int(line), int(column) if column is not None else None)


def read_target(place: InfillPlace, *, is_written: bool) -> InfillTarget:
    """The file and where the cursor is in it. Raises `SlmError`: USAGE for no such text or place, STORAGE for a file
    that is to be written and may not be."""
    path = place.path
    if is_written and os.path.isfile(path) and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise SlmError(f"{place.file} cannot be written: permission denied.", exit_code=ExitCode.STORAGE)
    data = read(place.file)
    text = text_of(data, named(place.file))
    return InfillTarget(place, data, text, _offset(text, place))


def _offset(text: str, place: InfillPlace) -> int:
    """Characters before the cursor."""
    lines = text.split("\n")
    if not 1 <= place.line <= len(lines):
        raise usage_error(f"{named(place.file)} has no line {place.line}: lines count from 1 to {len(lines):,} here.")
    length = len(lines[place.line - 1].removesuffix("\r"))
    column = length + 1 if place.column is None else place.column
    if not 1 <= column <= length + 1:
        raise usage_error(
            f"line {place.line} of {named(place.file)} has no column {column}: "
            f"columns count from 1 to {length + 1:,} there."
        )
    return sum(len(line) + 1 for line in lines[: place.line - 1]) + column - 1


def read(file: str) -> bytes:
    """What a file holds; - is standard input. Raises `SlmError` (USAGE)."""
    if file == "-":
        return text_files.read_whole(sys.stdin.buffer.read, "standard input")
    try:
        with resolved(file).open("rb") as opened:
            return text_files.read_whole(opened.read, file)
    except OSError as error:
        raise usage_error(f"{file} cannot be read: {error.strerror}.") from error


def resolved(file: str) -> Path:
    """The path of a file as the user wrote it, ~ and links followed. Raises `SlmError` (USAGE)."""
    try:
        return user_path(file).resolve()
    except RuntimeError as error:  # links in a circle
        raise usage_error(f"{file} leads nowhere: {error}.") from error


def named(file: str) -> str:
    """What to call it in a sentence."""
    return "standard input" if file == "-" else file
