"""The words of JSON Schema, drafts 4 to 2020-12: what each is to slm, and below which of them schemas stand.

Knows: names. Refuses to know: what a keyword demands (json_schema.py, check.py).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")

OF_TYPE = {
    "object": frozenset(
        (
            *("properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties"),
            *("maxProperties", "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
        )
    ),
    "array": frozenset(
        (
            *("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains"),
            *("minContains", "maxContains", "unevaluatedItems"),
        )
    ),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
}
_GENERAL = frozenset(
    ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "not", "if", "then", "else")
)
# What makes a value right or wrong.
ASSERTIONS = _GENERAL.union(*OF_TYPE.values())
# They say something about a schema or a value and change nothing about which values are right.
NOTES = frozenset(
    (
        *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment", "$defs"),
        *("definitions", "title", "description", "default", "example", "examples", "deprecated", "readOnly"),
        *("writeOnly", "contentEncoding", "contentMediaType", "contentSchema", "discriminator", "enumNames"),
        *("markdownDescription", "propertyOrder", "self", "version", "nullable", "externalDocs", "xml"),
    )
)
KNOWN = ASSERTIONS | NOTES
TYPE_ALONE = {"type"}

_ONE = (
    *("additionalProperties", "items", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedProperties", "unevaluatedItems"),
)
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
# What stands below a keyword: a schema (or, before 2020, a list of them), a list of schemas, or one for each name.
HOLDS_SCHEMAS = {**dict.fromkeys(_ONE, "one"), **dict.fromkeys(_SEVERAL, "several"), **dict.fromkeys(_NAMED, "named")}


def below(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas that stand directly below this one, each with its place in it (a JSON pointer)."""
    for keyword, value in schema.items():
        kind = HOLDS_SCHEMAS.get(keyword)
        if kind is None:
            continue
        if isinstance(value, list) and kind != "named":
            for number, part in enumerate(value):
                yield f"/{keyword}/{number}", part
        elif isinstance(value, dict):
            if kind == "one":
                yield f"/{keyword}", value
            elif kind == "named":
                for name, part in value.items():
                    yield f"/{keyword}/{escaped(name)}", part


def inside(schema: Mapping[str, Any]) -> list[Any]:
    """The same schemas without their places."""
    found: list[Any] = []
    for keyword, value in schema.items():
        kind = HOLDS_SCHEMAS.get(keyword)
        if kind is None:
            continue
        if isinstance(value, list) and kind != "named":
            found += value
        elif isinstance(value, dict) and kind == "one":
            found.append(value)
        elif isinstance(value, dict) and kind == "named":
            found += value.values()
    return found


def all_below(document: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and every schema inside of it."""
    waiting = [document]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            yield schema
            waiting += inside(schema)


def escaped(name: str) -> str:
    """A name as one step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1") if "/" in name or "~" in name else name


def unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def is_note(keyword: str) -> bool:
    """Whether the keyword is meant as a note: one that is known as such, or one of somebody's own (x-…)."""
    return keyword in NOTES or re.match(r"x-|_|\$\$", keyword) is not None
