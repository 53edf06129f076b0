"""Whether a value is right for a JSON Schema, and if not, where and why.

Knows: the assertions of drafts 4 to 2020-12. Refuses to know: grammars, texts, files, the network: a schema reaches
nothing.

An evaluator of slm's own, because libraries either compile schemas to code, follow `$ref` to files and addresses, or do
not install on a phone (docs/decisions.md). It looks the assertions up in a table while it goes through the value.
"""

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from slmchat.errors import SlmError
from slmchat.schemas import evaluated, formats, python_regex, references
from slmchat.schemas.equality import Distinct, equal, is_integer, is_number
from slmchat.schemas.keywords import all_below

Schema = Mapping[str, Any] | bool


# Patterns, as they stand in a schema that `json.dumps` has written, and whatever else is called so.
_PATTERNS = re.compile(r'"pattern": ("(?:[^"\\]|\\.)*")')


class Problem:
    """What is wrong with a value; `path`: the names and numbers that lead to it, the innermost first."""

    __slots__ = ("path", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.path: list[str | int] = []

    def below(self, step: str | int) -> "Problem":
        """The same, seen from one step further out."""
        self.path.append(step)
        return self

    def __str__(self) -> str:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(self.path))
        return f"the value{place} {self.what}"


class SchemaCheck:
    """The check of one schema. Raises `SlmError` (USAGE) for a pattern that cannot be read."""

    def __init__(self, schema: Any, text: str | None = None) -> None:
        """`text`: the schema as JSON text, where somebody has it already."""
        text = json.dumps(schema) if text is None else text
        self._document = references.flattened(schema, text)
        if '"patternProperties"' in text or any(map(_is_unreadable, _PATTERNS.findall(text))):
            _refuse_unreadable(self._document)

    def problem(self, value: Any) -> str | None:
        """What is wrong with the value, in one phrase; None when it is right."""
        try:
            found = self.found(self._document, value)
        except RecursionError:
            return "the value is nested too deep to be checked"
        return None if found is None else str(found)

    def is_right(self, value: Any) -> bool:
        return self.problem(value) is None

    @classmethod
    def of_flattened(cls, document: Any) -> "SchemaCheck":
        """The check of a schema whose references are flattened, and whose patterns somebody else looks at."""
        check = cls.__new__(cls)
        check._document = document
        return check

    def found(self, schema: Any, value: Any) -> Problem | None:
        """The first problem of a value with one schema of the document."""
        if schema is True:
            return None
        if not isinstance(schema, dict):
            return Problem("is not allowed") if schema is False else Problem("cannot be checked: not a schema")
        for keyword in schema:
            checked = _CHECKS.get(keyword)
            if checked is not None and (problem := checked(self, schema[keyword], value, schema)) is not None:
                return problem
        return None

    def holds(self, schema: Any, value: Any) -> bool:
        return self.found(schema, value) is None

    def target(self, reference: Any) -> Any:
        """What a `$ref` leads to. Raises `SlmError` (USAGE)."""
        return references.target(self._document, reference, "the schema")


def _is_unreadable(pattern: str) -> bool:
    try:
        python_regex.compiled(json.loads(pattern))
    except SlmError:
        return True
    return False


def _refuse_unreadable(document: Any) -> None:
    for schema in all_below(document):
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            python_regex.compiled(pattern)
        for name in schema.get("patternProperties", {}) if isinstance(schema.get("patternProperties"), dict) else ():
            python_regex.compiled(name)


# -- any value


def _type(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
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


def _enum(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if isinstance(asked, list) and any(equal(value, each) for each in asked):
        return None
    return Problem("must be one of the values of the enum")


def _const(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return None if equal(value, asked) else Problem(f"must be {json.dumps(asked, ensure_ascii=False)}")


def _ref(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return check.found(check.target(asked), value)


def _all_of(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return next((problem for part in asked if (problem := check.found(part, value)) is not None), None)


def _any_of(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    problems: list[Problem] = []
    for part in asked:
        problem = check.found(part, value)
        if problem is None:
            return None
        problems.append(problem)
    return problems[0] if len(problems) == 1 else Problem("must be right for one of the schemas of anyOf")


def _one_of(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    count = sum(check.holds(part, value) for part in asked)
    return None if count == 1 else Problem(f"must be right for exactly one of the schemas of oneOf, not for {count}")


def _not(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return Problem("must not be right for the schema of not") if check.holds(asked, value) else None


def _if(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    return check.found(schema.get("then" if check.holds(asked, value) else "else", True), value)


# -- numbers


def _limit(is_low: bool, is_exclusive: bool) -> "_Check":
    sign = (">" if is_exclusive else ">=") if is_low else ("<" if is_exclusive else "<=")

    def checked(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
        if not is_number(value) or not is_number(asked):
            return None
        # draft 4 says `exclusiveMinimum: true` beside the bound
        opens = is_exclusive or schema.get("exclusiveMinimum" if is_low else "exclusiveMaximum") is True
        is_inside = value > asked if is_low else value < asked
        return None if is_inside or (value == asked and not opens) else Problem(f"must be {sign} {asked}")

    return checked


def _multiple_of(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not is_number(value) or not is_number(asked) or not asked:
        return None
    try:
        is_multiple = (Decimal(repr(value)) / Decimal(repr(asked))) % 1 == 0
    except InvalidOperation:  # more digits than decimal numbers are computed with
        is_multiple = isinstance(value, int) and isinstance(asked, int) and value % asked == 0
    return None if is_multiple else Problem(f"must be a multiple of {asked}")


# -- strings


def _length(is_least: bool) -> "_Check":
    def checked(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
        if not isinstance(value, str) or (len(value) >= asked if is_least else len(value) <= asked):
            return None
        return Problem(f"must have {'at least' if is_least else 'at most'} {asked} characters")

    return checked


def _pattern(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, str) or python_regex.compiled(asked).search(value):
        return None
    return Problem(f"must match {asked}")


def _format(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, str) or not isinstance(asked, str) or formats.is_right(asked, value):
        return None
    return Problem(f"must be of the format {asked}")


# -- arrays


def _items(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, list):
        return None
    if isinstance(asked, list):  # before 2020
        return _prefix(check, asked, value)
    first = len(schema.get("prefixItems", ()))
    return _each(check, asked, value, first)


def _prefix_items(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    return _prefix(check, asked, value) if isinstance(value, list) else None


def _prefix(check: SchemaCheck, asked: list[Any], value: list[Any]) -> Problem | None:
    for number, (part, item) in enumerate(zip(asked, value, strict=False)):
        if (problem := check.found(part, item)) is not None:
            return problem.below(number)
    return None


def _additional_items(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    first = schema.get("items")
    if not isinstance(value, list) or not isinstance(first, list):
        return None
    return _each(check, asked, value, len(first))


def _each(check: SchemaCheck, asked: Any, value: list[Any], first: int) -> Problem | None:
    for number in range(first, len(value)):
        if (problem := check.found(asked, value[number])) is not None:
            return problem.below(number)
    return None


def _count(kind: type, is_least: bool, what: str) -> "_Check":
    def checked(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
        if not isinstance(value, kind) or (len(value) >= asked if is_least else len(value) <= asked):  # type: ignore[arg-type]
            return None
        return Problem(f"must have {'at least' if is_least else 'at most'} {asked} {what}")

    return checked


def _unique_items(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, list) or asked is not True:
        return None
    seen = Distinct()
    twice = next((item for item in value if not seen.add(item)), seen)
    return None if twice is seen else Problem(f"must not have {json.dumps(twice, ensure_ascii=False)} twice")


def _contains(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
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


def _properties(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, dict):
        return None
    for name, item in value.items():
        if name in asked and (problem := check.found(asked[name], item)) is not None:
            return problem.below(name)
    return None


def _pattern_properties(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, dict):
        return None
    for pattern, part in asked.items():
        matches = python_regex.compiled(pattern).search
        for name, item in value.items():
            if matches(name) and (problem := check.found(part, item)) is not None:
                return problem.below(name)
    return None


def _additional_properties(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, dict) or asked is True:
        return None
    declared = schema.get("properties", {})
    matchers = [python_regex.compiled(pattern).search for pattern in schema.get("patternProperties", ())]
    for name, item in value.items():
        if name in declared or any(matches(name) for matches in matchers):
            continue
        if (problem := check.found(asked, item)) is not None:
            return problem.below(name)
    return None


def _required(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    if not isinstance(value, dict) or not isinstance(asked, list):  # draft 3 says true
        return None
    missing = next((name for name in asked if name not in value), None)
    return None if missing is None else Problem(f"must have {json.dumps(missing, ensure_ascii=False)}")


def _property_names(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
    for name in value if isinstance(value, dict) else ():
        if (problem := check.found(asked, name)) is not None:
            return Problem(f"has the name {json.dumps(name, ensure_ascii=False)}, which {problem.what}")
    return None


def _dependencies(check: SchemaCheck, asked: Any, value: Any, schema: Schema) -> Problem | None:
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


def _unevaluated_properties(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, dict) or asked is True:
        return None
    seen = evaluated.names(check, schema, value)
    for name, item in value.items():
        if name not in seen and (problem := check.found(asked, item)) is not None:
            return problem.below(name)
    return None


def _unevaluated_items(check: SchemaCheck, asked: Any, value: Any, schema: Mapping[str, Any]) -> Problem | None:
    if not isinstance(value, list) or asked is True:
        return None
    seen = evaluated.positions(check, schema, value)
    for number, item in enumerate(value):
        if number not in seen and (problem := check.found(asked, item)) is not None:
            return problem.below(number)
    return None


_Check = Callable[[SchemaCheck, Any, Any, Any], Problem | None]
_CHECKS: dict[str, _Check] = {
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
