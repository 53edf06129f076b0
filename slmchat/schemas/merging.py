"""Several schemas that all have to hold, as one schema.

Knows: how the keywords of JSON Schema combine. Refuses to know: grammars.

What cannot be put together stays apart: in `allOf`, for the next turn, or with the first one alone in force. The value
is checked against the whole schema at the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from slmchat.schemas import python_regex
from slmchat.schemas.equality import equal
from slmchat.schemas.keywords import ASSERTIONS
from slmchat.schemas.refusals import Impossible

_OLD = frozenset(("exclusiveMinimum", "exclusiveMaximum", "items", "required"))


def modern(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema in the words of 2020-12: what drafts 4 to 7 say with the same keywords in another way."""
    if _OLD.isdisjoint(schema):
        return schema
    made: dict[str, Any] | None = None
    for keyword, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(keyword), bool):
            made = dict(schema) if made is None else made
            is_open = made.pop(keyword)
            if is_open and bound in made:
                made[keyword] = made.pop(bound)
    if isinstance(schema.get("items"), list):
        made = dict(schema) if made is None else made
        made["prefixItems"] = made.pop("items")
        made["items"] = made.pop("additionalItems", True)
    if isinstance(schema.get("required"), bool):  # draft 3
        made = dict(schema) if made is None else made
        del made["required"]
    return schema if made is None else made


def merged(parts: Sequence[Any], place: str, left_out: dict[str, None]) -> dict[str, Any]:
    """One schema for all parts, notes left out. Raises `Impossible` where two of them contradict each other.

    `left_out` gets the keywords of which only the first one is in force.
    """
    found: dict[str, Any] = {}
    for part in parts:
        if part is True:
            continue
        if part is False:
            raise Impossible(f"{place} is false: no value is right")
        if isinstance(part, dict):
            modernized = modern({key: value for key, value in part.items() if key in ASSERTIONS})
            found = _joined(found, modernized, place, left_out) if found else dict(modernized)
    return found


def _joined(one: dict[str, Any], other: Mapping[str, Any], place: str, left_out: dict[str, None]) -> dict[str, Any]:
    made = dict(one)
    apart: list[Any] = []
    for keyword, value in other.items():
        if keyword in _CONTAINERS:
            continue
        if keyword not in made or equal(made[keyword], value):
            made[keyword] = value
        elif keyword in _BOTH:
            made[keyword] = _BOTH[keyword](made[keyword], value, place)
        elif keyword == "allOf":
            made[keyword] = _each_once([*made[keyword], *value])
        elif keyword in ("anyOf", "oneOf"):
            apart.append({keyword: value})
        else:  # patterns, formats and the like
            left_out["if" if keyword in ("then", "else") else keyword] = None
    if not _CONTAINERS.isdisjoint(other):
        made |= _objects(one, other)
        made |= _arrays(one, other)
    if apart:
        made["allOf"] = _each_once([*made.get("allOf", []), *apart])
    return made


def _both_of(one: Any, other: Any) -> Any:
    """Two schemas for the same value, to be put together when it is their turn."""
    if one is True or one == other:
        return other
    if other is True:
        return one
    if one is False or other is False:
        return False
    return {"allOf": _each_once([*_parts(one), *_parts(other)])}


def _parts(schema: Any) -> list[Any]:
    return schema["allOf"] if isinstance(schema, dict) and schema.keys() == {"allOf"} else [schema]


def _each_once(parts: Sequence[Any]) -> list[Any]:
    """The parts without those that stand there already: a schema that meets itself again and again must not grow."""
    kept: list[Any] = []
    for part in parts:
        if part not in kept:
            kept.append(part)
    return kept


_CONTAINERS = frozenset(
    (
        *("properties", "patternProperties", "additionalProperties", "prefixItems", "items", "additionalItems"),
        "propertyNames",
    )
)


def _objects(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """properties, patternProperties and additionalProperties of both: each name has to be right for both."""
    made: dict[str, Any] = {}
    declared = [*one.get("properties", {}), *other.get("properties", {})]
    if declared:
        made["properties"] = {name: _both_of(_of_name(one, name), _of_name(other, name)) for name in declared}
    patterns = [*one.get("patternProperties", {}), *other.get("patternProperties", {})]
    if patterns:
        made["patternProperties"] = {
            pattern: _both_of(
                one.get("patternProperties", {}).get(pattern, True),
                other.get("patternProperties", {}).get(pattern, True),
            )
            for pattern in patterns
        }
    if "additionalProperties" in one or "additionalProperties" in other:
        made["additionalProperties"] = _both_of(
            one.get("additionalProperties", True), other.get("additionalProperties", True)
        )
    if "propertyNames" in one or "propertyNames" in other:
        made["propertyNames"] = _both_of(one.get("propertyNames", True), other.get("propertyNames", True))
    return made


def _of_name(schema: Mapping[str, Any], name: str) -> Any:
    """What one of two schemas says about the property of this name."""
    if name in schema.get("properties", {}):
        return schema["properties"][name]
    patterns = schema.get("patternProperties", {})
    if patterns:
        found = [part for pattern, part in patterns.items() if python_regex.compiled(pattern).search(name)]
        if found:
            return found[0] if len(found) == 1 else {"allOf": found}
    return schema.get("additionalProperties", True)


def _arrays(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    first, second = one.get("prefixItems", []), other.get("prefixItems", [])
    rests = one.get("items", True), other.get("items", True)
    made: dict[str, Any] = {}
    length = max(len(first), len(second))
    if length:
        made["prefixItems"] = [
            _both_of(
                first[place] if place < len(first) else rests[0], second[place] if place < len(second) else rests[1]
            )
            for place in range(length)
        ]
    if "items" in one or "items" in other:
        made["items"] = _both_of(*rests)
    return made


def _types(one: Any, other: Any, place: str) -> list[str]:
    first, second = _listed(one), _listed(other)
    kept = [kind for kind in first if kind in second or (kind == "integer" and "number" in second)]
    kept += [kind for kind in second if kind == "integer" and "number" in first and kind not in kept]
    if not kept:
        raise Impossible(f"type in {place} stands there twice without a common value")
    return kept


def _enums(one: Any, other: Any, place: str) -> list[Any]:
    kept = [value for value in one if any(equal(value, each) for each in other)]
    if not kept:
        raise Impossible(f"enum in {place} stands there twice without a common value")
    return kept


def _consts(one: Any, other: Any, place: str) -> Any:
    raise Impossible(f"const in {place} stands there twice with different values")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _at_least(one: Any, other: Any, place: str) -> Any:
    return max(one, other)


def _at_most(one: Any, other: Any, place: str) -> Any:
    return min(one, other)


def _names(one: Any, other: Any, place: str) -> list[str]:
    return list(dict.fromkeys([*one, *other]))


def _either(one: Any, other: Any, place: str) -> bool:
    return bool(one or other)


_BOTH = {
    **dict.fromkeys(
        ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"), _at_least
    ),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"), _at_most),
    "required": _names,
    "type": _types,
    "enum": _enums,
    "const": _consts,
    "uniqueItems": _either,
}
