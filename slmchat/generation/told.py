"""What the model is told of a JSON Schema: the names of the fields, their descriptions, the values to choose from.

Knows: how a schema is said in a sentence. Refuses to know: grammars, checks.

The whole schema makes small models copy it, and without a word lists come back empty (docs/decisions.md has the
figures).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from slmchat.errors import SlmError
from slmchat.schemas import references

# Values of an enum, and names of fields in fields, that are still read as a list of a few.
_MOST_VALUES = 30
_MOST_NAMES = 12
# How deep a reference is followed.
_MOST_STEPS = 8
# How deep values stand in others that are still said: a schema that comes to itself would have no end.
_MOST_DEPTH = 6
# Characters, some 1,500 tokens: of MaskBench's 11,305 schemas one in 27 has more to say, up to 2.8 million.
_MOST_LENGTH = 6_000


def told(schema: Any, text: str | None = None) -> str:
    """A sentence for the end of the prompt; empty where the schema is a single text or number.

    `text`: the schema as JSON text, where somebody has it already. A large schema is told in less detail, as far as
    fits into `_MOST_LENGTH` characters: the grammar holds all of it anyway.
    """
    document = references.flattened(schema, json.dumps(schema) if text is None else text)
    said = ""
    for detail, most_depth in ((2, _MOST_DEPTH), (1, 2), (0, 1)):
        said = _Told(document, most_depth, detail).whole()
        if len(said) <= _MOST_LENGTH:
            return said
    return f"{said[:_MOST_LENGTH].rpartition(', ')[0]} and others."


class _Told:
    def __init__(self, document: Any, most_depth: int, detail: int) -> None:
        """`most_depth`: of values in values. `detail`: of a field 0 its name, 1 what it is for, 2 its fields too."""
        self.document = document
        self.most_depth = most_depth
        self.detail = detail
        self.depth = 0

    def whole(self) -> str:
        schema = self.resolved(self.document)
        fields = self.fields(schema)
        if fields:
            return f"Answer with JSON that has these fields: {fields}."
        what = self.said(schema, is_outermost=True)
        return f"Answer with JSON: {what}." if what else ""

    def said(self, schema: Mapping[str, Any], *, is_outermost: bool = False) -> str:
        """A value in a few words; empty for what goes without saying at the top: one text, one number."""
        if self.depth >= self.most_depth:
            return ""
        self.depth += 1
        try:
            return self.words(schema, is_outermost=is_outermost)
        finally:
            self.depth -= 1

    def words(self, schema: Mapping[str, Any], *, is_outermost: bool) -> str:
        options = [self.resolved(part) for keyword in ("anyOf", "oneOf") for part in _parts(schema, keyword)]
        if options:
            named = (said for part in options if part.get("type") != "null" and (said := self.said(part)))
            return _joined(" or ", _once(islice(named, _MOST_NAMES)))
        if isinstance(schema.get("enum"), list):
            return "" if is_outermost and len(schema["enum"]) < 2 else _values(schema["enum"])
        kind = _kind(schema)
        if kind == "array":
            return self.list(schema, is_outermost=is_outermost)
        if kind == "object":
            fields = self.fields(schema)
            if fields:
                return f"an object with these fields: {fields}"
            rest = self.resolved(schema.get("additionalProperties", True))
            return f"an object of names, each with {self.said(rest) or 'a value'}"
        return "" if is_outermost else _NAMES.get(kind, "")

    def list(self, schema: Mapping[str, Any], *, is_outermost: bool) -> str:
        first = _parts(schema, "prefixItems")[:_MOST_NAMES]
        if first:
            return f"a list of {_joined(', then ', (self.said(self.resolved(part)) or 'a value' for part in first))}"
        item = self.resolved(schema.get("items", True))
        fields = self.fields(item)
        if fields:
            return f"a list of objects with these fields: {fields}"
        about = item.get("description")
        if isinstance(about, str):
            return f"a list of {about}"
        said = self.said(item)
        if is_outermost and said in _SEVERAL:
            return ""  # "a list of texts" makes small models write an empty one (docs/decisions.md)
        return f"a list of {_SEVERAL.get(said, said or 'values')}"

    def fields(self, schema: Mapping[str, Any], depth: int = 0) -> str:
        """The names of the properties with a remark each, also those that come through `allOf`."""
        found: dict[str, Any] = {}
        for part in (schema, *map(self.resolved, _parts(schema, "allOf"))):
            properties = part.get("properties")
            found |= properties if isinstance(properties, dict) else {}
        told = ((name, self.resolved(value)) for name, value in found.items() if value is not False)
        return _joined(", ", (name + self.remark(value, depth) for name, value in told))

    def remark(self, schema: Mapping[str, Any], depth: int) -> str:
        if not self.detail:
            return ""
        about = [schema["description"]] if isinstance(schema.get("description"), str) else []
        values = schema.get("enum")
        if isinstance(values, list) and len(values) <= _MOST_VALUES:
            about.append(" or ".join(map(str, values)))
        inner = self.resolved(schema.get("items", True)) if _kind(schema) == "array" else schema
        if depth == 0 and self.detail > 1 and (fields := self.fields(inner, depth + 1)):
            about.append(f"each with {fields}" if inner is not schema else f"with {fields}")
        return f" ({'; '.join(about)})" if about else ""

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """What a `$ref` stands for, with what is said beside it; the one thing that there is besides null."""
        for _ in range(_MOST_STEPS):
            if not isinstance(schema, dict):
                return {}
            if "$ref" in schema:
                try:
                    target = references.target(self.document, schema["$ref"], "the schema")
                except SlmError:
                    return schema
                beside = {key: value for key, value in schema.items() if key != "$ref"}
                schema = {**target, **beside} if isinstance(target, dict) else beside
                continue
            alone = [part for keyword in ("anyOf", "oneOf", "allOf") for part in _parts(schema, keyword)]
            alone = [part for part in alone if part != {"type": "null"}]
            if len(alone) != 1 or "properties" in schema:
                return schema
            beside = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "allOf")}
            schema = {**alone[0], **beside}
        return {}


_NAMES = {"string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
_SEVERAL = {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers"}


def _joined(separator: str, parts: Iterable[str]) -> str:
    """The parts as one text, made one by one: no more of them once it is longer than anything that is said."""
    made: list[str] = []
    length = 0
    for part in parts:
        made.append(part)
        length += len(part)
        if length > _MOST_LENGTH:
            break
    return separator.join(made)


def _once(texts: Iterable[str]) -> Iterable[str]:
    known: set[str] = set()
    for text in texts:
        if text not in known:
            known.add(text)
            yield text


def _values(values: Sequence[Any]) -> str:
    shown = [value if isinstance(value, str) else json.dumps(value) for value in values[:_MOST_VALUES]]
    return f"one of {', '.join(shown)}"


def _kind(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = next((kind for kind in kinds if kind != "null"), "")
    if isinstance(kinds, str):
        return kinds
    return "array" if "items" in schema or "prefixItems" in schema else "object" if "properties" in schema else ""


def _parts(schema: Mapping[str, Any], keyword: str) -> Sequence[Any]:
    found = schema.get(keyword)
    return found if isinstance(found, list) else ()
