"""Objects and arrays of a JSON Schema as grammars.

Knows: which members and values a schema allows, and in which order they come. Refuses to know: what a member or a value
is (the converter), commas (json_members.py).
"""

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, Protocol

from slmchat.schemas import json_strings, python_regex
from slmchat.schemas.equality import Distinct
from slmchat.schemas.grammar import EMPTY, Node, Rule, Text, chain, choice, texts
from slmchat.schemas.json_members import Member, distinct_list_of, list_of, more_members, names_unlike, object_of
from slmchat.schemas.json_rules import COLON, QUOTE, JsonRules, spellings
from slmchat.schemas.json_strings import counts
from slmchat.schemas.keywords import ASSERTIONS, TYPE_ALONE, escaped
from slmchat.schemas.refusals import Impossible, some, unusable

# Values of which every order is written out where none may stand twice: a rule for each of 2^5 sets.
_MOST_DISTINCT = 5


# An object of so many members is a rule of its own.
_MANY = 4


class Converter(Protocol):
    """What is asked here of the converter of a schema (json_schema.py)."""

    rules: JsonRules
    only_checked: dict[str, None]
    has_waste: bool

    def schema(self, schema: Any, place: str) -> Node:
        """What a schema allows. Raises `Impossible` when it allows nothing."""
        ...


def object_node(converter: Converter, schema: Mapping[str, Any], place: str) -> Node:
    properties = schema.get("properties", {})
    required = list(schema.get("required", ()))
    patterns = schema.get("patternProperties", {})
    if not isinstance(properties, dict):
        raise unusable(f"properties in {place} is not an object")
    if not all(isinstance(name, str) for name in required):
        raise unusable(f"required in {place} is not a list of names")
    extra = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
    needed = {name: _undeclared(name, extra, patterns) for name in required if name not in properties}
    declared = {**properties, **needed}
    if extra is None:  # nobody asks for others; where nothing else is said, they are what the object is for
        extra = not (properties or required or patterns)
    members = _members(converter, declared, frozenset(required), place)
    least, most = counts(schema, "minProperties", "maxProperties", place)
    if most is not None and _n_required(members) > most:
        raise Impossible(f"maxProperties in {place} is less than what is required")
    kinds = _others(converter, schema, extra, patterns, tuple(declared), place)
    if not members and not kinds and least:
        raise Impossible(f"minProperties in {place} is more than there may be")
    _note_counts(converter, members, bool(kinds), least, most)
    rules = converter.rules
    more: Node = EMPTY
    only_more: Node | None = None if least else EMPTY
    if kinds:
        other = rules.named(choice(kinds))
        more = more_members(rules, [other], 0, None, is_first=False)
        only_more = more_members(rules, [other], min(least, 1) if members else least, most, is_first=True)
    node = object_of(rules, members, more, only_more)
    # what stands inside of something else is written again and again while that is put together
    return rules.add(node) if len(members) >= _MANY else node


def _undeclared(name: str, extra: Any, patterns: Mapping[str, Any]) -> Any:
    """What a required property has to be that has no schema of its own."""
    found = [part for pattern, part in patterns.items() if python_regex.compiled(pattern).search(name)]
    return found[0] if len(found) == 1 else {"allOf": found} if found else extra is None or extra


def _members(converter: Converter, declared: Mapping[str, Any], required: frozenset[str], place: str) -> list[Member]:
    members: list[Member] = []
    below = f"{place}/properties/"
    for name, value in declared.items():
        is_required = name in required
        try:
            node = converter.schema(value, below + escaped(name))
        except Impossible as error:
            if is_required:
                raise Impossible(
                    f"{json.dumps(name, ensure_ascii=False)} is required in {place} and cannot be there"
                ) from error
            converter.has_waste = True
            continue
        # an optional one stands in two rules
        if not is_required and type(node) is not Rule and type(node) is not Text:
            node = converter.rules.add(node)
        members.append((encode_basestring(name) + COLON.text, node, is_required))
    return members


def _others(
    converter: Converter,
    schema: Mapping[str, Any],
    extra: Any,
    patterns: Mapping[str, Any],
    declared: Sequence[str],
    place: str,
) -> list[Node]:
    """The kinds of members that may stand behind the declared ones: by a pattern of their name, or any."""
    kinds: list[Node] = []
    if extra is False and not patterns:
        return kinds
    for pattern, value in patterns.items():
        try:
            node = converter.schema(value, f"{place}/patternProperties/{escaped(pattern)}")
            key = json_strings.string(converter.rules, {"pattern": pattern}, place, converter.only_checked)
        except Impossible:
            converter.has_waste = True
            continue
        kinds.append(chain(key, COLON, converter.rules.named(node)))
    if extra is not False:
        try:
            node = converter.schema(extra, f"{place}/additionalProperties")
            kinds.append(chain(_other_name(converter, schema, declared, place), COLON, converter.rules.named(node)))
        except Impossible:
            converter.has_waste = True
    if kinds and patterns and extra is not False:
        converter.only_checked["patternProperties"] = None
    return kinds


def _other_name(converter: Converter, schema: Mapping[str, Any], declared: Sequence[str], place: str) -> Node:
    names = schema.get("propertyNames", True)
    if isinstance(names, dict) and not declared:
        return converter.schema({"type": "string", **names}, f"{place}/propertyNames")
    if names is not True:
        converter.only_checked["propertyNames"] = None
    return chain(QUOTE, names_unlike(converter.rules, declared), QUOTE)


def _note_counts(converter: Converter, members: Sequence[Member], has_more: bool, least: int, most: int | None) -> None:
    """Say which of minProperties and maxProperties the grammar does not hold."""
    if members and least > 1 and least > _n_required(members):
        converter.only_checked["minProperties"] = None
    if most is not None and members and (has_more or len(members) > most):
        converter.only_checked["maxProperties"] = None


def _n_required(members: Sequence[Member]) -> int:
    return sum(is_required for *_, is_required in members)


def array_node(converter: Converter, schema: Mapping[str, Any], place: str) -> Node:
    least, most = counts(schema, "minItems", "maxItems", place)
    first = some(schema, "prefixItems", place) if schema.get("prefixItems") else []
    items = schema.get("items", schema.get("unevaluatedItems", True) if "contains" not in schema else True)
    if schema.get("uniqueItems") is True and most != 1:
        values = _listed_values(items) if not first else None
        if values is not None and len(values) <= _MOST_DISTINCT and least <= len(values):
            nodes = [texts(spellings(value)) for value in values]
            return distinct_list_of(converter.rules, nodes, least, most)
        converter.only_checked["uniqueItems"] = None
        if values is not None:
            most = len(values) if most is None else min(most, len(values))
    fixed: list[Node] = []
    for number, part in enumerate(first[:most]):
        try:
            fixed.append(converter.rules.named(converter.schema(part, f"{place}/prefixItems/{number}")))
        except Impossible:
            most = number
            converter.has_waste = True
            break
    item: Node | None = None
    if items is not False and (most is None or most > len(fixed)):
        try:
            item = converter.rules.named(converter.schema(items, f"{place}/items"))
        except Impossible:
            item = None
            converter.has_waste = True
    if (most is not None and most < least) or (item is None and least > len(fixed)):
        raise Impossible(f"minItems in {place} is more than there may be")
    return list_of(converter.rules, fixed, item, least, most)


def _listed_values(schema: Any) -> list[Any] | None:
    """The values that a schema allows, each once, where it lists them and says nothing else."""
    asserted = schema.keys() & ASSERTIONS if isinstance(schema, dict) else set()
    if asserted == TYPE_ALONE and schema["type"] == "boolean":
        return [True, False]
    values = schema["enum"] if asserted == {"enum"} or asserted == {"enum", "type"} else None
    if not isinstance(values, list) or (
        "type" in asserted and not (schema["type"] == "string" and all(isinstance(value, str) for value in values))
    ):
        return None
    seen = Distinct()
    return [value for value in values if seen.add(value)]
