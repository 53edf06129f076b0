"""Numbers between two bounds as grammars: digits, position by position.

Knows: decimal notation. Refuses to know: JSON Schema.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from slmchat.schemas.grammar import EMPTY, Chars, Node, Repeat, Text, chain, choice

# Digits of a number without bounds: what a 64-bit float holds exactly. Small models write digits without an end.
_MOST_DIGITS = 15
_MOST_DECIMALS = 6

_DIGIT = Chars(((0x30, 0x39),))
_NOT_ZERO = Chars(((0x31, 0x39),))

INTEGER: Node = chain(
    choice((Text("-"), EMPTY)), choice((Text("0"), chain(_NOT_ZERO, Repeat(_DIGIT, 0, _MOST_DIGITS - 1))))
)
_FRACTION: Node = choice((chain(Text("."), Repeat(_DIGIT, 1, _MOST_DECIMALS)), EMPTY))
NUMBER: Node = chain(INTEGER, _FRACTION)

_Place = tuple[int, int]  # the lowest and the highest digit at a place


def integer(low: Decimal | None, high: Decimal | None, *, opens_low: bool, opens_high: bool) -> Node | None:
    """Whole numbers from `low` to `high` (None: no bound), the bound itself left out where it is open.

    None when there is no such number.
    """
    lowest, highest = _scaled(low, high, opens_low, opens_high, decimals=0)
    return _signed(lowest, highest, decimals=0, rest=EMPTY)


def number(low: Decimal | None, high: Decimal | None, *, opens_low: bool, opens_high: bool) -> Node | None:
    """Decimal numbers between two bounds, written with as many decimals as the bounds have, or more.

    The bounds themselves are included unless they are open. None when nothing lies between them.
    """
    decimals = max(_decimals(low), _decimals(high))
    lowest, highest = _scaled(low, high, opens_low, opens_high, decimals=decimals)
    exact = _signed(lowest, highest, decimals=decimals, rest=EMPTY)
    # n.ddd followed by more digits lies between n.ddd and the next step away from zero
    inner_low, inner_high = _scaled(low, high, False, False, decimals=decimals)
    more = Repeat(_DIGIT, 0, _MOST_DECIMALS - 1)
    rest = chain(Text("."), _DIGIT, more) if not decimals else chain(_DIGIT, more)
    longer = [
        # not a step beyond the bound; at an open lower bound the digits must not all be zero
        _signed(max(0, inner_low + (1 if opens_low else 0)), inner_high - 1, decimals=decimals, rest=rest),
        _negated(max(0, -inner_high + (1 if opens_high else 0)), -inner_low - 1, decimals, rest),
    ]
    if opens_low and inner_low >= 0 and inner_low < inner_high:
        longer.append(_just_above(inner_low, decimals, is_negative=False))
    if opens_high and inner_high <= 0 and inner_low < inner_high:
        longer.append(_just_above(-inner_high, decimals, is_negative=True))
    found = [node for node in (exact, *longer) if node is not None]
    return choice(found) if found else None


def _decimals(bound: Decimal | None) -> int:
    exponent = bound.normalize().as_tuple().exponent if bound is not None else 0
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _scaled(
    low: Decimal | None, high: Decimal | None, opens_low: bool, opens_high: bool, *, decimals: int
) -> tuple[int, int]:
    """The bounds as whole numbers of steps of 10^-decimals, inside what is allowed."""
    step = Decimal(10) ** decimals
    bounds = [abs(bound) * 10 for bound in (low, high) if bound is not None]
    widest = max([Decimal(10) ** _MOST_DIGITS, *bounds])
    first = int((low * step).to_integral_value(ROUND_CEILING)) if low is not None else -int(widest * step)
    last = int((high * step).to_integral_value(ROUND_FLOOR)) if high is not None else int(widest * step)
    if low is not None and opens_low and first == low * step:
        first += 1
    if high is not None and opens_high and last == high * step:
        last -= 1
    return first, last


def _signed(low: int, high: int, *, decimals: int, rest: Node) -> Node | None:
    """Whole numbers of steps from `low` to `high`, of either sign; zero without a sign."""
    found: list[Node] = []
    if high >= 0 and high >= low:
        found += _between(max(0, low), high, decimals, rest)
    negative = _negated(max(1, -high), -low, decimals, rest) if low < 0 else None
    return choice([*found, *([negative] if negative else [])]) if found or negative else None


def _negated(low: int, high: int, decimals: int, rest: Node) -> Node | None:
    found = _between(low, high, decimals, rest) if 0 <= low <= high else []
    return chain(Text("-"), choice(found)) if found else None


def _just_above(steps: int, decimals: int, *, is_negative: bool) -> Node:
    """`steps` exactly, then digits that are not all zero."""
    written = str(steps).rjust(decimals + 1, "0")
    point = len(written) - decimals
    text = ("-" if is_negative else "") + written[:point] + "." + written[point:]
    return chain(Text(text), Repeat(Text("0"), 0, _MOST_DECIMALS - 1), _NOT_ZERO)


def _between(low: int, high: int, decimals: int, rest: Node) -> list[Node]:
    """The numbers of steps from `low` to `high` (0 or more), with the decimal point where it belongs."""
    found: list[Node] = []
    for length in range(max(len(str(low)), decimals + 1), max(len(str(high)), decimals + 1) + 1):
        first = max(low, 10 ** (length - 1) if length > decimals + 1 else 0)
        last = min(high, 10**length - 1)
        if first <= last:
            spans = _spans(_digits(first, length), _digits(last, length))
            found += [
                chain(_written(span, decimals), rest) if rest != EMPTY else _written(span, decimals) for span in spans
            ]
    return found


def _digits(value: int, length: int) -> list[int]:
    return [int(char) for char in str(value).rjust(length, "0")]


def _spans(low: Sequence[int], high: Sequence[int]) -> Iterator[list[_Place]]:
    """Digit ranges, place by place, that together cover everything from `low` to `high` (of one length)."""
    if not low:
        yield []
        return
    zeros, nines = [0] * (len(low) - 1), [9] * (len(low) - 1)
    if low[0] == high[0]:
        yield from ([(low[0], low[0]), *span] for span in _spans(low[1:], high[1:]))
        return
    first, last = low[0], high[0]
    if any(low[1:]):
        yield from ([(first, first), *span] for span in _spans(low[1:], nines))
        first += 1
    is_full = list(high[1:]) == nines
    if first <= (last if is_full else last - 1):
        yield [(first, last if is_full else last - 1), *((0, 9) for _ in zeros)]
    if not is_full:
        yield from ([(last, last), *span] for span in _spans(zeros, high[1:]))


def _written(span: Iterable[_Place], decimals: int) -> Node:
    places = list(span)
    point = len(places) - decimals
    items: list[Node] = []
    for index, (low, high) in enumerate(places):
        if index == point:
            items.append(Text("."))
        items.append(Text(str(low)) if low == high else Chars(((0x30 + low, 0x30 + high),)))
    return chain(*_merged(items))


def _merged(items: Sequence[Node]) -> Iterator[Node]:
    """Equal neighbours as a repetition, texts joined."""
    place = 0
    while place < len(items):
        end = place
        item = items[place]
        while end < len(items) and items[end] == item:
            end += 1
        if isinstance(item, Chars) and end - place > 2:
            yield Repeat(item, end - place, end - place)
        else:
            yield from items[place:end]
        place = end
