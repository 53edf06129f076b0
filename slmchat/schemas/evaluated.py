"""What of an object or a list a schema has looked at: the rest is for unevaluatedProperties and unevaluatedItems.

Knows: which keywords look at properties and items, also through others that stand beside them (2020-12 core, 11).
Refuses to know: what they demand: it asks the check whether a branch holds.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from slmchat.schemas import python_regex
from slmchat.schemas.problems import Checker


def names(check: Checker, schema: Mapping[str, Any], value: Mapping[str, Any], *, is_own: bool = True) -> set[str]:
    """The properties that this schema looks at, but for its own unevaluatedProperties (`is_own`)."""
    found = {name for name in schema.get("properties", ()) if name in value}
    for pattern in schema.get("patternProperties", ()):
        found |= {name for name in value if python_regex.is_found(pattern, name)}
    if "additionalProperties" in schema or (not is_own and "unevaluatedProperties" in schema):
        found |= set(value)
    for part in _beside(check, schema, value):
        found |= names(check, part, value, is_own=False)
    return found


def positions(check: Checker, schema: Mapping[str, Any], value: list[Any], *, is_own: bool = True) -> set[int]:
    """The items that this schema looks at, but for its own unevaluatedItems (`is_own`)."""
    every = set(range(len(value)))
    items = schema.get("items")
    if items is not None and (not isinstance(items, list) or "additionalItems" in schema):
        return every
    if not is_own and "unevaluatedItems" in schema:
        return every
    found = set(range(min(len(value), len(schema.get("prefixItems", items or ())))))
    if "contains" in schema:
        found |= {number for number, item in enumerate(value) if check.holds(schema["contains"], item)}
    for part in _beside(check, schema, value):
        found |= positions(check, part, value, is_own=False)
    return found


def _beside(check: Checker, schema: Mapping[str, Any], value: Any) -> Iterator[Mapping[str, Any]]:
    """The schemas that speak about the same value and hold."""
    candidates: list[Any] = []
    for keyword in ("allOf", "anyOf", "oneOf"):
        candidates += schema.get(keyword, ())
    if "$ref" in schema:
        candidates.append(check.target(schema["$ref"]))
    if "if" in schema:
        candidates += [schema["if"], schema.get("then" if check.holds(schema["if"], value) else "else", True)]
    for keyword in ("dependentSchemas", "dependencies"):
        candidates += [part for name, part in schema.get(keyword, {}).items() if name in value]
    for part in candidates:
        if isinstance(part, dict) and check.holds(part, value):
            yield part
