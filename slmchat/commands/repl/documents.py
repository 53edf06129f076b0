"""`/docs` in the chat: documents whose quotations answer the messages from here on.

Knows: what is typed and told. Refuses to know: how documents are read and quoted (chat_documents.py).
"""

from collections.abc import Iterable

from slmchat.commands.repl import enclosures, rest
from slmchat.commands.repl.app import ChatApp, MessageHooks, usage
from slmchat.terminal.completion import complete_path, split_words
from slmchat.user_paths import user_path
from slmchat.wording import counted

DROP = ("drop", '""')


def command(chat: ChatApp, arguments: str) -> None:
    """`/docs`, `/docs PATH…`, `/docs drop`. Raises `SlmError` (USAGE)."""
    from slmchat.commands.ask import tell_of  # with all of retrieval: not for a chat without documents
    from slmchat.commands.sources import shown_path, smallness
    from slmchat.retrieval.loaders.kinds import READABLE

    documents = chat.documents
    if arguments in DROP:
        documents.drop()
        chat.console.note("Messages are answered without documents from here on.")
        return
    if not arguments:
        for path, n_chunks in documents.count(chat.session, chat.settings):
            chat.console.note(f"{shown_path(path)}: {counted(n_chunks, 'passage')}")
        if not documents.roots:
            raise usage("which documents?", "/docs PATH… (directories too); then ask about them")
        return
    paths = [user_path(word) for word in split_words(arguments)]
    if chat.place.host is not None:
        question = f"Passages of these documents would {chat.place.what_happens} with your messages."
        if chat.answers.ask(question, [("y", "let them"), ("n", "leave it")]) != "y":
            return
    report = documents.add(paths, chat.session, chat.settings, chat.answers.cancellable)
    if report is None:
        chat.console.note("(cancelled)")
        return
    tell_of(report, chat.console)
    if not report.n_files:
        raise usage("nothing in these documents can be read.", f"{READABLE} can")
    chat.console.note(
        f"{counted(report.n_files, 'document')} with {counted(report.n_chunks, 'passage')}: what answers a message is "
        "quoted from them. /docs drop ends it."
    )
    if (sentence := smallness(chat.session.model)) is not None:
        chat.console.note(sentence)


def _before(chat: ChatApp, text: str) -> None:
    """What of the documents answers a message goes along with it, and what it names. Raises `SlmError`."""
    enclosures.named_in(chat, text)
    if not chat.has_documents:
        return
    chat.documents.attach(text, chat.session, chat.settings, chat.answers.reading, chat.answers.cancellable)
    quoted = chat.documents.quoted
    if quoted:
        n_tokens = sum(chat.session.count_text(each.text) for each in quoted)
        told = f"({counted(len(quoted), 'quotation')}, {chat.session.about}{counted(n_tokens, 'token')}, go along)"
        chat.console.detail(told)


def _behind(chat: ChatApp) -> None:
    """Below an answer: what was quoted for it."""
    if not chat.has_documents:
        return
    from slmchat.commands.sources import source_lines

    for line in source_lines(chat.documents.quoted):
        chat.console.note(line)


HOOKS = MessageHooks(_before, _behind, rest.resting)


def complete(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """`drop`, then files and directories."""
    if chat.has_documents and chat.documents.roots and text and DROP[0].startswith(text):
        yield DROP[0], "answer without documents"
    yield from complete_path(text)
