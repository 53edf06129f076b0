"""The members of a JSON object and the values of a JSON list: which may follow which.

Knows: order, commas, what may be missing. Refuses to know: schemas, what a member is.

What may follow a member is a rule of its own, made from the end in a loop: neither the grammar nor the making of it
becomes deeper with more members.
"""

from collections.abc import Sequence
from functools import lru_cache

from slmchat.schemas.grammar import EMPTY, Chain, Chars, Choice, Node, Repeat, Rule, Text, chain, choice, without
from slmchat.schemas.json_rules import COMMA, PLAIN, JsonRules

# Letters of a name that stand in one rule; longer names go on in another.
_DEEPEST = 20


# What stands before the value (`"name": `), the value, and whether it has to be there.
Member = tuple[str, Node, bool]


def object_of(rules: JsonRules, members: Sequence[Member], more: Node, only_more: Node | None) -> Node:
    """An object: members in order, the optional ones there or not, then `more`: any others, behind a comma.

    `only_more`: the others where no member is there; None: some member has to be.
    """
    tails = _tails(rules, members, more)
    options: list[Node] = []
    for (name, node, is_required), tail in zip(members, tails[1:], strict=True):
        options.append(_member(name, node, tail))
        if is_required:
            break
    else:
        if only_more is not None:
            options.append(only_more)
    # no two of the options begin with the same name: nothing to look for
    return chain(_OPEN, options[0] if len(options) == 1 else Choice(tuple(options)), _CLOSE)


_OPEN, _CLOSE = Text("{"), Text("}")


def _tails(rules: JsonRules, members: Sequence[Member], last: Node) -> list[Node]:
    """For each member, and for the end, what may stand from there on when something stands before it."""
    tails = [last]
    after = last
    for place in range(len(members) - 1, -1, -1):
        name, node, is_required = members[place]
        tail = _member(COMMA.text + name, node, after)
        if not is_required:
            after = rules.add(Choice((tail, after)))
        elif place and (not members[place - 1][2] or place % _STRIDE == 0):
            after = rules.add(tail)
        else:
            after = tail
        tails.append(after)
    return tails[::-1]


def _member(name: str, node: Node, tail: Node) -> Node:
    """A member with what stands behind it. An object has two of these for each, nearly all of them of two rules."""
    if type(node) is Rule and type(tail) is Rule:
        return Chain((Text(name), node, tail))
    return chain(Text(name), node, tail)


# Required members that stand in one rule: the next ones stand in another, so that no chain becomes long.
_STRIDE = 16


def list_of(rules: JsonRules, first: Sequence[Node], item: Node | None, least: int, most: int | None) -> Node:
    """A list: the first values in order, as many of them as there are, then `item`s (None: no more of them)."""
    first = first[:most]
    if item is None:
        most = min(len(first), len(first) if most is None else most)
    if not first:
        return chain(Text("["), EMPTY if item is None else rules.several(item, least, most), Text("]"))
    rest: Node = EMPTY
    if item is not None and (most is None or most > len(first)):
        further = rules.several(item, max(0, least - len(first)), None if most is None else most - len(first))
        rest = _behind_comma(further)
    tail = rest
    for place in range(len(first) - 1, 0, -1):
        node = chain(COMMA, first[place], tail)
        tail = (
            node if place < least and place % _STRIDE else rules.add(node if place < least else choice((node, EMPTY)))
        )
    node = chain(first[0], tail)
    return chain(Text("["), node if least else choice((node, EMPTY)), Text("]"))


def distinct_list_of(rules: JsonRules, values: Sequence[Node], least: int, most: int | None) -> Node:
    """A list of some of these few values, each at most once, in any order: a rule for each set of those that are
    left."""
    most = len(values) if most is None else min(most, len(values))
    made: dict[frozenset[int], Node] = {}
    everything = frozenset(range(len(values)))
    some: list[Node] = []
    for place, value in enumerate(values if most else ()):
        some.append(chain(value, _further(rules, values, everything - {place}, least, most, made)))
    return chain(Text("["), choice(some if least else [*some, EMPTY]), Text("]"))


def _further(
    rules: JsonRules,
    values: Sequence[Node],
    left: frozenset[int],
    least: int,
    most: int,
    made: dict[frozenset[int], Node],
) -> Node:
    """What may stand behind the values that are no longer left. `made`: what was already made."""
    n_before = len(values) - len(left)
    if n_before >= most:
        return EMPTY
    if left not in made:
        options = [
            chain(COMMA, values[place], _further(rules, values, left - {place}, least, most, made))
            for place in sorted(left)
        ]
        made[left] = rules.add(choice(options if n_before < least else [*options, EMPTY]))
    return made[left]


def _behind_comma(several: Node) -> Node:
    """The same values when others stand before them."""
    if isinstance(several, Choice):
        return choice((chain(COMMA, several.options[0]), EMPTY))
    return chain(COMMA, several)


def more_members(rules: JsonRules, kinds: Sequence[Node], least: int, most: int | None, *, is_first: bool) -> Node:
    """Any number of members of these kinds; `is_first`: nothing stands before them."""
    if not kinds or most == 0:
        return EMPTY
    several = rules.several(rules.named(choice(kinds)), least, most)
    return several if is_first else _behind_comma(several)


def names_unlike(rules: JsonRules, names: Sequence[str]) -> Node:
    """What stands between the quotes of a name that is none of `names` (escapes left out)."""
    if not names:
        return rules.characters()
    rules.plain()
    return rules.add(_unlike(rules, [name for name in names if name], 0, is_empty_allowed="" not in names))


def _unlike(rules: JsonRules, names: Sequence[str], depth: int, *, is_empty_allowed: bool) -> Node:
    """`names`: what is left of them behind `depth` letters."""
    if len(names) == 1 and is_empty_allowed:
        return _unlike_one(rules, names[0], depth)
    by_first: dict[str, list[str]] = {}
    for name in names:
        by_first.setdefault(name[0], []).append(name[1:])
    options: list[Node] = []
    for first, rests in by_first.items():
        if not _is_escaped(first):
            rest = _unlike(rules, [each for each in rests if each], depth + 1, is_empty_allowed="" not in rests)
            options.append(chain(Text(first), rest if (depth + 1) % _DEEPEST else rules.add(rest)))
    options.append(_another("".join(sorted(by_first))))
    if is_empty_allowed:
        options.append(EMPTY)
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _unlike_one(rules: JsonRules, name: str, depth: int) -> Node:
    """The same for a single name, letter by letter from its end: that is most of what there is to do."""
    made = _another("")  # behind the whole name something has to follow
    end = next((place for place, char in enumerate(name) if _is_escaped(char)), None)
    if end is not None:
        made = Choice((_another(name[end]), EMPTY))
    for place in range((len(name) if end is None else end) - 1, -1, -1):
        letter, another = _letter(name[place])
        if (depth + place + 1) % _DEEPEST == 0:
            made = rules.add(made)
        same = (letter, *made.items) if type(made) is Chain else (letter, made)
        made = Choice((Chain(same), another, EMPTY))
    return made


def _is_escaped(char: str) -> bool:
    return char in '"\\' or char < " "


@lru_cache(maxsize=256)
def _letter(char: str) -> tuple[Node, Node]:
    """The letter itself, and text that begins with another one."""
    return Text(char), _another(char)


@lru_cache(maxsize=1024)
def _another(chars: str) -> Node:
    """Text that begins with a character that needs no escape and is none of these."""
    return Chain((Chars(without(PLAIN.ranges, [(ord(char), ord(char)) for char in chars])), Repeat(Rule("plain"))))
