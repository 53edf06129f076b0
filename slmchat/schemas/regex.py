"""Regular expressions as grammars: what can be generated character by character.

Knows: the syntax that Python's `re` and ECMA 262 share, which of it a grammar cannot express, and where that stands.
Refuses to know: JSON, matching (that is `re`'s).
"""

import json

from slmchat.errors import ExitCode, SlmError
from slmchat.schemas.grammar import (
    EMPTY,
    PRINTABLE,
    Chain,
    Chars,
    Choice,
    Node,
    Ranges,
    Repeat,
    Text,
    chain,
    chars,
    choice,
    joined,
    without,
)

_DIGITS: Ranges = chars("0-9").ranges
_WORD: Ranges = chars("A-Za-z0-9_").ranges
_SPACE: Ranges = chars(" \t\n\r\f\v").ranges
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_HEX = {"x": 2, "u": 4, "U": 8}
_ANY = without(PRINTABLE, [(0x0A, 0x0A)])

# Deeper nesting than any expression that somebody wrote by hand.
_MOST_NESTED = 50
_MOST_COUNT = 100_000


def parse(pattern: str, *, is_search: bool = False) -> Node:
    """The texts that match `pattern` as a whole.

    `is_search`: as JSON Schema wants it, the match may stand anywhere unless `^` and `$` tie it to the ends.
    A class that leaves characters out ([^a], ., \\D) means printable ones only. Raises `SlmError` (USAGE) with the
    position for what a grammar cannot express or `re` would refuse.
    """
    return _Parser(pattern, is_search).whole()


class _Parser:
    def __init__(self, pattern: str, is_search: bool) -> None:
        self.pattern = pattern
        self.is_search = is_search
        self.place = 0
        self.depth = 0

    def whole(self) -> Node:
        options = [self.branch(is_outermost=True)]
        while self.take("|"):
            options.append(self.branch(is_outermost=True))
        if self.place < len(self.pattern):
            raise self.wrong("a ) without its (", self.place)
        return choice(options)

    def branch(self, *, is_outermost: bool) -> Node:
        """One alternative. Only one of the outermost may begin with ^ and end with $."""
        is_begin = is_outermost and self.take("^")
        items: list[Node] = []
        is_end = False
        while self.place < len(self.pattern) and self.peek() not in "|)":
            if is_outermost and self.peek() == "$" and self.pattern[self.place + 1 : self.place + 2] in ("", "|"):
                self.place += 1
                is_end = True
                break
            items.append(self.repeated())
        if is_outermost and self.is_search:
            anything = Repeat(Chars(PRINTABLE))
            items = [*([] if is_begin else [anything]), *items, *([] if is_end else [anything])]
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
            raise self.wrong("a repetition of a repetition, or a possessive one", self.place - 1)
        if item == EMPTY:
            return EMPTY
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
            raise self.wrong(f"{char} in the middle", begin)
        if char in "*+?":
            raise self.wrong(f"{char} with nothing before it to repeat", begin)
        return Text(char)

    def group(self, begin: int) -> Node:
        if self.take("?"):
            self.group_kind(begin)
        self.depth += 1
        if self.depth > _MOST_NESTED:
            raise self.wrong(f"more than {_MOST_NESTED} groups inside each other", begin)
        options = [self.branch(is_outermost=False)]
        while self.take("|"):
            options.append(self.branch(is_outermost=False))
        if not self.take(")"):
            raise self.wrong("a ( without its )", begin)
        self.depth -= 1
        return choice(options)

    def group_kind(self, begin: int) -> None:
        """What stands between `(?` and the group's content."""
        if self.take(":"):
            return
        rest = self.pattern[self.place :]
        if rest.startswith("P<"):
            name, closing, _ = rest[2:].partition(">")
            if closing and name.isidentifier():
                self.place += len(name) + 3
                return
        kinds = {
            "=": "a lookahead",
            "!": "a lookahead",
            "<=": "a lookbehind",
            "<!": "a lookbehind",
            ">": "an atomic group",
            "#": "a comment",
            "P=": "a reference back",
            "(": "a condition",
        }
        kind = next((name for mark, name in kinds.items() if rest.startswith(mark)), "flags or an unknown group")
        raise self.wrong(kind, begin)

    def escape(self, begin: int) -> Node:
        char = self.peek()
        if char and char in "dwsDWS":
            self.place += 1
            return Chars(_named_class(char))
        if char and char in "bBAZz":
            raise self.wrong(f"\\{char}, which asks for what stands around it", begin)
        if char.isdecimal() and char != "0":
            raise self.wrong("a reference back", begin)
        return Text(self.escaped(begin))

    def escaped(self, begin: int) -> str:
        """The character that an escape stands for; the backslash is behind us."""
        char = self.next(begin)
        if char in _HEX:
            digits = self.pattern[self.place : self.place + _HEX[char]]
            self.place += len(digits)
            try:
                if len(digits) < _HEX[char] or not digits.isalnum():
                    raise ValueError(digits)
                code = int(digits, 16)
                if 0xD800 <= code <= 0xDFFF:
                    raise ValueError("half of a character")
                return chr(code)
            except (ValueError, OverflowError) as error:
                raise self.wrong(f"\\{char} without the code of a character", begin) from error
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isalnum():
            raise self.wrong(f"the escape \\{char}", begin)
        return char

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
                if not isinstance(high, str) or high < low:
                    raise self.wrong("a range whose ends are not two characters in order", place)
                found.append((ord(low), ord(high)))
            elif isinstance(low, str):
                found.append((ord(low), ord(low)))
            else:
                found.extend(low)
        ranges = without(PRINTABLE, found) if is_negated else without(joined(found), [(0xD800, 0xDFFF)])
        if not ranges:
            raise self.wrong("a class without any character", begin)
        return ranges

    def class_item(self) -> str | Ranges:
        begin = self.place
        char = self.next(begin)
        if char != "\\":
            return char
        kind = self.peek()
        if kind and kind in "dwsDWS":
            self.place += 1
            return _named_class(kind)
        if kind == "b":
            self.place += 1
            return "\b"
        return self.escaped(begin)

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


def _named_class(letter: str) -> Ranges:
    ranges = _CLASSES[letter.lower()]
    return ranges if letter.islower() else without(PRINTABLE, ranges)


def _shortened(pattern: str, place: int) -> str:
    begin = max(0, place - 30)
    return ("…" if begin else "") + pattern[begin : place + 30] + ("…" if place + 30 < len(pattern) else "")


def spelled_in_json(node: Node) -> Node:
    """The same texts as they are written between the quotes of a JSON string."""
    if isinstance(node, Text):
        return chain(*(_in_json(char) for char in node.text)) if node.text else node
    if isinstance(node, Chars):
        plain = without(node.ranges, [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
        special = [chr(point) for low, high in node.ranges for point in _escaped_points(low, high)]
        return choice((*([Chars(plain)] if plain else []), *map(_in_json, special)))
    if isinstance(node, Repeat):
        return Repeat(spelled_in_json(node.item), node.least, node.most)
    if isinstance(node, Chain):
        return Chain(tuple(map(spelled_in_json, node.items)))
    return choice(map(spelled_in_json, node.options)) if isinstance(node, Choice) else node


def _escaped_points(low: int, high: int) -> list[int]:
    return [point for point in (*range(0x20), 0x22, 0x5C) if low <= point <= high]


def _in_json(char: str) -> Text:
    return Text(json.dumps(char, ensure_ascii=False)[1:-1])
