"""`/model` in the chat: let another model go on with the conversation.

Knows: what is typed, chosen and told. Refuses to know: how a model is found, loaded and let go (models/).
"""

from collections.abc import Iterable

from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.commands.repl.app import ChatApp, usage
from slmchat.commands.repl.greeting import tell_of_base
from slmchat.errors import SlmError
from slmchat.models.remote_backend import REMOTE_MARK
from slmchat.terminal.picker import Pickable, pick
from slmchat.wording import counted


def command(chat: ChatApp, arguments: str) -> None:
    """`/model`: choose one of the installed models; `/model NAME`. Raises `SlmError`; then all is as it was."""
    if arguments:
        switch(chat, arguments)
        return
    here = chat.session.model
    others = [item for item in _installed(chat) if not here.is_called(item.key)]
    chat.console.note(f"{here.key}: {here.title}")
    if chat.can_redraw and others:
        choices = [Pickable(item.key, item.title or "") for item in others]
        place = pick("Which model goes on?", choices, lambda _number: "")
        if place is not None:
            switch(chat, others[place].key)
        return
    for item in others:
        chat.console.note(f"{item.key}: {item.title or ''}")
    if others:
        chat.console.note("/model NAME lets one of them go on.")


def switch(chat: ChatApp, name: str) -> None:
    """Let the model of this name go on. Raises `SlmError`; then all is as it was."""
    if name.startswith(REMOTE_MARK):
        raise _other_place(chat)
    session = chat.session
    model = chat.place.find(name, chat.settings, chat.console)
    model.check()
    had_adapters = bool(session.adapters)
    chat.switch_model(model)
    session.opened.loading.when_done(chat.editor.refresh)
    chat.console.note(f"From here on {session.label} answers; the conversation goes on.")
    tell_of_base(chat.console, model, is_raw=session.options.raw)
    if had_adapters and not session.adapters:
        chat.console.note("The adapters belonged to the model before; /lora lays others over this one.")


def complete(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """The installed models."""
    return ((item.key, item.title or "") for item in _installed(chat) if item.key.startswith(text))


def _installed(chat: ChatApp) -> list[Installed]:
    """Those that can answer; none at an endpoint, whose models are not known here."""
    return [] if chat.place.host is not None else [item for item in Library(chat.settings.paths).all() if item.answers]


def _other_place(chat: ChatApp) -> SlmError:
    """A chat cannot move: what is sealed stays sealed."""
    id = chat.session.conversation.id[:8]
    number = len(chat.session.conversation.visible())
    leaving = f"it asks before {counted(number, 'message')} leave this device"
    again = "slm chat" if chat.is_private or not number else f"slm chat --session {id}"
    where = "at its endpoint" if chat.place.host else "sealed on this device"
    return usage(
        f"this chat stays {where}: what keeps it there cannot be taken off again.",
        f"leave, and: {again} --endpoint URL|NAME -m MODEL ({leaving})",
    )
