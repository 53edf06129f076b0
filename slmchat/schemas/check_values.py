"""The assertions of a schema about a value as such: types, numbers, strings, and how schemas are put together.

Knows: these keywords. Refuses to know: lists and objects (check_containers.py), where the document came from.
"""

import json
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from slmchat.schemas import formats, python_regex
from slmchat.schemas.equality import equal, is_integer, is_number
from slmchat.schemas.problems import Assertion, Checker, Problem, Schema

# -- any value


def _type(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    kinds = asked if isinstance(asked, list) else [asked]
    if any(_IS_TYPE.get(kind, _never)(value) if isinstance(kind, str) else check.holds(kind, value) for kind in kinds):
        return None
    return Problem(f"must be {' or '.join(_ARTICLES.get(kind, str(kind)) for kind in map(str, kinds))}")


def _never(value: Any) -> bool:
    return False


_IS_TYPE: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": is_integer,
    "number": is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "any": lambda value: True,  # draft 3
}
_ARTICLES = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _enum(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if isinstance(asked, list) and any(equal(value, each) for each in asked):
        return None
    return Problem("must be one of the values of the enum")


def _const(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return None if equal(value, asked) else Problem(f"must be {json.dumps(asked, ensure_ascii=False)}")


def _ref(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return check.found(check.target(asked), value)


def _all_of(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return next((problem for part in asked if (problem := check.found(part, value)) is not None), None)


def _any_of(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    problems: list[Problem] = []
    for part in asked:
        problem = check.found(part, value)
        if problem is None:
            return None
        problems.append(problem)
    return problems[0] if len(problems) == 1 else Problem("must be right for one of the schemas of anyOf")


def _one_of(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    count = sum(check.holds(part, value) for part in asked)
    return None if count == 1 else Problem(f"must be right for exactly one of the schemas of oneOf, not for {count}")


def _not(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return Problem("must not be right for the schema of not") if check.holds(asked, value) else None


def _if(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    return check.found(schema.get("then" if check.holds(asked, value) else "else", True), value)


# -- numbers


def _limit(is_low: bool, is_exclusive: bool) -> Assertion:
    sign = (">" if is_exclusive else ">=") if is_low else ("<" if is_exclusive else "<=")

    def checked(check: Checker, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
        if not is_number(value) or not is_number(asked):
            return None
        # draft 4 says `exclusiveMinimum: true` beside the bound
        opens = is_exclusive or schema.get("exclusiveMinimum" if is_low else "exclusiveMaximum") is True
        is_inside = value > asked if is_low else value < asked
        return None if is_inside or (value == asked and not opens) else Problem(f"must be {sign} {asked}")

    return checked


def _multiple_of(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not is_number(value) or not is_number(asked) or not asked:
        return None
    try:
        is_multiple = (Decimal(repr(value)) / Decimal(repr(asked))) % 1 == 0
    except InvalidOperation:  # more digits than decimal numbers are computed with
        is_multiple = isinstance(value, int) and isinstance(asked, int) and value % asked == 0
    return None if is_multiple else Problem(f"must be a multiple of {asked}")


# -- strings


def _length(is_least: bool) -> Assertion:
    def checked(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
        if not isinstance(value, str) or (len(value) >= asked if is_least else len(value) <= asked):
            return None
        return Problem(f"must have {'at least' if is_least else 'at most'} {asked} characters")

    return checked


def _pattern(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, str) or python_regex.is_found(asked, value):
        return None
    return Problem(f"must match {asked}")


def _format(check: Checker, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, str) or not isinstance(asked, str) or formats.is_right(asked, value):
        return None
    return Problem(f"must be of the format {asked}")


VALUE_ASSERTIONS: dict[str, Assertion] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "$ref": _ref,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "minimum": _limit(True, False),
    "maximum": _limit(False, False),
    "exclusiveMinimum": _limit(True, True),
    "exclusiveMaximum": _limit(False, True),
    "multipleOf": _multiple_of,
    "minLength": _length(True),
    "maxLength": _length(False),
    "pattern": _pattern,
    "format": _format,
}
