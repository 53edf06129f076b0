"""Messages to a prompt through the GGUF's own chat template.

Knows: models without a system role, images, and where in the rendered text every message ended up, so that no message
is ever read as control tokens.
Refuses to know: tokens and vocabularies (engine/vocabulary.py), where the template comes from, how it runs
(compiled_template.py), how what a template writes is told from what messages say (provenance.py), how long
conversations are laid out (long_layout.py).

Images: the template says where they go, too. It gets them as items of a message (`{"type": "image"}`), writes its own
mark for each, and that mark is looked for in the template's own text only. What a user types can spell such a mark as
often as it likes. A template that knows no images gets words in their place, before the text, as llama.cpp does it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from slmchat.conversation.compiled_template import CompiledTemplate, TemplateRefusal
from slmchat.conversation.long_layout import LongLayout
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.provenance import MOST_SHOWN, MOST_SHOWN_TOGETHER, Broken, Form, Sentinels, Span, edges
from slmchat.conversation.thinking_switch import ThinkingSwitch
from slmchat.engine.kvstore import shared_length
from slmchat.engine.requests import Part, Prompt, Turn
from slmchat.engine.thinking import ThinkingMode
from slmchat.errors import ExitCode, SlmError, usage_error

# What templates write where an image goes: Qwen, Gemma 4, Gemma 3, SmolVLM and LFM2-VL. libmtmd puts the model's own
# marks around the image (mtmd.cpp: img_beg, img_end), so that the template's are left out.
_IMAGE_MARK = re.compile(
    r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image\|>|<start_of_image>|<image>|<\|image_pad\|>"
)


class ChatTemplate:
    """The chat template of one model."""

    def __init__(
        self, source: str | None, *, bos_text: str, eos_text: str, mode: ThinkingMode = ThinkingMode.AUTO
    ) -> None:
        """`mode`: what it is told of thinking.

        Raises `SlmError`: USAGE when the model has no template, DAMAGED when it is not valid Jinja.
        """
        if not source:
            raise usage_error(
                "this model has no chat template: it completes text, it was not made to chat.",
                'complete text with it: slm run --raw "Once upon a time"; chat models: slm list --available',
            )
        self._template = _compiled(source)
        self._bos_text = bos_text
        self._eos_text = eos_text
        self._sentinels = Sentinels()
        self._long = LongLayout(self._spans)
        self._switch = ThinkingSwitch(mode, source, self._probe)

    @property
    def has_thinking_switch(self) -> bool:
        """Whether an answer comes with or without a thought as the mode says."""
        return self._switch.works

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers, as far as its template tells."""
        return self._switch.thinks(self._probe)

    def thinking(self, prompt: Prompt) -> Prompt:
        """The prompt with a thought begun at its end, where the template has not begun one and its marks are known."""
        return _with_ending(prompt, self._switch.opening(_tail(prompt)))

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        """The prompt for these messages: it ends where the assistant speaks.

        `goes_on`: it ends inside the last message, an answer that was cut and goes on. A system message that the
        template refuses or drops goes to the beginning of the first user message, as the makers of Gemma 1 and 2
        recommend.
        Raises `SlmError` (DAMAGED) with the template's own words when it refuses the conversation.
        """
        messages = list(messages)
        self._sentinels.avoid(messages)
        reason: Exception = TemplateRefusal("it leaves out what was said")
        foldings = [messages, _with_system_folded(messages)] if _has_system(messages) else [messages]
        has_pictures = any(message.pictures for message in messages)
        for said in foldings:
            for form in (Form.ITEMS, Form.MIXED, Form.TEXT) if has_pictures else (Form.TEXT, Form.ITEMS):
                try:
                    parts = self._parts(said, goes_on, form)
                except TemplateRefusal as refused:
                    reason = refused
                    if has_pictures:
                        continue
                    break
                if parts is not None:
                    prompt = Prompt(tuple(parts), _turns(said))
                    return prompt if goes_on else _with_ending(prompt, self._switch.ending(_tail(prompt)))
        raise SlmError(
            "the model's chat template cannot render this conversation: "
            f"{self._sentinels.readable(str(reason)).rstrip('.')}.",
            hint="plain completion does without it: slm run --raw; slm show MODEL prints the template",
            exit_code=ExitCode.DAMAGED,
        )

    def written(self, messages: Sequence[Message], *, adds_generation_prompt: bool = True) -> str:
        """The text that the template makes of these messages, to look at: a prompt is made by `render`.

        Raises `SlmError` (DAMAGED) with the template's own words when it refuses them.
        """
        said = [{"role": message.role.value, "content": message.text} for message in messages]
        try:
            return self._rendered(said, adds_generation_prompt, self._switch.variables)
        except TemplateRefusal as refused:
            raise SlmError(f"the chat template refuses: {refused}.", exit_code=ExitCode.DAMAGED) from refused

    def tool_words(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the model's makers have it told of these functions, behind the text of a system message: what the
        template writes there and nowhere else; None: nothing. `tools`: as the API of OpenAI describes functions.

        The words are text of a message from then on: what a description spells is never a control token.
        """
        mark = self._sentinels.word
        said = [{"role": Role.SYSTEM.value, "content": mark}, {"role": Role.USER.value, "content": "?"}]
        try:
            usual = self._rendered(said, True, self._switch.variables)
            told = self._rendered(said, True, {**self._switch.variables, "tools": list(tools)})
        except TemplateRefusal:
            return None
        before, _, behind = usual.partition(mark)
        if told == usual or not told.startswith(before + mark) or not told.endswith(behind):
            return None
        return told[len(before) + len(mark) : len(told) - len(behind)]

    def calls_written(self, calls: Sequence[Mapping[str, Any]]) -> str | None:
        """What an answer is that makes these calls and says nothing else, between its beginning and its end; None: it
        cannot be laid out. `calls`: as the API of OpenAI has them."""
        asked: dict[str, Any] = {"role": Role.USER.value, "content": "?"}
        answer: dict[str, Any] = {"role": Role.ASSISTANT.value, "content": (mark := self._sentinels.word)}
        try:
            usual = self._rendered([asked, answer], False, self._switch.variables)
            for content in ("", None):
                said = [asked, {**answer, "content": content, "tool_calls": list(calls)}]
                with suppress(TemplateRefusal):
                    told = self._rendered(said, False, self._switch.variables)
                    break
            else:
                return None
        except TemplateRefusal:
            return None
        before, found, behind = usual.partition(mark)
        if not found:
            return None
        told = told[shared_length(before, told) :]
        return told.removesuffix(behind) if behind else told

    def _probe(self, variables: Mapping[str, Any]) -> str:
        """What it makes of a small conversation with these variables; nothing where it refuses them."""
        try:
            return self._rendered([{"role": Role.USER.value, "content": "?"}], True, variables)
        except TemplateRefusal:
            return ""

    def _parts(self, messages: list[Message], goes_on: bool, form: Form) -> list[Part] | None:
        """Parts of the rendered text, None when the system message, the question or an image is missing from it."""
        spans = self._long.spans(messages, form, goes_on=goes_on)
        placed = {span.message for span in spans if span.picture is None}
        asked = [number for number, message in enumerate(messages) if message.role is Role.USER][-1:]
        needed = [0, *asked] if _has_system(messages) else asked
        if any(number not in placed for number in needed if edges(messages[number])[1]):
            return None
        if goes_on:
            last = len(messages) - 1
            if last not in placed:
                raise TemplateRefusal("it leaves out the answer that is to go on")
            spans = spans[: max(place for place, span in enumerate(spans) if span.message == last) + 1]
        return _parts_of(spans, messages, form)

    def _spans(
        self, messages: Sequence[Message], numbers: Sequence[int], form: Form, *, adds_generation_prompt: bool
    ) -> list[Span]:
        """The rendered text of these messages of a conversation, in pieces. Raises `TemplateRefusal`."""
        words = _too_long_to_show(messages, numbers)
        while True:
            said = [
                {
                    "role": messages[number].role.value,
                    "content": self._sentinels.content(number, messages[number], is_word=number in words, form=form),
                }
                for number in numbers
            ]
            text = self._rendered(said, adds_generation_prompt, self._switch.variables)
            try:
                return self._sentinels.spans(text, {number: messages[number] for number in numbers})
            except Broken as broken:
                words = words | broken.messages if not broken.messages <= words else frozenset(numbers)

    def _rendered(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, variables: Mapping[str, Any]
    ) -> str:
        given = {"bos_token": self._bos_text, "eos_token": self._eos_text}
        return self._template.written(messages, {**given, "add_generation_prompt": add_generation_prompt, **variables})


def _too_long_to_show(messages: Sequence[Message], numbers: Sequence[int]) -> frozenset[int]:
    """The messages that a template does not get to see: the longest, and the oldest of very many."""
    words, room = set(), MOST_SHOWN_TOGETHER
    for number in sorted(numbers, key=lambda number: (messages[number].role is not Role.SYSTEM, -number)):
        length = len(messages[number].text)
        room -= length if length <= MOST_SHOWN else 0
        if length > MOST_SHOWN or room < 0:
            words.add(number)
    return frozenset(words)


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    return tuple(Turn(message.role.value, message.text) for message in messages)


def _tail(prompt: Prompt) -> str:
    """The template's text at the end of a prompt."""
    last = prompt.parts[-1] if prompt.parts else Part("")
    return last.text if last.is_template else ""


def _with_ending(prompt: Prompt, text: str) -> Prompt:
    return replace(prompt, parts=(*prompt.parts, Part(text, is_template=True))) if text else prompt


def _parts_of(spans: Sequence[Span], messages: Sequence[Message], form: Form) -> list[Part] | None:
    """The pieces as parts, None when an image has no place in them.

    White space around a message stays with the template's text: it spells no token.
    """
    placed = [
        Part("", image=picture.image())
        for message in messages
        if form is Form.ITEMS or (form is Form.MIXED and message.pictures)
        for picture in message.pictures
    ]
    parts = []
    for span in spans:
        if span.message is None:
            parts.append(Part(span.text or "", is_template=True))
            continue
        message = messages[span.message]
        if span.picture is not None:
            parts.append(Part("", image=message.pictures[span.picture].image()))
        elif span.text is None:
            parts.append(Part(edges(message)[1], tokens=message.tokens))
        else:
            parts.append(Part(span.text))
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
def _compiled(source: str) -> CompiledTemplate:
    return CompiledTemplate(source)
