"""What is kept of the chat, and what is taken out of it: saved conversations, exports, the clipboard.

Knows: the commands for that. Refuses to know: the archive's file, the formats (conversation/).
"""

import base64
from collections.abc import Iterable

from slmchat.commands.repl import files, recap
from slmchat.commands.repl.app import ChatApp, usage
from slmchat.commands.sessions import ago
from slmchat.conversation.archive_names import SessionSummary
from slmchat.conversation.attachments import instruction_of
from slmchat.conversation.code_blocks import code_blocks
from slmchat.conversation.messages import Role
from slmchat.errors import SlmError
from slmchat.terminal.completion import complete_path, split_words
from slmchat.terminal.picker import Pickable, pick
from slmchat.terminal.screen import ControlSequences
from slmchat.wording import counted

# A terminal need not take more through OSC 52 (xterm's limit is about 100,000 bytes of base64).
_MOST_COPIED = 74_000
_CLIPBOARD_DOUBT = "some have that switched off"
_SHOWN_SESSIONS = 15
_SHOWN_HITS = 15


def sessions(chat: ChatApp, arguments: str) -> None:
    """`/sessions`: choose one of the saved conversations; `/sessions ID-or-title` goes there."""
    if arguments:
        unsaved = chat.recorder.unsaved(arguments) if chat.recorder is not None else None
        go_to(chat, unsaved or chat.archive.find(arguments).id)
        return
    if not chat.can_redraw:
        for item in chat.archive.list(_SHOWN_SESSIONS):
            mark = "*" if item.id == chat.session.conversation.id else " "
            chat.console.note(f"{mark} {item.short_id}  {one_line(item)}")
        chat.console.note("/sessions ID-or-title goes there.")
        return
    chosen = choose(chat)
    if chosen is None:
        chat.console.note("(nothing was chosen)")
    elif chosen != chat.session.conversation.id:
        go_to(chat, chosen)


def choose(chat: ChatApp) -> str | None:
    """The id of a saved conversation that the user picks; None when they do not. Raises `SlmError` without any."""
    found = chat.archive.list()
    if not found:
        raise usage("no conversation is saved yet.")
    choices = [Pickable(item.title or "(no title)", _facts(item)) for item in found]
    place = pick("Go on with which conversation?", choices, lambda number: _preview(chat, found[number].id))
    return None if place is None else found[place].id


def one_line(item: SessionSummary) -> str:
    """What a list says of a session."""
    return f"{' '.join(item.title.split())}  ({_facts(item)})"


def _facts(item: SessionSummary) -> str:
    return f"{counted(item.message_count, 'message')}, {ago(item.updated_at)}"


def _preview(chat: ChatApp, id: str) -> str:
    """The last question and the beginning of what was answered."""
    try:
        path = chat.archive.load(id).path()[-2:]
    except SlmError:  # another slm has removed it meanwhile: the choice says so
        return ""
    marks = {Role.USER: "> "}
    return "\n".join(
        f"{marks.get(node.message.role, '')}{' '.join(instruction_of(node.message.text).split())}" for node in path
    )


def go_to(chat: ChatApp, id: str) -> None:
    """Let the chat go on with this conversation."""
    found = chat.resumed(id)
    if not chat.may_send(found):
        chat.console.note("(nothing of it has been sent)")
        return
    chat.session.conversation = found
    chat.session.last = None
    recap.show(chat)


def complete_session(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """Titles of saved conversations."""
    for item in chat.archive.list():
        if item.title.casefold().startswith(text.casefold()) or item.id.startswith(text):
            yield item.title, f"{item.short_id}, {_facts(item)}"


def title(chat: ChatApp, arguments: str) -> None:
    """`/title`, `/title TEXT`."""
    if not arguments:
        chat.console.note(chat.session.conversation.title or "No title yet: the first message gives it.")
        return
    chat.session.conversation.title = arguments
    chat.session.conversation.changed()
    chat.console.note(f"The title is now: {arguments}")


def search(chat: ChatApp, arguments: str) -> None:
    """`/search WORDS`."""
    if not arguments:
        raise usage("what shall be searched for?", "/search WORDS")
    hits = chat.archive.search(arguments, _SHOWN_HITS + 1, may_write=not chat.is_private)
    for hit in hits[:_SHOWN_HITS]:
        chat.console.note(files.hit_line(hit))
    if len(hits) > _SHOWN_HITS:
        chat.console.note(f"These are the first {_SHOWN_HITS} places; one more word finds fewer.")
    else:
        chat.console.note(f"{len(hits):,} found." if hits else "Nothing found.")


def export(chat: ChatApp, arguments: str) -> None:
    """`/export [FILE]`."""
    if not chat.session.conversation.roots:
        raise usage("there is nothing to export yet.")
    file = files.export(chat.session.conversation, arguments, chat.exports)
    chat.console.note(f"Written to {file}")


def complete_export(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """Files where exports go."""
    return complete_path(text, chat.exports)


def copy(chat: ChatApp, arguments: str) -> None:
    """`/copy [N]`, `/copy code [N]`. OSC 52: the terminal itself puts the text on the clipboard; the seal refuses the
    sockets of X11 and Wayland."""
    if chat.console.is_dumb:
        raise usage("this terminal has no clipboard.", "/save FILE")
    what, text = _chosen(chat, arguments.split())
    data = text.encode()
    if len(data) > _MOST_COPIED:
        raise usage(f"{what} is too long for the terminal's clipboard ({len(data):,} bytes).", "/save FILE")
    chat.console.send(ControlSequences(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07"))
    doubt = "tmux takes it after: set -s set-clipboard on" if chat.console.environ.get("TMUX") else _CLIPBOARD_DOUBT
    chat.console.note(f"{what[0].upper()}{what[1:]} is handed to the terminal's clipboard ({doubt}).")


def save(chat: ChatApp, arguments: str) -> None:
    """`/save FILE`, `/save code [N] FILE`: an answer or a code block, where exports go."""
    words = split_words(arguments)
    if not words or words[-1] == "code" or words[-1].isdecimal():
        raise usage("into which file?", "/save FILE for the last answer, /save code [N] FILE for a block of it")
    what, text = _chosen(chat, words[:-1])
    file = files.write_new(chat.exports, words[-1], text if text.endswith("\n") else f"{text}\n")
    chat.console.note(f"{what[0].upper()}{what[1:]} is written to {file}")


def _chosen(chat: ChatApp, words: list[str]) -> tuple[str, str]:
    """What is meant, in words and as text: `[N]` the Nth answer from the end, `code [N]` the Nth block of the last."""
    is_code, number = words[:1] == ["code"], words[-1] if words and words[-1].isdecimal() else ""
    if words != [*(["code"] if is_code else []), *([number] if number else [])]:
        raise usage(f"what is '{' '.join(words)}'?", "N for the Nth answer from the end, code [N] for a block of code")
    answers = [node.message.text for node in chat.session.conversation.path() if node.message.role is Role.ASSISTANT]
    if not answers:
        raise usage("there is no answer yet.")
    if not is_code:
        place = int(number or 1)
        if not 1 <= place <= len(answers):
            raise usage(
                f"there {'is' if len(answers) == 1 else 'are'} {counted(len(answers), 'answer')}.", "1 is the last one"
            )
        return ("the last answer" if place == 1 else f"answer {place} from the end"), answers[-place]
    blocks = code_blocks(answers[-1])
    if not blocks:
        raise usage("there is no code block in the last answer.")
    place = int(number or len(blocks))
    if not 1 <= place <= len(blocks):
        raise usage(f"the last answer has {counted(len(blocks), 'code block')}.")
    return ("the code block" if len(blocks) == 1 else f"code block {place} of {len(blocks)}"), blocks[place - 1].text


def complete_copy(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """`code`."""
    if "code".startswith(text):
        yield "code", "the last code block; code 1: the first one"


def private(chat: ChatApp, _arguments: str) -> None:
    """`/private`."""
    if chat.is_private:
        chat.console.note("This chat is private already.")
        return
    was_saved = bool(chat.session.conversation.roots)
    recorder = chat.recorder
    chat.go_private()
    chat.console.note("Private from now on: nothing more of this chat is written to the disk.")
    if was_saved and recorder is not None and recorder.error:
        chat.console.note("What was said before could not be saved either.")
    elif was_saved:
        chat.console.note(
            f"What was said before is saved; slm sessions rm {chat.session.conversation.id[:8]} removes it."
        )
