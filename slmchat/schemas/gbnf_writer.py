"""A grammar in GBNF (llama.cpp, grammars/README.md).

Knows: its spelling, and how many repetitions llama.cpp takes. Refuses to know: what the grammar is for, tokens.
"""

from functools import lru_cache

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
        options = node.options if isinstance(node, Choice) else (node,)
        return " | ".join(self._sequence(option) for option in options)

    def _sequence(self, node: Node) -> str:
        items = node.items if isinstance(node, Chain) else (node,)
        return " ".join(self._item(item) for item in items) or '""'

    def _item(self, node: Node) -> str:
        if isinstance(node, Text):
            return f'"{_spelled(node.text)}"'
        if isinstance(node, Chars):
            return _class(node.ranges)
        if isinstance(node, Rule):
            return node.name
        if isinstance(node, Repeat):
            return self._repeat(node)
        return f"({self._alternatives(node)})"

    def _repeat(self, node: Repeat) -> str:
        least, most = node.least, node.most
        if most is not None and most > MOST_REPEATS:
            most = None
        if max(least, most or 0) > _MOST_PLAIN:
            return self._item(_in_blocks(node.item, least, most))
        if most == 0:
            return '""'
        item = self._atom(node.item)
        if most is None:
            return f"{item}*" if least == 0 else f"{item}+" if least == 1 else f"{item}{{{least},}}"
        return f"{item}{{{least}}}" if least == most else f"{item}{{{least},{most}}}"

    def _atom(self, node: Node) -> str:
        """A spelling of the node to which a repetition applies as a whole."""
        if isinstance(node, Rule | Chars):
            return self._item(node)
        if node not in self._helpers:
            name = self._helpers[node] = f"{self._prefix}{len(self._helpers)}"
            self.rule(name, node)
        return self._helpers[node]


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


def _spelled(text: str) -> str:
    """A text between the quotes of GBNF."""
    if text.isascii() and text.isprintable():
        return text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or (
        char if char.isprintable() else _code(ord(char))
    )
