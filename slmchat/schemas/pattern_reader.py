"""A regular expression read character by character: escapes and classes, what they stand for, and what is wrong.

Knows: how characters and sets of them are spelled. Refuses to know: groups, repetitions, what becomes of it (regex.py).
"""

from slmchat.errors import SlmError, usage_error
from slmchat.schemas import character_classes
from slmchat.schemas.character_classes import of_letter
from slmchat.schemas.grammar import PRINTABLE, Ranges, joined, without

_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_HEX = {"x": 2, "u": 4, "U": 8}


class PatternReader:
    """A place in a pattern. `is_lenient`: what cannot be expressed is left out, and then `is_exact` is False."""

    def __init__(self, pattern: str, *, is_lenient: bool) -> None:
        self.pattern = pattern
        self.is_lenient = is_lenient
        self.is_exact = True
        self.ignores_case = False
        self.place = 0
        self.depth = 0

    def property(self, begin: int) -> Ranges:
        """The class of \\p{name} or \\P{name}; the backslash is behind us."""
        letter = self.next(begin)
        name, closing, _ = self.pattern[self.place + 1 :].partition("}")
        if self.peek() != "{" or not closing:
            raise self.wrong(f"\\{letter} without a {{name}}", begin)
        self.place += len(name) + 2
        ranges = character_classes.of_property(name)
        if ranges is None:
            raise self.wrong(f"\\{letter}{{{name}}}, which is not a general category of Unicode (as \\p{{L}})", begin)
        return without(PRINTABLE, ranges) if letter == "P" else _among(ranges, PRINTABLE)

    def escaped(self, begin: int) -> str:
        """The character that an escape stands for; the backslash is behind us."""
        char = self.next(begin)
        if char == "u" and self.peek() == "{":
            return self.braced(begin)
        if char == "0":  # octal, as Python and ECMA read it
            digits = ""
            while len(digits) < 2 and self.peek() and self.peek() in "01234567":
                digits += self.next(begin)
            return chr(int(digits or "0", 8))
        if char == "c" and self.peek().isascii() and self.peek().isalpha():
            return chr(ord(self.next(begin)) % 32)
        if char in _HEX:
            digits = self.pattern[self.place : self.place + _HEX[char]]
            self.place += len(digits)
            try:
                if len(digits) < _HEX[char] or not digits.isalnum():
                    raise ValueError(digits)
                code = int(digits, 16)
                if 0xD800 <= code <= 0xDBFF and (low := self.low_surrogate()) is not None:
                    return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
                if 0xD800 <= code <= 0xDFFF:
                    raise ValueError("half of a character")
                return chr(code)
            except (ValueError, OverflowError) as error:
                raise self.wrong(f"\\{char} without the code of a character", begin) from error
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isalnum() and not self.is_lenient:  # ECMA reads \\i as i, Python refuses it
            raise self.wrong(f"the escape \\{char}", begin)
        return char

    def braced(self, begin: int) -> str:
        r"""The character of \u{1F600}; the u is behind us."""
        digits, closing, _ = self.pattern[self.place + 1 :].partition("}")
        try:
            code = int(digits, 16)
            if not closing or 0xD800 <= code <= 0xDFFF:
                raise ValueError(digits)
            self.place += len(digits) + 2
            return chr(code)
        except (ValueError, OverflowError) as error:
            raise self.wrong("\\u{ without the code of a character", begin) from error

    def low_surrogate(self) -> int | None:
        digits = self.pattern[self.place + 2 : self.place + 6]
        if not self.pattern.startswith("\\u", self.place) or len(digits) < 4:
            return None
        code = int(digits, 16) if all(char in "0123456789abcdefABCDEF" for char in digits) else 0
        if not 0xDC00 <= code <= 0xDFFF:
            return None
        self.place += 6
        return code

    def char_class(self, begin: int) -> Ranges:
        is_negated = self.take("^")
        found: list[tuple[int, int]] = []
        is_first = True
        while True:
            place = self.place
            if self.place >= len(self.pattern):
                raise self.wrong("a [ without its ]", begin)
            if self.peek() == "]" and not is_first:
                self.place += 1
                break
            is_first = False
            low = self.class_item()
            if isinstance(low, str) and self.peek() == "-" and self.pattern[self.place + 1 : self.place + 2] != "]":
                self.place += 1
                high = self.class_item()
                if not isinstance(high, str):  # [a-\\d]: a plain dash
                    found += [(ord(low), ord(low)), (0x2D, 0x2D), *high]
                    continue
                if high < low:
                    raise self.wrong("a range whose ends are not two characters in order", place)
                found.append((ord(low), ord(high)))
            elif isinstance(low, str):
                found.append((ord(low), ord(low)))
            else:
                found.extend(low)
        if self.ignores_case:
            found += _other_case(found)
        ranges = without(PRINTABLE, found) if is_negated else without(joined(found), [(0xD800, 0xDFFF)])
        if not ranges:
            raise self.wrong("a class without any character", begin)
        return ranges

    def class_item(self) -> str | Ranges:
        begin = self.place
        char = self.next(begin)
        if char == "[" and self.peek() and self.peek() in ":.=":
            return self.posix(begin)
        if char != "\\":
            return char
        kind = self.peek()
        if kind and kind in "dwsDWS":
            self.place += 1
            return of_letter(kind)
        if kind and kind in "pP":
            return self.property(begin)
        if kind == "b":
            self.place += 1
            return "\b"
        return self.escaped(begin)

    def posix(self, begin: int) -> str | Ranges:
        """[:alpha:] inside of a class; its bracket is behind us."""
        mark = self.peek()
        name, closing, _ = self.pattern[self.place + 1 :].partition(f"{mark}]")
        if not closing or not name.lstrip("^").isalpha():
            return "["
        ranges = character_classes.POSIX.get(name.lstrip("^")) if mark == ":" else None
        if ranges is None:
            raise self.wrong(f"the class [{mark}{name}{mark}], which is not one of POSIX's", begin)
        self.place += len(name) + 3
        return without(PRINTABLE, ranges) if name.startswith("^") else ranges

    def peek(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def next(self, begin: int | None = None) -> str:
        if self.place >= len(self.pattern):
            raise self.wrong("it ends in the middle of something", self.place if begin is None else begin)
        self.place += 1
        return self.pattern[self.place - 1]

    def take(self, char: str) -> bool:
        if self.peek() != char:
            return False
        self.place += 1
        return True

    def wrong(self, what: str, place: int) -> SlmError:
        return usage_error(
            f"this regular expression cannot become a grammar: {what}, at position {place + 1} of "
            f"{_shortened(self.pattern, place)}.",
            "what is understood: docs/structured.md",
        )


def _other_case(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ASCII letters of these ranges, small and capital ones for each other."""
    letters = [*range(0x41, 0x5B), *range(0x61, 0x7B)]
    return [(code ^ 0x20, code ^ 0x20) for code in letters if any(low <= code <= high for low, high in ranges)]


def _among(ranges: Ranges, others: Ranges) -> Ranges:
    return without(ranges, without(((0, 0x10FFFF),), others))


def _shortened(pattern: str, place: int) -> str:
    begin = max(0, place - 30)
    return ("…" if begin else "") + pattern[begin : place + 30] + ("…" if place + 30 < len(pattern) else "")
