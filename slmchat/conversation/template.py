"""Messages to a prompt through the GGUF's own chat template.

Knows: Jinja in a sandbox, the helpers that templates of the field expect, models without a system role,
and where in the rendered text every message ended up, so that no message is ever read as control tokens.
Refuses to know: tokens and vocabularies (engine/vocabulary.py), where the template comes from.

How the provenance of every character is kept: the template never sees a message. It is given a marker (a random word)
between the white space that the message begins and ends with, so that a template that trims its messages trims the
right thing; in the rendered text the markers are then replaced by the messages, as parts of their own.

Images: the template says where they go, too. It gets them as items of a message (`{"type": "image"}`), writes its own
mark for each, and that mark is looked for in the template's own text only. What a user types can spell such a mark as
often as it likes. A template that knows no images gets words in their place, before the text, as llama.cpp does it.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template_budget import NESTED, TooMuch
from slmchat.engine.api import ModelInfo, Part, Prompt, Turn
from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from jinja2 import Template

    from slmchat.conversation.template_sandbox import TemplateSandbox

# A template longer than this is not a template (the longest known one, with tools, has about 20 KiB).
MAX_TEMPLATE_LENGTH = 256 * 1024

# The word that stands for a message while the template runs.
_MARKER = re.compile("slm[0-9a-f]{24}")

# What templates write where an image goes: Qwen, Gemma 4, Gemma 3, SmolVLM and LFM2-VL. libmtmd puts the model's own
# marks around the image (mtmd.cpp: img_beg, img_end), so that the template's are left out.
_IMAGE_MARK = re.compile(
    r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image\|>|<start_of_image>|<image>|<\|image_pad\|>"
)


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
        turns = [
            Turn(message.role.value, message.text, tuple(picture.image() for picture in message.pictures))
            for message in messages
        ]
        parts = [part for turn in turns for part in (*(Part("", image=one) for one in turn.images), Part(turn.text))]
        # what stands at the end is no text of the user's: it opens no thought, whatever a message ends with
        return Prompt((*parts, Part("", is_template=True)), tuple(turns))


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
        reason: Exception = _Refused("it leaves out what was said")
        foldings = [messages, _with_system_folded(messages)] if _has_system(messages) else [messages]
        has_pictures = any(message.pictures for message in messages)
        for said in foldings:
            for form in (_Form.ITEMS, _Form.MIXED, _Form.TEXT) if has_pictures else (_Form.TEXT, _Form.ITEMS):
                try:
                    parts = self._parts(said, goes_on, form)
                except _Refused as refused:
                    reason = refused
                    if has_pictures:
                        continue
                    break
                if parts is not None:
                    return Prompt(tuple(parts), _turns(said))
        raise SlmError(
            f"the model's chat template cannot render this conversation: {reason}.",
            hint="plain completion does without it: slm run --raw; slm show MODEL prints the template",
            exit_code=ExitCode.DAMAGED,
        )

    def written(self, messages: Sequence[Message], *, adds_generation_prompt: bool = True) -> str:
        """The text that the template makes of these messages, to look at: a prompt is made by `render`.

        Raises `SlmError` (DAMAGED) with the template's own words when it refuses them.
        """
        said = [{"role": message.role.value, "content": message.text} for message in messages]
        try:
            return self._rendered(said, adds_generation_prompt)
        except _Refused as refused:
            raise SlmError(f"the chat template refuses: {refused}.", exit_code=ExitCode.DAMAGED) from refused

    def _parts(self, messages: list[Message], goes_on: bool, form: "_Form") -> list[Part] | None:
        """Parts of the rendered text, None when the system message, the question or an image is missing from it."""
        marked = [_Marked(message, form) for message in messages]
        text = self._rendered([item.for_template() for item in marked], not goes_on)
        asked = [item for item in marked if item.message.role is Role.USER][-1:]
        needed = [*marked[:1], *asked] if _has_system(messages) else asked
        if any(item.marker not in text for item in needed):
            return None
        if goes_on:
            last = marked[-1].marker
            if not last or last not in text:
                raise _Refused("it leaves out the answer that is to go on")
            text = text[: text.rindex(last) + len(last)]
        return _split(text, marked)

    def _rendered(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

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
    parts: list[Part] = []
    for message in messages:
        parts += [Part("", image=picture.image()) for picture in message.pictures]
        parts.append(Part(message.text, tokens=message.tokens))
    return Prompt(tuple(parts))


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    return tuple(Turn(message.role.value, message.text) for message in messages)


class _Refused(Exception):
    """The template would not render; the message is its reason."""


class _Form(Enum):
    """How a template gets messages: as texts, as lists of items, or as a list only where there are images."""

    TEXT = 1
    ITEMS = 2
    MIXED = 3


class _Marked:
    """A message and the words that stand for it and its images while the template runs."""

    def __init__(self, message: Message, form: _Form) -> None:
        self.message = message
        self.is_items = form is _Form.ITEMS or (form is _Form.MIXED and bool(message.pictures))
        self.picture_markers = [] if self.is_items else [f"slm{secrets.token_hex(12)}" for _ in message.pictures]
        core = message.text.strip()
        self.core = message.text if message.tokens is not None or not core else core
        self.lead = "" if self.core is message.text else message.text[: message.text.index(core)]
        self.tail = "" if self.core is message.text else message.text[len(self.lead) + len(core) :]
        self.marker = f"slm{secrets.token_hex(12)}" if core else ""

    def for_template(self) -> dict[str, Any]:
        text = f"{self.lead}{self.marker}{self.tail}" if self.marker else self.message.text
        content: Any = "".join(self.picture_markers) + text
        if self.is_items:
            images: list[dict[str, str]] = [{"type": "image"} for _ in self.message.pictures]
            content = [*images, {"type": "text", "text": text}]
        return {"role": self.message.role.value, "content": content}

    def part(self) -> Part:
        return Part(self.core, tokens=self.message.tokens)


def _split(text: str, marked: Sequence[_Marked]) -> list[Part] | None:
    """The rendered text as parts, None when an image has no place in it.

    White space around a message stays with the template's text: it spells no token.
    """
    by_marker = {item.marker: item.part() for item in marked if item.marker}
    for item in marked:
        images = (Part("", image=picture.image()) for picture in item.message.pictures)
        by_marker.update(zip(item.picture_markers, images, strict=False))
    placed = [Part("", image=picture.image()) for item in marked if item.is_items for picture in item.message.pictures]
    parts: list[Part] = []
    begin = 0
    for match in _MARKER.finditer(text):
        if match[0] in by_marker:
            parts += [Part(text[begin : match.start()], is_template=True), by_marker[match[0]]]
            begin = match.end()
    parts.append(Part(text[begin:], is_template=True))
    n_places = sum(len(_IMAGE_MARK.findall(part.text)) for part in parts if part.is_template) if placed else 0
    if n_places != len(placed):
        return None
    parts = list(_with_images(parts, placed)) if placed else parts
    return [part for part in parts if part.text or part.tokens or part.image]


def _with_images(parts: Sequence[Part], images: Sequence[Part]) -> Iterator[Part]:
    """The images in the places that the template's own text marks; there is one for each."""
    waiting = iter(images)
    for part in parts:
        begin = 0
        for match in _IMAGE_MARK.finditer(part.text) if part.is_template else ():
            yield Part(part.text[begin : match.start()], is_template=True)
            yield next(waiting)
            begin = match.end()
        yield Part(part.text[begin:], part.is_template, part.tokens, part.image)


def _has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0].role is Role.SYSTEM and bool(messages[0].text.strip())


def _with_system_folded(messages: list[Message]) -> list[Message]:
    """The system text at the head of the first user message, a blank line between."""
    system, *rest = messages
    for index, message in enumerate(rest):
        if message.role is Role.USER:
            rest[index] = replace(message, text=f"{system.text}\n\n{message.text}")
            return rest
    return [Message(Role.USER, system.text), *rest]


@lru_cache(maxsize=8)
def _compiled(source: str) -> "tuple[TemplateSandbox, Template]":
    if len(source) > MAX_TEMPLATE_LENGTH:
        raise SlmError("the model's chat template is absurdly long.", exit_code=ExitCode.DAMAGED)
    environment = _environment()
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
    # The helpers of transformers' apply_chat_template, which templates are written for (`tojson` is a filter).
    environment.add_helper("raise_exception", _raise_exception)
    environment.add_helper("strftime_now", _strftime_now)
    return environment


def _reason(error: Exception) -> str:
    """What went wrong inside a template, without Python's words for a stack or a memory that is full."""
    if isinstance(error, RecursionError | MemoryError):
        return NESTED
    if isinstance(error, TooMuch):
        return str(error)
    text = str(error).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if not hasattr(error, "message") else text or type(error).__name__


def _raise_exception(message: str) -> None:
    raise _Refused(str(message).strip().rstrip("."))  # the sentence around it has a full stop of its own


def _strftime_now(format: str) -> str:
    if len(format) > 200 or re.search(r"\d{3}", format):  # glibc writes '%9999d' as wide as it says
        raise _Refused("it asks for an absurd date")
    return datetime.now().strftime(format)
