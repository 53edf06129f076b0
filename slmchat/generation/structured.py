"""What a completion has to look like: a constraint of the engine, and a check of the finished text.

Knows: JSON, schemas, fields, grammars, regular expressions; what the model is told of them; the second attempt.
Refuses to know: how tokens are chosen, which option or keyword asked for it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slmchat.conversation.messages import Message
from slmchat.conversation.thinking import closing_of
from slmchat.engine.api import Constraint, ConstraintKind, FinishReason, Limits, Part, Prompt
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.response import Response
from slmchat.ranges import SEED
from slmchat.schemas.check import SchemaCheck

# Room for an answer without -n, in tokens, and how much more the second attempt gets.
ROOM = 1024
MORE_ROOM = 2
# The same for a thought before it, and for what closes it.
THOUGHT_ROOM = 2048
_CLOSING_ROOM = 64


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What was asked for. One for a whole batch: nothing in it changes.

    `constraint` goes into `Limits.constraint`, `instruction` (empty: none) behind the user's text. `thinks_first`: the
    prompt begins a thought, and the answer behind it has the format.
    """

    constraint: Constraint
    instruction: str = ""
    _check: SchemaCheck | None = field(default=None, repr=False)
    thinks_first: bool = False

    @property
    def is_json(self) -> bool:
        """Whether the answer is JSON: `value` then gives what it says, else the text itself."""
        return self.constraint.kind in (ConstraintKind.JSON, ConstraintKind.SCHEMA)

    def with_instruction(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the instruction behind the last one."""
        *before, last = messages
        text = f"{last.text}\n\n{self.instruction}" if self.instruction else last.text
        return [*before, replace(last, text=text)]

    def limits(self, limits: Limits) -> Limits:
        """These limits for a first attempt. Stop sequences do not count, they would cut through."""
        return replace(
            limits,
            max_tokens=limits.max_tokens or ROOM + self.room_to_think(limits.thinking),
            stop=(),
            shown=limits.shown if self.thinks_first else (),
            marks=limits.marks if self.thinks_first else (),
            constraint=self.constraint,
        )

    def room_to_think(self, thinking: Thinking) -> int:
        """Tokens for the thought before the answer, where nobody says how many both may have together."""
        if not self.thinks_first:
            return 0
        return THOUGHT_ROOM if thinking.budget is None else min(thinking.budget, THOUGHT_ROOM) + _CLOSING_ROOM

    def value(self, text: str, reason: FinishReason) -> object:
        """The finished answer as a value. Raises `SlmError` (UNSATISFIED) when it is cut off or not right."""
        if reason in (FinishReason.LENGTH, FinishReason.CONTEXT):
            raise _unsatisfied("it was cut off: the room for it is used up", "more room: -n N, or --ctx N")
        if self.constraint.kind is ConstraintKind.REGEX:
            if re.fullmatch(self.constraint.text, text, re.ASCII) is None:
                raise _unsatisfied("it does not match the regular expression")
            return text
        if self.constraint.kind is ConstraintKind.GRAMMAR:
            return text
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _unsatisfied("it is not valid JSON") from error
        problem = self._check.problem(value) if self._check else None
        if problem:
            raise _unsatisfied(problem)
        return value


def room_for(max_tokens: int | None, thought: int = 0) -> int:
    """Tokens that the context window has to hold behind the prompt, for both attempts; `max_tokens`: what -n says,
    `thought`: as `room_to_think` has it."""
    return (max_tokens or ROOM + thought) * MORE_ROOM


def thought_closed(prompt: Prompt) -> Prompt:
    """The prompt with the thought closed that its template has opened: a shaped answer begins at once."""
    closing = closing_of(prompt.parts[-1].text) if prompt.parts[-1].is_template else None
    if closing is None:
        return prompt
    return replace(prompt, parts=(*prompt.parts, Part(f"\n{closing}\n\n", is_template=True)))


def generate_valid(
    shape: ResponseFormat,
    sampler: SamplerSettings,
    limits: Limits,
    ask: Callable[[SamplerSettings, Limits], Response],
    *,
    on_retry: Callable[[SlmError], None],
) -> tuple[Response, object]:
    """An answer of the shape and its value; the value of an interrupted one is None.

    `ask` generates once. When its answer is cut off or not right, `on_retry` hears why and it is asked a second time.
    Raises `SlmError` (UNSATISFIED) when the second answer is not right either.
    """
    sampler = sampler.with_seed()
    limits = shape.limits(limits)
    try:
        return _asked(shape, ask(sampler, limits))
    except SlmError as error:
        if error.exit_code is not ExitCode.UNSATISFIED:
            raise
        on_retry(error)
    return _asked(shape, ask(*second_attempt(sampler, limits)))


def second_attempt(sampler: SamplerSettings, limits: Limits) -> tuple[SamplerSettings, Limits]:
    """With twice the room of the first one and, where it samples at all, the next seed."""
    again = replace(sampler, seed=((sampler.seed or 0) + 1) % int(SEED.high))
    return again, replace(limits, max_tokens=room_for(limits.max_tokens))


def _asked(shape: ResponseFormat, answer: Response) -> tuple[Response, object]:
    assert answer.finish is not None
    if answer.finish.reason is FinishReason.INTERRUPTED:
        return answer, None
    return answer, shape.value(answer.text, answer.finish.reason)


def only_one(asked: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The name and value of the one shape that is asked for (not None, not False); None when there is none.

    Raises `SlmError` (USAGE) when there are several.
    """
    given = [(name, value) for name, value in asked.items() if value is not None and value is not False]
    if len(given) > 1:
        names = " and ".join(name for name, _ in given)
        raise SlmError(f"{names} cannot be combined: an answer has one shape.", exit_code=ExitCode.USAGE)
    return given[0] if given else None


def of_any_json() -> ResponseFormat:
    """A JSON object or array."""
    return ResponseFormat(Constraint(ConstraintKind.JSON, ""), "Answer with JSON.")


def of_grammar(text: str) -> ResponseFormat:
    """What follows a GBNF grammar; the engine finds what is wrong with it."""
    return ResponseFormat(Constraint(ConstraintKind.GRAMMAR, text))


def of_fields(text: str) -> ResponseFormat:
    """The shape of a schema in short (schemas/fields.py). Raises `SlmError` (USAGE)."""
    from slmchat.schemas import fields

    return of_schema(fields.parse(text))


def of_schema(schema: Any) -> ResponseFormat:
    """The shape of a JSON Schema. Raises `SlmError` (USAGE) for what is not supported in it."""
    from slmchat.schemas import json_schema

    json_schema.to_grammar(schema)
    text = json.dumps(schema, ensure_ascii=False)
    return ResponseFormat(Constraint(ConstraintKind.SCHEMA, text), _told(schema), SchemaCheck(schema))


def of_regex(pattern: str) -> ResponseFormat:
    """What matches a regular expression as a whole. Raises `SlmError` (USAGE) for one that is not understood."""
    from slmchat.schemas import regex

    regex.parse(pattern)
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        raise SlmError(
            f"this regular expression cannot be read: {error}.",
            hint="what is understood: docs/structured.md",
            exit_code=ExitCode.USAGE,
        ) from error
    return ResponseFormat(Constraint(ConstraintKind.REGEX, pattern))


def parsed(text: str) -> Any:
    """A JSON Schema that somebody wrote. Raises `SlmError` (USAGE) when it is not valid JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SlmError(
            f"the schema is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}.",
            hint="--schema takes a file, - for standard input, or the schema itself",
            exit_code=ExitCode.USAGE,
        ) from error
    except RecursionError as error:
        raise SlmError("the schema is nested too deep.", exit_code=ExitCode.USAGE) from error


def _told(schema: Any) -> str:
    """What the model hears of the schema: the names of the fields, their descriptions, the values to choose from.

    The whole schema makes small models copy it (docs/decisions.md has the figures).
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties:
        return ""
    told = [name + _remark(value if isinstance(value, dict) else {}) for name, value in properties.items()]
    return f"Answer with JSON that has these fields: {', '.join(told)}."


def _remark(schema: Mapping[str, Any]) -> str:
    about = [schema["description"]] if isinstance(schema.get("description"), str) else []
    values = schema.get("enum")
    if isinstance(values, list):
        about.append(" or ".join(map(str, values)))
    return f" ({'; '.join(about)})" if about else ""


def _unsatisfied(problem: str, hint: str | None = None) -> SlmError:
    return SlmError(f"the answer is not what was asked for: {problem}.", hint=hint, exit_code=ExitCode.UNSATISFIED)
