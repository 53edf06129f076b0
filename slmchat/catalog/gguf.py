"""A GGUF file's header: what a model file says about itself, before any other library opens it.

Knows: how much of a file to read, what to say about one that is damaged, old, or no GGUF at all.
Refuses to know: the layout of the header (gguf_parser.py), what its entries mean (gguf_header.py), weights.

The file is read, not mapped: a mapped file that another process cuts kills this one with SIGBUS, which nothing can
catch. The same parser serves a header fetched by ranged requests (`read_header_bytes`, `NeedMore`).
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slmchat.catalog.gguf_header import Header
from slmchat.catalog.gguf_parser import OLD, Damaged, HeaderParser, NeedMore, Unsupported
from slmchat.errors import ExitCode, SlmError

FIRST_READ = 8 << 20  # most headers whole, so that few are parsed twice
FIRST_REMOTE_READ = 1 << 20  # vocabularies of 32k to 50k tokens; doubled until the header is there
MAX_REMOTE_BYTES = 8 << 20  # 262k tokens of SentencePiece; what is longer is estimated until it has been fetched

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_GIVE = "give the path of a .gguf file"
_AGAIN = "get the file again; `slm verify` checks the models that slm installed"


def read_header(path: Path, name: str | None = None) -> Header:
    """The header of the file at `path`, or an SlmError: NO_MODEL, STORAGE or DAMAGED.

    `name`: what errors call the file, where its path says nothing to a person.
    """
    try:
        _check_regular(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(FIRST_READ)
            while True:
                try:
                    return read_header_bytes(data, size, name=name or str(path))
                except NeedMore as more:
                    wanted = max(more.at_least, 4 * len(data))
                    fresh = file.read(min(wanted, size) - len(data))
                    if not fresh:  # the file became shorter while it was read
                        size = len(data)
                    data += fresh
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlmError(
            f"there is no file {path}.", exit_code=ExitCode.NO_MODEL, hint="`slm list` shows the installed models"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> SlmError:
    """The sentence for a file of the user's, or of another tool, that the system does not let slm read."""
    return SlmError(
        f"{path} cannot be read: {error.strerror or error}.",
        exit_code=ExitCode.STORAGE,
        hint="check the permissions of the file and of its directory",
    )


def read_headers(paths: Iterable[Path]) -> list[Header]:
    """The headers of all parts of a model; the first has the metadata. Raises `SlmError` as `read_header`."""
    return [read_header(path) for path in paths]


def read_remote_header(read: Callable[[int, int], bytes], file_size: int, *, name: str) -> Header | None:
    """The header of a file elsewhere; `read(start, end)` brings a part of it, or fewer bytes when it cannot.

    Of one that is longer than `MAX_REMOTE_BYTES` what stands at its beginning (`Header.is_whole`). None when the part
    did not come. Raises SlmError (DAMAGED).
    """
    data = read(0, min(FIRST_REMOTE_READ, file_size))
    while data:
        try:
            return read_header_bytes(data, file_size, name=name)
        except NeedMore as more:
            wanted = min(max(more.at_least, 2 * len(data)), file_size)
            if more.at_least > MAX_REMOTE_BYTES:
                return read_beginning(data, file_size, name=name)
            fresh = read(len(data), min(wanted, MAX_REMOTE_BYTES))
            if not fresh:
                return None
            data += fresh
    return None


def _check_regular(path: Path) -> None:
    """Opening a FIFO would wait for ever, a device may never end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL or half a surrogate pair in the path: no file can be called that
        raise FileNotFoundError from error
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise SlmError(f"{path} is {what}.", exit_code=ExitCode.STORAGE, hint=_GIVE)


def read_header_bytes(data: bytes | bytearray | memoryview, file_size: int, *, name: str) -> Header:
    """The header at the start of `data`, the first bytes of a file of `file_size` bytes that errors call `name`.

    Raises SlmError when the file cannot be a sound GGUF, NeedMore when the header is longer than `data`.
    """
    with _told(name):
        if bytes(data[:4]) != b"GGUF":
            looks, hint = _appearance(bytes(data[:4096]), file_size)
            raise Unsupported(f"is not a GGUF file: it is {looks}", hint)
        return HeaderParser(data, file_size).header()


def read_beginning(data: bytes, file_size: int, *, name: str) -> Header:
    """The keys at the beginning of a long header, as far as they are there, and no tensors. Raises SlmError."""
    with _told(name):
        return HeaderParser(data, file_size).beginning()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """The parser's words as errors about the file that is called `name`."""
    try:
        yield
    except Unsupported as other:
        raise SlmError(f"{name} {other}.", exit_code=ExitCode.DAMAGED, hint=other.hint) from other
    except Damaged as damage:
        raise SlmError(f"{name} is damaged: {damage}.", exit_code=ExitCode.DAMAGED, hint=_AGAIN) from damage


def split_parts(path: Path) -> tuple[Path, ...]:
    """All files of a model by name alone: `NAME-00001-of-00003.gguf` gives three, any other name itself."""
    match = _PART.fullmatch(path.name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return (path,)
    return tuple(path.with_name(f"{match[1]}-{no:05}-of-{match[3]}.gguf") for no in range(1, int(match[3]) + 1))


# How a file that is no GGUF starts, what it is, and what to do about it. The old formats: llama.h and ggml.h of 2023,
# where a magic such as 0x67676a74 ('ggjt') is stored little-endian.
_LFS = "run `git lfs pull` in that repository, or download the file itself"
_PYTORCH = "convert it with llama.cpp's convert_hf_to_gguf.py"
_LOOKS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for", _LFS),
    (b"tjgg", "a model in the old format ggjt, from before GGUF", OLD),
    (b"lmgg", "a model in the old format ggml, from before GGUF", OLD),
    (b"fmgg", "a model in the old format ggmf, from before GGUF", OLD),
    (b"algg", "a LoRA adapter in the old format ggla", OLD),
    (b"nsgg", "a saved llama.cpp session (ggsn)", "give the model instead"),
    (b"qsgg", "a saved llama.cpp sequence state (ggsq)", "give the model instead"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x80\x02", "a PyTorch checkpoint (pickle)", _PYTORCH),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
)


def _appearance(start: bytes, file_size: int) -> tuple[str, str]:
    """What the first bytes look like, and a hint."""
    if file_size == 0 or not start:
        return "empty", _AGAIN
    if start[:4] == b"PK\x03\x04" and b"data.pkl" in start:
        return "a PyTorch checkpoint", _PYTORCH
    for prefix, looks, hint in _LOOKS:
        if start.startswith(prefix):
            return looks, hint
    if b"GGUF".startswith(start):
        return f"cut after {file_size} bytes", _AGAIN
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file_size:
        return "a safetensors file", _PYTORCH
    if not start.strip(b"\0"):
        return "filled with zeros, like a download that was never finished", _AGAIN
    if re.match(rb"\s*<(!doctype\s+html|html|head|\?xml)", start, re.IGNORECASE):
        return "a web page, perhaps an error or a login page saved under this name", _AGAIN
    if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", start) and _is_utf8(start):
        return "text", _GIVE
    return f"something else, it starts with the bytes {start[:4].hex(' ')}", _GIVE


def _is_utf8(start: bytes) -> bool:
    """A last character may be cut by the end of what was read."""
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4 and len(start) > 4
    return True
