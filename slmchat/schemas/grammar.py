"""A context-free grammar as a small tree.

Knows: literals, character ranges, sequences, choices, repetitions, named rules; which rules can never end.
Refuses to know: what the grammar is for, tokens, how it is spelled (gbnf_writer.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import field

from slmchat.lazy_dataclasses import dataclass

# Fewer texts than this are written one beside the other; deeper branches too, whatever their number.
_FEW_TEXTS = 6
_MOST_BRANCHING = 30

Ranges = tuple[tuple[int, int], ...]

# What a grammar of slm's lets a model write where any character may stand: no control characters but tab and line
# feed, no surrogates, nothing that reorders or hides text: the terminal's filter would change that.
PRINTABLE: Ranges = (
    (0x09, 0x0A),
    (0x20, 0x7E),
    (0xA0, 0xAC),
    (0xAE, 0x200A),
    (0x200C, 0x200D),  # joiners, which Persian and emoji need
    (0x2010, 0x2027),
    (0x202F, 0x205F),
    (0x2070, 0xD7FF),
    (0xE000, 0xFEFE),
    (0xFF00, 0xDFFFF),
)


# Nodes are never changed. They are not frozen, because a frozen dataclass takes three times as long to make, and a
# large schema has ten thousand of them.
@dataclass(slots=True, unsafe_hash=True)
class Text:
    """Exactly these characters."""

    text: str


@dataclass(slots=True, unsafe_hash=True)
class Chars:
    """One character out of these ranges of code points, both ends included; sorted, not overlapping."""

    ranges: Ranges


@dataclass(slots=True, unsafe_hash=True)
class Chain:
    """One after the other; empty: nothing."""

    items: tuple["Node", ...]


@dataclass(slots=True, unsafe_hash=True)
class Choice:
    """One of these."""

    options: tuple["Node", ...]


@dataclass(slots=True, unsafe_hash=True)
class Repeat:
    """`least` to `most` times; `most` None: without a limit."""

    item: "Node"
    least: int = 0
    most: int | None = None


@dataclass(slots=True, unsafe_hash=True)
class Rule:
    """What the rule of this name says."""

    name: str


Node = Text | Chars | Chain | Choice | Repeat | Rule

EMPTY = Chain(())


def chain(*items: Node) -> Node:
    """One after the other; chains inside are opened up, texts joined."""
    made: list[Node] = []
    for item in items:
        if type(item) is Chain:
            for part in item.items:
                if type(part) is Text and made and type(made[-1]) is Text:
                    made[-1] = Text(made[-1].text + part.text)
                else:
                    made.append(part)
        elif type(item) is Text and made and type(made[-1]) is Text:
            made[-1] = Text(made[-1].text + item.text)
        else:
            made.append(item)
    return made[0] if len(made) == 1 else Chain(tuple(made))


def choice(options: Iterable[Node]) -> Node:
    """One of these; of texts, rules and nothing each counts once."""
    made: list[Node] = []
    seen: set[tuple[str, str]] = set()
    for option in options:
        if type(option) is Text:
            key = ("text", option.text)
        elif type(option) is Rule:
            key = ("rule", option.name)
        elif type(option) is Chain and not option.items:
            key = ("nothing", "")
        else:
            made.append(option)
            continue
        if key not in seen:
            seen.add(key)
            made.append(option)
    return made[0] if len(made) == 1 else Choice(tuple(made))


def texts(values: Iterable[str]) -> Node:
    """One of these texts. What several of them begin with is written once: llama.cpp follows every alternative that may
    still come, at every token, and ten thousand of them take seconds."""
    return _branches(sorted(set(values)), 0, 0)


def _branches(values: Sequence[str], skip: int, depth: int) -> Node:
    """The texts without their first `skip` characters; sorted, each once."""
    if len(values) < _FEW_TEXTS or depth > _MOST_BRANCHING:
        found = [Text(value[skip:]) for value in values]
        return found[0] if len(found) == 1 else Choice(tuple(found))
    options: list[Node] = []
    begin = 0
    while begin < len(values):
        end = begin + 1
        char = values[begin][skip : skip + 1]
        while end < len(values) and values[end][skip : skip + 1] == char:
            end += 1
        group = values[begin:end]
        common = _n_common(group[0], group[-1])
        head = Text(group[0][skip:common])
        options.append(chain(head, _branches(group, common, depth + 1)) if len(group) > 1 else head)
        begin = end
    return choice(options)


def _n_common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    for place, (char, its) in enumerate(zip(one, other, strict=False)):
        if char != its:
            return place
    return min(len(one), len(other))


def chars(text: str) -> Chars:
    """One of the characters in `text`; `a-z` is a range."""
    ranges: list[tuple[int, int]] = []
    place = 0
    while place < len(text):
        if text[place + 1 : place + 2] == "-" and place + 2 < len(text):
            ranges.append((ord(text[place]), ord(text[place + 2])))
            place += 3
        else:
            ranges.append((ord(text[place]), ord(text[place])))
            place += 1
    return Chars(joined(ranges))


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same code points as sorted ranges that do not touch."""
    made: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(made[-1][1], high))
        else:
            made.append((low, high))
    return tuple(made)


def without(ranges: Ranges, removed: Iterable[tuple[int, int]]) -> Ranges:
    """`ranges` less `removed`."""
    cuts = joined(removed)
    left: list[tuple[int, int]] = []
    place = 0  # of the first cut that does not end before the range
    for low, high in ranges:
        while place < len(cuts) and cuts[place][1] < low:
            place += 1
        for cut_low, cut_high in cuts[place:]:
            if cut_low > high:
                break
            if low < cut_low:
                left.append((low, cut_low - 1))
            low = cut_high + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


@dataclass(slots=True)
class Grammar:
    """Rules by name; `root` is where it begins. `shared`: rules that are the same in every grammar that has them."""

    rules: dict[str, Node] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)

    def prune(self) -> None:
        """Forget the rules that nothing needs."""
        needed = {"root"}
        waiting: list[Node] = [self.rules["root"]]
        while waiting:
            node = waiting.pop()
            if type(node) is Rule:
                if node.name not in needed:
                    needed.add(node.name)
                    waiting.append(self.rules[node.name])
            elif type(node) is Chain:
                waiting += node.items
            elif type(node) is Choice:
                waiting += node.options
            elif type(node) is Repeat:
                waiting.append(node.item)
        self.rules = {name: node for name, node in self.rules.items() if name in needed}

    def endless(self) -> list[str]:
        """The rules that no finite text satisfies, in order of their definition."""
        # some rules stand behind those that they name, some before: both ways in turn
        left = list(self.rules)
        ending: set[str] = set()
        n_idle = 0
        while left and n_idle < 2:
            still = [name for name in reversed(left) if not self._has_end(name, ending)]
            n_idle = n_idle + 1 if len(still) == len(left) else 0
            left = still
        return [name for name in self.rules if name not in ending]

    def _has_end(self, name: str, ending: set[str]) -> bool:
        if not _ends(self.rules[name], ending):
            return False
        ending.add(name)
        return True

    def leave_out(self, names: frozenset[str]) -> None:
        """Take these rules, and every alternative that needs one of them, out of the grammar; `root` is not among
        them."""
        if names:
            left = {name: _less(node, names) for name, node in self.rules.items() if name not in names}
            self.rules = {name: node for name, node in left.items() if node is not None}
            self.prune()

    def left_recursive(self, starts: Iterable[str]) -> list[str]:
        """Rules that begin with themselves, before a single character: llama.cpp's grammars cannot do that.

        `starts`: rules of which one is in every circle.
        """
        done: set[str] = set()
        for start in starts:
            path = {start: iter(self._first_rules(start))}
            while path:
                last = next(reversed(path))
                following = next(path[last], None)
                if following is None:
                    done.add(last)
                    del path[last]
                elif following in path:
                    names = list(path)
                    return names[names.index(following) :]
                elif following not in done:
                    path[following] = iter(self._first_rules(following))
        return []

    def _first_rules(self, name: str) -> list[str]:
        return _first_rules(self.rules[name]) if name in self.rules else []


def _ends(node: Node, ending: set[str]) -> bool:
    """Whether some finite text is of the node, when the rules of `ending` have one."""
    if type(node) is Text:
        return True
    if type(node) is Rule:
        return node.name in ending
    if type(node) is Chain:
        return all(type(item) is Text or _ends(item, ending) for item in node.items)
    if type(node) is Choice:
        return any(_ends(option, ending) for option in reversed(node.options))  # often the last one is nothing
    if type(node) is Repeat:
        return node.least == 0 or _ends(node.item, ending)
    return isinstance(node, Chars) and bool(node.ranges)


def _less(node: Node, names: frozenset[str]) -> Node | None:
    """The node without what needs one of these rules; None: nothing is left."""
    if type(node) is Rule:
        return None if node.name in names else node
    if type(node) is Chain:
        items: list[Node] = []
        for each in node.items:
            left = _less(each, names)
            if left is None:
                return None
            items.append(left)
        return Chain(tuple(items))
    if type(node) is Choice:
        options = [option for each in node.options if (option := _less(each, names)) is not None]
        return choice(options) if options else None
    if type(node) is Repeat:
        item = _less(node.item, names)
        return Repeat(item, node.least, node.most) if item is not None else None if node.least else EMPTY
    return node


def _first_rules(node: Node) -> list[str]:
    """The rules with which a text of the node may begin (items that may be empty are looked through)."""
    if isinstance(node, Rule):
        return [node.name]
    if isinstance(node, Choice):
        return [name for option in node.options for name in _first_rules(option)]
    if isinstance(node, Repeat):
        return _first_rules(node.item)
    found: list[str] = []
    for item in node.items if isinstance(node, Chain) else ():
        found += _first_rules(item)
        if not is_nullable(item):
            break
    return found


def is_nullable(node: Node) -> bool:
    """Whether the node may stand for no text; rules are taken for something."""
    if isinstance(node, Chain):
        return all(map(is_nullable, node.items))
    if isinstance(node, Choice):
        return any(map(is_nullable, node.options))
    if isinstance(node, Repeat):
        return node.least == 0 or is_nullable(node.item)
    return isinstance(node, Text) and not node.text
