"""Functions that a model may call: how it is told of them, how its calls are made to parse, how they are read.

One notation for every model, that of Hermes and Qwen: a call is JSON between `<tool_call>` and `</tool_call>`. Models
that were trained with it are told of their functions in the words of their own chat template, the others in slm's. A
grammar holds the model to it: its answer is text in which no call begins, or text and then calls whose arguments keep
to the schema of their function. So whatever begins as a call can be read, unless it is cut off.

Knows: the notation, the grammar, the words for the system message. Refuses to know: the records of an API (server/),
what a function does.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from slmchat.engine.api import Constraint, ConstraintKind
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from slmchat.schemas.grammar import Node

OPENING, CLOSING = "<tool_call>", "</tool_call>"
RESULT = ("<tool_response>", "</tool_response>")

# As OpenAI has them: what a function may be called.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

# Without parameters: no arguments.
_NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class CallMode(Enum):
    """Whether there has to be a call."""

    AUTO = "auto"  # as the model likes
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that can be called. `parameters`: the JSON Schema of its arguments, an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None

    def described(self) -> dict[str, Any]:
        """As the API of OpenAI has it, and templates expect it."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters or _NOTHING}
        return {"type": "function", "function": told}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model makes. `arguments`: JSON, as text."""

    name: str
    arguments: str
    id: str = ""

    @classmethod
    def new(cls, name: str, arguments: Any) -> "ToolCall":
        """A call with an id of its own."""
        return cls(name, json.dumps(arguments, ensure_ascii=False), f"call_{secrets.token_hex(12)}")

    def written(self) -> str:
        """The call in the notation, for a later prompt. Arguments that are no JSON are a text."""
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError:
            arguments = self.arguments
        return f"{OPENING}\n{json.dumps({'name': self.name, 'arguments': arguments}, ensure_ascii=False)}\n{CLOSING}"


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions of one request. `most`: calls in one answer, None: as many as the model likes."""

    tools: tuple[Tool, ...]
    mode: CallMode = CallMode.AUTO
    most: int | None = None

    def instruction(self, words: Callable[[Sequence[Mapping[str, Any]]], str | None] = lambda _tools: None) -> str:
        """What stands in the system message: the words of the model's makers where they use this notation (`words` has
        them for functions as OpenAI describes them), else slm's own."""
        usual = words([Tool("f").described()]) or ""
        if OPENING in usual and '"arguments"' in usual:  # others write something else between these marks (GLM)
            own = words([tool.described() for tool in self.tools])
            if own is not None and all(tool.name in own for tool in self.tools):
                return own.strip()
        described = "\n".join(
            json.dumps(
                {"name": tool.name, "description": tool.description, "parameters": tool.parameters or _NOTHING},
                ensure_ascii=False,
            )
            for tool in self.tools
        )
        must = "Call a function now." if self.mode is CallMode.REQUIRED else "Call one only when it helps."
        return (
            f"You can call functions. Here they are, one a line:\n<tools>\n{described}\n</tools>\n\n"
            f"To call one, write its name and its arguments as JSON:\n{OPENING}\n"
            f'{{"name": ..., "arguments": {{...}}}}\n{CLOSING}\n'
            f"Its result comes in the next message, between {RESULT[0]} and {RESULT[1]}. {must}"
        )

    def constraint(self) -> Constraint:
        """What an answer has to look like. Raises `SlmError` (USAGE) for parameters that cannot be used."""
        schemas = tuple(json.dumps(_envelope(tool, place), ensure_ascii=False) for place, tool in enumerate(self.tools))
        return Constraint(ConstraintKind.GRAMMAR, _gbnf(schemas, self.mode, self.most))


def result_written(text: str) -> str:
    """What a function gave, for a message of the user's side."""
    return f"{RESULT[0]}\n{text}\n{RESULT[1]}"


def _envelope(tool: Tool, place: int) -> dict[str, Any]:
    """The schema of a call, with references inside of the parameters that still lead where they led."""
    parameters = tool.parameters or _NOTHING
    moved = _moved(parameters, f"#/anyOf/{place}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": moved},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        name: place + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for name, value in schema.items()
    }


@lru_cache(maxsize=16)
def _gbnf(schemas: tuple[str, ...], mode: CallMode, most: int | None) -> str:
    from slmchat.schemas import gbnf_writer, json_schema
    from slmchat.schemas.grammar import Grammar, Repeat, Rule, Text, chain

    try:
        rules = dict(json_schema.to_grammar({"anyOf": [json.loads(schema) for schema in schemas]}).rules)
    except SlmError as error:
        raise SlmError(f"parameters of a function cannot be used: {error.message}", exit_code=ExitCode.USAGE) from error
    rules["call-object"] = rules.pop("root")  # nothing leads there: references have been moved
    rules["call"] = chain(Text(f"{OPENING}\n"), Rule("call-object"), Text(f"\n{CLOSING}"))
    more = Repeat(chain(Text("\n"), Rule("call")), 0, None if most is None else most - 1)
    calls = Rule("call") if most == 1 else chain(Rule("call"), more)
    rules.update(_text_without(OPENING, calls))
    rules["root"] = calls if mode is CallMode.REQUIRED else Rule("text-0")
    return gbnf_writer.gbnf_of(Grammar(rules))


def _text_without(mark: str, behind: "Node") -> "dict[str, Node]":
    """Rules for text in which `mark` does not stand, and which may go on with `behind`.

    Rule n: the first n characters of the mark have just been written. The first one comes only once in the mark.
    """
    from slmchat.schemas.grammar import EMPTY, PRINTABLE, Chars, Rule, Text, chain, choice, without

    made: dict[str, Node] = {}
    for n, due in enumerate(mark):
        others = Chars(without(PRINTABLE, [(ord(each), ord(each)) for each in (mark[0], due)]))
        options: list[Node] = [EMPTY, chain(others, Rule("text-0")), chain(Text(mark[0]), Rule("text-1"))]
        if 0 < n < len(mark) - 1:
            options.append(chain(Text(due), Rule(f"text-{n + 1}")))
        made[f"text-{n}"] = choice([*options, *(() if n else (behind,))])
    return made


class CallSplitter:
    """Tells text from calls while an answer comes. A call is given when it is whole; one that is cut off is left out.

    `has_calls`: there was one.
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_in_call = False
        self.has_calls = False

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """What is certain after this text."""
        self._held += text
        while True:
            if self._is_in_call:
                place = self._end_of_call()
                if place is None:
                    return
                yield self._call(place)
                continue
            before, found, after = self._held.partition(OPENING)
            if found:
                self._held, self._is_in_call = after, True
                if before.rstrip():
                    yield before.rstrip()
                continue
            keep = len(before[: len(before) - _overlap(before)].rstrip())
            said, self._held = before[:keep], before[keep:]
            if said:
                yield said
            return

    def flush(self) -> Iterator[str | ToolCall]:
        """What was held back, at the end of the answer."""
        if not self._is_in_call and self._held and not self.has_calls:
            yield self._held
        self._held = ""

    def _end_of_call(self) -> int | None:
        """Where the call that has begun is closed: behind its JSON, in which the closing mark may stand as well."""
        place = -1
        while (place := self._held.find(CLOSING, place + 1)) >= 0:
            try:
                json.loads(self._held[:place])
            except ValueError:
                continue
            return place
        return None

    def _call(self, place: int) -> ToolCall:
        made = json.loads(self._held[:place])
        self._held, self._is_in_call, self.has_calls = self._held[place + len(CLOSING) :].lstrip(), False, True
        return ToolCall.new(made["name"], made["arguments"])


def _overlap(text: str) -> int:
    """Length of the end of `text` that may become the opening mark."""
    return next((n for n in range(min(len(OPENING) - 1, len(text)), 0, -1) if text.endswith(OPENING[:n])), 0)


def split(text: str) -> tuple[str, list[ToolCall]]:
    """The text and the calls of a whole answer."""
    splitter = CallSplitter()
    parts = [*splitter.feed(text), *splitter.flush()]
    said = "".join(part for part in parts if isinstance(part, str))
    return said, [part for part in parts if isinstance(part, ToolCall)]
