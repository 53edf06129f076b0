"""The first lines of a chat: which model, how to get help, what is not kept.

Knows: the sentences. Refuses to know: the chat, which is imported while they are read.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmchat.models.backend import BackendModel
    from slmchat.terminal.console import Console


def greet(console: "Console", model: "BackendModel", *, is_private: bool, is_raw: bool) -> None:
    """`is_private`: nothing of the chat is written to the disk. `is_raw`: texts are completed, without a template."""
    console.note(f"{model.title or model.label}. /help lists the commands, Ctrl-D leaves.")
    tell_of_base(console, model, is_raw=is_raw)
    if is_private:
        console.note("Private: no session, no history, nothing of this chat is written to the disk.")


def tell_of_base(console: "Console", model: "BackendModel", *, is_raw: bool) -> None:
    """Say before the first message that a model does not chat, where that is known. `is_raw` as in `greet`."""
    if model.is_base and not is_raw:
        console.warn(
            f"{model.label} is a base model: it completes texts and was not made to chat. "
            "slm chat --raw completes what you write; /model NAME goes on with a model that chats."
        )
