"""A chat of another tool, as the tree that slm keeps: the same text and branches, known again when it comes again.

Knows: how messages of one side in a row become one, how ids are made so that the same chat has the same ones.
Refuses to know: files and formats of the tools (foreign_formats.py), the archive.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from slmchat.conversation.exchange import Times
from slmchat.conversation.messages import Conversation, Message, Node, Role, title_of
from slmchat.lazy_dataclasses import dataclass

# Two parts that one side said in a row.
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class ForeignMessage:
    """A message as the tool has it. `parent`: the id of the one before it, None for a first one. Times in ISO 8601."""

    id: str
    parent: str | None
    role: Role
    text: str
    time: str
    thinking: str = ""
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignChat:
    """A chat of the tool `origin`. `current`: the id of the message at the end of the branch in use; None: the last."""

    origin: str
    id: str
    title: str
    system: str | None
    messages: Sequence[ForeignMessage]
    current: str | None
    times: Times


def conversation_of(chat: ForeignChat) -> Conversation | None:
    """The conversation; None for one in which nothing was said.

    Empty messages are left out, and what one side said in a row is one message, if no branch begins in between.
    """
    made = Conversation(chat.system, id=_id(chat.origin, chat.id))
    nodes: dict[str, Node | None] = {}
    n_children: dict[str, int] = {}
    for said in chat.messages:
        if said.parent is not None:
            n_children[said.parent] = n_children.get(said.parent, 0) + 1
    for said in _parents_first(chat.messages):
        parent = nodes.get(said.parent) if said.parent is not None else None
        is_empty = not (said.text.strip() or said.thinking.strip())
        goes_on = parent is not None and parent.message.role is said.role and n_children.get(said.parent or "") == 1
        if is_empty:
            nodes[said.id] = parent
        elif goes_on:
            assert parent is not None
            parent.message = _joined(parent.message, said)
            nodes[said.id] = parent
        else:
            message = Message(said.role, said.text, thinking=said.thinking, model=said.model)
            node = Node(message, parent, _id(chat.origin, chat.id, said.id), said.time)
            made.siblings_below(parent).append(node)
            nodes[said.id] = node
    if not made.roots:
        return None
    made.current = (nodes.get(chat.current) if chat.current else None) or made.tip_of(made.roots[-1])
    made.title = " ".join(chat.title.split()) or title_of(made.roots[0].message.text)
    return made


def _joined(before: Message, said: ForeignMessage) -> Message:
    return replace(
        before,
        text=_BETWEEN.join(filter(None, (before.text, said.text))),
        thinking=_BETWEEN.join(filter(None, (before.thinking, said.thinking))),
        model=said.model or before.model,
    )


def _parents_first(messages: Sequence[ForeignMessage]) -> Iterator[ForeignMessage]:
    """Each message behind its parent, in the order in which they are given; a circle is nobody's."""
    known = {said.id for said in messages}
    children: dict[str | None, list[ForeignMessage]] = {}
    for said in messages:
        children.setdefault(said.parent if said.parent in known else None, []).append(said)
    waiting = list(reversed(children.get(None, [])))
    while waiting:
        said = waiting.pop()
        yield said
        waiting.extend(reversed(children.pop(said.id, [])))


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
