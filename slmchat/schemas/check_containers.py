"""The assertions of a schema about what is in a list or an object.

Knows: these keywords. Refuses to know: single values (check_values.py), where the document came from.
"""

import json
from collections.abc import Mapping
from typing import Any

from slmchat.schemas import evaluated, python_regex
from slmchat.schemas.equality import Distinct
from slmchat.schemas.problems import Assertion, Checker, Problem, Schema

# -- arrays


def _items(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, list):
        return None
    if isinstance(asked, list):  # before 2020
        return _prefix(check, asked, value)
    first = len(schema.get("prefixItems", ()))
    return _each(check, asked, value, first)


def _prefix_items(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return _prefix(check, asked, value) if isinstance(value, list) else None


def _prefix(check: Checker, asked: list[Any], value: list[Any]) -> Problem | None:
    for number, (part, item) in enumerate(zip(asked, value, strict=False)):
        if (problem := check.found(part, item)) is not None:
            return problem.below(number)
    return None


def _additional_items(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    first = schema.get("items")
    if not isinstance(value, list) or not isinstance(first, list):
        return None
    return _each(check, asked, value, len(first))


def _each(check: Checker, asked: Any, value: list[Any], first: int) -> Problem | None:
    for number in range(first, len(value)):
        if (problem := check.found(asked, value[number])) is not None:
            return problem.below(number)
    return None


def _count(kind: type, is_least: bool, what: str) -> Assertion:
    def checked(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
        if not isinstance(value, kind) or (len(value) >= asked if is_least else len(value) <= asked):  # type: ignore[arg-type]
            return None
        return Problem(f"must have {'at least' if is_least else 'at most'} {asked} {what}")

    return checked


def _unique_items(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, list) or asked is not True:
        return None
    seen = Distinct()
    twice = next((item for item in value if not seen.add(item)), seen)
    return None if twice is seen else Problem(f"must not have {json.dumps(twice, ensure_ascii=False)} twice")


def _contains(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, list):
        return None
    count = sum(check.holds(asked, item) for item in value)
    least, most = schema.get("minContains", 1), schema.get("maxContains")
    if count >= least and (most is None or count <= most):
        return None
    return Problem(
        f"must contain {least}{'' if most is None else f' to {most}'} of what contains asks for, not {count}"
    )


# -- objects


def _properties(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, dict):
        return None
    for name, item in value.items():
        if name in asked and (problem := check.found(asked[name], item)) is not None:
            return problem.below(name)
    return None


def _pattern_properties(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, dict):
        return None
    for pattern, part in asked.items():
        for name, item in value.items():
            if python_regex.is_found(pattern, name) and (problem := check.found(part, item)) is not None:
                return problem.below(name)
    return None


def _additional_properties(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, dict) or asked is True:
        return None
    declared = schema.get("properties", {})
    patterns = tuple(schema.get("patternProperties", ()))
    for name, item in value.items():
        if name in declared or any(python_regex.is_found(pattern, name) for pattern in patterns):
            continue
        if (problem := check.found(asked, item)) is not None:
            return problem.below(name)
    return None


def _required(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, dict) or not isinstance(asked, list):  # draft 3 says true
        return None
    missing = next((name for name in asked if name not in value), None)
    return None if missing is None else Problem(f"must have {json.dumps(missing, ensure_ascii=False)}")


def _property_names(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    for name in value if isinstance(value, dict) else ():
        if (problem := check.found(asked, name)) is not None:
            return Problem(f"has the name {json.dumps(name, ensure_ascii=False)}, which {problem.what}")
    return None


def _dependencies(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    """All three of them: names, a schema, and before 2019 either (and one name in draft 3)."""
    for name, needed in asked.items() if isinstance(value, dict) else ():
        if name not in value:
            continue
        if isinstance(needed, str):
            needed = [needed]
        problem = _required(check, needed, value, schema) if isinstance(needed, list) else check.found(needed, value)
        if problem is not None:
            return problem
    return None


# -- what nothing else has looked at


def _unevaluated_properties(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, dict) or asked is True:
        return None
    seen = evaluated.names(check, schema, value)
    for name, item in value.items():
        if name not in seen and (problem := check.found(asked, item)) is not None:
            return problem.below(name)
    return None


def _unevaluated_items(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, list) or asked is True:
        return None
    seen = evaluated.positions(check, schema, value)
    for number, item in enumerate(value):
        if number not in seen and (problem := check.found(asked, item)) is not None:
            return problem.below(number)
    return None


CONTAINER_ASSERTIONS: dict[str, Assertion] = {
    "items": _items,
    "prefixItems": _prefix_items,
    "additionalItems": _additional_items,
    "minItems": _count(list, True, "values"),
    "maxItems": _count(list, False, "values"),
    "uniqueItems": _unique_items,
    "contains": _contains,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "required": _required,
    "propertyNames": _property_names,
    "minProperties": _count(dict, True, "properties"),
    "maxProperties": _count(dict, False, "properties"),
    "dependencies": _dependencies,
    "dependentRequired": _dependencies,
    "dependentSchemas": _dependencies,
    "unevaluatedProperties": _unevaluated_properties,
    "unevaluatedItems": _unevaluated_items,
}
