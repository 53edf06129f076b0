"""JSON Schema to a grammar: every text that is generated is JSON, and of that schema as far as a grammar can hold it.

Knows: which keywords a grammar can hold and how, references and recursion. Refuses to know: tokens, files, checking a
finished text (check.py).

Properties come in the order of the schema. What a grammar cannot hold is left to the check of the finished text, and
`JsonGrammar.only_checked` names it; docs/structured.md has the list.
"""

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from slmchat.lazy_dataclasses import dataclass
from slmchat.schemas import formats, json_numbers, json_strings, merging, misshapen, references
from slmchat.schemas.check import SchemaCheck
from slmchat.schemas.gbnf_writer import gbnf_of
from slmchat.schemas.grammar import EMPTY, Chars, Grammar, Node, Rule, Text, choice, texts
from slmchat.schemas.json_containers import array_node, object_node
from slmchat.schemas.json_rules import JsonRules, spellings
from slmchat.schemas.keywords import ASSERTIONS, KNOWN, NOTES, OF_TYPE, TYPES, is_note
from slmchat.schemas.refusals import Impossible, some, unusable

# A schema with a type and notes alone, and what is made of it.
_PLAIN_KEYS = {"type", *NOTES}
_LEAVES: dict[str, Callable[[JsonRules], Node]] = {
    "string": JsonRules.string,
    "integer": JsonRules.integer,
    "number": JsonRules.number,
    "boolean": JsonRules.boolean,
    "null": lambda rules: Text("null"),
}

# Only the check of the finished text knows them.
_CHECKED = ("not", "if", "dependentRequired", "dependentSchemas", "dependencies", "contains", "unevaluatedItems")
_ONLY_CHECKED = frozenset(_CHECKED)

# What a schema says besides its type and what belongs to that: most say nothing of it.
_BEYOND_TYPES = frozenset((*_CHECKED, "$ref", "allOf", "anyOf", "oneOf", "enum", "const"))

# More schemas than this in one schema: the rest of it is any JSON to the grammar, and checked at the end.
_MOST_SCHEMAS = 3_000
_MOST_NESTED = 80
# From here on what a reference leads to is made later: a chain of references is not nesting.
_DEEP = 30
_NOTHING = Chars(())
_MOST_UNFOLDED = 100


@dataclass(frozen=True, slots=True)
class JsonGrammar:
    """`only_checked`: the keywords that the grammar cannot hold. `unknown`: the words of the schema that slm does not
    know. `has_soft_limits`: whether a list or a map has a limit in it that the schema has not."""

    grammar: Grammar
    only_checked: tuple[str, ...]
    unknown: tuple[str, ...]
    has_soft_limits: bool


@dataclass(frozen=True, slots=True)
class SchemaGbnf:
    """The same as text for llama.cpp."""

    gbnf: str
    only_checked: tuple[str, ...]
    unknown: tuple[str, ...]
    has_soft_limits: bool


def to_gbnf(text: str, *, is_capped: bool) -> SchemaGbnf:
    """The grammar of a schema that is JSON text, written once for all who need it. Raises `SlmError` as `compiled`
    does.

    The one with soft limits is made first, as the first attempt needs it; where nothing has one, the other is the same.
    """
    made = _written(text, is_capped=True)
    return made if is_capped or not made.has_soft_limits else _written(text, is_capped=False)


@lru_cache(maxsize=16)
def _written(text: str, *, is_capped: bool) -> SchemaGbnf:
    with _without_collector():
        made = compiled(json.loads(text), text, is_capped=is_capped)
        found = SchemaGbnf(gbnf_of(made.grammar), made.only_checked, made.unknown, made.has_soft_limits)
        del made  # before the collector looks: of all its nodes nothing is left then
    return found


def to_grammar(schema: Any, *, is_capped: bool = False) -> Grammar:
    """The grammar of `compiled` alone."""
    return compiled(schema, is_capped=is_capped).grammar


def compiled(schema: Any, text: str | None = None, *, is_capped: bool = False) -> JsonGrammar:
    """The grammar of the JSON texts of this schema (draft 4 to 2020-12); `text`: the schema as JSON text.

    Raises `SlmError` (USAGE) that names the keyword and its place for what is not a schema, contradicts itself or has
    no end.
    """
    try:
        with _without_collector():
            return _Converter(schema, json.dumps(schema) if text is None else text, is_capped).whole()
    except RecursionError as error:
        raise unusable("it is nested too deep") from error


@contextmanager
def _without_collector() -> Iterator[None]:
    """A grammar is thousands of small objects of which none refers back: to look for circles among them takes up to a
    third of the time of a large one."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def any_json(*, is_capped: bool = False) -> Grammar:
    """Any JSON object or array."""
    rules = JsonRules(is_capped=is_capped)
    rules.grammar.rules["root"] = choice((rules.object(), rules.array()))
    rules.grammar.prune()
    return rules.grammar


class _Converter:
    def __init__(self, schema: Any, text: str, is_capped: bool) -> None:
        misshapen.refuse(schema, text)
        self.document = references.flattened(schema, text)
        self.check = SchemaCheck.of_flattened(self.document)
        self.rules = JsonRules(is_capped=is_capped)
        self.only_checked: dict[str, None] = {}
        self.unknown: dict[str, None] = {}
        self.places = {"root": "the schema itself"}  # rule -> where in the schema it comes from
        self.references: dict[str, str] = {"#": "root"}  # $ref, or a schema with allOf as text -> rule
        self.targets: dict[str, Any] = {}  # $ref -> what it leads to
        self.impossible: dict[str, str] = {}  # the same -> why
        self.under_way: set[str] = set()
        self.later: list[tuple[str, Callable[[], Node]]] = []  # rules that are made when this one is done
        self.is_recursive = False
        self.has_waste = False  # rules of what was left out
        self.depth = 0
        self.n_schemas = 0

    def whole(self) -> JsonGrammar:
        grammar = self.rules.grammar
        # the rule "root" stands for the reference "#": a schema may refer to itself
        grammar.rules["root"] = EMPTY
        self.under_way.add("#")
        grammar.rules["root"] = self.schema(self.document, "#")
        while self.later:
            name, make = self.later.pop()
            self.is_recursive = True  # whether it has an end, nobody knows yet
            try:
                grammar.rules[name] = make()
            except Impossible:
                grammar.rules[name] = _NOTHING
        if self.has_waste:
            grammar.prune()
        if self.is_recursive:
            self.refuse_endless(grammar)
        return JsonGrammar(grammar, tuple(self.only_checked), tuple(self.unknown), self.rules.has_soft_limits)

    def refuse_endless(self, grammar: Grammar) -> None:
        """Leave out what contains itself without an end. Raises `SlmError` (USAGE) where nothing is left, or where a
        schema comes to itself before anything else."""
        endless = grammar.endless()
        if "root" in endless and not grammar.left_recursive(self.places):
            raise unusable(f"{self.place_of(endless)} contains itself without an end")
        if "root" not in endless:
            grammar.leave_out(frozenset(endless))
        if circle := grammar.left_recursive(self.places):
            raise unusable(f"{self.place_of(circle)} refers to itself in a circle")

    def place_of(self, names: Sequence[str]) -> str:
        """Where in the schema these rules come from."""
        places = [self.places[name] for name in names if name in self.places]
        return (places or ["the schema itself"])[-1]

    def schema(self, schema: Any, place: str) -> Node:
        """What this schema allows. Raises `Impossible` when it allows nothing."""
        if schema is True or schema == {}:
            return self.rules.value()
        if schema is False:
            raise Impossible(f"{place} is false: no value is right")
        if not isinstance(schema, dict):
            raise unusable(f"{place} is not a schema: an object was expected")
        if schema.keys() <= _PLAIN_KEYS and (leaf := _LEAVES.get(str(schema.get("type")))) is not None:
            return leaf(self.rules)  # most schemas of a large one are such
        self.n_schemas += 1
        if self.n_schemas > _MOST_SCHEMAS:
            self.only_checked["the rest of this large schema"] = None
            return self.rules.value()
        if self.depth > _MOST_NESTED:
            raise unusable(f"{place} is nested too deep")
        self.depth += 1
        try:
            return self.known(schema, place)
        except (TypeError, AttributeError, KeyError) as error:
            raise unusable(f"a keyword in {place} has a value that it cannot have") from error
        finally:
            self.depth -= 1

    def known(self, schema: Mapping[str, Any], place: str) -> Node:
        if not schema.keys() <= KNOWN:
            self.unknown |= {
                json.dumps(key, ensure_ascii=False): None for key in schema if key not in KNOWN and not is_note(key)
            }
        kind = schema.get("type")
        if isinstance(kind, str) and kind in TYPES and _BEYOND_TYPES.isdisjoint(schema):
            return self.of_type(kind, merging.modern(schema), place)
        asserted = ASSERTIONS & schema.keys()
        if not asserted:
            return self.rules.value()
        if asserted == {"$ref"}:
            return self.reference(schema["$ref"], place)
        rest = merging.modern({key: value for key, value in schema.items() if key in asserted})
        if "$ref" in rest:
            rest = {"allOf": [{"$ref": rest["$ref"]}, *rest.get("allOf", ())], **_less(rest, "$ref", "allOf")}
        if "allOf" in rest:
            if len(rest) == 1 and len(some(rest, "allOf", place)) == 1:
                return self.schema(rest["allOf"][0], place)
            key = _as_text(rest)
            return self.kept(key, lambda: self.plain(self.unfolded(rest, place), place), place)
        return self.plain(rest, place)

    def plain(self, rest: Mapping[str, Any], place: str) -> Node:
        """A schema of assertions without references and without `allOf`, but for what waits for its turn in it."""
        for keyword in ("anyOf", "oneOf"):
            if keyword in rest:
                return self.alternatives(rest, keyword, place)
        if not _ONLY_CHECKED.isdisjoint(rest):
            self.only_checked |= {keyword: None for keyword in _CHECKED if keyword in rest}
        if "const" in rest or "enum" in rest:
            return self.constants(rest, place)
        types = rest.get("type") or self.implied_types(rest)
        types = [types] if isinstance(types, str) else types
        if not isinstance(types, list) or not all(kind in TYPES for kind in types):
            unknown = next((kind for kind in types if kind not in TYPES), types) if isinstance(types, list) else types
            raise unusable(f"{json.dumps(unknown)} is not a type ({_at(place)}); the types are {', '.join(TYPES)}")
        if len(types) == 1:
            return self.of_type(types[0], rest, place)
        return self.one_of([(lambda kind=kind: self.of_type(kind, rest, place)) for kind in types])

    def one_of(self, makers: Iterable[Any]) -> Node:
        """What any of these allows; those that allow nothing are left out. Raises `Impossible` when all do."""
        found: list[Node] = []
        why = "there is nothing to choose from"
        for make in makers:
            try:
                found.append(make())
            except Impossible as error:
                why = error.why
                self.has_waste = True
        if not found:
            raise Impossible(why)
        return choice(found)

    def implied_types(self, schema: Mapping[str, Any]) -> list[str]:
        """A schema without a type: the types that its keywords speak about, else every type."""
        found = [kind for kind, keywords in OF_TYPE.items() if not keywords.isdisjoint(schema)]
        return found or [kind for kind in TYPES if kind != "integer"]

    def of_type(self, kind: str, schema: Mapping[str, Any], place: str) -> Node:
        rules = self.rules
        if kind == "object":
            return rules.object() if OF_TYPE["object"].isdisjoint(schema) else object_node(self, schema, place)
        if kind == "array":
            return rules.array() if OF_TYPE["array"].isdisjoint(schema) else array_node(self, schema, place)
        if kind == "string":
            self.note_format(schema)
            return json_strings.string(rules, schema, place, self.only_checked)
        if kind == "boolean":
            return rules.boolean()
        if kind == "null":
            return Text("null")
        return json_numbers.number(rules, schema, place, self.only_checked, is_integer=kind == "integer")

    def note_format(self, schema: Mapping[str, Any]) -> None:
        name = schema.get("format")
        if isinstance(name, str) and name not in formats.PATTERNS and name not in formats.NOTES:
            self.unknown[f"the format {json.dumps(name)}"] = None

    # -- references, alternatives, constants

    def reference(self, reference: Any, place: str) -> Node:
        target = self.target(reference, place)
        return self.kept(reference, lambda: self.schema(target, reference), reference)

    def target(self, reference: Any, place: str) -> Any:
        """What a `$ref` leads to, looked for once. Raises `SlmError` (USAGE)."""
        if isinstance(reference, str) and reference in self.targets:
            return self.targets[reference]
        found = self.targets[reference] = references.target(self.document, reference, place)
        return found

    def kept(self, key: str, make: Any, place: str) -> Node:
        """The rule of a schema that several places use, or that uses itself; made once."""
        if key in self.impossible:
            raise Impossible(self.impossible[key])
        if key in self.under_way:
            self.is_recursive = True
        if key not in self.references:
            self.under_way.add(key)
            name = self.references[key] = self.rules.reserve()
            self.places[name] = place
            if self.depth > _DEEP:
                self.later.append((name, make))
                self.under_way.discard(key)
                return Rule(name)
            try:
                self.rules.grammar.rules[name] = make()
            except Impossible as error:
                self.impossible[key] = error.why
                del self.references[key]
                raise
            finally:
                self.under_way.discard(key)
        return Rule(self.references[key])

    def resolved(self, schema: Any, place: str) -> Any:
        """The schema itself, or what its $ref stands for together with what stands beside it."""
        seen: set[str] = set()
        beside: list[Any] = []
        while isinstance(schema, dict) and "$ref" in schema:
            reference = schema["$ref"]
            target = self.target(reference, place)
            if reference in seen:
                raise unusable(f"{reference} refers to itself in a circle")
            seen.add(reference)
            beside.append(_less(schema, "$ref"))
            schema = target
        return merging.merged([schema, *beside], place, self.only_checked) if beside else schema

    def unfolded(self, rest: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        """The schema with the parts of its `allOf` put together; those wait that cannot be yet."""
        for _ in range(_MOST_UNFOLDED):
            if "allOf" not in rest:
                return rest
            parts = some(rest, "allOf", place)
            waiting = [part for part in parts if _waits(part, rest)]
            if len(waiting) == len(parts):
                return rest
            ready = [self.resolved(part, f"{place}/allOf/{n}") for n, part in enumerate(parts) if part not in waiting]
            left = [{"allOf": waiting}] if waiting else []
            rest = merging.merged([_less(rest, "allOf"), *ready, *left], place, self.only_checked)
        raise unusable(f"allOf in {place} refers to itself in a circle")

    def alternatives(self, schema: Mapping[str, Any], keyword: str, place: str) -> Node:
        others = _less(schema, keyword)
        options = some(schema, keyword, place)
        if keyword == "oneOf":
            options = _each_alone(options)
        if not others:
            return self.one_of(
                (lambda n=n, option=option: self.schema(option, f"{place}/{keyword}/{n}"))
                for n, option in enumerate(options)
            )

        def merged(number: int, option: Any) -> Node:
            where = f"{place}/{keyword}/{number}"
            made = merging.merged([others, self.resolved(option, where)], where, self.only_checked)
            # by what it says: a schema that comes to itself in this way comes to an end
            return self.kept("option " + _as_text(made), lambda: self.schema(made, where), where)

        return self.one_of((lambda n=n, option=option: merged(n, option)) for n, option in enumerate(options))

    def constants(self, schema: Mapping[str, Any], place: str) -> Node:
        values = [schema["const"]] if "const" in schema else some(schema, "enum", place)
        beside = _less(schema, "const", *(("enum",) if "const" not in schema else ()))
        if beside == {"type": "string"}:
            found = [value for value in values if isinstance(value, str)]
        else:
            found = [value for value in values if self.check.holds(beside, value)] if beside else values
        if not found:
            raise Impossible(f"no value of the enum or const in {place} is right for what stands beside it")
        return texts(spelling for value in found for spelling in spellings(value))


# Two schemas that say the same have the same text.
_as_text = json.JSONEncoder(sort_keys=True).encode


def _waits(part: Any, rest: Mapping[str, Any]) -> bool:
    """Whether a part of `allOf` is one choice more beside another one: it has to wait until that one is made."""
    return (
        isinstance(part, dict)
        and len(part) == 1
        and next(iter(part)) in ("anyOf", "oneOf")
        and next(iter(part)) in rest
    )


def _each_alone(options: list[Any]) -> list[Any]:
    """`oneOf: [{required: [a]}, {required: [b]}]`: where one property is there, the others are not."""
    names = []
    for option in options:
        if not isinstance(option, dict) or set(option) & ASSERTIONS != {"required"} or len(option["required"]) != 1:
            return options
        names.append(option["required"][0])
    if len(set(names)) < len(names):
        return options
    return [{"required": [name], "properties": {other: False for other in names if other != name}} for name in names]


def _less(schema: Mapping[str, Any], *keywords: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keywords}


def _at(place: str) -> str:
    """Where in the schema something stands, in words: a JSON pointer says nothing at the top."""
    return "at the top" if place == "#" else f"at {place}"
