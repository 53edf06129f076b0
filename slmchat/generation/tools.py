"""Functions that a model may call: how it is told of them, how its calls are made to parse, how they are read.

A model calls in the notation that its chat template writes (call_notation.py), and in that of Hermes and Qwen where the
template knows none: JSON between `<tool_call>` and `</tool_call>`. It is told of its functions in the words of its own
template where these stand in the system message, else in slm's.

Knows: functions, calls, the words for the system message, text and calls as they come. Refuses to know: the records of
an API (server/), what a function does, how a grammar holds a notation (call_grammar.py).
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from slmchat.conversation.thinking import overlap
from slmchat.engine.requests import Constraint, ConstraintKind
from slmchat.generation.call_notation import HERMES, NAME, PYTHON_TAG, CallNotation
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass

__all__ = ["CLOSING", "NAME", "OPENING", "RESULT", "CallMode", "CallSplitter", "Tool", "ToolCall", "Toolbox", "split"]

OPENING, CLOSING = "<tool_call>", "</tool_call>"
RESULT = ("<tool_response>", "</tool_response>")

# Begins no call: nothing comes behind the only one of an answer.
_NEVER = "\0"

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

    def written(self, notation: CallNotation = HERMES) -> str:
        """The call in a notation, for a later prompt."""
        return notation.written([(self.name, self._given())])

    def _given(self) -> Any:
        """The arguments; a text where they are not JSON."""
        try:
            return json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return self.arguments


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions of one request. `most`: calls in one answer, None: as many as the model likes.

    `notation`: the one in which they are called. `answer`: the format (JSON) of an answer that calls none.
    """

    tools: tuple[Tool, ...]
    mode: CallMode = CallMode.AUTO
    most: int | None = None
    notation: CallNotation = HERMES
    answer: ResponseFormat | None = None

    def in_notation(self, notation: CallNotation | None) -> "Toolbox":
        """The same in the notation of a model, where that can hold the arguments of all functions; None: it has none"""
        from slmchat.generation.call_grammar import can_hold

        if notation is None or not all(can_hold(notation, tool.parameters or _NOTHING) for tool in self.tools):
            return self
        if self.answer is not None and not notation.mark:  # calls without a mark begin as JSON does
            return self
        return replace(self, notation=notation)

    def instruction(self, words: Callable[[Sequence[Mapping[str, Any]]], str | None] = lambda _tools: None) -> str:
        """What stands in the system message: the words of the model's makers where these are of the notation (`words`
        has them for functions as OpenAI describes them), else slm's own; then what an answer without a call is."""
        told = self._of_functions(words)
        behind = self.answer.instruction if self.answer is not None else ""
        return f"{told}\n\nWhen you call none: {behind}" if behind else told

    def _of_functions(self, words: Callable[[Sequence[Mapping[str, Any]]], str | None]) -> str:
        usual = words([Tool("f").described()]) or ""
        is_hermes = OPENING in usual and '"arguments"' in usual  # others write something else between these marks
        if is_hermes if self.notation == HERMES else usual:
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
            f"To call one, {self._shown()}\n"
            f"Its result comes in the next message, between {RESULT[0]} and {RESULT[1]}. {must}"
        )

    def _shown(self) -> str:
        """How a call is written, for slm's own words."""
        if self.notation == HERMES:
            return (
                "write its name and its arguments as JSON:\n"
                f'{OPENING}\n{{"name": ..., "arguments": {{...}}}}\n{CLOSING}'
            )
        call = self.notation.written([("NAME", {"ARGUMENT": "VALUE"})])
        return f"write its name and the values of its arguments like this:\n{call}"

    def behind(self, message: str) -> str:
        """What stands behind the last message, as it does of a format without functions: where that is a result, since
        a small model calls the same function again when nothing else is said."""
        has_result = message.rstrip().endswith(RESULT[1])
        return self.answer.instruction if self.answer is not None and has_result else ""

    def constraint(self) -> Constraint:
        """What an answer has to look like. Raises `SlmError` (USAGE) for parameters that cannot be used."""
        from slmchat.generation.call_grammar import gbnf

        functions = tuple((tool.name, json.dumps(tool.parameters or _NOTHING)) for tool in self.tools)
        is_required = self.mode is CallMode.REQUIRED
        # any JSON has no text of its own
        answer = None if self.answer is None else self.answer.constraint.text or '{"type": "object"}'
        made = gbnf(functions, self.notation, self.most, is_required=is_required, answer=answer)
        return Constraint(ConstraintKind.GRAMMAR, made)

    def is_text(self, name: str, key: str) -> bool:
        """Whether this argument of this function is a text."""
        from slmchat.generation.call_grammar import is_text

        properties = next((tool.parameters or {} for tool in self.tools if tool.name == name), {}).get("properties")
        return is_text((properties or {}).get(key))

    def splitter(self) -> "CallSplitter":
        """What tells text from calls in an answer."""
        return CallSplitter(self.notation, self.is_text, is_either=self.answer is not None)

    def rewritten(self, text: str) -> str:
        """An earlier answer, whose calls stand in the notation of Hermes, in the notation of this model."""
        if self.notation == HERMES or OPENING not in text:
            return text
        said, calls = split(text)
        written = self.notation.written([(call.name, call._given()) for call in calls]) if calls else ""
        return "\n".join(part for part in (said, written) if part)


def result_written(text: str) -> str:
    """What a function gave, for a message of the user's side."""
    return f"{RESULT[0]}\n{text}\n{RESULT[1]}"


class CallSplitter:
    """Tells text from calls while an answer comes. A call is given when it is whole; one that is cut off is left out.

    `has_calls`: there was one.
    """

    def __init__(
        self,
        notation: CallNotation = HERMES,
        is_text: Callable[[str, str], bool] = lambda _name, _key: False,
        *,
        is_either: bool = False,
    ) -> None:
        """`is_text`: as `CallNotation.read` has it. `is_either`: an answer is text or calls, so that in a text a mark
        means nothing."""
        self._is_either = is_either
        self._notation = notation
        self._is_text = is_text
        self._held = ""
        self._begins: str | None = None  # what stands before the name of the next call; None: text comes
        self._is_at_start = True
        self.has_calls = False

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """What is certain after this text."""
        self._held += text
        while True:
            if self._begins is None:
                said = self._take_text()
                if said:
                    yield said
                if self._begins is None:
                    return
            call = self._take_loose_call() if self._notation == HERMES else self._take_call(self._begins)
            if call is None:
                return
            self.has_calls = True
            yield call

    def _take_text(self) -> str:
        """The text that is certain; a call may begin behind it."""
        notation = self._notation
        mark = notation.mark or PYTHON_TAG
        begun = self._held.lstrip()
        if self._is_either and not (self._is_at_start and begun.startswith(mark)):
            if self._is_at_start and mark.startswith(begun):  # it may be either
                return ""
            self._is_at_start = False
            said, self._held = self._held, ""
            return said
        if self._is_at_start and not notation.mark:
            if begun.startswith("{"):
                self._held, self._begins = begun, notation.first
            if not begun or self._begins:
                return ""
        before, found, _ = self._held.partition(mark)
        if found:
            self._held = self._held[len(before) + (0 if notation.mark else len(mark)) :]
            self._begins = notation.first
            return before.rstrip()
        keep = len(before[: len(before) - overlap(before, mark)].rstrip())
        said, self._held = before[:keep], before[keep:]
        self._is_at_start = self._is_at_start and not said
        return said

    def _take_call(self, begins: str) -> ToolCall | None:
        """The call that comes next; None: it is not whole yet, or there is no further one."""
        if not self._held.startswith(begins):
            return None
        try:
            read = self._notation.read(self._held, len(begins), self._is_text)
        except ValueError:  # not a call in this notation: nothing that the grammar lets through
            return None
        if read is None:
            return None
        name, arguments, end = read
        self._held = self._held[end:]
        self._begins = self._notation.between or _NEVER
        return ToolCall.new(name, arguments)

    def _take_loose_call(self) -> ToolCall | None:
        """The same in the notation of Hermes, as a model writes it that no grammar holds, behind an endpoint: any JSON
        up to the closing mark, which may stand inside of the JSON as well."""
        begin = len(OPENING)
        place = begin
        while (place := self._held.find(CLOSING, place)) >= 0:
            try:
                made = json.loads(self._held[begin:place])
            except (ValueError, RecursionError):
                place += 1
                continue
            self._held, self._begins = self._held[place + len(CLOSING) :].lstrip(), None
            return ToolCall.new(made["name"], made["arguments"])
        return None

    def flush(self) -> Iterator[str | ToolCall]:
        """What was held back, at the end of the answer."""
        if self._begins is None and self._held and not self.has_calls:
            yield self._held
        self._held = ""


def split(text: str, toolbox: Toolbox | None = None) -> tuple[str, list[ToolCall]]:
    """The text and the calls of a whole answer; without a toolbox in the notation of Hermes."""
    splitter = CallSplitter() if toolbox is None else toolbox.splitter()
    parts = [*splitter.feed(text), *splitter.flush()]
    said = "".join(part for part in parts if isinstance(part, str))
    return said, [part for part in parts if isinstance(part, ToolCall)]
