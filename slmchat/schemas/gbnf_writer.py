"""A grammar in GBNF (llama.cpp, grammars/README.md).

Knows: its spelling, and how many repetitions llama.cpp takes. Refuses to know: what the grammar is for, tokens.
"""

from functools import lru_cache
from json.encoder import encode_basestring_ascii

from slmchat.schemas.grammar import Chain, Chars, Choice, Grammar, Node, Ranges, Repeat, Rule, Text, chain, choice

# llama.cpp copies a repeated item once for each time and refuses more than 2,000 (llama-grammar.cpp,
# MAX_REPETITION_THRESHOLD). Longer repetitions are made of blocks of this many.
_BLOCK = 100
_MOST_PLAIN = 1_000
# Beyond this a repetition has no upper limit in the grammar; the check of the finished text has it all the same.
MOST_REPEATS = 100_000


def gbnf_of(grammar: Grammar) -> str:
    """The grammar as text, `root` first."""
    writer = _Writer("part-")
    for name in ("root", *(name for name in grammar.rules if name != "root")):
        if name in grammar.shared:
            writer.lines += _lines_of(name, grammar.rules[name])
        else:
            writer.rule(name, grammar.rules[name])
    return "\n".join(writer.lines) + "\n"


class _Writer:
    """GBNF, line by line. Everything that is repeated gets a rule of its own: llama.cpp counts it as one then."""

    def __init__(self, prefix: str) -> None:
        """`prefix`: of the names of those rules."""
        self.lines: list[str] = []
        self._prefix = prefix
        self._helpers: dict[Node, str] = {}

    def rule(self, name: str, node: Node) -> None:
        place = len(self.lines)
        self.lines.append("")
        self.lines[place] = f"{name} ::= {self._alternatives(node)}"

    def _alternatives(self, node: Node) -> str:
        if type(node) is not Choice:
            return self._sequence(node)
        return " | ".join([self._sequence(option) for option in node.options])

    def _sequence(self, node: Node) -> str:
        made: list[str] = []
        for item in node.items if type(node) is Chain else (node,):
            if type(item) is Rule:
                made.append(item.name)
            elif type(item) is Text:
                made.append(_quoted(item.text))
            elif type(item) is Chars:
                made.append(_class(item.ranges))
            elif type(item) is Repeat:
                made.append(self._repeat(item))
            else:
                made.append(f"({self._alternatives(item)})")
        return " ".join(made) or '""'

    def _repeat(self, node: Repeat) -> str:
        least, most = node.least, node.most
        if most is not None and most > MOST_REPEATS:
            most = None
        if max(least, most or 0) > _MOST_PLAIN:
            return f"({self._alternatives(_in_blocks(node.item, least, most))})"
        if most == 0:
            return '""'
        item = self._atom(node.item)
        if most is None:
            return f"{item}*" if least == 0 else f"{item}+" if least == 1 else f"{item}{{{least},}}"
        return f"{item}{{{least}}}" if least == most else f"{item}{{{least},{most}}}"

    def _atom(self, node: Node) -> str:
        """A spelling of the node to which a repetition applies as a whole."""
        if type(node) is Rule:
            return node.name
        if type(node) is Chars:
            return _class(node.ranges)
        n_before = len(self._helpers)
        name = self._helpers.setdefault(node, f"{self._prefix}{n_before}")  # one look: a hash goes through all of it
        if len(self._helpers) > n_before:
            self.rule(name, node)
        return name


@lru_cache(maxsize=128)
def _lines_of(name: str, node: Node) -> list[str]:
    """A shared rule in GBNF: it is written once, and not for each grammar."""
    writer = _Writer(f"{name}-")
    writer.rule(name, node)
    return writer.lines


def _in_blocks(item: Node, least: int, most: int | None) -> Node:
    """The same repetition out of repetitions that llama.cpp takes."""
    block = Repeat(item, _BLOCK, _BLOCK)
    blocks, rest = divmod(min(least, MOST_REPEATS), _BLOCK)
    required = (Repeat(block, blocks, blocks), Repeat(item, rest, rest))
    if most is None:
        return chain(*required, Repeat(item))
    blocks, rest = divmod(most - least, _BLOCK)
    if not blocks:
        return chain(*required, Repeat(item, 0, rest))
    fewer = chain(Repeat(block, 0, blocks - 1), Repeat(item, 0, _BLOCK - 1))
    all_of_them = chain(Repeat(block, blocks, blocks), Repeat(item, 0, rest))
    return chain(*required, choice((fewer, all_of_them)))


@lru_cache(maxsize=512)
def _class(ranges: Ranges) -> str:
    return "[" + "".join(_code(a) if a == b else f"{_code(a)}-{_code(b)}" for a, b in ranges) + "]"


def _code(point: int) -> str:
    """A character in a class: plain where that cannot be misread."""
    char = chr(point)
    if char.isascii() and char.isalnum():
        return char
    if point <= 0xFF:
        return f"\\x{point:02X}"
    return f"\\u{point:04X}" if point <= 0xFFFF else f"\\U{point:08X}"


def _quoted(text: str) -> str:
    """A text between the quotes of GBNF, which of printable ASCII escapes what JSON does."""
    if text.isascii() and text.isprintable():
        return encode_basestring_ascii(text)
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    return {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or (
        char if char.isprintable() else _code(ord(char))
    )
