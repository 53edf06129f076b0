"""The messages of a request of the API of OpenAI, as the prompt that they are.

Knows: roles, contents and their parts, calls and results of functions. Refuses to know: the other fields (openai.py).
Pictures are taken from data URLs alone: a server that fetched one would have to reach out.
"""

import base64
import binascii
import json
from collections.abc import Sequence

from slmchat.conversation import pictures
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.errors import SlmError
from slmchat.generation import tools
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.tools import ToolCall
from slmchat.server.fields import BadRequest


def conversation(messages: Sequence[object]) -> PromptRequest:
    """The messages as a request: one system message at the beginning, then the sides in turn."""
    system: list[str] = []
    called: set[str] = set()
    turns: list[Message] = []
    for number, each in enumerate(messages):
        place = f"messages[{number}]"
        role, text, shown = _message(each, place, called)
        if role is Role.SYSTEM:
            system.append(text)
        elif turns and turns[-1].role is role:  # many templates refuse two of one side
            last = turns.pop()
            are_results = text.startswith(tools.RESULT[0]) and last.text.endswith(tools.RESULT[1])
            joined = ("\n" if are_results else "\n\n").join(part for part in (last.text, text) if part)
            turns.append(Message(role, joined, pictures=(*last.pictures, *shown)))
        else:
            turns.append(Message(role, text, pictures=shown))
    answer = turns.pop().text if turns and turns[-1].role is Role.ASSISTANT else ""
    if not turns and not answer and system:  # a task without a question is one: many templates want a user
        return request_of("\n\n".join(system), [], (), "")
    if not turns or turns[-1].role is not Role.USER:
        raise BadRequest("messages must hold a message of the user.", "messages")
    question = turns.pop()
    if any(message.pictures for message in turns):
        raise BadRequest("pictures are taken in the last message alone.", "messages")
    head = [Message(Role.SYSTEM, "\n\n".join(system))] if any(text.strip() for text in system) else []
    return request_of(question.text, [*head, *turns], question.pictures, answer)


def request_of(text: str, head: Sequence[Message], shown: Sequence[Picture], answer: str) -> PromptRequest:
    """A text as a request; `answer`: one that was begun and goes on. Raises `BadRequest` where nothing is said."""
    if not text.strip() and not shown:
        raise BadRequest("the last message is empty.", "messages")
    # braces stay what they are: there is no input that would take their place
    return PromptRequest(text or " ", [], head, shown, answer=answer)


_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.USER,  # what a function gave comes from this side
}


def _message(given: object, place: str, called: set[str]) -> tuple[Role, str, tuple[Picture, ...]]:
    """Role, text and pictures of a message. `called`: ids of the calls so far, which results may name."""
    if not isinstance(given, dict):
        raise BadRequest(f"{place} must be an object.", place)
    named = given.get("role")
    role = _ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        said = str(named)[:40]
        raise BadRequest(f"{place}.role must be system, developer, user, assistant or tool, not {said!r}.", place)
    text, shown = _content(given.get("content"), place, role)
    if named == "tool":
        if str(given.get("tool_call_id")) not in called:
            raise BadRequest(f"{place}.tool_call_id must name a call of an earlier message.", place)
        return role, tools.result_written(text), ()
    calls = _calls(given.get("tool_calls"), f"{place}.tool_calls") if role is Role.ASSISTANT else []
    called |= {call.id for call in calls}
    return role, "\n".join(part for part in (text, *(call.written() for call in calls)) if part), shown


def _calls(given: object, place: str) -> list[ToolCall]:
    made = []
    for each in given if isinstance(given, list) else []:
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(f"{place} must be calls of functions.", place)
        arguments = function.get("arguments") or {}
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        made.append(ToolCall(function["name"], written, str(each.get("id"))))
    return made


def _content(content: object, place: str, role: Role) -> tuple[str, tuple[Picture, ...]]:
    if content is None and role is Role.ASSISTANT:
        return "", ()
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise BadRequest(f"{place}.content must be a text or a list of parts.", place)
    texts: list[str] = []
    shown: list[Picture] = []
    for number, part in enumerate(content):
        _part(part, f"{place}.content[{number}]", texts, shown)
    if shown and role is not Role.USER:
        raise BadRequest(f"{place}: only a message of the user can show pictures.", place)
    return "\n".join(texts), tuple(shown)


def _part(part: object, place: str, texts: list[str], shown: list[Picture]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        texts.append(part["text"])
    elif isinstance(part, dict) and kind in ("image_url", "input_image"):
        url = part.get("image_url")
        shown.append(_picture(url.get("url") if isinstance(url, dict) else url, place))
    else:
        raise BadRequest(f"{place} must be a text or a picture (image_url).", place)


def _picture(url: object, place: str) -> Picture:
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise BadRequest(f"{place} must be a data URL (data:image/png;base64,...): nothing is fetched.", place)
    try:
        raw = base64.b64decode(data, validate=True)
        return Picture.of("the picture", pictures.decode(raw, "the picture"))
    except binascii.Error as error:
        raise BadRequest(f"{place} is not valid base64.", place) from error
    except SlmError as error:
        raise BadRequest(error.message, place) from error
