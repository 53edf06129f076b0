"""Server-sent events: bytes of a stream in, the data of its events out.

Knows: the event stream format of the HTML standard (§ 9.2.6, "Interpreting an event stream"), and how much of it slm
takes. Refuses to know: what an event says.
"""

# The longest line, and all of a stream, in bytes. A line carries one token (and its alternatives).
MOST_OF_A_LINE = 1 << 20
MOST_OF_A_STREAM = 256 << 20


class TooLarge(Exception):
    """More than a completion can be; the message says what."""


class EventStream:
    """A parser that is fed. The result does not depend on where the stream is cut."""

    def __init__(self) -> None:
        self._held = bytearray()  # the beginning of a line
        self._data: list[bytes] = []
        self._size = 0
        self._total = 0
        self._is_after_return = False
        self._is_begun = False

    def feed(self, block: bytes) -> list[str]:
        """The data of every event that ends in this block, in order. Raises `TooLarge`.

        Names, ids and comments of events are left out, and so is what is not UTF-8 in them.
        """
        self._total += len(block)
        if self._total > MOST_OF_A_STREAM:
            raise TooLarge("the stream has no end")
        found: list[str] = []
        for line in self._lines(block):
            self._take(line, found)
        return found

    @property
    def is_in_an_event(self) -> bool:
        """Whether the stream, if it ended here, would end in the middle of an event."""
        return bool(self._held or self._data)

    def _lines(self, block: bytes) -> list[bytes]:
        """Whole lines; they end in a line feed, a carriage return, or both."""
        if self._is_after_return and block.startswith(b"\n"):
            block = block[1:]
        self._is_after_return = self._is_after_return and not block
        self._held += block
        if not self._is_begun and len(self._held) >= 3:
            self._is_begun = True
            if self._held.startswith(b"\xef\xbb\xbf"):
                del self._held[:3]
        if b"\r" in block:
            self._is_after_return = block.endswith(b"\r")
            self._held = self._held.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = bytes(self._held).split(b"\n")
        self._held = bytearray(rest)
        if len(rest) > MOST_OF_A_LINE:
            raise TooLarge("a line of the stream has no end")
        return lines

    def _take(self, line: bytes, found: list[str]) -> None:
        if not line:
            if self._data:
                found.append(b"\n".join(self._data).decode("utf-8", "replace"))
            self._data.clear()
            self._size = 0
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._size += len(value)
            if self._size > MOST_OF_A_LINE:
                raise TooLarge("an event of the stream has no end")
            self._data.append(value[1:] if value.startswith(b" ") else value)
