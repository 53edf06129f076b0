"""What goes along with the next message: text files, whole directories, pictures, `@path` in the message itself.

Knows: what was named, what it costs of the window. Refuses to know: how files are found and read (files.py).
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from slmchat.commands.repl import files
from slmchat.commands.repl.app import ChatApp, usage
from slmchat.conversation.attachments import Attachment
from slmchat.terminal.completion import complete_path
from slmchat.terminal.slash_commands import as_typed
from slmchat.user_paths import user_path
from slmchat.wording import counted

# In longer messages an `@` is more likely part of a pasted text than the name of a file.
_MOST_WITH_NAMES = 4_000
_NAMED = re.compile(r'(?<!\S)@(?:"([^"]+)"|(\S+))')


def file(chat: ChatApp, arguments: str) -> None:
    """`/file`, `/file PATH…`, `/file ""`."""
    if not arguments:
        for item in chat.session.attachments:
            tokens = chat.session.count_text(item.text)
            chat.console.note(f"{item.name}: {chat.session.about}{counted(tokens, 'token')}, with the next message")
        if not chat.session.attachments:
            raise usage("which file?", "/file PATH… (globs and directories too); with the next message it is sent")
        return
    if arguments == '""':
        chat.session.attachments = []
        chat.console.note("Nothing is attached any more.")
        return
    _attach(chat, files.read_all(arguments, chat.console))


def _attach(chat: ChatApp, read: list[Attachment]) -> None:
    """Lay texts beside the next message, and say what they cost."""
    session = chat.session
    costs = [session.count_text(item.text) for item in read]
    if len(read) > files.MOST_LISTED:
        characters = sum(len(item.text) for item in read)
        chat.console.note(f"{counted(len(read), 'file')}: {counted(characters, 'character')}")
    else:
        for item, tokens in zip(read, costs, strict=True):
            chat.console.note(
                f"{item.name}: {counted(len(item.text), 'character')}, {session.about}{counted(tokens, 'token')}"
            )
    total = sum(costs) + sum(session.count_text(item.text) for item in session.attachments)
    session.attachments += read
    go = "goes" if total == 1 else "go"
    told = f"{session.about}{counted(total, 'token')} {go} along with your next message"
    chat.console.note(told + _room(chat, total))


def _room(chat: ChatApp, total: int) -> str:
    session = chat.session
    if not session.window_size:
        return "."
    free = session.window_size - session.tokens_used
    told = f" ({free:,} of {session.window_size:,} are free"
    return told + ('; that will not fit). /file "" detaches them.' if total > free else ").")


def named_in(chat: ChatApp, text: str) -> None:
    """Attach the files that a message names as `@path`; what is not a file there stays text."""
    found = paths_in(text)
    if not found:
        return
    names = ", ".join(path.name for path in found)
    if chat.place.host is not None:
        question = f"{names} would {chat.place.what_happens} with this message."
        if chat.answers.ask(question, [("y", "send along"), ("n", "send the message alone")]) != "y":
            return
    read = files.read_paths(found, chat.console)
    fresh = [item for item in read if item not in chat.session.attachments]  # a message that came back names them again
    if fresh:
        _attach(chat, fresh)


def paths_in(text: str) -> list[Path]:
    """The files that a message names as `@path`, as far as they exist."""
    if len(text) > _MOST_WITH_NAMES:
        return []
    named = [user_path(quoted or bare) for quoted, bare in _NAMED.findall(text)]
    return [path for path in map(_existing, named) if path is not None]


def _existing(path: Path) -> Path | None:
    """The file of this name, also where a full stop or a comma stands behind it."""
    for name in (str(path), str(path).rstrip(".,;:!?)")):
        if name and os.path.isfile(name):
            return Path(name)
    return None


def image(chat: ChatApp, arguments: str) -> None:
    """`/image`, `/image PATH…`, `/image ""`."""
    session = chat.session
    if not arguments:
        for picture in session.pictures:
            chat.console.note(f"{picture.describe()}, {session.cost_of(picture):,} tokens, with the next message")
        if not session.pictures:
            raise usage("which picture?", "/image PATH… (globs too); with the next message the model sees it")
        return
    if arguments == '""':
        session.pictures = []
        chat.console.note("No picture is attached any more.")
        return
    session.model.check_vision(chat.settings)
    costs = [(picture, session.cost_of(picture)) for picture in files.read_pictures(arguments)]
    for picture, tokens in costs:
        if not chat.answers.is_plain:
            files.draw(picture, chat.console)
        chat.console.note(f"{picture.describe()}, {tokens:,} tokens")
    session.pictures += [picture for picture, _ in costs]
    total = sum(map(session.cost_of, session.pictures))
    free = session.n_ctx - session.tokens_used
    chat.console.note(
        f"{total:,} tokens go along with your next message ({free:,} of {session.n_ctx:,} are free"
        + ('; that will not fit). /image "" detaches them.' if total > free else ").")
    )


def complete(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """Files and directories."""
    return complete_path(text)


def editor(chat: ChatApp, arguments: str) -> None:
    """`/editor [TEXT]`: the next message from $EDITOR."""
    text = chat.editor.edit_text(arguments)
    if text and text.strip():
        chat.next_text = as_typed(text)
