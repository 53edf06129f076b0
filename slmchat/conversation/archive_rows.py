"""What a row of the archive holds, whatever stands in it.

SQLite keeps any value in any column, and anything on this device may have written into the file: a title may be bytes,
a time may be "yesterday". One such value must not hide all sessions, nor keep the one that has it from being removed,
so it is read as far as it can be, and shown as unreadable where it cannot.

Knows: which values the columns are for. Refuses to know: SQL, the file, who asks.
"""

import struct
from datetime import UTC, datetime

UNREADABLE = "(unreadable)"
# A time that nobody can read: then the session is the oldest.
_LONG_AGO = "1970-01-01T00:00:00+00:00"
# Years that can be shown in any place of the earth, whatever the clock and the C library are: not tried each time.
_EVERYWHERE = range(1971, 3000)


def text(value: object) -> str:
    """A text; bytes as far as they are UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else UNREADABLE


def text_or_none(value: object) -> str | None:
    """A text, or None where the column is empty."""
    return None if value is None else text(value)


def count(value: object) -> int:
    """A whole number from 0 on; 0 for what is not one."""
    return value if isinstance(value, int) and value >= 0 else 0


def time(value: object) -> str:
    """A time in ISO 8601 as it was written, when it can be shown in any place of the earth; else one long ago."""
    if not isinstance(value, str):
        value = text(value)
    try:
        then = datetime.fromisoformat(value)
        if then.year not in _EVERYWHERE:
            then.astimezone(UTC)
            then.astimezone()
    except (ValueError, OverflowError, OSError):
        return _LONG_AGO
    return value if then.tzinfo is not None else then.replace(tzinfo=UTC).isoformat()


def tokens(value: object) -> tuple[int, ...] | None:
    """Token ids, 32 bits each; None where they cannot be read: then the text is tokenized again."""
    if not isinstance(value, bytes) or len(value) % 4:
        return None
    return struct.unpack(f"<{len(value) // 4}I", value)
