"""Random schemas out of everything that slm supports, and random texts out of a grammar."""

import json
import random
import re
from typing import Any

from slmchat.schemas import character_classes, formats
from slmchat.schemas.grammar import Chain, Chars, Choice, Grammar, Node, Repeat, Rule, Text

NAMES = ("name", "age", "a", "ab", "tags", "größe", 'quo"te', "back\\slash", "x y", "~/", "id", "z")
PATTERNS = (
    "^[a-z]{2,5}$",
    "^\\d{3}-\\d{4}$",
    "abc",
    "^(yes|no)$",
    '^"[^"]*\\\\$',
    "^a|b$",
    "[\\w.]+@[a-z]+",
    "^\\s*$",
    "^[^a-z\\n]{0,4}$",
    "^(ab?c+){1,3}x*?$",
)
# Those whose grammar is exact: of hosts and mailboxes the lengths are checked at the end, of times leap seconds, of regular
# expressions everything.
FORMATS = tuple(name for name in formats.PATTERNS if name not in formats.CHECKED)


def random_schema(rng: random.Random, depth: int = 3) -> Any:
    """A schema of the supported subset that some finite value satisfies."""
    makers = [_string, _string, _integer, _number, _constant, _plain]
    if depth > 0:
        makers += [_object, _object, _array, _array, _alternatives, _all_of, _types]
    return rng.choice(makers)(rng, depth - 1)


def with_references(rng: random.Random) -> dict[str, Any]:
    """An object with definitions that refer to each other and to themselves."""
    leaf = random_schema(rng, 1)
    tree = {
        "type": "object",
        "properties": {"value": leaf, "next": {"$ref": "#/$defs/tree"}, "many": {"$ref": "#/$defs/list"}},
        "required": ["value"],
    }
    return {
        "$defs": {"tree": tree, "list": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/tree"}, "own": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["root"],
    }


def _string(rng: random.Random, _depth: int) -> Any:
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": rng.choice(FORMATS)}
    least = rng.choice((0, 0, 1, 3))
    most = least + rng.choice((0, 1, 5, 20, 650))
    return {"type": "string", **({"minLength": least} if least else {}), "maxLength": most}


def _integer(rng: random.Random, _depth: int) -> Any:
    low = rng.choice((0, 1, -5, -123, 7, 99, 1000, rng.randint(-(10**6), 10**6)))
    high = low + rng.choice((1, 2, 9, 10, 101, 12345, rng.randint(1, 10**6)))
    made: dict[str, Any] = {"type": "integer"}
    if rng.random() < 0.7:
        made["exclusiveMinimum" if rng.random() < 0.3 else "minimum"] = low
    if rng.random() < 0.7:
        made["maximum"] = high
    return made


def _number(rng: random.Random, _depth: int) -> Any:
    low = rng.choice((0, 0, -1, 0.5, -0.25, 1.125, -7.5, 99, rng.randint(-1000, 1000) / 8))
    high = low + rng.choice((0.5, 1, 1.75, 10, 250.5))
    made: dict[str, Any] = {"type": "number"}
    if rng.random() < 0.8:
        made["exclusiveMinimum" if rng.random() < 0.5 else "minimum"] = low
    if rng.random() < 0.8:
        made["exclusiveMaximum" if rng.random() < 0.5 else "maximum"] = high
    return made


def _constant(rng: random.Random, _depth: int) -> Any:
    values: list[Any] = ["a", "ä\n", 1, -2.5, None, True, {"a": [1, {}]}, [], 'q"']
    if rng.random() < 0.3:
        return {"const": rng.choice(values)}
    return {"enum": rng.sample(values, rng.randint(1, 4))}


def _plain(rng: random.Random, _depth: int) -> Any:
    return rng.choice(({"type": "boolean"}, {"type": "null"}, {"type": "integer"}, {"type": "number"}))


def _object(rng: random.Random, depth: int) -> Any:
    names = rng.sample(NAMES, rng.randint(0, 5))
    made: dict[str, Any] = {"type": "object", "properties": {name: random_schema(rng, depth) for name in names}}
    made["required"] = [name for name in names if rng.random() < 0.6]
    extra = rng.randrange(4)
    if extra == 0:
        made["additionalProperties"] = random_schema(rng, 0)
    elif extra == 1:
        made["additionalProperties"] = False
    return made


def _array(rng: random.Random, depth: int) -> Any:
    made: dict[str, Any] = {"type": "array"}
    n_first = rng.choice((0, 0, 0, 1, 2, 3))
    if n_first:
        made["prefixItems"] = [random_schema(rng, depth) for _ in range(n_first)]
    made["items"] = False if n_first and rng.random() < 0.5 else random_schema(rng, depth)
    least = rng.choice((0, 0, 1, 2)) if made["items"] is not False else rng.randint(0, n_first)
    made["minItems"] = least
    if rng.random() < 0.7:
        made["maxItems"] = least + rng.choice((0, 1, 3))
    return made


def _alternatives(rng: random.Random, depth: int) -> Any:
    if rng.random() < 0.3:
        return {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "string", "maxLength": 4}, {"type": "null"}]}
    return {"anyOf": [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]}


def _all_of(rng: random.Random, depth: int) -> Any:
    first = {"type": "object", "properties": {"left": random_schema(rng, depth)}, "required": ["left"]}
    second = {"properties": {"right": random_schema(rng, depth)}, "required": ["right"]}
    return {"allOf": [first, second], "description": "both"}


def _types(rng: random.Random, _depth: int) -> Any:
    return {"type": rng.sample(["integer", "boolean", "null"], 2)}


def sample(grammar: Grammar, rng: random.Random, *, budget: int = 400) -> str:
    """A text of the grammar: random, and shorter choices once it is longer than `budget` characters."""
    costs = _costs(grammar)
    out: list[str] = []
    size = 0

    def write(node: Node) -> None:
        nonlocal size
        if isinstance(node, Text):
            out.append(node.text)
            size += len(node.text)
        elif isinstance(node, Chars):
            low, high = rng.choice(node.ranges)
            out.append(chr(rng.choice((low, high, rng.randint(low, high)))))
            size += 1
        elif isinstance(node, Chain):
            for item in node.items:
                write(item)
        elif isinstance(node, Choice):
            cheapest = min(node.options, key=lambda option: _cost(option, costs))
            write(rng.choice(node.options) if size < budget else cheapest)
        elif isinstance(node, Repeat):
            most = node.least + 4 if node.most is None else node.most
            times = rng.choice((node.least, most, rng.randint(node.least, most))) if size < budget else node.least
            for _ in range(times):
                write(node.item)
        else:
            write(grammar.rules[node.name])

    write(Rule("root"))
    return "".join(out)


def expression(node: Node) -> str:
    """The node, which has no rules in it, as an expression for `re.fullmatch`."""
    if isinstance(node, Text):
        return re.escape(node.text)
    if isinstance(node, Chars):
        return f"[{character_classes.spelled(node.ranges)}]"
    if isinstance(node, Chain):
        return "".join(map(expression, node.items))
    if isinstance(node, Choice):
        return f"(?:{'|'.join(map(expression, node.options))})"
    assert isinstance(node, Repeat)
    return f"(?:{expression(node.item)}){{{node.least},{'' if node.most is None else node.most}}}"


def _costs(grammar: Grammar) -> dict[str, float]:
    """Fewest characters of each rule."""
    costs = dict.fromkeys(grammar.rules, float("inf"))
    while True:
        found = {name: _cost(node, costs) for name, node in grammar.rules.items()}
        if found == costs:
            return costs
        costs = found


def _cost(node: Node, costs: dict[str, float]) -> float:
    if isinstance(node, Text):
        return len(node.text)
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Chain):
        return sum(_cost(item, costs) for item in node.items)
    if isinstance(node, Choice):
        return min(_cost(option, costs) for option in node.options)
    if isinstance(node, Repeat):
        return node.least * _cost(node.item, costs) if node.least else 0
    return costs[node.name]


def described(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False)
