"""Records on their way out: in input order, whole, and what is already there when a batch goes on.

Knows: the window of rows that are under way, one JSON object a line, half-written lines, full disks.
Refuses to know: what is in a record, who makes it.
"""

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmchat import file_locks, safe_json
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.batch.lines import MAX_BYTES, Line, read_lines
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import storage_error

# A record holds an input (escaped) and a completion; longer lines are not of slm's making.
_MAX_RECORD = 16 * MAX_BYTES

# Characters of inputs that may be under way at once, whatever the number of rows.
_MAX_CHARACTERS = 8 * MAX_BYTES


class Window:
    """Rows between being taken and being written. Bounded: while the oldest is slow, nothing new is taken.

    `enter` is called on the thread that takes the rows, `leave` on the one that writes them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: dict[int, int] = {}
        self._entered = 0
        self._written = 0
        self._finished: dict[int, bytes] = {}
        self._changed = threading.Condition()

    def enter(self, size: int) -> int:
        """The number of the next row, once there is room for its characters."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(size))
            number = self._entered
            self._entered += 1
            self._sizes[number] = size
            return number

    def leave(self, number: int, record: bytes) -> Iterator[tuple[int, bytes]]:
        """A row is done: the records that are next in order. A row has left when the caller comes back for more."""
        self._finished[number] = record
        while self._written in self._finished:
            yield self._written, self._finished.pop(self._written)
            with self._changed:
                del self._sizes[self._written]
                self._written += 1
                self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self._sizes:
            return True
        return len(self._sizes) < self._most and sum(self._sizes.values()) + size <= _MAX_CHARACTERS


class RecordWriter:
    """Whole records to a file, a pipe or a terminal, without a buffer that could lose them."""

    def __init__(self, descriptor: int, name: str, before: Callable[[], None]) -> None:
        """`name` is for errors; `before` is called before each write (a status line leaves the terminal)."""
        self._descriptor = descriptor
        self._name = name
        self._before = before

    def write(self, record: bytes) -> None:
        """One record. Raises BrokenPipeError when the reader has gone, `SlmError` (STORAGE) when the disk refuses.

        What a full disk has taken of the record is taken back where that is possible.
        """
        self._before()
        begin = self._end()
        data = memoryview(record)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            if begin is not None:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, begin)
            refused = storage_error(error, Path(self._name))
            raise SlmError(
                refused.message,
                hint="all rows before are whole; make room and go on with the same command and --resume FILE",
                exit_code=ExitCode.STORAGE,
            ) from error

    def _end(self) -> int | None:
        """Where a regular file ends: there the record goes, and back to there it is cut when the disk is full."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return None
        return os.lseek(self._descriptor, 0, os.SEEK_END)


def encoded(record: dict[str, Any]) -> bytes:
    """A record as a line."""
    return safe_json.encode(record, indent=None).encode()


def fingerprint(value: Any) -> str:
    """SHA-256 of an input, 16 hexadecimal digits: what stands in a record instead of the input (`--no-echo`)."""
    return hashlib.sha256(safe_json.encode(value, indent=None).encode()).hexdigest()[:16]


def open_output(path: Path, inputs: Sequence[Path | int], *, may_exist: bool) -> int:
    """A descriptor of the file, for the owner alone; what is in it stays for now.

    Opened before the seal closes: the file may lie where a sealed process cannot open it. A regular file is locked
    until the descriptor is closed: of two batches on it, each would write all records. `inputs`: what will be read.
    Raises `SlmError`: USAGE when something is in the file and it must not exist, or it is one of the inputs; STORAGE,
    also when another batch has it.
    """
    try:
        # A pipe that is open for reading here would never tell that its reader has gone.
        is_stream = path.exists() and not path.is_file()
        access = os.O_WRONLY if is_stream else os.O_RDWR
        descriptor = os.open(path, access | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        is_ours = not stat.S_ISREG(os.fstat(descriptor).st_mode) or file_locks.hold(descriptor)
        found = os.fstat(descriptor)
    except OSError as error:
        raise storage_error(error, path) from error
    for source in inputs:
        with suppress(OSError):
            if stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(source)):
                raise usage_error(f"{path} cannot be input and output at once.")
    if not is_ours:
        os.close(descriptor)
        raise SlmError(
            f"{path} is being written by another slm batch.",
            hint=f"when that one has ended: --resume {path}; or write to another file",
            exit_code=ExitCode.STORAGE,
        )
    if found.st_size and not may_exist:
        raise usage_error(f"{path} is there already.", f"go on with it: --resume {path}; or overwrite it: --overwrite")
    return descriptor


def cut(descriptor: int, end: int) -> None:
    """What the file holds behind this place is forgotten. A pipe and a device hold nothing."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.ftruncate(descriptor, end)


@dataclass(frozen=True, slots=True)
class Expected:
    """A row as its record must have it, and how far the input was read with it (`Row.end`)."""

    id: str | int
    input: Any
    end: int


@dataclass(frozen=True, slots=True)
class Begun:
    """What an output file already has: whole records, how many of them are errors, where the next one goes.

    `end_of_input`: how far the input was read for them (`Row.end`). `made_with`: the recipe that stands in them last
    (generation/batch/recipe.py); None for records of an older slm.
    """

    records: int
    failed: int
    end: int
    end_of_input: int
    made_with: Mapping[str, Any] | None = None


def read_begun(descriptor: int, path: Path, expected: Iterator[Expected]) -> Begun:
    """Compare the records in a file with the inputs that they must be for, one by one.

    A last line that was cut while it was written does not count. Raises `SlmError` when a record is not for its input,
    and leaves the file as it is.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    records = failed = end = end_of_input = 0
    made_with: Mapping[str, Any] | None = None
    lines = read_lines(lambda size: os.read(descriptor, size), _MAX_RECORD)
    line = next(lines, None)
    while line is not None:
        following = next(lines, None)
        record = _record(line)
        if record is None and following is not None:
            raise _not_resumable(path, f"line {line.number:,} is not a record of a batch", ExitCode.DAMAGED)
        if record is None:
            break
        end_of_input = _compare(record, next(expected, None), line.number, path)
        records += 1
        failed += record["error"] is not None
        told = record.get("made_with")
        made_with = told if isinstance(told, dict) else made_with
        end = line.end
        line = following
    return Begun(records, failed, end, end_of_input, made_with)


def _record(line: Line) -> dict[str, Any] | None:
    """The record on a line; None when it is not a whole one."""
    if not line.is_ended or line.is_too_long:
        return None
    try:
        value = json.loads(line.data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "id" in value and "error" in value else None


def _compare(record: dict[str, Any], expected: Expected | None, number: int, path: Path) -> int:
    """Where the input was read to with this record; raises `SlmError` when the record is not for it."""
    if expected is None:
        raise _not_resumable(path, "it has more records than there are inputs", ExitCode.USAGE)
    given = fingerprint(record["input"]) if "input" in record else record.get("input_sha256")
    is_same = given == fingerprint(expected.input)
    if record["id"] != expected.id or not is_same:
        raise _not_resumable(path, f"record {number:,} is not for input {number:,}", ExitCode.USAGE)
    return expected.end


def _not_resumable(path: Path, reason: str, code: ExitCode) -> SlmError:
    return SlmError(
        f"{path} does not belong to these inputs: {reason}.",
        hint="--resume needs the same inputs in the same order, and the same prompt and format; nothing was changed",
        exit_code=code,
    )
