"""What is typed while an answer streams: kept until the next prompt takes it, and shown meanwhile.

An Enter that was pressed ends a message, which the next prompt sends. One inside of a paste is a line break: so is any
in keys that come all at once, on terminals that do not mark a paste.

Knows: bytes of a terminal (Esc alone and as the beginning of a key, bracketed paste), which Enter was pressed.
Refuses to know: what keys do in a line, reading from the terminal, when a message is sent.
"""

import re
import threading

# A paste is read in parts, which are no further apart than this, in seconds.
_PASTE_S = 0.05

# More bytes than this are not typed at once. As a paste they are one key of the next prompt, instead of thousands.
_MOST_TYPED = 64

PASTE_BEGINS, PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"
_KEY = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]P^_][^\x07\x1b]*(?:\x07|\x1b\\)|O.|.)?")


class TypedAhead:
    """The bytes, in messages. Filled by one thread, taken by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[bytes] = []  # each was ended by Enter
        self._rest = b""
        self._at = float("-inf")
        self._is_pasting = False  # lines that come all at once, or between the marks of a paste

    def add(self, data: bytes, at: float) -> None:
        """What was read of the terminal at once, `at` in seconds."""
        with self._lock:
            is_marked = PASTE_BEGINS in self._rest and PASTE_ENDS not in self._rest.rpartition(PASTE_BEGINS)[2]
            goes_on = self._is_pasting and at - self._at < _PASTE_S
            self._at = at
            if is_marked or PASTE_BEGINS in data:
                self._is_pasting = False
                self._add_marked(data)
                return
            self._is_pasting = goes_on or len(re.findall(rb"[\r\n]", data)) > 1 or b"\r" in data[:-1]
            if goes_on and self._rest.endswith(PASTE_ENDS):
                self._rest = self._rest.removesuffix(PASTE_ENDS) + data + PASTE_ENDS
            elif self._is_pasting:
                self._rest += _marked(data)
            elif data.endswith(b"\r"):
                self._end(_marked_if_long(data[:-1]))
            else:
                self._rest += _marked_if_long(data)

    def _add_marked(self, data: bytes) -> None:
        """Enter counts behind the end of a paste only."""
        self._rest += data
        paste, mark, behind = self._rest.rpartition(PASTE_ENDS)
        if mark and behind.endswith(b"\r") and b"\r" not in behind[:-1] and PASTE_BEGINS not in behind:
            self._rest = paste + mark
            self._end(behind[:-1])

    def _end(self, data: bytes) -> None:
        if self._rest or data:
            self._messages.append(self._rest + data)
        self._rest = b""

    def take(self) -> tuple[str, bool]:
        """The keys of the next message, and whether Enter was pressed behind it; ("", False) when there is nothing."""
        with self._lock:
            if self._messages:
                return _text(self._messages.pop(0)), True
            rest, self._rest = self._rest, b""
            return _text(rest), False

    def take_all(self) -> str:
        """The keys of everything, as one text of which nothing is sent."""
        with self._lock:
            parts = [*self._messages, *([self._rest] if self._rest else [])]
            self._messages, self._rest = [], b""
        return "\n".join(map(_text, parts))

    @property
    def shown(self) -> str:
        """What is waiting, as a person reads it; messages are divided by " ⏎ "."""
        with self._lock:
            parts = [*self._messages, self._rest]
        return " ⏎ ".join(_readable(_text(part)) for part in parts).strip()


def _marked(data: bytes) -> bytes:
    return PASTE_BEGINS + data + PASTE_ENDS


def _marked_if_long(data: bytes) -> bytes:
    return _marked(data) if len(data) > _MOST_TYPED and b"\x1b" not in data else data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _readable(keys: str) -> str:
    """The text that these keys make, roughly: what is deleted at its end is gone, other keys do nothing."""
    made = ""
    for char in _KEY.sub("", keys):
        if char in "\x7f\b":
            made = made[:-1]
        elif char == "\x15":  # Ctrl-U
            made = ""
        elif char in "\r\n\t":
            made += " "
        elif char >= " ":
            made += char
    return made
