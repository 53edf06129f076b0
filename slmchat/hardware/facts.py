"""What a fact about this device is, and how small files of the system are read.

Knows: a value with the place that it comes from; None is "not known".
Refuses to know: which facts there are, and what anyone does with them.
"""

from pathlib import Path
from typing import Generic, TypeVar

from slmchat.lazy_dataclasses import dataclass

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Fact(Generic[Value]):
    """A value and where it comes from. `value` None: not known, and `source` says what was looked at."""

    value: Value | None
    source: str


def text_of(file: Path) -> str | None:
    """The stripped text of a small system file, None where there is none or it may not be read."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def number_of(file: Path) -> int | None:
    """A file that holds one whole number, None for everything else ("max")."""
    text = text_of(file)
    return int(text) if text is not None and text.isdecimal() else None
