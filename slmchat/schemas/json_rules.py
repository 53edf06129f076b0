"""The rules of JSON that every schema shares, and the rules that a schema adds to them.

Knows: how slm writes JSON (one line, one space behind each colon and comma), the soft limits of a first attempt.
Refuses to know: schemas.
"""

import json
import math
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

from slmchat.schemas import number_ranges
from slmchat.schemas.grammar import (
    EMPTY,
    PRINTABLE,
    Chain,
    Chars,
    Choice,
    Grammar,
    Node,
    Ranges,
    Repeat,
    Rule,
    Text,
    chain,
    chars,
    choice,
    without,
)

QUOTE, COMMA, COLON = Text('"'), Text(", "), Text(": ")
_HEX = chars("0-9a-fA-F")
_UNICODE = choice(  # \uXXXX; halves of a surrogate pair come in pairs
    (
        chain(chars("0-9a-cA-CeEfF"), Repeat(_HEX, 3, 3)),
        chain(chars("dD"), chars("0-7"), Repeat(_HEX, 2, 2)),
        chain(chars("dD"), chars("89abAB"), Repeat(_HEX, 2, 2), Text("\\u"), chars("dD"), chars("c-fC-F"), _HEX, _HEX),
    )
)
# What JSON writes as an escape in a string.
_ESCAPED = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
PLAIN = Chars(without(PRINTABLE, _ESCAPED))
_CHARACTER = choice((Rule("plain"), chain(Text("\\"), choice((chars('"\\/bfnrt'), chain(Text("u"), _UNICODE))))))

# Small models go on with a list or a map until all tokens are used. Where a schema sets no limit, a first attempt has
# this one: more values than most answers have, and few enough to end within 1,024 tokens. An answer that reaches it is
# not taken for the whole: a second attempt has no such limit (generation/structured.py).
SOFT_ITEMS = 64
# The same for the characters of a string: small models repeat a sentence without an end.
SOFT_CHARACTERS = 1_000
# And for values of which nothing is known, and how deep they may be nested.
SOFT_ANY_ITEMS = 32
_SOFT_DEPTH = 4


class JsonRules:
    """The rules of one grammar, while it is made."""

    def __init__(self, *, is_capped: bool = False) -> None:
        """`is_capped`: with soft limits where a list or a map would have none."""
        self.grammar = Grammar()
        self.is_capped = is_capped
        self.has_soft_limits = False
        self._count = 0

    def named(self, node: Node) -> Node:
        """The node behind a rule of its own: it is used more than once, or makes what is around it too deep."""
        return node if isinstance(node, Rule) else self.add(node)

    def add(self, node: Node) -> Rule:
        name = f"r{self._count}"
        self._count += 1
        self.grammar.rules[name] = node
        return Rule(name)

    def reserve(self) -> str:
        """The name of a rule that is to be filled: something inside of it refers to it."""
        return self.add(EMPTY).name

    def several(self, item: Node, least: int, most: int | None) -> Node:
        """`least` to `most` of the item with commas between them."""
        if most is None and self.is_capped:
            most = max(SOFT_ITEMS, least)
            self.has_soft_limits = True
        if most == 0:
            return EMPTY
        some = chain(item, Repeat(chain(COMMA, item), max(0, least - 1), None if most is None else most - 1))
        return some if least else Choice((some, EMPTY))

    # -- any JSON

    def value(self, depth: int = 0) -> Rule:
        """Any value; `depth`: how deep it stands in others of which nothing is known."""
        name = self._leveled("value", depth)
        if name not in self.grammar.rules:
            self.grammar.rules[name] = EMPTY
            kinds: list[Node] = [self.string(), self.number()]
            if not self.is_capped or depth < _SOFT_DEPTH:
                kinds += [self.object(depth), self.array(depth)]
            self.grammar.rules[name] = choice((*kinds, *map(Text, ("true", "false", "null"))))
        return Rule(name)

    def object(self, depth: int = 0) -> Rule:
        return self._container("object", "{}", depth)

    def array(self, depth: int = 0) -> Rule:
        return self._container("array", "[]", depth)

    def _container(self, kind: str, brackets: str, depth: int) -> Rule:
        name = self._leveled(kind, depth)
        if name not in self.grammar.rules:
            self.grammar.rules[name] = EMPTY
            item: Node = self.value(depth + 1)
            if kind == "object":
                item = chain(self.string(), COLON, item)
            most = SOFT_ANY_ITEMS if self.is_capped else None
            self.has_soft_limits |= self.is_capped
            self.grammar.rules[name] = chain(Text(brackets[0]), self.several(item, 0, most), Text(brackets[1]))
        return Rule(name)

    def _leveled(self, kind: str, depth: int) -> str:
        return f"{kind}-{depth}" if self.is_capped else kind

    def string(self) -> Rule:
        if "string" not in self.grammar.rules:
            self._shared("string", chain(QUOTE, self.characters(), QUOTE))
        return _STRING

    def characters(self, least: int = 0, most: int | None = None) -> Node:
        """`least` to `most` characters of a string."""
        if most is None and self.is_capped:
            most = max(SOFT_CHARACTERS, least)
            self.has_soft_limits = True
        return Repeat(self.character(), least, most)

    def number(self) -> Rule:
        return self._shared("number", number_ranges.NUMBER)

    def integer(self) -> Rule:
        return self._shared("integer", number_ranges.INTEGER)

    def boolean(self) -> Rule:
        return self._shared("boolean", _BOOLEAN)

    def format(self, name: str, content: Node) -> Rule:
        """A string of a format, between its quotes; `content` is already spelled as JSON."""
        return self._shared(f"format-{name}", chain(QUOTE, content, QUOTE))

    def character(self) -> Rule:
        """A character of a string, escaped or not."""
        self.plain()
        return self._shared("char", _CHARACTER)

    def plain(self) -> Rule:
        """A character of a string that needs no escape."""
        return self._shared("plain", PLAIN)

    def _shared(self, name: str, node: Node) -> Rule:
        if name not in self.grammar.rules:
            self.grammar.rules[name] = node
            self.grammar.shared.add(name)
        return Rule(name)


_STRING = Rule("string")
_BOOLEAN = choice((Text("true"), Text("false")))


def spelled(node: Node) -> Node:
    """The same texts as they are written between the quotes of a JSON string."""
    if isinstance(node, Text):
        return _in_json(node.text)
    if isinstance(node, Chars):
        return _spelled_chars(node.ranges)
    if isinstance(node, Repeat):
        return Repeat(spelled(node.item), node.least, node.most)
    if isinstance(node, Chain):
        return Chain(tuple(map(spelled, node.items)))
    return choice(map(spelled, node.options)) if isinstance(node, Choice) else node


@lru_cache(maxsize=256)
def _spelled_chars(ranges: Ranges) -> Node:
    plain = without(ranges, _ESCAPED)
    special = [
        chr(point)
        for low, high in ranges
        for cut in _ESCAPED
        for point in range(max(low, cut[0]), min(high, cut[1]) + 1)
    ]
    return choice((*([Chars(plain)] if plain else []), *map(_in_json, special)))


def _in_json(text: str) -> Text:
    return Text(encode_basestring(text)[1:-1])


def spellings(value: Any) -> list[str]:
    """How a constant is written: 1.0 also as 1."""
    if isinstance(value, str):
        return [encode_basestring(value)]
    spelled = [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        spelled.append(str(int(value)))
    return spelled
