"""Text that users bring, from bytes: the one reader for files, standard input and rows.

UTF-8 is what slm reads. A byte order mark says UTF-16 or UTF-32 (PowerShell's `>` writes the first), and then that is
decoded. Nothing is guessed beyond that: other bytes are named as what they are, with the place and the next command.

Knows: encodings, byte order marks, line ends, how other kinds of files begin.
Refuses to know: what the text is for; of limits, only that of a source that never ends.
"""

import codecs
from collections.abc import Callable

from slmchat.errors import usage_error
from slmchat.user_paths import user_path

# Longest first: the mark of UTF-32 (little-endian) begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# How kinds of files begin that people take for text, or name by mistake (file(1)'s table).
_KINDS = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format 3\x00", "a database"),
    (b"GGUF", "a model"),
)

# What is said of bytes that are no known kind of file and have a zero byte.
BINARY = "is a binary file, not text"

# So much of a file without a byte order mark is looked at for the zero bytes of UTF-16.
_LOOKED_AT = 4096


# More than the largest context window (10 million tokens) can hold, in bytes: /dev/zero and `yes` never end.
_BLOCK = 1 << 20
MOST_BYTES = 256 << 20


class NotText(ValueError):
    """Bytes that are not text that slm reads. `reason` goes on behind the name of the file: "is a binary file"."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def mark_of(data: bytes) -> tuple[bytes, str]:
    """The byte order mark with which the data begins (b"" for none), and the name of the encoding for Python."""
    return next(((mark, codec) for mark, codec in _MARKS if data.startswith(mark)), (b"", "utf-8"))


def decode(data: bytes) -> str:
    """The text, without a byte order mark; its line ends as they are. Raises `NotText`."""
    mark, codec = mark_of(data)
    try:
        text = data[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        raise _not_text(data, codec, len(mark) + error.start) from error
    if "\0" in text:
        raise _not_text(data, codec, data.find(b"\0"))
    return text


def encode_like(before: bytes, text: str) -> bytes:
    """The text in the encoding of `before`, with its byte order mark."""
    mark, codec = mark_of(before)
    return mark + text.encode(codec)


def text_of(data: bytes, what: str) -> str:
    """As `decode`; `what` names the source in a sentence. Raises `SlmError` (USAGE)."""
    try:
        return decode(data)
    except NotText as error:
        raise usage_error(f"{what} {error.reason}.", error.hint) from error


def read(name: str) -> str:
    """The text of a file that the user named; line ends as they are. Raises `SlmError` (USAGE)."""
    try:
        with user_path(name).open("rb") as file:
            data = read_whole(file.read, name)
    except (OSError, ValueError) as error:  # also: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise usage_error(f"{name} cannot be read: {reason}.") from error
    return text_of(data, name)


def read_whole(read: Callable[[int], bytes], what: str) -> bytes:
    """All that `read(size)` gives. Raises `SlmError` (USAGE) for what is too large to be looked at."""
    data = bytearray()
    while block := read(_BLOCK):  # in blocks: Python makes room for all that a read may give
        data += block
        if len(data) > MOST_BYTES:
            raise usage_error(f"{what} is larger than {MOST_BYTES >> 20} MiB.")
    return bytes(data)


def utf8_reader(read: Callable[[int], bytes], what: str) -> Callable[[int], bytes]:
    """`read(size)` as UTF-8, for sources that are too large to hold: a byte order mark decides, once, at the beginning.

    The bytes of what has none come as they are, so that a reader can tell which part of them is wrong.
    Raises `SlmError` (USAGE) at the beginning for another kind of file, and where UTF-16 text is cut or damaged.
    """
    decoder: codecs.IncrementalDecoder | None = None
    is_begun = False

    def begin(size: int) -> bytes:
        nonlocal decoder
        data = read(size)
        while 0 < len(data) < len(_MARKS[0][0]) and (more := read(size)):
            data += more
        mark, codec = mark_of(data)
        if codec != "utf-8":
            decoder = codecs.getincrementaldecoder(codec)()
        elif b"\0" in data:
            found = _kind_of(data) or _wide_without_mark(data)
            if found is not None:
                raise usage_error(f"{what} {found.reason}.", found.hint)
        return data if decoder is None else data[len(mark) :] or read(size)

    def read_utf8(size: int) -> bytes:
        nonlocal is_begun
        data = read(size) if is_begun else begin(size)
        is_begun = True
        if decoder is None:
            return data
        try:
            text = decoder.decode(data, final=not data)
            while data and not text:  # half a character: an empty answer would be the end
                data = read(size)
                text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            reason = f"{what} is not whole: its {error.encoding[:6].upper()} text is cut or damaged."
            raise usage_error(reason) from error
        return text.encode()

    return read_utf8


def with_line_feeds(text: str) -> str:
    """The text as models read it: CRLF becomes LF."""
    return text.replace("\r\n", "\n")


def lines_of(text: str) -> list[str]:
    """The lines as editors count them, without their ends. `splitlines` knows ten more ends, which JSON may hold."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _not_text(data: bytes, codec: str, place: int) -> NotText:
    """What the bytes are, `place` being the first that is wrong."""
    kind = _kind_of(data)
    if kind is not None:
        return kind
    if codec != "utf-8":
        return NotText(f"is not whole: its {codec[:6].upper()} text is cut or damaged at byte {place:,}")
    wide = _wide_without_mark(data)
    if wide is not None:
        return wide
    if b"\0" in data:
        return NotText(BINARY)
    return NotText(
        f"is not UTF-8 text (byte 0x{data[place]:02x} at position {place:,})",
        "convert it first, for example: iconv -f latin1 -t utf-8",
    )


def _kind_of(data: bytes) -> NotText | None:
    kind = next((name for begin, name in _KINDS if data.startswith(begin)), None)
    return None if kind is None else NotText(f"is {kind}, not text")


def _wide_without_mark(data: bytes) -> NotText | None:
    """UTF-16 by its zero bytes: in mostly Latin text every second byte is one, and hardly any other."""
    seen = data[:_LOOKED_AT]
    half = len(seen) // 2
    if half < 2:
        return None
    even, odd = (seen[begin::2].count(0) for begin in (0, 1))
    if odd > 0.6 * half and even < 0.1 * half:
        name = "UTF-16LE"
    elif even > 0.6 * half and odd < 0.1 * half:
        name = "UTF-16BE"
    else:
        return None
    return NotText(f"is {name} text without a byte order mark", f"convert it first: iconv -f {name} -t UTF-8")
