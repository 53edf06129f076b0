"""JSON Schema to a grammar: every text that is generated is JSON of that schema.

Knows: which keywords a grammar can hold and how, references and recursion, the one way in which slm writes JSON.
Refuses to know: tokens, files, checking a finished text (check.py).

JSON is written on one line with one space after each colon and comma: small models loop on white space. Properties
come in the order of the schema. The rest of JSON Schema is refused by name and place; docs/structured.md has the list.
Some of llama.cpp's own converter (common/json-schema-to-grammar.cpp) is done alike; that one ignores what it does not
know.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from slmchat.errors import ExitCode, SlmError
from slmchat.schemas import formats, merging, number_ranges, regex
from slmchat.schemas.grammar import (
    EMPTY,
    PRINTABLE,
    Chain,
    Chars,
    Grammar,
    Node,
    Repeat,
    Rule,
    Text,
    chain,
    chars,
    choice,
    without,
)

Schema = Mapping[str, Any] | bool

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
_GENERAL = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
# They say something about a value and change nothing about which values are right.
NOTES = {
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
}
_KNOWN = _GENERAL.union(NOTES, *_OF_TYPE.values())

# Larger schemas than anybody writes by hand; a grammar of this many rules still compiles in well under a second.
_MOST_RULES = 5_000
_MOST_NESTED = 100

_QUOTE, _COMMA, _COLON = Text('"'), Text(", "), Text(": ")
_HEX = chars("0-9a-fA-F")
_UNICODE = choice(  # \uXXXX; halves of a surrogate pair come in pairs
    (
        chain(chars("0-9a-cA-CeEfF"), Repeat(_HEX, 3, 3)),
        chain(chars("dD"), chars("0-7"), Repeat(_HEX, 2, 2)),
        chain(chars("dD"), chars("89abAB"), Repeat(_HEX, 2, 2), Text("\\u"), chars("dD"), chars("c-fC-F"), _HEX, _HEX),
    )
)
_PLAIN = Chars(without(PRINTABLE, [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]))
_CHARACTER = choice((Rule("plain"), chain(Text("\\"), choice((chars('"\\/bfnrt'), chain(Text("u"), _UNICODE))))))


def to_grammar(schema: Any) -> Grammar:
    """The grammar of the JSON texts of this schema (2020-12 and draft 7, the documented part of them).

    Raises `SlmError` (USAGE) that names the keyword and its place for what is not supported, contradicts itself or has
    no end.
    """
    return _Converter(schema).whole()


def any_json() -> Grammar:
    """Any JSON object or array."""
    converter = _Converter(True)
    converter.grammar.rules["root"] = choice((converter.any_of_type("object"), converter.any_of_type("array")))
    return converter.grammar


class _Converter:
    def __init__(self, schema: Any) -> None:
        self.document = schema
        self.grammar = Grammar()
        self.places: dict[str, str] = {}  # rule -> where in the schema it comes from
        self.references: dict[str, str] = {}  # pointer -> rule
        self.depth = 0

    def whole(self) -> Grammar:
        # the rule "root" stands for the pointer "#": a schema may refer to itself
        self.references[""] = "root"
        self.places["root"] = "the schema itself"
        self.grammar.rules["root"] = EMPTY
        self.grammar.rules["root"] = self.schema(self.document, "#")
        for name in self.references.values():
            self.refuse_loop(name)
        endless = self.grammar.endless()
        if endless:
            names = [self.places[name] for name in endless if name in self.places]
            raise _wrong(f"{(names or ['the schema itself'])[-1]} contains itself without an end")
        return self.grammar

    def schema(self, schema: Any, place: str) -> Node:
        """What this schema allows."""
        if schema is True or schema == {}:
            return self.any_value()
        if schema is False:
            raise _wrong(f"{place} is false: no value is right")
        if not isinstance(schema, dict):
            raise _wrong(f"{place} is not a schema: an object was expected")
        self.depth += 1
        if self.depth > _MOST_NESTED or len(self.grammar.rules) > _MOST_RULES:
            raise _wrong(f"{place} is nested too deep, or the schema is too large")
        self.refuse_unknown(schema, place)
        node = self.known(schema, place)
        self.depth -= 1
        return node

    def refuse_unknown(self, schema: Mapping[str, Any], place: str) -> None:
        for keyword in schema:
            if keyword not in _KNOWN and not keyword.startswith("x-"):
                raise _unsupported(f'the keyword "{keyword}"', place)

    def known(self, schema: Mapping[str, Any], place: str) -> Node:
        rest = {key: value for key, value in schema.items() if key in _KNOWN and key not in NOTES}
        if "$ref" in rest:
            return self.reference(rest, place)
        if "allOf" in rest:
            parts = [self.resolved(part, f"{place}/allOf/{n}") for n, part in enumerate(_list(rest, "allOf", place))]
            return self.schema(merging.merged([_less(rest, "allOf"), *parts], place), place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in rest:
                return self.alternatives(rest, keyword, place)
        if "const" in rest or "enum" in rest:
            return self.constants(rest, place)
        types = rest.get("type", self.implied_types(rest))
        if isinstance(types, str):
            types = [types]
        if not isinstance(types, list) or not types or not all(kind in _TYPES for kind in types):
            unknown = next((kind for kind in types if kind not in _TYPES), types) if isinstance(types, list) else types
            raise _wrong(f"{json.dumps(unknown)} is not a type ({_at(place)}); the types are {', '.join(_TYPES)}")
        self.refuse_misplaced(rest, types, place)
        return choice(self.of_type(kind, rest, place) for kind in types)

    def implied_types(self, schema: Mapping[str, Any]) -> list[str]:
        """A schema without a type: the types that its keywords speak about, else every type."""
        found = [kind for kind, keywords in _OF_TYPE.items() if keywords & set(schema) and kind != "integer"]
        return found or [kind for kind in _TYPES if kind != "integer"]

    def refuse_misplaced(self, schema: Mapping[str, Any], types: Sequence[str], place: str) -> None:
        allowed = set().union(*(_OF_TYPE.get(kind, set()) for kind in types))
        for keyword in schema:
            if keyword not in allowed and keyword != "type":
                raise _wrong(f"{keyword} in {place} says nothing about the type {' or '.join(types)}")

    def of_type(self, kind: str, schema: Mapping[str, Any], place: str) -> Node:
        if kind == "object":
            return self.object(schema, place)
        if kind == "array":
            return self.array(schema, place)
        if kind == "string":
            return self.string(schema, place)
        if kind in ("integer", "number"):
            return self.number(schema, place, is_integer=kind == "integer")
        return Text("null") if kind == "null" else choice((Text("true"), Text("false")))

    # -- references, choices, constants

    def reference(self, schema: Mapping[str, Any], place: str) -> Node:
        others = _less(schema, "$ref")
        if others:
            target = self.resolved({"$ref": schema["$ref"]}, place)
            return self.schema(merging.merged([others, target], place), place)
        pointer, target = self.target(schema["$ref"], place)
        if pointer not in self.references:
            name = f"ref-{len(self.references)}"
            self.references[pointer] = name
            self.places[name] = f"#{pointer}"
            self.grammar.rules[name] = EMPTY
            self.grammar.rules[name] = self.schema(target, f"#{pointer}")
        return Rule(self.references[pointer])

    def refuse_loop(self, name: str) -> None:
        """A rule must not begin with itself: llama.cpp's grammars cannot, and nothing would be said by it."""
        seen: set[str] = set()
        waiting: list[Node] = [self.grammar.rules[name]]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Rule):
                if node.name == name:
                    raise _wrong(f"{self.places[name]} refers to itself in a circle")
                if node.name not in seen:
                    seen.add(node.name)
                    waiting.append(self.grammar.rules[node.name])
            elif not isinstance(node, Text | Chars | Repeat):
                waiting.extend(node.items[:1] if isinstance(node, Chain) else node.options)

    def resolved(self, schema: Any, place: str) -> Any:
        """The schema itself, or what its $ref stands for together with what stands beside it."""
        seen: list[str] = []
        while isinstance(schema, dict) and "$ref" in schema:
            pointer, target = self.target(schema["$ref"], place)
            if pointer in seen:
                raise _wrong(f"#{pointer} refers to itself in a circle")
            seen.append(pointer)
            others = {key: value for key, value in _less(schema, "$ref").items() if key not in NOTES}
            schema = merging.merged([others, target], place) if others else target
        return schema

    def target(self, reference: Any, place: str) -> tuple[str, Any]:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _wrong(f"the $ref in {place} leads outside of the schema; only #/... is followed")
        found = self.document
        for step in reference[2:].split("/") if reference != "#" else ():
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                raise _wrong(f"the $ref in {place} leads to {reference}, which is not there")
        return reference[1:], found

    def alternatives(self, schema: Mapping[str, Any], keyword: str, place: str) -> Node:
        others = _less(schema, keyword)
        options = _list(schema, keyword, place)
        if not others:
            return choice(self.schema(option, f"{place}/{keyword}/{n}") for n, option in enumerate(options))
        return choice(
            self.schema(
                merging.merged([others, self.resolved(option, f"{place}/{keyword}/{n}")], place),
                f"{place}/{keyword}/{n}",
            )
            for n, option in enumerate(options)
        )

    def constants(self, schema: Mapping[str, Any], place: str) -> Node:
        from slmchat.schemas.check import SchemaCheck

        values = [schema["const"]] if "const" in schema else _list(schema, "enum", place)
        is_right = SchemaCheck(dict(schema)).is_right
        texts = [Text(json.dumps(value, ensure_ascii=False)) for value in values if is_right(value)]
        if not texts:
            raise _wrong(f"no value of the enum or const in {place} is right for what stands beside it")
        return choice(texts)

    # -- types

    def any_value(self) -> Node:
        return choice(
            (
                self.any_of_type("string"),
                self.any_of_type("number"),
                self.any_of_type("object"),
                self.any_of_type("array"),
                *map(Text, ("true", "false", "null")),
            )
        )

    def any_of_type(self, kind: str) -> Node:
        rules = self.grammar.rules
        if kind in rules:
            return Rule(kind)
        if kind == "string":
            rules["string"] = chain(_QUOTE, Repeat(self.character()), _QUOTE)
        elif kind == "number":
            rules["number"] = number_ranges.NUMBER
        else:
            rules[kind] = EMPTY
            value = self.any_rule()
            is_object = kind == "object"
            item = chain(self.any_of_type("string"), _COLON, value) if is_object else value
            opening, closing = map(Text, "{}" if is_object else "[]")
            rules[kind] = chain(opening, _optional(chain(item, Repeat(chain(_COMMA, item)))), closing)
        return Rule(kind)

    def any_rule(self) -> Node:
        if "value" not in self.grammar.rules:
            self.grammar.rules["value"] = EMPTY
            self.grammar.rules["value"] = self.any_value()
        return Rule("value")

    def character(self) -> Node:
        self.plain()
        self.grammar.rules.setdefault("char", _CHARACTER)
        return Rule("char")

    def plain(self) -> Node:
        """A character of a string that needs no escape."""
        self.grammar.rules.setdefault("plain", _PLAIN)
        return Rule("plain")

    def string(self, schema: Mapping[str, Any], place: str) -> Node:
        limits = [key for key in ("minLength", "maxLength") if key in schema]
        shapes = [key for key in ("pattern", "format") if key in schema]
        if len(shapes) + bool(limits) > 1:
            raise _wrong(f"{' and '.join([*shapes, *limits])} in {place} cannot be held together")
        if "format" in schema:
            pattern = formats.PATTERNS.get(schema["format"]) if isinstance(schema["format"], str) else None
            if pattern is None:
                raise _unsupported(f"the format {json.dumps(schema['format'])}", place)
            return chain(_QUOTE, regex.parse(pattern), _QUOTE)
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise _wrong(f"the pattern in {place} is not text")
            try:
                parsed = regex.parse(schema["pattern"], is_search=True)
            except SlmError as error:
                raise _wrong(f"the pattern in {place}: {error.message.rstrip('.')}") from error
            return chain(_QUOTE, regex.spelled_in_json(parsed), _QUOTE)
        least, most = _counts(schema, "minLength", "maxLength", place)
        if not least and most is None:
            return self.any_of_type("string")
        return chain(_QUOTE, Repeat(self.character(), least, most), _QUOTE)

    def number(self, schema: Mapping[str, Any], place: str, *, is_integer: bool) -> Node:
        low, opens_low = _bound(schema, "minimum", "exclusiveMinimum", place, is_low=True)
        high, opens_high = _bound(schema, "maximum", "exclusiveMaximum", place, is_low=False)
        if low is None and high is None:
            return number_ranges.INTEGER if is_integer else number_ranges.NUMBER
        make = number_ranges.integer if is_integer else number_ranges.number
        node = make(low, high, opens_low=opens_low, opens_high=opens_high)
        if node is None:
            raise _wrong(f"no number lies between the bounds in {place}")
        return node

    def array(self, schema: Mapping[str, Any], place: str) -> Node:
        least, most = _counts(schema, "minItems", "maxItems", place)
        first = _list(schema, "prefixItems", place) if "prefixItems" in schema else []
        items = schema.get("items", True)
        if isinstance(items, list):
            raise _wrong(f"items in {place} is a list; since 2020 that is called prefixItems")
        if items is False:
            most = min(len(first), most if most is not None else len(first))
        if most is not None and most < least:
            raise _wrong(f"minItems in {place} is more than there may be")
        fixed = [self.schema(one, f"{place}/prefixItems/{n}") for n, one in enumerate(first[:most])]
        # without a prefix the first one more has no comma before it
        is_open = most is None or most > len(fixed)
        item = (
            self.named(self.any_rule() if items is True else self.schema(items, f"{place}/items")) if is_open else EMPTY
        )
        return chain(Text("["), _listed(fixed, item, least, most), Text("]"))

    def named(self, node: Node) -> Node:
        """The node behind a rule of its own: it is used more than once."""
        if isinstance(node, Rule):
            return node
        name = f"item-{len(self.grammar.rules)}"
        self.grammar.rules[name] = node
        return Rule(name)

    def object(self, schema: Mapping[str, Any], place: str) -> Node:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict):
            raise _wrong(f"properties in {place} is not an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _wrong(f"required in {place} is not a list of names")
        extra = schema.get("additionalProperties", not properties and not required)
        declared = {**properties, **{name: extra for name in required if name not in properties}}
        if extra is False and len(declared) > len(properties):
            missing = next(name for name in declared if name not in properties)
            raise _wrong(f"{json.dumps(missing, ensure_ascii=False)} in {place}/required is not among the properties")
        members = []
        for name, value in declared.items():
            where = f"{place}/properties/{name.replace('~', '~0').replace('/', '~1')}"
            if value is False and name not in required:
                continue
            node = chain(Text(json.dumps(name, ensure_ascii=False)), _COLON, self.schema(value, where))
            members.append((node, name in required))
        more = None
        if extra is not False:
            value = self.any_rule() if extra is True else self.schema(extra, f"{place}/additionalProperties")
            more = self.named(chain(_QUOTE, self.other_names(tuple(declared)), _QUOTE, _COLON, value))
        return chain(Text("{"), self.members(members, more), Text("}"))

    def members(self, members: Sequence[tuple[Node, bool]], more: Node | None) -> Node:
        """Members in order, the optional ones there or not, with commas between those that are there."""
        # what may follow when some member stands before it, and when none does; built from the end
        after: Node = Repeat(chain(_COMMA, more)) if more else EMPTY
        begin: Node = _optional(chain(more, Repeat(chain(_COMMA, more)))) if more else EMPTY
        for node, is_required in reversed(members):
            node, after = self.named(node), self.named(after) if after != EMPTY else EMPTY
            present_after, present_begin = chain(_COMMA, node, after), chain(node, after)
            begin = present_begin if is_required else choice((present_begin, begin))
            after = present_after if is_required else choice((present_after, after))
        return begin

    def other_names(self, names: Sequence[str]) -> Node:
        """What stands between the quotes of a name that is none of `names` (escapes left out)."""
        if not names:
            return Repeat(self.character())
        name = f"name-{len(self.grammar.rules)}"
        self.grammar.rules[name] = EMPTY
        self.grammar.rules[name] = self.unlike([entry for entry in names if entry], is_empty_allowed="" not in names)
        return Rule(name)

    def unlike(self, names: Sequence[str], *, is_empty_allowed: bool) -> Node:
        by_first: dict[str, list[str]] = {}
        for name in names:
            by_first.setdefault(name[0], []).append(name[1:])
        options: list[Node] = [
            chain(Text(first), self.unlike([rest for rest in rests if rest], is_empty_allowed="" not in rests))
            for first, rests in by_first.items()
            if first not in '"\\'
        ]
        others = without(_PLAIN.ranges, [(ord(first), ord(first)) for first in by_first])
        options.append(chain(Chars(others), Repeat(self.plain())))
        return choice((*options, EMPTY)) if is_empty_allowed else choice(options)


def _optional(node: Node) -> Node:
    return choice((node, EMPTY))


def _listed(fixed: Sequence[Node], item: Node, least: int, most: int | None) -> Node:
    """`least` to `most` values with commas between them: the fixed ones first, then as many `item` as may be."""
    further = Repeat(chain(_COMMA, item), max(0, least - len(fixed)), None if most is None else most - len(fixed))
    if item == EMPTY:
        further = Repeat(EMPTY, 0, 0)
    if not fixed:
        if most == 0 or item == EMPTY:
            return EMPTY
        rest = Repeat(chain(_COMMA, item), max(0, least - 1), None if most is None else most - 1)
        some = chain(item, rest)
        return some if least else _optional(some)
    node: Node = EMPTY if item == EMPTY else further
    for index in range(len(fixed) - 1, -1, -1):
        node = chain(fixed[index], node) if index == 0 else chain(_COMMA, fixed[index], node)
        if index >= least:
            node = _optional(node)
    return node


def _list(schema: Mapping[str, Any], keyword: str, place: str) -> list[Any]:
    found = schema[keyword]
    if not isinstance(found, list) or not found:
        raise _wrong(f"{keyword} in {place} is not a list with something in it")
    return found


def _counts(schema: Mapping[str, Any], low: str, high: str, place: str) -> tuple[int, int | None]:
    for keyword in (low, high):
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
            raise _wrong(f"{keyword} in {place} is not a whole number of 0 or more")
    least, most = int(schema.get(low, 0)), schema.get(high)
    if most is not None and most < least:
        raise _wrong(f"{low} in {place} is above {high}")
    if least > 10_000:
        raise _wrong(f"{low} in {place} is more than 10,000")
    return least, None if most is None else int(most)


def _bound(
    schema: Mapping[str, Any], plain: str, exclusive: str, place: str, *, is_low: bool
) -> tuple[Decimal | None, bool]:
    """The tighter one of two bounds, and whether it is itself left out."""
    found: list[tuple[Decimal, bool]] = []
    for keyword in (plain, exclusive):
        value = schema.get(keyword)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(f"{keyword} in {place} is not a number")
        number = Decimal(repr(value))
        if not number.is_finite() or abs(number) >= 10**15 or number != round(number, 6):
            raise _wrong(f"{keyword} in {place} has more than 15 digits, or more than 6 after the point")
        found.append((number, keyword == exclusive))
    if not found:
        return None, False
    return max(found) if is_low else min(found, key=lambda bound: (bound[0], not bound[1]))


def _less(schema: Mapping[str, Any], keyword: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != keyword}


def _unsupported(what: str, place: str) -> SlmError:
    return _wrong(f"{what} ({_at(place)}) is not supported")


def _at(place: str) -> str:
    """Where in the schema something stands, in words: a JSON pointer says nothing at the top."""
    return "at the top" if place == "#" else f"at {place}"


def _wrong(what: str) -> SlmError:
    return SlmError(
        f"this schema cannot be used: {what}.",
        hint="what is supported: docs/structured.md",
        exit_code=ExitCode.USAGE,
    )
