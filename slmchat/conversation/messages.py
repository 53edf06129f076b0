"""Messages and the tree they make: retry, edit and branch are new children, nothing is ever overwritten.

Knows: roles, texts, the tokens a completion was sampled as, which branch is current, what the model still sees.
Refuses to know: templates, engines, files. Whoever wants to keep what happens (archive.py) is told as it happens.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from slmchat.conversation.attachments import instruction_of
from slmchat.conversation.pictures import Picture
from slmchat.lazy_dataclasses import dataclass


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    `tokens`: the ids an assistant message was sampled as by `model` (its key); no other model may use them.
    `thinking`: what a reasoning model said before its answer; shown, kept, never part of a later prompt.
    `is_cut`: ended by Ctrl-C, a limit or a failure, not by the model.
    `pictures`: what a user message shows; they stand before its text.
    """

    role: Role
    text: str
    tokens: tuple[int, ...] | None = None
    is_cut: bool = False
    thinking: str = ""
    model: str | None = None
    pictures: tuple[Picture, ...] = ()


@dataclass(slots=True, eq=False)
class Node:
    """A message in its place. `created_at` is UTC in ISO 8601, to the second."""

    message: Message
    parent: "Node | None"
    id: str
    created_at: str
    children: list["Node"] = field(default_factory=list)


class Recorder(Protocol):
    """Is told of every change as it happens, so that nothing said is lost."""

    def added(self, conversation: "Conversation", node: Node) -> None: ...

    def updated(self, conversation: "Conversation", node: Node) -> None:
        """The text of a node grew (an answer that is being generated) or was completed."""
        ...

    def moved(self, conversation: "Conversation") -> None:
        """Another node is current, or the title, the system message, or what the model sees has changed."""
        ...

    def flush(self) -> None:
        """All that was told is complete: keep it now."""
        ...


class Conversation:
    """A tree of messages with one current path from the first message to `current`.

    `system` stands before all messages. `seen_from` is the first message of the path that the model still sees
    (None: all of them); `summary` stands for those before it, if they were summarised. `recorder` is told of every
    change from now on (None: nothing is kept).
    """

    def __init__(self, system: str | None = None, recorder: Recorder | None = None, id: str | None = None) -> None:
        self.id = id or new_id()
        self.title = ""
        self.system = system
        self.summary: str | None = None
        self.roots: list[Node] = []
        self.current: Node | None = None
        self.seen_from: Node | None = None
        self.recorder = recorder

    @property
    def has_first_line_as_title(self) -> bool:
        """Whether nobody has given a title: it is the first line of a first message."""
        return any(map(self._gave_title, self.roots))

    def _gave_title(self, root: Node) -> bool:
        return self.title == _first_line(root.message)

    def add(self, message: Message) -> Node:
        """A new child of the current message; it becomes current.

        The first user message gives the title. One that was never answered leaves that to the next first message.
        """
        node = Node(message, self.current, new_id(), now())
        is_title_free = self.current is None and any(self._gave_title(root) for root in self.roots if not root.children)
        self.siblings_below(self.current).append(node)
        self.current = node
        if message.role is Role.USER and (not self.title or is_title_free):
            self.title = _first_line(message)
        if self.recorder:
            self.recorder.added(self, node)
        return node

    def update(self, node: Node, message: Message) -> None:
        """Replace the message of a node: an answer grows while it is generated."""
        node.message = message
        if self.recorder:
            self.recorder.updated(self, node)

    def go_to(self, node: Node | None) -> None:
        """Make `node` the end of the current path (None: the empty beginning)."""
        self.current = node
        if self.seen_from is not None and self.seen_from not in self.path():
            self.seen_from, self.summary = None, None
        self.changed()

    def undo(self) -> Message | None:
        """Leave the last question and all that followed it; gives the question, None when there is none."""
        question = self.last(Role.USER)
        if question is None:
            return None
        self.go_to(question.parent)
        return question.message

    def changed(self) -> None:
        """Tell the recorder that title, system message or the visible part have been set anew."""
        if self.recorder:
            self.recorder.moved(self)

    def see_from(self, node: Node | None, summary: str | None = None) -> None:
        """From now on the model sees only `node` and what follows, and the summary of what came before."""
        self.seen_from, self.summary = node, summary
        self.changed()

    def path(self) -> list[Node]:
        """From the first message to the current one."""
        nodes: list[Node] = []
        node = self.current
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def visible(self) -> list[Node]:
        """The part of the path that the model sees."""
        path = self.path()
        return path[path.index(self.seen_from) :] if self.seen_from in path else path

    def as_messages(self, model: str | None = None) -> list[Message]:
        """What goes into the prompt: the system message with the summary, then the visible messages.

        Thinking is left out; tokens are kept only where `model` itself sampled them.
        """
        said = [
            replace(node.message, thinking="", tokens=node.message.tokens if node.message.model == model else None)
            for node in self.visible()
        ]
        system = self.system_text()
        return [Message(Role.SYSTEM, system), *said] if system else said

    def system_text(self) -> str:
        """The system message as the model gets it."""
        summary = f"What was said before, in short: {self.summary}" if self.summary else None
        return "\n\n".join(text for text in (self.system, summary) if text)

    def siblings_below(self, parent: Node | None) -> list[Node]:
        """The messages that follow `parent` (None: the first messages)."""
        return self.roots if parent is None else parent.children

    def alternatives(self, node: Node) -> list[Node]:
        """All messages in the place of `node`, in the order they were made, `node` among them."""
        return self.siblings_below(node.parent)

    def last(self, role: Role) -> Node | None:
        """The last message of that role on the current path."""
        return next((node for node in reversed(self.path()) if node.message.role is role), None)

    def tip_of(self, node: Node) -> Node:
        """The end of the branch that was last continued below `node`."""
        while node.children:
            node = node.children[-1]
        return node

    def nodes(self) -> Iterator[Node]:
        """All messages of the tree, parents before children."""
        waiting = list(reversed(self.roots))
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def alternating(messages: Sequence[Message]) -> list[Message]:
    """The messages as every chat template takes them: users and assistants in turn, no answer without a text.

    An answer that came to nothing (stopped while the model thought) is left out. Two questions without an answer
    between them, as after a crash, are one.
    """
    kept: list[Message] = []
    for message in messages:
        if message.role is Role.ASSISTANT and not message.text.strip():
            continue
        before = kept[-1] if kept else None
        if before is None or before.role is not message.role or message.role is Role.SYSTEM:
            kept.append(message)
            continue
        text, pictures = f"{before.text}\n\n{message.text}", before.pictures + message.pictures
        kept[-1] = replace(message, text=text, tokens=None, pictures=pictures)
    return kept


def _first_line(message: Message) -> str:
    """The title that a first message gives."""
    return title_of(message.text) or ", ".join(picture.name for picture in message.pictures)


def title_of(text: str) -> str:
    """A title from a message: the first line of what was typed, cut at a word after about 60 characters."""
    line = next((line.strip() for line in instruction_of(text).splitlines() if line.strip()), "")
    if len(line) <= 60:
        return line
    return line[:60].rsplit(" ", 1)[0].rstrip(" ,;:") + " …"


def new_id() -> str:
    """An id for a conversation or a message that no other has: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def now() -> str:
    """The time as it is written down: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
