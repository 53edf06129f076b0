"""The grammar of an answer that may call functions: text in which no call begins, then calls that keep to a schema.

Whatever begins as a call can be read, unless it is cut off.

Knows: what a notation (call_notation.py) can hold of a schema, and the grammar of it. Refuses to know: templates, how
calls are read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from slmchat.errors import SlmError, usage_error
from slmchat.generation.call_notation import PYTHON_TAG, CallNotation, Pairs
from slmchat.schemas import gbnf_writer, json_schema
from slmchat.schemas.grammar import (
    EMPTY,
    PRINTABLE,
    Chain,
    Chars,
    Choice,
    Grammar,
    Node,
    Repeat,
    Rule,
    Text,
    chain,
    choice,
    without,
)
from slmchat.schemas.keywords import NOTES

# Keywords with which arguments can be keys and values, and those of an argument that is a text as it stands.
_OF_OBJECT = {"type", "properties", "required", "additionalProperties", "strict"} | NOTES
_OF_TEXT = {"type", "enum", "const"} | NOTES
_KEY = re.compile(r"[A-Za-z0-9_.-]+")


def is_text(schema: Any) -> bool:
    """Whether an argument of this schema is a text, and every text of its kind."""
    if not isinstance(schema, Mapping):
        return False
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    is_of_texts = values is not None and all(isinstance(value, str) for value in values)
    return schema.get("type", "string" if is_of_texts else None) == "string" and (values is None or is_of_texts)


def can_hold(notation: CallNotation, parameters: Mapping[str, Any]) -> bool:
    """Whether arguments of these parameters can be written in the notation, and read again as what they were."""
    pairs = notation.pairs
    if pairs is None:
        return True
    properties = parameters.get("properties", {})
    is_plain = parameters.get("type", "object") == "object" and isinstance(properties, Mapping)
    if not is_plain or not set(parameters) <= _OF_OBJECT:
        return False
    if not set(parameters.get("required", ())) <= set(properties):
        return False
    return all(_KEY.fullmatch(key) and _can_be_value(pairs, schema) for key, schema in properties.items())


def _can_be_value(pairs: Pairs, schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    if is_text(schema):
        texts = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
        is_closed = any(pairs.text_end in text for text in texts)
        return set(schema) <= _OF_TEXT and not is_closed
    # what may be a text or something else could not be told apart
    kinds = schema.get("type")
    plain = {"integer", "number", "boolean", *(("array", "object") if pairs.takes_lists else ())}
    return isinstance(kinds, str) and kinds in plain


@lru_cache(maxsize=16)
def gbnf(
    functions: tuple[tuple[str, str], ...],
    notation: CallNotation,
    most: int | None,
    *,
    is_required: bool,
    answer: str | None = None,
) -> str:
    """The grammar for these functions: names, and their parameters as JSON text. `most`: calls in one answer.
    `answer`: the schema, as JSON text, of an answer that calls none; None: any text. It needs a notation with a mark.

    Raises `SlmError` (USAGE) for parameters that cannot be used.
    """
    rules: dict[str, Node] = {}
    shared: set[str] = set()
    options: list[Node] = []
    try:
        for number, (name, parameters) in enumerate(functions):
            arguments = _Arguments(json.loads(parameters), notation, f"f{number}-", rules, shared).node()
            options.append(chain(Text(name), arguments))
    except SlmError as error:
        raise usage_error(f"parameters of a function cannot be used: {error.message}") from error
    rules["call"] = choice(options)
    most = 1 if notation.between is None else most
    more = Repeat(chain(Text(notation.between or ""), Rule("call")), 0, None if most is None else most - 1)
    last = Text(notation.last)
    behind = chain(Rule("call"), last) if most == 1 else chain(Rule("call"), more, last)
    calls = chain(Text(notation.first), behind)
    mark = notation.mark
    if answer is not None:
        other = _Arguments(None, notation, "", rules, shared).of_json(json.loads(answer), "answer-")
        rules["root"] = calls if is_required else choice([calls, other])
    elif mark:
        rules.update(_text_without(mark, "text", calls))
        rules["root"] = calls if is_required else Rule("text-0")
    else:
        rules.update(_text_without(PYTHON_TAG, "text", chain(Text(PYTHON_TAG), calls)))
        begun = Chars(without(PRINTABLE, [(ord(each), ord(each)) for each in "\t\n {<"]))
        text = choice([EMPTY, chain(begun, Rule("text-0")), chain(Text("<"), Rule("text-1"))])
        tagged = chain(Text(PYTHON_TAG), calls)
        rules["root"] = choice([calls, tagged] if is_required else [calls, tagged, text])
    grammar = Grammar(rules, shared)
    grammar.prune()
    return gbnf_writer.gbnf_of(grammar)


class _Arguments:
    """The arguments of one function, as the notation has them. Rules of theirs are put among those of all."""

    def __init__(
        self, parameters: Any, notation: CallNotation, prefix: str, rules: dict[str, Node], shared: set[str]
    ) -> None:
        self._parameters = parameters
        self._notation = notation
        self._prefix = prefix
        self._rules = rules
        self._shared = shared

    def node(self) -> Node:
        """From behind the name to the end of the arguments."""
        pairs, middle = self._notation.pairs, Text(self._notation.middle)
        if pairs is None:
            return chain(middle, self.of_json(self._parameters, self._prefix))
        json_schema.to_grammar(self._parameters)  # raises for what is not a schema
        self._rules.update(_text_without(pairs.text_end, "value", EMPTY))
        properties = list(self._parameters.get("properties", {}).items())
        required = set(self._parameters.get("required", ()))
        return self._from(0, properties, required, pairs, is_first=True)

    def _from(
        self, number: int, properties: Sequence[tuple[str, Any]], required: set[str], pairs: Pairs, *, is_first: bool
    ) -> Node:
        """The properties from this one on, in a rule of their own."""
        if number == len(properties):
            return Text(pairs.nothing) if is_first else EMPTY
        name = f"{self._prefix}{'first' if is_first else 'next'}-{number}"
        if name not in self._rules:
            key, schema = properties[number]
            before = (self._notation.middle if is_first else pairs.separator) + key + pairs.key_close
            value = chain(self._value(schema, f"{self._prefix}v{number}-", pairs), Text(pairs.value_close))
            rest = self._from(number + 1, properties, required, pairs, is_first=False)
            options = [chain(Text(before), value, rest)]
            if key not in required:
                options.append(self._from(number + 1, properties, required, pairs, is_first=is_first))
            self._rules[name] = choice(options)
        return Rule(name)

    def _value(self, schema: Mapping[str, Any], prefix: str, pairs: Pairs) -> Node:
        if not is_text(schema):
            definitions = {key: self._parameters[key] for key in ("$defs", "definitions") if key in self._parameters}
            return self.of_json({**schema, **definitions}, prefix)
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        text = Rule("value-0") if values is None else choice([Text(value) for value in values])
        return chain(Text(pairs.quote), text, Text(pairs.quote))

    def of_json(self, schema: Any, prefix: str) -> Node:
        """A value of this schema."""
        made = json_schema.to_grammar(schema)
        for name, node in made.rules.items():
            if name in made.shared:
                self._rules[name] = node
            else:
                self._rules[prefix + name] = _renamed(node, prefix, made.shared)
        self._shared |= made.shared
        return Rule(f"{prefix}root")


def _renamed(node: Node, prefix: str, shared: set[str]) -> Node:
    """The same with the names of its rules behind `prefix`, but for those that all grammars share."""
    if isinstance(node, Rule):
        return node if node.name in shared else Rule(prefix + node.name)
    if isinstance(node, Chain):
        return Chain(tuple(_renamed(item, prefix, shared) for item in node.items))
    if isinstance(node, Choice):
        return Choice(tuple(_renamed(option, prefix, shared) for option in node.options))
    if isinstance(node, Repeat):
        return Repeat(_renamed(node.item, prefix, shared), node.least, node.most)
    return node


def _text_without(mark: str, name: str, behind: Node) -> dict[str, Node]:
    """Rules for text in which `mark` does not stand, and which may go on with `behind`.

    Rule n: the first n characters of the mark have just been written. The first one comes only once in the mark.
    """
    return dict(_text_rules(mark, name, behind))


def _text_rules(mark: str, name: str, behind: Node) -> Iterator[tuple[str, Node]]:
    for n, due in enumerate(mark):
        others = Chars(without(PRINTABLE, [(ord(each), ord(each)) for each in (mark[0], due)]))
        options: list[Node] = [EMPTY, chain(others, Rule(f"{name}-0"))]
        if len(mark) > 1:
            options.append(chain(Text(mark[0]), Rule(f"{name}-1")))
        if 0 < n < len(mark) - 1:
            options.append(chain(Text(due), Rule(f"{name}-{n + 1}")))
        yield f"{name}-{n}", choice([*options, *(() if n else (behind,))])
