"""What was said, changed: another answer, an exchange taken back or asked anew, branches, a summary for the old part.

Knows: the commands that move in the tree of a conversation. Refuses to know: how an answer is made (chat_session.py).
"""

from collections.abc import Iterable, Sequence

from slmchat.commands.repl import enclosures, recap
from slmchat.commands.repl.app import ChatApp, usage
from slmchat.conversation.attachments import Attachment, taken_apart
from slmchat.conversation.messages import Conversation, Node, Role, title_of
from slmchat.terminal.slash_commands import as_typed, message_of
from slmchat.wording import counted


def clear(chat: ChatApp, _arguments: str) -> None:
    old = chat.session.conversation
    chat.session.conversation = Conversation(old.system, chat.recorder)
    chat.session.last = None
    kept = ""
    if chat.recorder is not None and old.roots:
        state = "could not be saved yet; slm keeps trying" if chat.recorder.error else "is saved"
        kept = f" The old one {state}: /sessions {old.id[:8]}"
    chat.console.note(f"A new conversation; the system message stays.{kept}")


def compact(chat: ChatApp, arguments: str) -> None:
    conversation = chat.session.conversation
    if not arguments:
        with chat.answers.held():
            is_done = chat.session.compact()
        chat.console.note("The summary stands for it; /compact undo goes back." if is_done else "Nothing has changed.")
    elif arguments == "show":
        chat.console.note(conversation.summary or "No summary stands for anything.")
    elif arguments == "undo":
        if conversation.seen_from is None:
            raise usage("the model sees all of this conversation already.")
        conversation.see_from(None)
        chat.console.note("The model sees the whole conversation again.")
    else:
        raise usage(f"/compact cannot do '{arguments}'.", "/compact, /compact show or /compact undo")


def complete_compact(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    known = (("show", "the summary"), ("undo", "let the model see everything again"))
    return (each for each in known if each[0].startswith(text))


def retry(chat: ChatApp, _arguments: str) -> None:
    conversation = chat.session.conversation
    before = conversation.current
    question = conversation.last(Role.USER)
    if question is None:
        raise usage("there is no question to answer again.")
    conversation.go_to(question)
    answer = None
    with chat.answers.held():
        try:
            answer = chat.session.answer()
        finally:
            if answer is None and conversation.current is question and before is not question:
                conversation.go_to(before)
        chat.told(answer)
    node = chat.session.conversation.current
    if answer is not None and node is not None:
        others = chat.session.conversation.alternatives(node)
        chat.console.note(f"(answer {others.index(node) + 1} of {len(others)}; /branch shows the others)")


def undo(chat: ChatApp, _arguments: str) -> None:
    question = chat.session.conversation.undo()
    if question is None:
        raise usage("there is nothing to undo.")
    chat.console.note(f"Undone: {title_of(question.text)} (it is kept; /branch goes back to it)")


def edit(chat: ChatApp, _arguments: str) -> None:
    conversation = chat.session.conversation
    question = conversation.last(Role.USER)
    if question is None:
        raise usage("there is no question to edit.")
    typed, attached = taken_apart(question.message.text)
    attached = _going_along_again(chat, typed, attached)
    if attached:
        chat.console.note(f"(with it: {', '.join(item.name or 'a text' for item in attached)})")
    try:
        text = message_of(chat.editor.read(default=as_typed(typed), prompt="edit> "))
    except (KeyboardInterrupt, EOFError):
        chat.console.note("(not changed)")
        return
    if not text.strip():
        return
    session, before = chat.session, conversation.current
    conversation.go_to(question.parent)
    attachments, session.attachments = session.attachments, attached
    pictures, session.pictures = session.pictures, list(question.message.pictures)
    try:
        chat.send(text)
    finally:
        if chat.next_text:  # it is back in the line, and what goes along with it beside it
            attachments, pictures = [*attachments, *session.attachments], [*pictures, *session.pictures]
        session.attachments, session.pictures = attachments, pictures
        if session.conversation is conversation and conversation.current is question.parent:
            conversation.go_to(before)


def _going_along_again(chat: ChatApp, typed: str, attached: Sequence[Attachment]) -> list[Attachment]:
    """What went along with a message, without what is found anew for it: files that it names itself, quotations."""
    named = {path.name for path in enclosures.paths_in(typed)}
    is_quoting = chat.has_documents and bool(chat.documents.roots)
    return [
        item for item in attached if item.name not in named and not (is_quoting and chat.documents.is_quotation(item))
    ]


def go_on(chat: ChatApp, _arguments: str) -> None:
    node = chat.session.conversation.current
    if node is not None and node.message.role is Role.ASSISTANT and not node.message.is_cut:
        chat.console.note("(the model had ended this answer by itself)")
    with chat.answers.held():
        chat.told(chat.session.go_on())


def branch(chat: ChatApp, arguments: str) -> None:
    conversation = chat.session.conversation
    tips = [node for node in conversation.nodes() if not node.children]
    if not tips:
        raise usage("there is nothing to branch from yet.")
    if not arguments:
        here = conversation.current
        for number, tip in enumerate(tips, start=1):
            mark = "*" if tip is here or here in _line_to(tip) else " "
            chat.console.note(f"{mark} {number}  {_described(tip)}")
        chat.console.note("/branch N goes there; what you say after /undo or /edit begins a branch of its own.")
        return
    if not arguments.isdecimal() or not 1 <= int(arguments) <= len(tips):
        are = "is" if len(tips) == 1 else "are"
        raise usage(f"there is no branch {arguments}; there {are} {len(tips)}.", "/branch lists them")
    conversation.go_to(tips[int(arguments) - 1])
    recap.show(chat)


def _line_to(node: Node) -> list[Node]:
    line: list[Node] = []
    at: Node | None = node
    while at is not None:
        line.append(at)
        at = at.parent
    return line


def _described(tip: Node) -> str:
    line = _line_to(tip)
    question = next((node for node in line if node.message.role is Role.USER), tip)
    answer = "(no answer)" if tip.message.role is Role.USER else f"→ {title_of(tip.message.text)}"
    return f"{counted(len(line), 'message')}, last: {title_of(question.message.text)} {answer}"
