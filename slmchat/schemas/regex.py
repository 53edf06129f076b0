"""Regular expressions as grammars: what can be generated character by character.

Knows: the syntax that Python's `re` and ECMA 262 share, which of it a grammar cannot express, and where that stands.
Refuses to know: JSON, matching (that is `re`'s: python_regex.py).
"""

import re

from slmchat.schemas import anchors
from slmchat.schemas.anchors import Anchor
from slmchat.schemas.character_classes import of_letter
from slmchat.schemas.grammar import (
    EMPTY,
    PRINTABLE,
    Chars,
    Node,
    Repeat,
    Text,
    chain,
    choice,
    is_nullable,
    joined,
    without,
)
from slmchat.schemas.lengths import not_empty
from slmchat.schemas.pattern_reader import PatternReader

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


class _Parser(PatternReader):
    """The grammar of a pattern."""

    def whole(self, *, is_search: bool) -> Node:
        if (half := re.search("[\ud800-\udfff]", self.pattern)) is not None:
            raise self.wrong("half of a surrogate pair", half.start())
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


_LOOKS = {"=": "a lookahead", "!": "a lookahead", "<=": "a lookbehind", "<!": "a lookbehind"}
_REFUSED_GROUPS = {
    ">": "an atomic group",
    "#": "a comment",
    "P=": "a reference back",
    "(": "a condition",
    "i": "flags that are not the first thing in it",
}
