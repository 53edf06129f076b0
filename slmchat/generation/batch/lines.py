"""Lines of a stream of bytes, however long, in little memory.

Knows: line ends (LF and CRLF), a byte order mark, which line is too long.
Refuses to know: encodings and formats (generation/batch/rows.py).
"""

from collections.abc import Callable, Iterator

from slmchat.lazy_dataclasses import dataclass

# The longest line, record or file that is taken in. A million tokens of English have about 4 MiB.
MAX_BYTES = 4 * 2**20

_CHUNK = 65536
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end. `number` counts from 1; `end`: bytes of the stream up to and with it.

    `is_too_long`: only its beginning is here. `is_ended`: a line end came, not the end of the stream.
    """

    number: int
    data: bytes
    end: int
    is_too_long: bool = False
    is_ended: bool = True


def read_lines(read: Callable[[int], bytes], most: int = MAX_BYTES) -> Iterator[Line]:
    """The lines of what `read(size)` gives (b"" at its end), without a byte order mark."""
    number, end = 1, 0
    held = bytearray()
    is_too_long = False
    while chunk := read(_CHUNK):
        begin = 0
        while (place := chunk.find(b"\n", begin)) >= 0:
            held += chunk[begin:place]
            yield _line(number, held, end + place + 1, is_too_long or len(held) > most, most)
            held.clear()
            is_too_long = False
            number += 1
            begin = place + 1
        held += chunk[begin:]
        end += len(chunk)
        if len(held) > most:  # the rest of the line is not kept
            is_too_long = True
            del held[most:]
    if held:
        yield _line(number, held, end, is_too_long, most, is_ended=False)


def _line(number: int, held: bytearray, end: int, is_too_long: bool, most: int, is_ended: bool = True) -> Line:
    data = bytes(held[:most])
    if number == 1:
        data = data.removeprefix(_BOM)
    return Line(number, data.removesuffix(b"\r"), end, is_too_long, is_ended)
