"""The inputs of a batch as rows: lines, JSON lines, CSV with a header, or whole files.

Knows: the formats and everything that may be broken in them; a broken row is a row with an error, never the end.
Refuses to know: prompts, models, how the rows are written down.
"""

import csv
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from slmchat.conversation import pictures
from slmchat.conversation.pictures import Picture
from slmchat.errors import SlmError, usage_error
from slmchat.generation.batch.lines import MAX_BYTES, Line, read_lines
from slmchat.lazy_dataclasses import dataclass
from slmchat.text_files import BINARY, NotText, decode, utf8_reader
from slmchat.user_paths import user_path
from slmchat.wording import counted

# How much of a row that cannot be read is kept, in characters.
_KEPT = 1000

_DELIMITERS = ",;\t|"

# The name of a column, as people write it; a sentence has a space behind its comma, a name has none before it.
_COLUMN = re.compile(r"[^\W\d]\w*(?:[ ._-]\w+){0,3}")

# Without --input-field, the first of these that a row has is its input; a row with one field needs no name.
USUAL_FIELDS = ("input", "text", "prompt", "content", "question", "message")

Read = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """One input.

    `id`: the row's own `id` field, else the number of its line, or the path of its file. `fields`: of JSON and CSV
    rows. `error`: why it cannot be used; `text` is then what can be shown of it. `end`: how much of the source had
    been read when it was whole (bytes; for files, their number). `picture`: the row is one, and `text` says which.
    `size`: characters, or bytes of a picture, that it holds in memory.
    """

    id: str | int
    text: str
    end: int
    fields: dict[str, Any] | None = None
    name: str | None = None
    error: str | None = None
    picture: Picture | None = None

    @property
    def size(self) -> int:
        pixels = 3 * self.picture.width * self.picture.height if self.picture else 0
        texts = (value for value in (self.fields or {}).values() if isinstance(value, str))
        return len(self.text) + pixels + sum(map(len, texts))


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows and, where it is known, how much there is of it in the unit of `Row.end`.

    `samples`: the fields of the rows that are known before the first one is taken (of a CSV its header, with a value
    that says nothing). `suspected_header`: the first line, taken as an input, where it looks like the header of a CSV.
    """

    rows: Iterator[Row]
    total: int | None
    format: str
    samples: Sequence[dict[str, Any]] = ()
    suspected_header: str | None = None

    @property
    def has_fields(self) -> bool:
        return self.format in ("jsonl", "csv")

    @property
    def nothing(self) -> str:
        """What is said when there was no row in it."""
        return "the CSV has a header and no rows" if self.format == "csv" and self.samples else "there were no inputs"


def open_source(
    files: Sequence[str],
    format: str | None,
    wants_fields: bool,
    stdin: TextIO,
    watched: Callable[[Read], Read] = lambda read: read,
) -> RowSource:
    """Where the rows come from. `wants_fields`: the prompt or an option names a field. `watched` makes of the function
    that reads standard input one that also tells when nothing comes.

    Files are one input each, unless a format is given: then the one file holds rows. Raises `SlmError` (USAGE) when
    there is nothing to read.
    """
    if files and format is None:
        return RowSource(_from_files(files, stdin), len(files), "files")
    if len(files) > 1:
        raise usage_error(
            "--format reads rows from one file.", "one -f with --format; without --format each file is one input"
        )
    is_file = bool(files) and files[0] != "-"
    stream = _opened(files[0]) if is_file else _standard_input(stdin)
    ahead = _Ahead(utf8_reader(stream.read if is_file else watched(stream.read), files[0] if is_file else "the input"))
    lines = read_lines(ahead.read)
    first = next((line for line in lines if line.data.strip()), None)
    if first is not None and format in (None, "jsonl") and _begins_array(first):
        raise usage_error(
            "the input is one JSON array, and rows are JSON objects, each on a line of its own.",
            "jq -c '.[]' FILE > rows.jsonl makes them; with --format lines each line is an input",
        )
    found = format or _detected(first, wants_fields)
    begun, total = ahead.taken(), _size(stream)
    if found == "csv":
        header, rows = _from_csv(first, lines)
        return RowSource(rows, total, found, samples=[dict.fromkeys(header, "\u2026")] if header else ())
    if found == "jsonl":
        return RowSource(_from_json(_behind(first, lines)), total, found, samples=_objects(begun))
    suspected = _header_in(first) if format is None else None
    return RowSource(_from_lines(_behind(first, lines)), total, found, suspected_header=suspected)


class _Ahead:
    """Keeps what is read until `taken` is called: the rows that have come with the first one."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._kept: bytearray | None = bytearray()

    def read(self, size: int) -> bytes:
        data = self._read(size)
        if self._kept is not None:
            self._kept += data[: MAX_BYTES - len(self._kept)]
        return data

    def taken(self) -> bytes:
        kept, self._kept = bytes(self._kept or b""), None
        return kept


def _objects(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects on the whole lines of this beginning of a source."""
    found = []
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the row says so when it is taken
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _header_in(first: Line | None) -> str | None:
    """The first line where it looks like the header of a CSV: names of two columns or more, or one usual name."""
    text = first.data.decode("utf-8", "replace").strip() if first is not None and not first.is_too_long else ""
    delimiter = max(_DELIMITERS, key=text.count)
    names = [name.strip('"').lower() for name in text.split(delimiter)]
    is_header = len(set(names)) == len(names) and all(map(_COLUMN.fullmatch, names))
    return text if is_header and (len(names) > 1 or names[0] in USUAL_FIELDS) else None


def _standard_input(stdin: TextIO) -> io.FileIO:
    if stdin.isatty():
        raise usage_error(
            "there are no inputs.",
            "pipe them in, one on each line: slm batch PROMPT < inputs.txt; or name files with -f",
        )
    # unbuffered: a thread that waits in a buffered read would hold a lock that Python wants at exit
    return io.FileIO(stdin.fileno(), closefd=False)


def _opened(name: str) -> io.FileIO:
    try:
        return io.FileIO(user_path(name))
    except OSError as error:
        raise usage_error(f"{name} cannot be read: {error.strerror}.") from error


def _size(stream: io.FileIO) -> int | None:
    """Bytes of a regular file, None for a pipe."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _behind(first: Line | None, lines: Iterator[Line]) -> Iterator[Line]:
    if first is not None:
        yield first
        yield from lines


def _detected(first: Line | None, wants_fields: bool) -> str:
    """What the first line looks like. A comma proves nothing: it is CSV only where somebody asks for fields."""
    data = first.data.strip() if first is not None else b""
    if data.startswith(b"{"):
        if data.startswith(b'{"'):
            return "jsonl"
        try:
            return "jsonl" if isinstance(json.loads(data), dict) else "lines"
        except (ValueError, RecursionError):
            return "lines"
    return "csv" if wants_fields else "lines"


def _begins_array(first: Line) -> bool:
    """Whether this may be the first line of a file that is an array of objects, as most programs write them."""
    mark, inside = first.data.strip()[:1], first.data.strip()[1:].lstrip()
    return mark == b"[" and (not inside or inside.startswith(b"{"))


def _text(data: bytes) -> tuple[str, str | None]:
    """The text of a line, a value or a file, and what is wrong with it."""
    try:
        return decode(data), None
    except NotText as error:
        reason = "is binary: it has a zero byte" if error.reason == BINARY else error.reason
        return data[:_KEPT].decode("utf-8", "replace"), reason


def _from_lines(lines: Iterator[Line]) -> Iterator[Row]:
    """Every line that is not empty."""
    for line in lines:
        if not line.data.strip():
            continue
        text, wrong = _text(line.data)
        yield Row(line.number, text, line.end, error=_wrong_line(line, wrong))


def _wrong_line(line: Line, reason: str | None) -> str | None:
    if line.is_too_long:
        reason = f"is longer than {MAX_BYTES // 2**20} MiB"
    return f"line {line.number:,} {reason}" if reason else None


def _from_json(lines: Iterator[Line]) -> Iterator[Row]:
    for line in lines:
        if line.data.strip():
            yield _json_row(line)


def _json_row(line: Line) -> Row:
    text, reason = _text(line.data)
    value: Any = None
    if reason is None and not line.is_too_long:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = f"is not JSON ({str(error).partition(': line')[0]})"
        else:
            if isinstance(value, str):
                return Row(line.number, value, line.end)
            if not isinstance(value, dict):
                reason = "is neither a JSON object nor a string"
    wrong = _wrong_line(line, reason)
    if wrong is not None:
        return Row(line.number, text[:_KEPT], line.end, error=wrong)
    return Row(_own_id(value, line.number), "", line.end, fields=value)


def _own_id(fields: dict[str, Any], number: int) -> str | int:
    own = fields.get("id")
    return own if isinstance(own, str | int) and not isinstance(own, bool) and own != "" else number


class _CsvLines:
    """Lines for `csv.reader`, which counts them its own way: where a record began, and what was wrong in it."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.first: Line | None = None
        self.last: Line | None = None
        self.is_too_long = False

    def begin(self) -> None:
        self.first = None
        self.is_too_long = False

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        while self.first is None and not line.data.strip():
            line = next(self._lines)
        self.first = self.first or line
        self.last = line
        self.is_too_long = self.is_too_long or line.is_too_long
        return line.data.decode("utf-8", "surrogateescape") + "\n"


def _from_csv(first: Line | None, lines: Iterator[Line]) -> tuple[list[str], Iterator[Row]]:
    """The names of the columns, and the rows. Raises `SlmError` (USAGE) for a header that cannot be read."""
    if first is None:
        return [], iter(())
    csv.field_size_limit(MAX_BYTES)
    delimiter = max(_DELIMITERS, key=first.data.decode("utf-8", "replace").count)
    source = _CsvLines(_behind(first, lines))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    header = _csv_header(reader)
    return header, _csv_rows(source, reader, header)


def _csv_rows(source: "_CsvLines", reader: Iterator[list[str]], header: list[str]) -> Iterator[Row]:
    while True:
        source.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _csv_row(source, header, None, f"not CSV ({error})")
        else:
            yield _csv_row(source, header, values, None)


def _csv_header(reader: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(reader)]
    except (csv.Error, StopIteration) as error:
        reason = "it is empty" if isinstance(error, StopIteration) else str(error).partition(" - ")[0]
        raise usage_error(f"the header of the CSV cannot be read: {reason}.") from error
    doubled = next((name for name in header if header.count(name) > 1), None)
    if doubled is not None:
        raise usage_error(
            f"the CSV has two columns named '{doubled}'.", "the first line must name the columns, each by another name"
        )
    return header


def _csv_row(source: _CsvLines, header: list[str], values: list[str] | None, reason: str | None) -> Row:
    first, last = source.first, source.last
    assert first is not None
    assert last is not None
    if source.is_too_long:
        reason = f"longer than {MAX_BYTES // 2**20} MiB"
    if reason is None and values is not None and len(values) != len(header):
        reason = f"{counted(len(values), 'value')}, the header names {len(header):,}"
    fields = dict(zip(header, values or [], strict=False))
    for name, value in fields.items() if reason is None else ():
        _, wrong = _text(value.encode("utf-8", "surrogateescape"))
        reason = f"'{name}' {wrong}" if wrong else reason
    if reason is None:
        return Row(_own_id(fields, first.number), "", last.end, fields=fields)
    where = f"line {first.number:,}" if first is last else f"lines {first.number:,} to {last.number:,}"
    return Row(first.number, first.data.decode("utf-8", "replace")[:_KEPT], last.end, error=f"{where}: {reason}")


def _from_files(files: Sequence[str], stdin: TextIO) -> Iterator[Row]:
    for number, name in enumerate(files, 1):
        try:
            data = _whole(stdin.fileno() if name == "-" else user_path(name))
        except OSError as error:
            yield Row(name, "", number, error=f"{name} cannot be read: {error.strerror}")
            continue
        if pictures.looks_like_picture(data):
            yield _picture_row(name, data, number)
            continue
        text, wrong = _text(data[:MAX_BYTES])
        if len(data) > MAX_BYTES:
            text, wrong = text[:_KEPT], f"is longer than {MAX_BYTES // 2**20} MiB"
        label = "standard input" if name == "-" else Path(name).name
        error_text = f"{label} {wrong}" if wrong else None
        yield Row(name, text.replace("\r\n", "\n"), number, name=label, error=error_text)


def _picture_row(name: str, data: bytes, number: int) -> Row:
    label = "standard input" if name == "-" else Path(name).name
    if len(data) > MAX_BYTES:
        return Row(name, label, number, error=f"{label} is longer than {MAX_BYTES // 2**20} MiB")
    try:
        picture = Picture.of(label, pictures.decode(data, label))
    except SlmError as error:
        return Row(name, label, number, error=error.message.rstrip("."))
    return Row(name, picture.describe(), number, name=label, picture=picture)


def _whole(place: int | Path) -> bytes:
    """A file up to just beyond the longest that is taken in."""
    with io.FileIO(place, closefd=isinstance(place, Path)) as stream:
        found = bytearray()
        while len(found) <= MAX_BYTES and (chunk := stream.read(MAX_BYTES + 1 - len(found))):
            found += chunk
        return bytes(found)
