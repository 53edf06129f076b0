"""Regular expressions of JSON Schema (ECMA 262) and of `--regex`, as Python's `re` reads them.

Knows: where the two dialects differ. Refuses to know: grammars, JSON.

What Python reads in another way is written anew: `$` (Python's matches before a last line feed too), `.`, \\s, \\p{L},
(?<name>), [:alpha:], surrogate pairs, escapes of letters that mean nothing.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from slmchat import bounded_patterns
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.schemas import character_classes
from slmchat.schemas.character_classes import ECMA_SPACE
from slmchat.schemas.grammar import Ranges, without

_NOT_LINE_ENDS = r"[^\n\r\u2028\u2029]"
_SAME = frozenset("bBdDwWfnrtvxAZ0123456789")  # escapes that mean the same to both
_SETS = frozenset("dDwWsSpP")
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_CODE = re.compile(r"u\{([0-9a-fA-F]{1,6})\}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}")
_PROPERTY = re.compile(r"([pP])\{([^}]*)\}")
_POSIX = re.compile(r"\[:(\^?)([a-z]+):\]")


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled. Raises `SlmError` (USAGE) that says why Python cannot read it."""
    try:
        return re.compile(_Translator(pattern).whole(), re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise usage_error(
            f"the regular expression {_shortened(pattern)} cannot be read: {error}.",
            "what is understood: docs/structured.md",
        ) from error


def is_found(pattern: str, text: str) -> bool:
    """Whether it is found in a text. Raises `SlmError`: USAGE as `compiled`, UNSATISFIED when it takes too long."""
    return _tried(bounded_patterns.is_found, pattern, text)


def is_whole(pattern: str, text: str) -> bool:
    """Whether a text matches as a whole. Raises as `is_found`."""
    return _tried(bounded_patterns.is_whole, pattern, text)


def _tried(match: Callable[[re.Pattern[str], str], bool], pattern: str, text: str) -> bool:
    try:
        return match(compiled(pattern), text)
    except bounded_patterns.TooSlow as error:
        raise SlmError(
            f"it takes too long to see whether {len(text):,} characters match the regular expression "
            f"{_shortened(pattern)}.",
            hint="a repetition inside of a repetition, as in (a+)+, makes it slow",
            exit_code=ExitCode.UNSATISFIED,
        ) from error


class _Translator:
    def __init__(self, pattern: str) -> None:
        self.pattern = _PAIR.sub(_paired, pattern)
        self.place = 0

    def whole(self) -> str:
        made: list[str] = []
        pattern = self.pattern
        while self.place < len(pattern):
            char = pattern[self.place]
            self.place += 1
            if char == "\\":
                made.append(self.escape(is_class=False))
            elif char == "[":
                made.append(self.char_class())
            elif char == "$":
                made.append(r"\Z")
            elif char == ".":
                made.append(_NOT_LINE_ENDS)
            elif char == "(" and re.match(r"\?<[^=!]", pattern[self.place :]):
                self.place += 2
                made.append("(?P<")
            else:
                made.append(char)
        return "".join(made)

    def escape(self, *, is_class: bool) -> str:
        """What stands behind a backslash."""
        pattern, begin = self.pattern, self.place
        char = pattern[begin : begin + 1]
        self.place += 1
        if char == "s":
            return ECMA_SPACE if is_class else f"[{ECMA_SPACE}]"
        if char == "S":
            return r"\S" if is_class else f"[^{ECMA_SPACE}]"
        if found := _PROPERTY.match(pattern, begin):
            self.place = found.end()
            return self.property(found, is_class=is_class)
        if found := _CODE.match(pattern, begin):
            self.place = found.end()
            code = int(found[1] or found[0][1:], 16)
            if code > 0x10FFFF:
                raise re.error(f"\\{found[0]} is not the code of a character")
            return character_classes.spelled(((code, code),))
        if char == "z" and not is_class:
            return r"\Z"
        if char == "k" and (found := re.compile(r"k<(\w+)>").match(pattern, begin)):
            self.place = found.end()
            return f"(?P={found[1]})"
        if char == "c" and pattern[begin + 1 : begin + 2].isalpha():
            self.place += 1
            return f"\\x{ord(pattern[begin + 1]) % 32:02x}"
        if char in _SAME or not char:
            return "\\" + char
        return re.escape(char)

    def property(self, found: re.Match[str], *, is_class: bool) -> str:
        ranges = character_classes.of_property(found[2])
        if ranges is None:
            raise re.error(f"\\{found[0]} is not known (only general categories of Unicode are, as \\p{{L}})")
        if found[1] == "P":
            ranges = _complement(ranges)
        inside = character_classes.spelled(ranges)
        return inside if is_class else f"[{inside}]"

    def char_class(self) -> str:
        """A class; its bracket is behind us."""
        pattern = self.pattern
        is_negated = pattern[self.place : self.place + 1] == "^"
        self.place += is_negated
        if pattern[self.place : self.place + 1] == "]" and "]" not in pattern[self.place + 1 :]:
            self.place += 1  # ECMA's [] is nothing and its [^] anything; Python's would go on
            return r"[\s\S]" if is_negated else "(?!)"
        made: list[str] = []
        is_first = True
        while self.place < len(pattern) and (is_first or pattern[self.place] != "]"):
            is_first = False
            posix = _POSIX.match(pattern, self.place)
            char = pattern[self.place]
            self.place += 1
            if posix and posix[2] in character_classes.POSIX:
                self.place = posix.end()
                ranges = character_classes.POSIX[posix[2]]
                made.append(character_classes.spelled(_complement(ranges) if posix[1] else ranges))
            elif char == "\\":
                is_set = pattern[self.place : self.place + 1] in _SETS
                made.append(self.escape(is_class=True))
                if is_set and pattern[self.place : self.place + 1] == "-":  # ECMA: a plain dash; Python: half a range
                    self.place += 1
                    made.append(r"\-")
            elif char == "-" and (not made or re.match(r"\\[dDwWsSpP]", pattern[self.place :])):
                made.append(r"\-")
            elif char == "-" and pattern[self.place : self.place + 1] == "-":  # a range to a dash
                self.place += 1
                made.append(r"-\-")
            else:
                made.append("\\" + char if char in "[&~|]^" else char)
        if self.place >= len(pattern):
            raise re.error("a [ without its ]")
        self.place += 1
        return f"[{'^' if is_negated else ''}{''.join(made)}]"


def _complement(ranges: Ranges) -> Ranges:
    return without(((0, 0x10FFFF),), ranges)


def _paired(found: re.Match[str]) -> str:
    high, low = (int(found[n], 16) for n in (1, 2))
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


def _shortened(pattern: str) -> str:
    return pattern if len(pattern) <= 60 else pattern[:60] + "…"
