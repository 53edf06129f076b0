"""What a program asks, as the request that a model is given.

Knows: a prompt by itself, or messages as other programs write them (`{"role": ..., "content": ...}`).
Refuses to know: how a request becomes a prompt (generation/prompt.py).
"""

from collections.abc import Mapping, Sequence

from slmchat.api import arguments
from slmchat.api.options import CompletionOptions, ImageSource, pictures_of
from slmchat.conversation.messages import Message, Role
from slmchat.errors import usage_error
from slmchat.generation.prompt import PromptRequest

# {"role": "system", "user" or "assistant", "content": a text}
MessageDict = Mapping[str, str]
_MESSAGE = '{"role": ..., "content": ...}'


class QuestionOptions(CompletionOptions, total=False):
    """The keywords of `complete` and `stream`, those of the question included."""

    messages: Sequence[MessageDict] | None
    system: str | None
    images: Sequence[ImageSource]
    raw: bool
    logprobs: bool | int


def one_of(given: object, name: str, system: str | None) -> PromptRequest:
    """One of many questions: a text or a list of messages. Raises `SlmError` as `question_of` does."""
    if isinstance(given, str):
        return question_of(given, None, system, ())
    if not isinstance(given, (list, tuple)):
        raise arguments.refused(name, "a text (str) or a list of messages", given)
    return question_of(None, given, system, ())


def question_of(
    prompt: str | None, messages: Sequence[MessageDict] | None, system: str | None, images: Sequence[ImageSource]
) -> PromptRequest:
    """What is asked. Raises `SlmError`: USAGE for what cannot be, DAMAGED for an image that is none."""
    system = arguments.text_or_none(system, "system")
    head = [Message(Role.SYSTEM, system)] if system else []
    if messages is None:
        asked, answer = arguments.text(prompt, "prompt"), ""
    elif prompt is not None:
        raise usage_error("prompt and messages cannot be combined.")
    else:
        said = messages_of(messages)
        if system and said and said[0].role is Role.SYSTEM:
            raise usage_error("system and a system message in messages cannot be combined.")
        answer = said.pop().text if said and said[-1].role is Role.ASSISTANT else ""
        if not said or said[-1].role is not Role.USER:
            raise usage_error(
                "messages must end with a message of the user, or with an answer to one that is to go on."
            )
        asked = said.pop().text
        head += said
    if not asked.strip():
        raise usage_error("the prompt is empty.")
    return PromptRequest(asked, [], head, pictures_of(images), answer=answer)


def messages_of(given: object, *, takes_pairs: bool = False) -> list[Message]:
    """Messages of a program. `takes_pairs`: (role, text) is one, too. Raises `SlmError` (USAGE)."""
    several = arguments.several(given, "messages", _MESSAGE)
    if takes_pairs:
        several = [
            {"role": one[0], "content": one[1]} if isinstance(one, (tuple, list)) and len(one) == 2 else one
            for one in several
        ]
    return [_message(one, number) for number, one in enumerate(several)]


def _message(given: object, number: int) -> Message:
    place = f"messages[{number}]"
    if not isinstance(given, Mapping):
        raise arguments.refused(place, _MESSAGE, given)
    unknown = [str(key) for key in given if key not in ("role", "content")]
    if unknown:
        raise usage_error(f"{place} has a key '{unknown[0][:40]}'; there are role and content.")
    role = given.get("role")
    if not isinstance(role, str) or role not in (Role.SYSTEM, Role.USER, Role.ASSISTANT):
        raise usage_error(f'{place}["role"] must be "system", "user" or "assistant", not {str(role)[:40]!r}.')
    if role == Role.SYSTEM and number:
        raise usage_error("a system message must be the first of messages.")
    text = arguments.text(given.get("content"), f'{place}["content"]')
    if not text.strip():
        raise usage_error(f"{place} is empty.")
    return Message(Role(role), text)
