"""Messages and the conversation they make.

Knows: roles, texts, the tokens a completion was sampled as. Refuses to know: templates, engines, files.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `tokens`: the ids an assistant message was sampled as, for the model that said it."""

    role: Role
    text: str
    tokens: tuple[int, ...] | None = None
    is_cut: bool = False  # ended by Ctrl-C or a limit, not by the model


@dataclass(slots=True)
class Conversation:
    """The messages so far, oldest first; the system message, if any, is kept apart."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def add(self, message: Message) -> None:
        self.messages.append(message)

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        self.messages.clear()

    def forget_tokens(self) -> None:
        """Keep the texts only: another model reads the conversation from here on."""
        self.messages = [Message(m.role, m.text, None, m.is_cut) for m in self.messages]

    def as_messages(self) -> list[Message]:
        """All messages in order, the system message first."""
        first = [Message(Role.SYSTEM, self.system)] if self.system else []
        return first + self.messages
