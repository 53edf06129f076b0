"""`/lora` in the chat: list the adapters, add one, rescale it, switch it off.

Knows: what is typed and told. Refuses to know: which file is an adapter for this model (catalog/lora.py).
"""

from collections.abc import Iterable

from slmchat.commands.repl.app import ChatApp
from slmchat.engine.requests import counting_adapters
from slmchat.models import adapters
from slmchat.terminal.completion import complete_path, split_words


def command(chat: ChatApp, arguments: str) -> None:
    """`/lora`, `/lora NAME[=SCALE]`, `/lora none`. Raises `SlmError`; then everything is as it was."""
    session = chat.session
    texts = split_words(arguments.strip())
    if not texts:
        for adapter in session.adapters:
            state = f"scale {adapter.scale:g}" if adapter.scale else "off"
            chat.console.note(f"{adapter.path.name}: {state} ({adapter.path})")
        chat.console.note(
            "/lora NAME=SCALE rescales one, NAME=0 switches it off, /lora none removes them all."
            if session.adapters
            else "No adapter counts; /lora PATH[=SCALE] lays one over the model."
        )
        return
    model = session.model
    is_none = texts == ["none"]
    chosen = model.without_adapters() if is_none else model.with_adapters(texts, chat.settings, session.adapters)
    session.set_adapters(chosen)
    counting = counting_adapters(session.adapters)
    chat.console.note(
        f"From here on with {adapters.labels(counting)}." if counting else "No adapter counts from here on."
    )


def complete(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """The adapters that are there, `none`, then files."""
    for adapter in chat.session.adapters:
        if adapter.path.name.startswith(text):
            yield f"{adapter.path.name}=", f"scale {adapter.scale:g}"
    if chat.session.adapters and "none".startswith(text):
        yield "none", "remove all"
    yield from complete_path(text)
