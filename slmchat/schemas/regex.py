"""Regular expressions as grammars: what can be generated character by character.

Knows: the syntax that Python's `re` and ECMA 262 share, which of it a grammar cannot express, and where that stands.
Refuses to know: JSON, matching (that is `re`'s: python_regex.py).
"""

from slmchat.errors import ExitCode, SlmError
from slmchat.schemas import anchors, character_classes
from slmchat.schemas.anchors import Anchor
from slmchat.schemas.character_classes import of_letter
from slmchat.schemas.grammar import (
    EMPTY,
    PRINTABLE,
    Chars,
    Node,
    Ranges,
    Repeat,
    Text,
    chain,
    choice,
    is_nullable,
    joined,
    without,
)
from slmchat.schemas.lengths import not_empty

_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_HEX = {"x": 2, "u": 4, "U": 8}
_ANY = without(PRINTABLE, [(0x0A, 0x0A)])
_ANYTHING = Repeat(Chars(PRINTABLE))

# Deeper nesting than any expression that somebody wrote by hand.
_MOST_NESTED = 50
_MOST_COUNT = 100_000


def parse(pattern: str, *, is_search: bool = False) -> Node:
    """The texts that match `pattern` as a whole.

    `is_search`: as JSON Schema wants it, the match may stand anywhere unless `^` and `$` tie it to the ends.
    A class that leaves characters out ([^a], ., \\D) means printable ones only. Raises `SlmError` (USAGE) with the
    position for what a grammar cannot express or `re` would refuse.
    """
    return _Parser(pattern, is_lenient=False).whole(is_search=is_search)


def parse_most(pattern: str) -> tuple[Node, bool]:
    """At least the texts in which `pattern` is found, and whether it is exactly these.

    What a grammar cannot express (lookaheads, \\b, references back) is left out where the rest still says something.
    Raises `SlmError` as `parse` does where it does not.
    """
    parser = _Parser(pattern, is_lenient=True)
    return parser.whole(is_search=True), parser.is_exact


class _Parser:
    def __init__(self, pattern: str, *, is_lenient: bool) -> None:
        self.pattern = pattern
        self.is_lenient = is_lenient
        self.is_exact = True
        self.ignores_case = False
        self.place = 0
        self.depth = 0

    def whole(self, *, is_search: bool) -> Node:
        if self.pattern.startswith("(?i)"):
            self.place = 4
            self.ignores_case = True
        options = self.branches()
        if self.place < len(self.pattern):
            raise self.wrong("a ) without its (", self.place)
        try:
            return anchors.tied(choice(options), is_search=is_search)
        except anchors.Misplaced as misplaced:
            if self.is_lenient:
                self.is_exact = False
                return _ANYTHING
            anchor = misplaced.anchor
            raise self.wrong(f"{anchor.name} in the middle", anchor.place) from misplaced

    def branches(self) -> list[Node]:
        options = [self.branch()]
        while self.take("|"):
            options.append(self.branch())
        return options

    def branch(self) -> Node:
        items: list[Node] = []
        while self.place < len(self.pattern) and self.peek() not in "|)":
            items.append(self.repeated())
        return chain(*items) if items else EMPTY

    def repeated(self) -> Node:
        begin = self.place
        item = self.item()
        counts = self.counts()
        if counts is None:
            return item
        least, most = counts
        if most is not None and most < least:
            raise self.wrong("a repetition whose minimum is above its maximum", begin)
        if max(least, most or 0) > _MOST_COUNT:
            raise self.wrong(f"more than {_MOST_COUNT:,} repetitions", begin)
        if self.peek() == "?":  # lazy: the same texts
            self.place += 1
        elif self.peek() and self.peek() in "*+{" and self.counts() is not None:
            if not self.is_lenient:
                raise self.wrong("a repetition of a repetition, or a possessive one", self.place - 1)
            self.is_exact = False
        if item == EMPTY:
            return EMPTY
        if most is None and is_nullable(item):  # (a*)*: to llama.cpp a rule that begins with itself
            item, least = not_empty(item), 0
        return Repeat(item, least, most)

    def counts(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        char = self.peek()
        if char in simple:
            self.place += 1
            return simple[char]
        if char != "{":
            return None
        inside, closing, _ = self.pattern[self.place + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        if not closing or not all(part.isascii() and part.isdigit() for part in (low, high) if part) or inside == "":
            return None  # a plain brace, as `re` reads it
        if not comma and not low:
            return None
        self.place += len(inside) + 2
        least = int(low or 0)
        return least, (int(high) if high else None) if comma else least

    def item(self) -> Node:
        begin = self.place
        char = self.next()
        if char == "(":
            return self.group(begin)
        if char == "[":
            return Chars(self.char_class(begin))
        if char == ".":
            return Chars(_ANY)
        if char == "\\":
            return self.escape(begin)
        if char in "^$":
            return Anchor(char, begin)
        if char in "*+?":
            raise self.wrong(f"{char} with nothing before it to repeat", begin)
        return self.text(char)

    def text(self, char: str) -> Node:
        if self.ignores_case and char.isascii() and char.isalpha():
            return Chars(joined((ord(each), ord(each)) for each in (char.lower(), char.upper())))
        return Text(char)

    def group(self, begin: int) -> Node:
        is_looked_at = self.take("?") and self.group_kind(begin)
        self.depth += 1
        if self.depth > _MOST_NESTED:
            raise self.wrong(f"more than {_MOST_NESTED} groups inside each other", begin)
        options = self.branches()
        if not self.take(")"):
            raise self.wrong("a ( without its )", begin)
        self.depth -= 1
        return EMPTY if is_looked_at else choice(options)

    def group_kind(self, begin: int) -> bool:
        """Read what stands between `(?` and the group's content; whether the group only looks at what is around it."""
        if self.take(":"):
            return False
        rest = self.pattern[self.place :]
        looks = next((mark for mark in _LOOKS if rest.startswith(mark)), None)
        if looks is not None and self.is_lenient:
            self.place += len(looks)
            self.is_exact = False
            return True
        if looks is None and (rest.startswith(("P<", "<"))):
            name, closing, _ = rest.partition("<")[2].partition(">")
            if closing and name.isidentifier():
                self.place += rest.index(">") + 1
                return False
        kind = next((name for mark, name in _REFUSED_GROUPS.items() if rest.startswith(mark)), None)
        raise self.wrong(_LOOKS.get(looks or "") or kind or "flags or an unknown group", begin)

    def escape(self, begin: int) -> Node:
        char = self.peek()
        if char and char in "dwsDWS":
            self.place += 1
            return Chars(of_letter(char))
        if char and char in "pP":
            return Chars(self.property(begin))
        if char and char in "AZz":
            self.place += 1
            return Anchor("^" if char == "A" else "$", begin)
        if char and char in "bB":
            if not self.is_lenient:
                raise self.wrong(f"\\{char}, which asks for what stands around it", begin)
            self.place += 1
            self.is_exact = False
            return EMPTY
        if char == "k" or (char.isdecimal() and char != "0"):
            raise self.wrong("a reference back", begin)
        return self.text(self.escaped(begin))

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
        return SlmError(
            f"this regular expression cannot become a grammar: {what}, at position {place + 1} of "
            f"{_shortened(self.pattern, place)}.",
            hint="what is understood: docs/structured.md",
            exit_code=ExitCode.USAGE,
        )


_LOOKS = {"=": "a lookahead", "!": "a lookahead", "<=": "a lookbehind", "<!": "a lookbehind"}
_REFUSED_GROUPS = {
    ">": "an atomic group",
    "#": "a comment",
    "P=": "a reference back",
    "(": "a condition",
    "i": "flags that are not the first thing in it",
}


def _other_case(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ASCII letters of these ranges, small and capital ones for each other."""
    letters = [*range(0x41, 0x5B), *range(0x61, 0x7B)]
    return [(code ^ 0x20, code ^ 0x20) for code in letters if any(low <= code <= high for low, high in ranges)]


def _among(ranges: Ranges, others: Ranges) -> Ranges:
    return without(ranges, without(((0, 0x10FFFF),), others))


def _shortened(pattern: str, place: int) -> str:
    begin = max(0, place - 30)
    return ("…" if begin else "") + pattern[begin : place + 30] + ("…" if place + 30 < len(pattern) else "")
