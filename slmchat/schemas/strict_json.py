"""JSON as RFC 8259 has it: what Python's own reader lets through besides is refused.

Knows: NaN, Infinity, numbers larger than a float, names that stand twice. Refuses to know: schemas.
"""

import json
import math
from typing import Any


class NotStrict(Exception):
    """A text that Python reads as JSON, and that would not mean the same to others. `reason`: a phrase."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def loads(text: str) -> Any:
    """The value. Raises `NotStrict`, and as `json.loads` does ValueError and RecursionError."""
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_distinct)


def _no_constant(name: str) -> Any:
    raise NotStrict(f"JSON has no number {name}")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise NotStrict(f"the number {digits} is too large")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise NotStrict(f"the name {json.dumps(twice, ensure_ascii=False)} stands twice in one object")
    return made
