"""Where a conversation stands: its title and the end of the last exchange, so that it can be gone on with.

Knows: what is short enough to be read again. Refuses to know: how the conversation came to be the one of the chat.
"""

from slmchat.commands.repl.app import ChatApp
from slmchat.conversation.messages import Role, title_of
from slmchat.wording import counted

# An answer of more lines or characters is shown from near its end on.
_MOST_LINES, _MOST_CHARACTERS = 8, 600
_FENCE = "```"


def show(chat: ChatApp) -> None:
    """The title, what the model does not see, the last question and the end of its answer."""
    conversation = chat.session.conversation
    path, visible = conversation.path(), conversation.visible()
    if conversation.title:
        chat.console.note(f"{conversation.title} ({counted(len(path), 'message')})")
    if not path:
        chat.console.note("(before the first message; /branch shows what was said)")
    if len(visible) < len(path):
        hidden = len(path) - len(visible)
        chat.console.note(f"(the model no longer sees the first {f'{hidden} messages' if hidden > 1 else 'message'})")
    for node in path[-2:]:
        message = node.message
        if message.role is Role.USER:
            for picture in message.pictures:
                chat.console.note(f"[{picture.describe()}]")
            chat.console.note(f"> {title_of(message.text)}")
        else:
            handler = chat.answers.handler()
            handler.answer(end_of(message.text))
            handler.close()
            if message.is_cut:
                chat.console.note("(cut; /continue goes on)")
    if path and path[-1].message.role is Role.USER:
        chat.console.note("(this question has no answer yet; /retry asks it again)")


def end_of(text: str) -> str:
    """The end of an answer, from a line or a word on; all of it where it is short."""
    lines = text.strip("\n").split("\n")
    kept = lines[-_MOST_LINES:]
    while len(kept) > 1 and sum(map(len, kept)) > _MOST_CHARACTERS:
        kept.pop(0)
    omitted = lines[: len(lines) - len(kept)]
    if len(kept[0]) > _MOST_CHARACTERS:
        kept[0] = "… " + kept[0][-_MOST_CHARACTERS:].partition(" ")[2]
    elif omitted:
        is_in_code = sum(line.lstrip().startswith(_FENCE) for line in omitted) % 2
        kept = ["…", _FENCE, *kept] if is_in_code else ["…", *kept]
    return "\n".join(kept)
