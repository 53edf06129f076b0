"""Numbers between two bounds as grammars: digits, position by position.

Knows: decimal notation. Refuses to know: JSON Schema.

A number may be written in every way that JSON has and a program writes: with decimals that change nothing (1.50) and,
where no bound can be passed by it, with an exponent (5e-05).
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from slmchat.schemas.grammar import EMPTY, Chars, Node, Repeat, Text, chain, choice

# Digits of a number without bounds, before and behind the point: 64-bit integers have 19, the shortest spelling of a
# float at most 17. Small models write digits without an end.
_MOST_DIGITS = 20
_MOST_DECIMALS = 20

# Zeros behind a bound that is itself left out: with more, the float of such a number would be the bound.
_MOST_ZEROS = 9

_DIGIT = Chars(((0x30, 0x39),))
_NOT_ZERO = Chars(((0x31, 0x39),))

_MINUS = choice((Text("-"), EMPTY))
_WHOLE: Node = choice((Text("0"), chain(_NOT_ZERO, Repeat(_DIGIT, 0, _MOST_DIGITS - 1))))
_FRACTION: Node = choice((chain(Text("."), Repeat(_DIGIT, 1, _MOST_DECIMALS)), EMPTY))
_E = Chars(((0x45, 0x45), (0x65, 0x65)))
# Two digits, or three up to 299: a float ends at 1.8e308
_POWER = choice((Repeat(_DIGIT, 1, 2), chain(Chars(((0x31, 0x32),)), _DIGIT, _DIGIT)))
_LARGER = chain(_E, choice((Text("+"), EMPTY)), _POWER)
_SMALLER = chain(_E, Text("-"), _POWER)

INTEGER: Node = chain(_MINUS, _WHOLE)
NUMBER: Node = chain(INTEGER, _FRACTION, choice((_LARGER, _SMALLER, EMPTY)))

_Place = tuple[int, int]  # the lowest and the highest digit at a place
_Bound = tuple[Decimal, bool]  # and whether it is left out itself


def integer(low: _Bound | None, high: _Bound | None) -> Node | None:
    """Whole numbers from `low` to `high` (None: no bound). None when there is no such number."""
    lowest = None if low is None else _whole_from(low)
    highest = None if high is None else -_whole_from((-high[0], high[1]))
    found: list[Node] = []
    if highest is None or highest >= 0:
        found += _between(max(0, lowest or 0) if lowest is not None else 0, highest)
    if lowest is None or lowest < 0:
        least = 1 if highest is None else max(1, -highest)
        found += [chain(Text("-"), node) for node in _between(least, None if lowest is None else -lowest)]
    return choice(found) if found else None


def _whole_from(bound: _Bound) -> int:
    """The smallest whole number that is not below the bound."""
    value, is_open = bound
    whole = int(value.to_integral_value(rounding="ROUND_CEILING"))
    return whole + 1 if is_open and whole == value else whole


def number(low: _Bound | None, high: _Bound | None, *, most_decimals: int | None = None) -> Node | None:
    """Decimal numbers from `low` to `high` (None: no bound). None when there is no such number.

    `most_decimals`: not more digits behind the point than these, and no exponent.
    """
    decimals = _MOST_DECIMALS if most_decimals is None else most_decimals
    found: list[Node] = []
    for minus, lowest, highest in (("", low, high), ("-", _negated(high), _negated(low))):
        if highest is not None and (highest[0] < 0 or (highest[0] == 0 and (highest[1] or minus))):
            continue  # zero has no sign
        if lowest is not None and (lowest[0] < 0 or (lowest[0] == 0 and minus)):
            lowest = None
        parts = _decimals(lowest or (Decimal(0), bool(minus)), highest, decimals)
        if not parts:
            continue
        powers: list[Node] = [EMPTY]
        if most_decimals is None:
            # times a negative power of ten: nearer to zero; times a positive one: further away
            powers += [_SMALLER] if lowest is None or lowest[0] == 0 else []
            powers += [_LARGER] if highest is None else []
        found.append(
            chain(Text(minus), choice(parts), choice(powers)) if minus else chain(choice(parts), choice(powers))
        )
    return choice(found) if found else None


def _negated(bound: _Bound | None) -> _Bound | None:
    return None if bound is None else (-bound[0], bound[1])


def _decimals(low: _Bound, high: _Bound | None, decimals: int) -> list[Node]:
    """Numbers of 0 or more between two bounds, without an exponent."""
    first, above = _split(low[0])
    any_fraction = _fraction_of(Repeat(_DIGIT, 1, decimals)) if decimals else EMPTY
    if high is None:
        at_low = _fraction_from(above, is_open=low[1], decimals=decimals)
        return [
            *([chain(Text(str(first)), at_low)] if at_low is not None else []),
            *(chain(node, any_fraction) for node in _between(first + 1, None)),
        ]
    last, below = _split(high[0])
    if first > last or (first == last and (above > below or (above == below and (low[1] or high[1])))):
        return []
    if first == last:
        within = _fraction_within((above, low[1]), (below, high[1]), decimals)
        return [] if within is None else [chain(Text(str(first)), within)]
    at_low = _fraction_from(above, is_open=low[1], decimals=decimals)
    at_high = _fraction_to(below, is_open=high[1], decimals=decimals)
    return [
        *([chain(Text(str(first)), at_low)] if at_low is not None else []),
        *(chain(node, any_fraction) for node in _between(first + 1, last - 1)),
        *([chain(Text(str(last)), at_high)] if at_high is not None else []),
    ]


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits behind the point without trailing zeros."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _fraction_of(digits: Node) -> Node:
    return choice((chain(Text("."), digits), EMPTY))


def _more(decimals: int) -> Node:
    return Repeat(_DIGIT, 0, decimals) if decimals > 0 else EMPTY


def _some_not_zero(decimals: int) -> Node | None:
    """Digits that are not all zero."""
    if decimals <= 0:
        return None
    zeros = range(min(decimals, _MOST_ZEROS + 1))
    return choice([chain(Text("0" * count), _NOT_ZERO, _more(decimals - 1 - count)) for count in zeros])


def _fraction_from(digits: str, *, is_open: bool, decimals: int) -> Node | None:
    """ ".ddd" of at least 0.`digits`; nothing is zero."""
    behind = _from(digits, is_open, decimals)
    if not digits and not is_open:
        return _fraction_of(Repeat(_DIGIT, 1, decimals)) if decimals else EMPTY
    return None if behind is None else chain(Text("."), behind)


def _from(digits: str, is_open: bool, decimals: int) -> Node | None:
    if not digits:
        return _some_not_zero(decimals) if is_open else _more(decimals)
    if decimals <= 0:
        return None
    options: list[Node] = []
    if digits[0] < "9":
        options.append(chain(Chars(((ord(digits[0]) + 1, 0x39),)), _more(decimals - 1)))
    same = _from(digits[1:], is_open, decimals - 1)
    if same is not None:
        options.append(chain(Text(digits[0]), same))
    return choice(options) if options else None


def _fraction_to(digits: str, *, is_open: bool, decimals: int) -> Node | None:
    """ ".ddd" of at most 0.`digits`; nothing is zero."""
    if not digits:
        if is_open:
            return None
        return _fraction_of(Repeat(Text("0"), 1, decimals)) if decimals else EMPTY
    behind = _to(digits, is_open, decimals, is_first=True)
    return EMPTY if behind is None else _fraction_of(behind)


def _to(digits: str, is_open: bool, decimals: int, *, is_first: bool) -> Node | None:
    """Digits of at most `digits`; fewer of them are less. None: nothing but the end, which `is_first` may not be."""
    if decimals <= 0:
        return None
    if not digits:
        return None if is_open else Repeat(Text("0"), 0, decimals)
    options: list[Node] = []
    if digits[0] > "0":
        options.append(chain(Chars(((0x30, ord(digits[0]) - 1),)), _more(decimals - 1)))
    same = _to(digits[1:], is_open, decimals - 1, is_first=False)
    if digits[1:]:  # ending here is less than what follows
        options.append(chain(Text(digits[0]), choice((same, EMPTY)) if same is not None else EMPTY))
    elif same is not None:
        options.append(chain(Text(digits[0]), same))
    elif not is_open:
        options.append(Text(digits[0]))
    return choice(options) if options else None


def _fraction_within(low: tuple[str, bool], high: tuple[str, bool], decimals: int) -> Node | None:
    """ ".ddd" between two fractions; nothing is zero."""
    above, below = low[0], high[0]
    if not above and not low[1]:
        return _fraction_to(below, is_open=high[1], decimals=decimals)
    behind = _within(above, low[1], below, high[1], decimals)
    return None if behind is None else chain(Text("."), behind)


def _within(above: str, opens_low: bool, below: str, opens_high: bool, decimals: int) -> Node | None:
    """Digits from 0.`above` to 0.`below`, at least one."""
    if decimals <= 0 or not below:
        return None
    if not above and not opens_low:
        some = _to(below, opens_high, decimals, is_first=True)
        return EMPTY if some is None else choice((some, EMPTY))
    first, last = above[:1] or "0", below[0]
    if first == last:
        rest = _within(above[1:], opens_low, below[1:], opens_high, decimals - 1)
        if not above[1:] and not below[1:] and not opens_low and not opens_high:
            rest = Repeat(Text("0"), 0, decimals - 1)
        return None if rest is None else chain(Text(first), rest)
    options: list[Node] = []
    if int(last) - int(first) > 1:
        options.append(chain(Chars(((ord(first) + 1, ord(last) - 1),)), _more(decimals - 1)))
    at_low = _from(above[1:], opens_low, decimals - 1)
    if at_low is not None:
        options.append(chain(Text(first), at_low))
    at_high = _to(below[1:], opens_high, decimals - 1, is_first=False)
    if below[1:]:
        options.append(chain(Text(last), EMPTY if at_high is None else choice((at_high, EMPTY))))
    elif not opens_high:
        options.append(chain(Text(last), EMPTY if at_high is None else at_high))
    return choice(options) if options else None


def _between(low: int, high: int | None) -> list[Node]:
    """The whole numbers from `low` (0 or more) to `high`; None: to as many digits as there may be."""
    if high is None:
        length = len(str(low))
        found = _between(low, 10**length - 1) if low else [_WHOLE]
        if not low or length >= _MOST_DIGITS:
            return found
        return [*found, chain(_NOT_ZERO, Repeat(_DIGIT, length, _MOST_DIGITS - 1))]
    found = []
    for length in range(len(str(low)), len(str(max(high, 0))) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        if first <= last:
            found += [_written(span) for span in _spans(_digits(first, length), _digits(last, length))]
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


def _written(span: Iterable[_Place]) -> Node:
    items = [Text(str(low)) if low == high else Chars(((0x30 + low, 0x30 + high),)) for low, high in span]
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
