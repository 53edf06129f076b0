"""How long the texts of a node can be, and the node whose texts are of certain lengths.

Knows: lengths in characters. Refuses to know: rules (a node with rules has any length), JSON.
"""

from slmchat.schemas.grammar import EMPTY, Chain, Chars, Choice, Node, Repeat, Text, chain, choice, is_nullable


def bounds(node: Node) -> tuple[int, int | None]:
    """The fewest and the most characters; None: without a limit."""
    if isinstance(node, Text):
        return len(node.text), len(node.text)
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Chain):
        return _added([bounds(item) for item in node.items])
    if isinstance(node, Choice):
        found = [bounds(option) for option in node.options]
        most = [high for _, high in found]
        return min(low for low, _ in found), None if None in most else max(high for high in most if high is not None)
    if isinstance(node, Repeat):
        low, high = bounds(node.item)
        is_open = high is None or (node.most is None and high > 0)
        return low * node.least, None if is_open or high is None or node.most is None else high * node.most
    return 0, None


def _added(found: list[tuple[int, int | None]]) -> tuple[int, int | None]:
    highs = [high for _, high in found]
    return sum(low for low, _ in found), None if None in highs else sum(high for high in highs if high is not None)


def sized(node: Node, least: int, most: int | None) -> tuple[Node, bool] | None:
    """A node for the texts of `least` to `most` characters, and whether it holds both bounds; None: there are none.

    Exact where one repetition of single characters decides about the length, and where nothing has to be done; else the
    node itself.
    """
    if not least and most is None:
        return node, True
    low, high = bounds(node)
    if (most is not None and low > most) or (high is not None and high < least):
        return None
    if low >= least and (most is None or (high is not None and high <= most)):
        return node, True
    if isinstance(node, Choice):
        parts = [part for option in node.options if (part := sized(option, least, most)) is not None]
        return (choice([part for part, _ in parts]), all(is_held for _, is_held in parts)) if parts else None
    items = list(node.items) if isinstance(node, Chain) else [node]
    open_places = [place for place, item in enumerate(items) if len(set(bounds(item))) > 1]
    if len(open_places) != 1:
        return node, False
    place = open_places[0]
    item = items[place]
    if not isinstance(item, Repeat) or bounds(item.item) != (1, 1):
        return node, False
    others = sum(bounds(other)[0] for number, other in enumerate(items) if number != place)
    fewest = max(item.least, least - others)
    limits = [limit for limit in (item.most, None if most is None else most - others) if limit is not None]
    greatest = min(limits) if limits else None
    if greatest is not None and greatest < fewest:
        return None
    items[place] = Repeat(item.item, fewest, greatest)
    return chain(*items), True


def not_empty(node: Node) -> Node:
    """The texts of the node but for the empty one."""
    if not is_nullable(node):
        return node
    if isinstance(node, Repeat):
        item = not_empty(node.item)
        return Repeat(item, max(1, node.least if item == node.item else 1), node.most)
    if isinstance(node, Choice):
        return choice([not_empty(option) for option in node.options if option != EMPTY])
    if isinstance(node, Chain):
        items = node.items
        return choice([chain(not_empty(item), *items[place + 1 :]) for place, item in enumerate(items)])
    return node
