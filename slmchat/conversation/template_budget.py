"""What one rendering of a template may use up: steps, memory, output; and how large and how deep a value may be.

Knows: the limits and how much of them is left.
Refuses to know: Jinja, what the steps are for.

Nothing here looks at how long something took: the same template is refused on every device, or on none. A step is about
100 ns of an ordinary processor (64 characters copied, one entry looked at, one node of the template). The clock is only
the last resort, for a device that is much slower.
"""

import time
from typing import Any

from slmchat.lazy_dataclasses import dataclass

MAX_SECONDS = 5.0
MAX_STEPS = 20_000_000
MAX_MADE = 256 * 1024 * 1024  # bytes of all values together, also of those that are gone again
MAX_WRITTEN = 4 * 1024 * 1024  # characters that the template itself writes, in macros and blocks too
MAX_VALUE = 1_000_000  # characters of a text, entries of a list with everything inside
MAX_DEPTH = 100  # lists in lists, macros in macros
MAX_NUMBER = 1 << 63

_CHARACTER = 4  # bytes, at most (PEP 393)
_OBJECT = 64  # bytes of a small object and of the place where it is kept
_CHARACTERS_A_STEP = 64
_MEASURED_STEPS = 5  # of an entry that is walked through

NESTED = "it is nested too deeply"
TOO_LARGE = "it makes values that are too large"
NUMBERS = "it computes with numbers that are too large"


class TooMuch(Exception):
    """The template used up what it may; the message says what."""


@dataclass(frozen=True)
class Measure:
    """A value with everything inside."""

    characters: int
    entries: int
    depth: int

    @property
    def size(self) -> int:
        return self.characters + self.entries


class Budget:
    """What is left for the rendering that `begin` began."""

    def __init__(self) -> None:
        self._depth = 0
        self.begin()

    def begin(self) -> None:
        """A new rendering: nothing is used up yet."""
        self._steps = MAX_STEPS
        self._made = MAX_MADE
        self._written = MAX_WRITTEN
        self._depth = 0
        self._deadline = time.thread_time() + MAX_SECONDS  # a busy machine is not the template's fault

    def tick(self, steps: int, made: int, written: int) -> bool:
        """What a stretch of statements costs whatever its values are. Always true: it may stand in a condition."""
        self._steps -= steps
        self._made -= made
        self._written -= written
        if self._steps < 0 or self._made < 0 or self._written < 0:
            raise self._too_much()
        if time.thread_time() > self._deadline:
            raise TooMuch(f"it takes more than {MAX_SECONDS:g} seconds")
        return True

    def spend(self, steps: int) -> None:
        """Work on values that are large, before it is done."""
        self._steps -= max(0, steps)
        if self._steps < 0:
            raise self._too_much()

    def check_length(self, length: int) -> None:
        """Something of at most so many characters or entries comes out; what it really is, is paid for elsewhere."""
        if length > MAX_VALUE:
            raise TooMuch(TOO_LARGE)

    def make_text(self, length: int) -> None:
        """A text of so many characters is about to be made. A length that a template gave may be below zero."""
        self.check_length(length)
        length = max(0, length)
        self._steps -= length // _CHARACTERS_A_STEP
        self._made -= _OBJECT + length * _CHARACTER
        if self._steps < 0 or self._made < 0:
            raise self._too_much()

    def make_list(self, length: int, entry: int = 8) -> None:
        """A list of so many entries is about to be made; `entry`: bytes of each, with what is made for it."""
        self.check_length(length)
        length = max(0, length)
        self._steps -= length
        self._made -= _OBJECT + length * entry
        if self._steps < 0 or self._made < 0:
            raise self._too_much()

    def write(self, length: int) -> None:
        """So many characters go to the output."""
        self._written -= length
        self._made -= length * _CHARACTER
        if self._written < 0 or self._made < 0:
            raise self._too_much()

    def enter(self) -> None:
        """A macro or a loop calls itself, perhaps; `leave` comes after it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooMuch(NESTED)

    def leave(self) -> None:
        self._depth -= 1

    def measure(self, value: Any) -> Measure:
        """A value with everything inside; what is in it twice is counted twice, as whatever walks through it would.

        Raises `TooMuch` beyond `MAX_VALUE` and `MAX_DEPTH`, before anything walks further.
        """
        characters = entries = depth = 0
        level = [value]
        while level:
            depth += 1
            if depth > MAX_DEPTH:
                raise TooMuch(NESTED)
            before = (characters, entries)
            for item in level:
                if isinstance(item, str):
                    characters += len(item)
                elif isinstance(item, list | tuple | dict):
                    entries += len(item)
            if characters + entries > MAX_VALUE:
                raise TooMuch(TOO_LARGE)
            self.spend((characters - before[0]) // _CHARACTERS_A_STEP + _MEASURED_STEPS * (1 + entries - before[1]))
            below: list[Any] = []
            for item in level:
                if isinstance(item, dict):
                    below += item
                    below += item.values()
                elif isinstance(item, list | tuple):
                    below += item
            level = below
        return Measure(characters, entries, depth)

    def _too_much(self) -> TooMuch:
        if self._written < 0:
            return TooMuch("it writes without end")
        if self._made < 0:
            return TooMuch(TOO_LARGE)
        return TooMuch(f"it takes more than {MAX_STEPS:,} steps")
