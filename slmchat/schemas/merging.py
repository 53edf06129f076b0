"""Several schemas that all have to hold, as one schema.

Knows: how the keywords of JSON Schema that slm supports combine. Refuses to know: grammars.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from slmchat.errors import ExitCode, SlmError

_HIGHEST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_LOWEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


def merged(parts: Sequence[Any], place: str) -> dict[str, Any]:
    """One schema for all parts. Raises `SlmError` (USAGE) where two of them cannot be put together."""
    found: dict[str, Any] = {}
    for part in parts:
        if part is True:
            continue
        if not isinstance(part, dict):
            raise _wrong(f"a part of allOf in {place} is not a schema")
        for keyword, value in part.items():
            found[keyword] = _both(keyword, found[keyword], value, place) if keyword in found else value
    return found


def _both(keyword: str, one: Any, other: Any, place: str) -> Any:
    if one == other:
        return one
    try:
        if keyword in _HIGHEST:
            return max(one, other)
        if keyword in _LOWEST:
            return min(one, other)
        if keyword == "required":
            return list(dict.fromkeys([*one, *other]))
        if keyword == "properties":
            return _properties(one, other, place)
        if keyword in ("type", "enum"):
            return _common(keyword, _listed(one), _listed(other), place)
    except TypeError as error:
        raise _wrong(f"{keyword} in {place} stands there twice and cannot be compared") from error
    if keyword in ("title", "description", "default", "examples", "example", "$comment", "$id", "$schema"):
        return one
    raise _wrong(f"{keyword} in {place} stands there twice with different values")


def _properties(one: Mapping[str, Any], other: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(one, dict) or not isinstance(other, dict):
        raise _wrong(f"properties in {place} is not an object")
    both = {name: merged([one[name], other[name]], f"{place}/properties/{name}") for name in one if name in other}
    return {**one, **other, **both}


def _common(keyword: str, one: Sequence[Any], other: Sequence[Any], place: str) -> list[Any]:
    kept = [value for value in one if value in other]
    if keyword == "type" and "integer" in (*one, *other) and "number" in (*one, *other) and "integer" not in kept:
        kept.append("integer")
    if not kept:
        raise _wrong(f"{keyword} in {place} stands there twice without a common value")
    return kept


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _wrong(what: str) -> SlmError:
    return SlmError(
        f"this schema cannot be used: {what}.", hint="what is supported: docs/structured.md", exit_code=ExitCode.USAGE
    )
