"""A session as a file for others: Markdown to read, JSON to take in again.

Knows: both formats, and everything that may be wrong with a JSON file from somewhere.
Refuses to know: SQL, files, streams.

Token ids are not part of the format: an engine would take them as they are, control tokens included, so a file from
somewhere could speak as the system. What is imported is tokenized again, like anything that somebody typed.

Pictures are in the JSON as PNG files in base64, each once; the messages name them. Readers that know no pictures find
the text as before.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from slmchat import safe_json
from slmchat.conversation.messages import Conversation, Message, Node, Role, new_id
from slmchat.conversation.pictures import MOST_BYTES, MOST_SIDE, Picture, format_of
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

FORMAT = "slm session"
VERSION = 1

# Limits of what is taken in; far above what a model can read. Characters, or messages.
MOST_CHARACTERS = 256 * 1024 * 1024
_MOST_MESSAGES = 100_000
_MOST_TEXT = 16 * 1024 * 1024
_MOST_TITLE = 1_000
_MOST_PICTURES = 1_000

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


@dataclass(frozen=True, slots=True)
class Times:
    """When a session began (to the second) and was last written to (to the microsecond): UTC, ISO 8601."""

    created_at: str
    updated_at: str


def to_json(conversation: Conversation, times: Times) -> str:
    """The whole tree. Messages are numbered from 1, parents before children; `parent` null: a first message.

    Characters that a terminal would obey, or that nobody would see, are escaped: the text is safe to show and equal.
    """
    nodes = list(conversation.nodes())
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    value = {
        "format": FORMAT,
        "version": VERSION,
        "id": conversation.id,
        "title": conversation.title,
        "created_at": times.created_at,
        "updated_at": times.updated_at,
        "system": conversation.system,
        "summary": conversation.summary,
        "current": conversation.current and numbers[conversation.current],
        "seen_from": conversation.seen_from and numbers[conversation.seen_from],
        "messages": [_message_as_json(node, numbers) for node in nodes],
    }
    pictures = {picture.id: picture for node in nodes for picture in node.message.pictures}
    if pictures:
        value["pictures"] = {id: _picture_as_json(picture) for id, picture in pictures.items()}
    return safe_json.encode(value)


def _message_as_json(node: Node, numbers: Mapping[Node, int]) -> dict[str, Any]:
    message = node.message
    shown = [{"name": picture.name, "id": picture.id} for picture in message.pictures]
    return {
        "number": numbers[node],
        "parent": node.parent and numbers[node.parent],
        "role": str(message.role),
        "model": message.model,
        "created_at": node.created_at,
        "is_cut": message.is_cut,
        "thinking": message.thinking,
        "text": message.text,
        **({"pictures": shown} if shown else {}),
    }


def _picture_as_json(picture: Picture) -> dict[str, Any]:
    png = base64.b64encode(picture.png()).decode()
    return {"width": picture.width, "height": picture.height, "png": png}


def to_markdown(conversation: Conversation, times: Times) -> str:
    """The current path, a heading for each message. Thinking is left out; a fence left open is closed."""
    path = conversation.path()
    models = list(dict.fromkeys(node.message.model for node in path if node.message.model))
    facts = [times.created_at[:16].replace("T", " ") + " UTC", *models, f"session {conversation.id[:8]}"]
    parts = [f"# {_one_line(conversation.title) or 'Untitled'}", " · ".join(map(_one_line, facts))]
    if conversation.system:
        parts += ["## System", _closed(conversation.system)]
    for node in path:
        message = node.message
        speaker = {Role.USER: "You", Role.SYSTEM: "System"}.get(message.role) or message.model or "Assistant"
        shown = [f"*(picture: {_one_line(picture.describe())})*" for picture in message.pictures]
        parts += [f"## {_one_line(speaker)}", *shown, _closed(message.text)]
        if message.is_cut:
            parts.append("*(interrupted)*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _closed(text: str) -> str:
    """The text with the fence closed that it leaves open (CommonMark 4.5), so that it ends where the message ends."""
    fence = ""
    for line in text.splitlines():
        found = _FENCE.match(line)
        if found is None:
            continue
        marks, rest = found.groups()
        if not fence:
            is_code_span = marks[0] == "`" and "`" in rest
            fence = "" if is_code_span else marks
        elif marks.startswith(fence) and not rest.strip():
            fence = ""
    return f"{text.rstrip()}\n{fence}" if fence else text.strip("\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def from_json(text: str) -> tuple[Conversation, Times]:
    """The session in an export. Raises `SlmError` (damaged) that says what is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise _wrong("it is too large")
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise _wrong("it is not JSON") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _wrong(f'it has no "format": "{FORMAT}"')
    if value.get("version") != VERSION:
        raise _wrong(f"its version is {str(value.get('version'))[:20]}, this slm reads version {VERSION}")
    id = _text(value, "id", 64)
    conversation = Conversation(
        system=_text_or_none(value, "system"), id=id if re.fullmatch("[0-9a-f]{32}", id) else None
    )
    conversation.title = _text(value, "title", _MOST_TITLE)
    nodes = _tree(value, conversation)
    conversation.current = _node(value, "current", nodes)
    conversation.seen_from = _node(value, "seen_from", nodes)
    conversation.summary = _text_or_none(value, "summary")
    if conversation.seen_from is not None and conversation.seen_from not in conversation.path():
        raise _wrong('"seen_from" is not on the way to "current"')
    return conversation, Times(_time(value, "created_at", "seconds"), _time(value, "updated_at", "microseconds"))


def _tree(value: Mapping[str, Any], conversation: Conversation) -> dict[int, Node]:
    """The messages, each below one that came before it: then they are a tree."""
    messages = value.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= _MOST_MESSAGES:
        raise _wrong(f'"messages" is not a list of 1 to {_MOST_MESSAGES:,}')
    pictures = _pictures(value)
    nodes: dict[int, Node] = {}
    for number, said in enumerate(messages, 1):
        if not isinstance(said, dict) or type(said.get("number")) is not int or said["number"] != number:
            raise _wrong(f"message {number} does not have this number")
        parent = _node(said, "parent", nodes)
        created_at = _time(said, "created_at", "seconds")
        node = Node(_message(said, pictures), parent, new_id(), created_at)
        conversation.siblings_below(parent).append(node)
        nodes[number] = node
    return nodes


def _pictures(value: Mapping[str, Any]) -> dict[str, Picture]:
    """The pictures by id, not decoded yet: an export may hold what it likes, and the archive's door looks at it."""
    given = value.get("pictures", {})
    if not isinstance(given, dict) or len(given) > _MOST_PICTURES:
        raise _wrong(f'"pictures" is not a table of at most {_MOST_PICTURES:,}')
    found = {}
    for id, one in given.items():
        if not re.fullmatch("[0-9a-f]{64}", id) or not isinstance(one, dict):
            raise _wrong("a picture does not have the id that pictures have")
        width, height = one.get("width"), one.get("height")
        if type(width) is not int or type(height) is not int or min(width, height) <= 0:
            raise _wrong("a picture does not say how large it is")
        try:
            png = base64.b64decode(_text(one, "png", MOST_BYTES), validate=True)
        except ValueError as error:
            raise _wrong("a picture is not in base64") from error
        if format_of(png) != "PNG":
            raise _wrong("a picture is not a PNG")
        found[id] = Picture.kept("", min(width, MOST_SIDE), min(height, MOST_SIDE), id, png)
    return found


def _shown(said: Mapping[str, Any], pictures: Mapping[str, Picture]) -> Iterator[Picture]:
    shown = said.get("pictures", [])
    if not isinstance(shown, list) or len(shown) > _MOST_PICTURES:
        raise _wrong(f'the "pictures" of a message are not a list of at most {_MOST_PICTURES:,}')
    for one in shown:
        known = pictures.get(str(one.get("id"))) if isinstance(one, dict) else None
        if known is None:
            raise _wrong("a message shows a picture that is not there")
        yield replace(known, name=_text(one, "name", _MOST_TITLE))


def _message(said: Mapping[str, Any], pictures: Mapping[str, Picture]) -> Message:
    role, is_cut = said.get("role"), said.get("is_cut", False)
    if role not in list(Role):
        raise _wrong(f'"role" is not one of {", ".join(Role)}')
    if not isinstance(is_cut, bool):
        raise _wrong('"is_cut" is not true or false')
    thinking = _text_or_none(said, "thinking") or ""
    model, shown = _text_or_none(said, "model"), tuple(_shown(said, pictures))
    return Message(Role(role), _text(said, "text"), None, is_cut, thinking, model, shown)


def _node(value: Mapping[str, Any], name: str, nodes: Mapping[int, Node]) -> Node | None:
    number = value.get(name)
    if number is None:
        return None
    if type(number) is not int or number not in nodes:
        raise _wrong(f'"{name}" is not the number of a message before it')
    return nodes[number]


def _text(value: Mapping[str, Any], name: str, most: int = _MOST_TEXT) -> str:
    text = value.get(name)
    if not isinstance(text, str) or len(text) > most:
        raise _wrong(f'"{name}" is not a text of at most {most:,} characters')
    return text


def _text_or_none(value: Mapping[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else _text(value, name)


def _time(value: Mapping[str, Any], name: str, timespec: str) -> str:
    try:
        time = datetime.fromisoformat(_text(value, name, 64))
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).isoformat(timespec=timespec)
    except (ValueError, OverflowError) as error:
        raise _wrong(f'"{name}" is not a time in ISO 8601') from error


def _wrong(reason: str) -> SlmError:
    return SlmError(
        f"this is not an exported session: {reason}.",
        hint="slm sessions export ID --format json writes one",
        exit_code=ExitCode.DAMAGED,
    )
