"""How messages become a prompt: by the model's chat template, by the engine itself, or as bare text.

Knows: which of them a model has, what every one of them can be asked.
Refuses to know: chat templates (template.py), tokens, how long a conversation may be.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from slmchat.conversation.messages import Message
from slmchat.conversation.template import ChatTemplate
from slmchat.engine.api import ModelInfo
from slmchat.engine.requests import Part, Prompt, Turn
from slmchat.engine.thinking import ThinkingMode


class Layout(Protocol):
    """How messages become a prompt."""

    def render(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        """The prompt for these messages; `goes_on`: it ends inside the last one, an answer that was cut."""
        ...

    @property
    def has_thinking_switch(self) -> bool:
        """Whether what was asked of thinking reaches the model."""
        ...

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers, as far as anybody can tell."""
        ...

    def thinking(self, prompt: Prompt) -> Prompt:
        """The prompt with a thought begun at its end, where that is possible."""
        ...

    def tool_words(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the model's makers have it told of these functions, behind the text of a system message; None: it is not
        known, or not told there. `tools`: as the API of OpenAI describes functions."""
        ...

    def calls_written(self, calls: Sequence[Mapping[str, Any]]) -> str | None:
        """What an answer is that makes these calls and says nothing else; None: it cannot be laid out, or nobody knows.
        `calls`: as the API of OpenAI has them."""
        ...


def layout_of(info: ModelInfo, *, is_raw: bool, mode: ThinkingMode = ThinkingMode.AUTO) -> Layout:
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


def raw_prompt(messages: Sequence[Message]) -> Prompt:
    """The bare texts one after the other, for a model (or a user) that wants no chat template."""
    parts: list[Part] = []
    for message in messages:
        parts += [Part("", image=picture.image()) for picture in message.pictures]
        parts.append(Part(message.text, tokens=message.tokens))
    return Prompt(tuple(parts))
