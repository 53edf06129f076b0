"""When two values of JSON are the same: 1 and 1.0 are, 1 and true are not.

Knows: JSON's data model. Refuses to know: schemas.
"""

import json
import math
from typing import Any


def is_number(value: Any) -> bool:
    """A number of JSON; infinity, as which Python reads 1e400, is not one."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def is_integer(value: Any) -> bool:
    """A number without a fraction, however it is written."""
    return is_number(value) and (isinstance(value, int) or value.is_integer())


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(item, other[name]) for name, item in one.items())
    return bool(one == other)


class Distinct:
    """Values of which each is kept once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, value: Any) -> bool:
        """Whether the value is a new one."""
        key = json.dumps(_plain(value), sort_keys=True)
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


def _plain(value: Any) -> Any:
    """The value with one spelling for each number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value
