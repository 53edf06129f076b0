"""What is done while a chat rests: the user reads, thinks, types. A better title, so far.

Knows: when there is time for it and whose title it is. Refuses to know: how a title is made (generation/titles.py).

Nothing is printed and nothing waits for it. With `--private` nothing is kept, so that there is no title; an endpoint
costs money, a battery its charge: there is none either.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from slmchat.commands.repl.app import ChatApp
from slmchat.conversation.messages import Message, Role
from slmchat.generation.titles import TitleInTheMaking
from slmchat.hardware.power import power

# Seconds without a message before the model is asked: most answers take longer to read.
REST_S = 2.0


@contextmanager
def resting(chat: ChatApp) -> Iterator[None]:
    """While this lasts the model has time; what it was doing ends with it."""
    said = _untitled(chat)
    making = TitleInTheMaking(chat.session.opened, said, rest_s=REST_S) if said else None
    try:
        yield
    finally:
        if making is not None:
            title = making.stop()
            if making.is_done:
                chat.titled.add(chat.session.conversation.id)
            if title:
                chat.session.conversation.title = title
                chat.session.conversation.changed()


def _untitled(chat: ChatApp) -> Sequence[Message]:
    """The first message and its answer, where the title is only the message's first line; else nothing."""
    session, conversation = chat.session, chat.session.conversation
    if chat.recorder is None or chat.place.host is not None or session.options.raw or not session.opened.is_loaded:
        return ()
    said = [node.message for node in conversation.path()][:2]
    if [message.role for message in said] != [Role.USER, Role.ASSISTANT] or said[1].is_cut or not said[1].text:
        return ()
    if conversation.id in chat.titled or not conversation.has_first_line_as_title or power()[0].value:
        return ()
    return said
