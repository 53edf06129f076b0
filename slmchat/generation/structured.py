"""What a completion has to look like: a constraint of the engine, and a check of the finished text.

Knows: JSON, schemas, fields, grammars, regular expressions; what is right, and what is only checked at the end.
Refuses to know: how tokens are chosen, which option or keyword asked for it, second attempts (attempts.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from slmchat.conversation.messages import Message
from slmchat.conversation.thinking import closing_of
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Part, Prompt
from slmchat.engine.results import FinishReason
from slmchat.engine.thinking import Thinking
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.told import told
from slmchat.lazy_dataclasses import dataclass
from slmchat.schemas import strict_json
from slmchat.schemas.json_rules import SOFT_ANY_ITEMS, SOFT_CHARACTERS, SOFT_ITEMS

if TYPE_CHECKING:
    from slmchat.schemas.check import SchemaCheck
    from slmchat.schemas.json_schema import SchemaGbnf

# Room for an answer without -n, in tokens, and how much more the second attempt gets.
ROOM = 1024
MORE_ROOM = 2
# The same for a thought before it, and for what closes it.
THOUGHT_ROOM = 2048
_CLOSING_ROOM = 64
# Unknown words of a schema that a note names.
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What was asked for. One for a whole batch: nothing in it changes.

    `constraint` goes into `Limits.constraint`, `instruction` (empty: none) behind the user's text. `notes`: what the
    user should know of it, a line each. `thinks_first`: the prompt begins a thought, and the answer behind it has the
    format.
    """

    constraint: Constraint
    instruction: str = ""
    notes: tuple[str, ...] = ()
    _check: "SchemaCheck | None" = field(default=None, repr=False)
    _pattern: str | None = field(default=None, repr=False)
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

    def uncapped(self) -> "ResponseFormat":
        """The same without soft limits."""
        return replace(self, constraint=replace(self.constraint, is_capped=False))

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
        if reason.is_cut:
            raise _unsatisfied("it was cut off: the room for it is used up", "more room: -n N, or --ctx N")
        if self._pattern is not None:
            from slmchat.schemas import python_regex

            if not python_regex.is_whole(self._pattern, text):
                raise _unsatisfied("it does not match the regular expression")
        if not self.is_json:
            return text
        try:
            value: object = strict_json.loads(text)
        except strict_json.NotStrict as error:
            raise _unsatisfied(error.reason) from error
        except (ValueError, RecursionError) as error:
            raise _unsatisfied("it is not valid JSON") from error
        problem = self._check.problem(value) if self._check else None
        if problem:
            raise _unsatisfied(problem)
        return value

    def soft_limit_reached(self, value: object) -> SlmError | None:
        """Why this answer may not be the whole one: something in it ends where a first attempt stops."""
        if not self.constraint.is_capped or not _is_at_limit(value):
            return None
        return _unsatisfied("something in it is as long as a first attempt may make it")


def _is_at_limit(value: object) -> bool:
    """Whether a list, an object or a string in it has the length of a soft limit."""
    if isinstance(value, str):
        return len(value) == SOFT_CHARACTERS
    if not isinstance(value, list | dict):
        return False
    inside = value if isinstance(value, list) else value.values()
    return len(value) in (SOFT_ITEMS, SOFT_ANY_ITEMS) or any(map(_is_at_limit, inside))


def room_for(max_tokens: int | None, thought: int = 0) -> int:
    """Tokens that the context window has to hold behind the prompt, for both attempts; `max_tokens`: what -n says,
    `thought`: as `room_to_think` has it."""
    return (max_tokens or ROOM + thought) * MORE_ROOM


def thought_closed(prompt: Prompt) -> Prompt:
    """The prompt with the thought closed that its template has opened: a structured answer begins at once."""
    closing = closing_of(prompt.parts[-1].text) if prompt.parts[-1].is_template else None
    if closing is None:
        return prompt
    return replace(prompt, parts=(*prompt.parts, Part(f"\n{closing}\n\n", is_template=True)))


def only_one(asked: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The name and value of the one format that is asked for (not None, not False); None when there is none.

    Raises `SlmError` (USAGE) when there are several.
    """
    given = [(name, value) for name, value in asked.items() if value is not None and value is not False]
    if len(given) > 1:
        names = " and ".join(name for name, _ in given)
        raise usage_error(f"{names} cannot be combined: an answer has one format.")
    return given[0] if given else None


def of_any_json() -> ResponseFormat:
    """A JSON object or array."""
    return ResponseFormat(Constraint(ConstraintKind.JSON, "", is_capped=True), "Answer with JSON.")


def of_grammar(text: str) -> ResponseFormat:
    """What follows a GBNF grammar; the engine finds what is wrong with it."""
    return ResponseFormat(Constraint(ConstraintKind.GRAMMAR, text))


def of_fields(text: str) -> ResponseFormat:
    """The format of a schema in short (schemas/fields.py). Raises `SlmError` (USAGE)."""
    from slmchat.schemas import fields

    return of_schema(fields.parse(text))


def of_schema(schema: Any) -> ResponseFormat:
    """The format of a JSON Schema. Raises `SlmError` (USAGE) for what is not a schema, and for what contradicts
    itself."""
    from slmchat.schemas import json_schema

    text = json.dumps(schema, ensure_ascii=False)
    gbnf = json_schema.to_gbnf(text, is_capped=True)
    constraint = Constraint(ConstraintKind.SCHEMA, text, is_capped=gbnf.has_soft_limits)
    from slmchat.schemas.check import SchemaCheck  # most answers have no schema

    return ResponseFormat(constraint, told(schema, text), tuple(_notes(gbnf)), SchemaCheck(schema, text))


def _notes(gbnf: "SchemaGbnf") -> Iterator[str]:
    if gbnf.only_checked:
        yield f"only checked at the end: {', '.join(gbnf.only_checked)}"
    if gbnf.unknown:
        names = ", ".join(gbnf.unknown[:_MOST_NAMED])
        more = f" and {len(gbnf.unknown) - _MOST_NAMED:,} more" if len(gbnf.unknown) > _MOST_NAMED else ""
        yield f"slm does not know these words of the schema, and they have no effect: {names}{more}"


def of_regex(pattern: str) -> ResponseFormat:
    """What matches a regular expression as a whole. Raises `SlmError` (USAGE) for one that is not understood."""
    from slmchat.schemas import python_regex, regex

    regex.parse(pattern)
    python_regex.compiled(pattern)
    return ResponseFormat(Constraint(ConstraintKind.REGEX, pattern), _pattern=pattern)


def parsed(text: str) -> Any:
    """A JSON Schema that somebody wrote. Raises `SlmError` (USAGE) when it is not valid JSON."""
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        raise usage_error(
            f"the schema is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}.",
            "--schema takes a file, - for standard input, or the schema itself",
        ) from error
    except strict_json.NotStrict as error:
        raise usage_error(f"the schema cannot be used: {error.reason}.") from error
    except RecursionError as error:
        raise usage_error("the schema is nested too deep.") from error
    except ValueError as error:  # Python reads whole numbers of 4,300 digits
        raise usage_error("the schema has a number of too many digits.") from error


def _unsatisfied(problem: str, hint: str | None = None) -> SlmError:
    return SlmError(f"the answer is not what was asked for: {problem}.", hint=hint, exit_code=ExitCode.UNSATISFIED)
