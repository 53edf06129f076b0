"""The anchors of a regular expression, tied to the ends of the text.

Knows: where ^ and $ change nothing, and where they say that a match begins or ends the text. Refuses to know: how a
pattern is written.
"""

from slmchat.lazy_dataclasses import dataclass
from slmchat.schemas.grammar import EMPTY, PRINTABLE, Chain, Chars, Choice, Node, Repeat, Rule, chain, choice

# More alternatives than this, each with its own ends, are not written out.
_MOST_SPLIT = 200


@dataclass(slots=True, unsafe_hash=True)
class Anchor(Rule):
    """^ or $ (its name), at a position of the pattern (from 0): a rule that no grammar has. `tied` takes it away."""

    place: int


class Misplaced(Exception):
    """An anchor stands where it cannot be tied to an end."""

    def __init__(self, anchor: Anchor) -> None:
        super().__init__(anchor.name)
        self.anchor = anchor


def tied(node: Node, *, is_search: bool) -> Node:
    """The whole texts that the pattern matches, without anchors. `is_search`: with anything before and behind a match
    that no anchor ties down. Raises `Misplaced`.
    """
    return _tied(node, is_search, is_search, [_MOST_SPLIT])


def _tied(node: Node, opens_left: bool, opens_right: bool, left: list[int]) -> Node:
    if isinstance(node, Choice):
        return choice([_tied(option, opens_left, opens_right, left) for option in node.options])
    items: list[Node] = list(node.items) if isinstance(node, Chain) else [node]
    while items and _is(items[0], "^"):
        opens_left = False
        del items[0]
    while items and _is(items[-1], "$"):
        opens_right = False
        del items[-1]
    for place in (0, -1):
        if items and (anchor := _anchor_in(items[place])) is not None:
            left[0] -= 1
            if left[0] < 0:
                raise Misplaced(anchor)
            parts = [_with(items, place, option) for option in _options(items[place], anchor)]
            return choice([_tied(part, opens_left, opens_right, left) for part in parts])
    for item in items:
        if (anchor := _anchor_in(item)) is not None:
            raise Misplaced(anchor)
    anything = Repeat(Chars(PRINTABLE))
    if not items:
        return anything if opens_left or opens_right else EMPTY
    return chain(*([anything] if opens_left else []), *items, *([anything] if opens_right else []))


def _options(item: Node, anchor: Anchor) -> tuple[Node, ...]:
    if isinstance(item, Choice):
        return item.options
    if isinstance(item, Chain):
        return (item,)
    if isinstance(item, Repeat) and item.most == 1:
        return (item.item,) if item.least else (item.item, EMPTY)
    raise Misplaced(anchor)


def _with(items: list[Node], place: int, option: Node) -> Node:
    return chain(option, *items[1:]) if place == 0 else chain(*items[:-1], option)


def _is(node: Node, char: str) -> bool:
    return isinstance(node, Anchor) and node.name == char


def _anchor_in(node: Node) -> Anchor | None:
    """The first anchor inside of the node."""
    if isinstance(node, Anchor):
        return node
    parts: tuple[Node, ...] = ()
    if isinstance(node, Chain):
        parts = node.items
    elif isinstance(node, Choice):
        parts = node.options
    elif isinstance(node, Repeat):
        parts = (node.item,)
    return next((found for part in parts if (found := _anchor_in(part)) is not None), None)
