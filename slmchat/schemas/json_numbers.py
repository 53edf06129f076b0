"""Numbers of a JSON Schema as grammars: bounds and multiples.

Knows: which of them can be held. Refuses to know: how digits are bounded (number_ranges.py).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from slmchat.schemas import number_ranges
from slmchat.schemas.equality import is_number
from slmchat.schemas.grammar import Node, texts
from slmchat.schemas.json_rules import JsonRules
from slmchat.schemas.keywords import OF_TYPE
from slmchat.schemas.refusals import Impossible, unusable

# Multiples between two bounds are written out as long as there are not more of them.
_MOST_MULTIPLES = 500

_OF_NUMBERS = OF_TYPE["number"]

_Bound = tuple[Decimal, bool]


def number(
    rules: JsonRules, schema: Mapping[str, Any], place: str, only_checked: dict[str, None], *, is_integer: bool
) -> Node:
    """A number; `only_checked` gets multipleOf when the grammar does not hold it. Raises `Impossible`."""
    if _OF_NUMBERS.isdisjoint(schema):
        return rules.integer() if is_integer else rules.number()
    low = _bound(schema, "minimum", "exclusiveMinimum", place, is_low=True)
    high = _bound(schema, "maximum", "exclusiveMaximum", place, is_low=False)
    decimals: int | None = None
    if "multipleOf" in schema:
        step = _step(schema, place)
        is_integer = is_integer or step == step.to_integral_value()
        if (found := _multiples(step, low, high, place, is_integer=is_integer)) is not None:
            return found
        decimals = _decimals_of(step)
        if not (is_integer and step == 1) and (is_integer or decimals is None):
            only_checked["multipleOf"] = None
    if low is None and high is None and decimals is None:
        return rules.integer() if is_integer else rules.number()
    exact = number_ranges.integer(low, high) if is_integer else None
    node = exact if is_integer else number_ranges.number(low, high, most_decimals=decimals)
    if node is None:
        raise Impossible(f"no number lies between the bounds in {place}")
    return node


def _multiples(step: Decimal, low: _Bound | None, high: _Bound | None, place: str, *, is_integer: bool) -> Node | None:
    """All multiples between two bounds as texts; None: they are too many."""
    if low is None or high is None or (high[0] - low[0]) / step > _MOST_MULTIPLES:
        return None
    first = int((low[0] / step).to_integral_value(rounding="ROUND_CEILING"))
    last = int((high[0] / step).to_integral_value(rounding="ROUND_FLOOR"))
    values = [step * factor for factor in range(first, last + 1)]
    values = [value for value in values if not (low[1] and value == low[0]) and not (high[1] and value == high[0])]
    if is_integer:
        values = [value for value in values if value == value.to_integral_value()]
    if not values:
        raise Impossible(f"no multiple of {step} lies between the bounds in {place}")
    if not is_integer:
        return None if _decimals_of(step) is not None else texts(_plain(value) for value in values)
    return texts(str(int(value)) for value in values)


def _plain(value: Decimal) -> str:
    """0 without a sign, 2 without a point, 0.50 without its zero."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _decimals_of(step: Decimal) -> int | None:
    """How many digits stand behind the point in multiples of 0.1, 0.01 and so on; None: it is another number."""
    sign, digits, exponent = step.normalize().as_tuple()
    return -exponent if not sign and digits == (1,) and isinstance(exponent, int) and -20 <= exponent <= 0 else None


def _step(schema: Mapping[str, Any], place: str) -> Decimal:
    value = schema["multipleOf"]
    if not is_number(value) or value <= 0:
        raise unusable(f"multipleOf in {place} is not a number above 0")
    return Decimal(repr(value))


def _bound(schema: Mapping[str, Any], plain: str, exclusive: str, place: str, *, is_low: bool) -> _Bound | None:
    """The tighter one of two bounds, and whether it is itself left out."""
    found: list[_Bound] = []
    for keyword in (plain, exclusive):
        value = schema.get(keyword)
        if value is None:
            continue
        if not is_number(value):
            raise unusable(f"{keyword} in {place} is not a number")
        found.append((Decimal(repr(value)), keyword == exclusive))
    if not found:
        return None
    return max(found) if is_low else min(found, key=lambda bound: (bound[0], not bound[1]))
