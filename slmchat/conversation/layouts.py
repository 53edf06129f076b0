"""How messages become a prompt: by the model's chat template, by the engine itself, or as bare text.

Knows: which of them a model has, what every one of them can be asked.
Refuses to know: chat templates (template.py), tokens, how long a conversation may be.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from slmchat.conversation.messages import Message
from slmchat.conversation.template import ChatTemplate
from slmchat.engine.api import ModelInfo
from slmchat.engine.requests import Part, Prompt, Turn
from slmchat.engine.thinking import ThinkingMode


def layout_of(info: ModelInfo, *, is_raw: bool, mode: ThinkingMode = ThinkingMode.AUTO) -> "Layout":
    """How prompts for this model are made: as bare text, by the engine itself, or by the model's chat template.

    `mode`: what the template is told of thinking. Raises `SlmError` as `ChatTemplate` does.
    """
    if is_raw:
        return BareText()
    if info.has_own_layout:
        return TurnsOnly()
    return ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text, mode=mode)


class BareText:
    """The texts one after the other, for a model (or a user) that wants no chat template."""

    has_thinking_switch = thinks = False

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        return raw_prompt(messages)

    def thinking(self, prompt: Prompt) -> Prompt:
        return prompt

    def tool_words(self, tools: Sequence[Mapping[str, Any]]) -> None:
        return None

    def calls_written(self, calls: Sequence[Mapping[str, Any]]) -> None:
        return None


class TurnsOnly(BareText):
    """For an engine that lays turns out itself. The parts are the bare texts: to be counted, and to be looked at."""

    has_thinking_switch = True  # as far as anybody knows before it is asked

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        turns = [
            Turn(message.role.value, message.text, tuple(picture.image() for picture in message.pictures))
            for message in messages
        ]
        parts = [part for turn in turns for part in (*(Part("", image=one) for one in turn.images), Part(turn.text))]
        # what stands at the end is no text of the user's: it opens no thought, whatever a message ends with
        return Prompt((*parts, Part("", is_template=True)), tuple(turns))


Layout = BareText | ChatTemplate
"""How messages become a prompt; `ChatTemplate` says what each method is for."""


def raw_prompt(messages: Sequence[Message]) -> Prompt:
    """The bare texts one after the other, for a model (or a user) that wants no chat template."""
    parts: list[Part] = []
    for message in messages:
        parts += [Part("", image=picture.image()) for picture in message.pictures]
        parts.append(Part(message.text, tokens=message.tokens))
    return Prompt(tuple(parts))
