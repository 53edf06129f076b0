"""Messages to a prompt through the GGUF's own chat template.

Knows: Jinja in an immutable sandbox, the helpers that templates of the field expect, models without a system role,
and where in the rendered text every message ended up, so that no message is ever read as control tokens.
Refuses to know: tokens and vocabularies (engine/vocabulary.py), where the template comes from.

How the provenance of every character is kept: the template never sees a message. It is given a marker (a random word)
between the white space that the message begins and ends with, so that a template that trims its messages trims the
right thing; in the rendered text the markers are then replaced by the messages, as parts of their own.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from slmchat.conversation.messages import Message, Role
from slmchat.engine.api import ModelInfo, Part, Prompt, Turn
from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from jinja2 import Template

    from slmchat.conversation.template_sandbox import TemplateSandbox

# A template longer than this is not a template (the longest known one, with tools, has about 20 KiB).
MAX_TEMPLATE_LENGTH = 256 * 1024

# The word that stands for a message while the template runs.
_MARKER = re.compile("slm[0-9a-f]{24}")


class Layout(Protocol):
    """How messages become a prompt."""

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        """The prompt for these messages; `goes_on`: it ends inside the last one, an answer that was cut."""
        ...


def layout_of(info: ModelInfo, *, is_raw: bool) -> Layout:
    """How prompts for this model are made: as bare text, by the engine itself, or by the model's chat template.

    Raises `SlmError` as `ChatTemplate` does.
    """
    if is_raw:
        return BareText()
    if info.has_own_layout:
        return TurnsOnly()
    return ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)


class BareText:
    """The texts one after the other, for a model (or a user) that wants no chat template."""

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        return raw_prompt(messages)


class TurnsOnly:
    """For an engine that lays turns out itself. The parts are the bare texts: to be counted, and to be looked at."""

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        parts = [Part(message.text) for message in messages]
        # what stands at the end is no text of the user's: it opens no thought, whatever a message ends with
        return Prompt((*parts, Part("", is_template=True)), _turns(messages))


class ChatTemplate:
    """The chat template of one model."""

    def __init__(self, source: str | None, *, bos_text: str, eos_text: str) -> None:
        """Raises `SlmError`: USAGE when the model has no template, DAMAGED when it is not valid Jinja."""
        if not source:
            raise SlmError(
                "this model has no chat template: it completes text, it was not made to chat.",
                hint='complete text with it: slm run --raw "Once upon a time"; chat models: slm list --available',
                exit_code=ExitCode.USAGE,
            )
        self._sandbox, self._template = _compiled(source)
        self._bos_text = bos_text
        self._eos_text = eos_text

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        """The prompt for these messages: it ends where the assistant speaks.

        `goes_on`: it ends inside the last message, an answer that was cut and goes on. A system message that the
        template refuses or drops goes to the beginning of the first user message, as the makers of Gemma 1 and 2
        recommend.
        Raises `SlmError` (DAMAGED) with the template's own words when it refuses the conversation.
        """
        messages = list(messages)
        try:
            parts = self._parts(messages, goes_on)
        except _Refused as refused:
            parts = None
            reason = refused
        if parts is None and _has_system(messages):
            messages = _with_system_folded(messages)
            try:
                parts = self._parts(messages, goes_on)
            except _Refused as refused:
                reason = refused
        if parts is None:
            raise SlmError(
                f"the model's chat template cannot render this conversation: {reason}.",
                hint="plain completion does without it: slm run --raw; slm show MODEL prints the template",
                exit_code=ExitCode.DAMAGED,
            )
        return Prompt(tuple(parts), _turns(messages))

    def _parts(self, messages: list[Message], goes_on: bool) -> list[Part] | None:
        """Parts of the rendered text, None when a system message is missing from it."""
        marked = [_Marked(message) for message in messages]
        text = self._rendered([item.for_template() for item in marked], not goes_on)
        if _has_system(messages) and marked[0].marker not in text:
            return None
        if goes_on:
            last = marked[-1].marker
            if not last or last not in text:
                raise _Refused("it leaves out the answer that is to go on")
            text = text[: text.rindex(last) + len(last)]
        return list(_split(text, marked))

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        from slmchat.conversation.template_sandbox import TooMuch

        pieces: list[str] = []
        self._sandbox.begin()
        try:
            for piece in self._template.generate(
                messages=messages,
                bos_token=self._bos_text,
                eos_token=self._eos_text,
                add_generation_prompt=add_generation_prompt,
                tools=None,
            ):
                pieces.append(piece)
        except _Refused:
            raise
        except TooMuch as error:
            raise _Refused(str(error)) from error
        except TemplateError as error:
            raise _Refused(str(error.message or type(error).__name__)) from error
        except Exception as error:  # a template is foreign code: whatever it raises is its refusal
            raise _Refused(_reason(error)) from error
        return "".join(pieces)


def raw_prompt(messages: Sequence[Message]) -> Prompt:
    """The bare texts one after the other, for a model (or a user) that wants no chat template."""
    return Prompt(tuple(Part(message.text, tokens=message.tokens) for message in messages))


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    return tuple(Turn(message.role.value, message.text) for message in messages)


class _Refused(Exception):
    """The template would not render; the message is its reason."""


class _Marked:
    """A message and the word that stands for it while the template runs."""

    def __init__(self, message: Message) -> None:
        self.message = message
        core = message.text.strip()
        self.core = message.text if message.tokens is not None or not core else core
        self.lead = "" if self.core is message.text else message.text[: message.text.index(core)]
        self.tail = "" if self.core is message.text else message.text[len(self.lead) + len(core) :]
        self.marker = f"slm{secrets.token_hex(12)}" if core else ""

    def for_template(self) -> dict[str, str]:
        content = f"{self.lead}{self.marker}{self.tail}" if self.marker else self.message.text
        return {"role": self.message.role.value, "content": content}

    def part(self) -> Part:
        return Part(self.core, tokens=self.message.tokens)


def _split(text: str, marked: Sequence[_Marked]) -> Iterator[Part]:
    """The rendered text as parts. White space around a message stays with the template's text: it spells no token."""
    by_marker = {item.marker: item for item in marked if item.marker}
    begin = 0
    for match in _MARKER.finditer(text):
        item = by_marker.get(match[0])
        if item is None:
            continue
        if match.start() > begin:
            yield Part(text[begin : match.start()], is_template=True)
        yield item.part()
        begin = match.end()
    if begin < len(text):
        yield Part(text[begin:], is_template=True)


def _has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0].role is Role.SYSTEM and bool(messages[0].text.strip())


def _with_system_folded(messages: list[Message]) -> list[Message]:
    """The system text at the head of the first user message, a blank line between."""
    system, *rest = messages
    for index, message in enumerate(rest):
        if message.role is Role.USER:
            rest[index] = Message(Role.USER, f"{system.text}\n\n{message.text}")
            return rest
    return [Message(Role.USER, system.text), *rest]


@lru_cache(maxsize=8)
def _compiled(source: str) -> "tuple[TemplateSandbox, Template]":
    if len(source) > MAX_TEMPLATE_LENGTH:
        raise SlmError("the model's chat template is absurdly long.", exit_code=ExitCode.DAMAGED)
    environment = _environment()
    environment.begin()  # what is constant is computed here
    try:
        return environment, environment.from_string(source)
    except Exception as error:  # also what Python's compiler says: SyntaxError (loops too deep), MemoryError
        raise SlmError(
            f"the model's chat template is not valid Jinja: {_reason(error)}.",
            hint="plain completion does without it: slm run --raw",
            exit_code=ExitCode.DAMAGED,
        ) from error


@cache
def _environment() -> "TemplateSandbox":
    """The one sandbox of this process. It keeps nothing of a template, and only one is rendered at a time."""
    from slmchat.conversation.template_sandbox import TemplateSandbox

    environment = TemplateSandbox()
    # The helpers of transformers' apply_chat_template, which templates are written for.
    environment.add_filter("tojson", _tojson)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _reason(error: Exception) -> str:
    """What went wrong inside a template, without Python's words for a stack or a memory that is full."""
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deeply"
    text = str(error).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if not hasattr(error, "message") else text or type(error).__name__


def _raise_exception(message: str) -> None:
    raise _Refused(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 200 or re.search(r"\d{3}", format):  # glibc writes '%9999d' as wide as it says
        raise _Refused("it asks for an absurd date")
    return datetime.now().strftime(format)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Unlike Jinja's own filter: no HTML escapes (transformers, utils/chat_template_utils.py)
    import json

    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
