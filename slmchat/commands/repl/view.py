"""What the model sees: the window message by message, the exact prompt, the figures of the last answer.

Knows: how that is told. Refuses to know: how a prompt is laid out and counted (chat_session.py).
"""

from slmchat.commands.repl.app import ChatApp, usage
from slmchat.conversation.messages import title_of
from slmchat.generation.response import describe


def stats(chat: ChatApp, _arguments: str) -> None:
    last = chat.session.last
    if last is None:
        chat.console.note("Nothing was generated yet.")
    else:
        chat.console.note(describe(last.reason, last.usage, last.timings))


def context(chat: ChatApp, _arguments: str) -> None:
    session = chat.session
    n_ctx = session.ready().n_ctx
    messages = session.messages()
    counted = [session.count_text(message.text) + sum(map(session.cost_of, message.pictures)) for message in messages]
    for message, tokens in zip(messages, counted, strict=True):
        chat.console.note(f"{tokens:7,}  {message.role:9}  {title_of(message.text)}")
    total = session.count(messages)
    chat.console.note(f"{total - sum(counted):7,}  the chat template's own marks")
    share = f"of {n_ctx:,} tokens ({100 * total // n_ctx} %)" if n_ctx else "tokens; the size of the window is not told"
    guessed = ". All of these are guesses: the tokens are counted over there" if session.about else ""
    chat.console.note(f"{total:7,}  {share}{guessed}")
    hidden = len(session.conversation.path()) - len(session.conversation.visible())
    if hidden:
        first = f"{hidden} messages" if hidden > 1 else "message"
        chat.console.note(f"The model no longer sees the first {first} of this conversation.")


def prompt(chat: ChatApp, _arguments: str) -> None:
    messages = chat.session.messages()
    if not messages:
        raise usage("there is no prompt yet.")
    prompt = chat.session.prompt(messages)
    if not chat.session.has_own_layout or not prompt.turns:
        images = (
            f"[picture, {part.image.width} × {part.image.height}]" if part.image else part.text for part in prompt.parts
        )
        chat.console.verbatim("".join(images))
        return
    for turn in prompt.turns:
        chat.console.verbatim(f"[{turn.role}]\n{turn.text}")
    chat.console.note(f"(how {chat.place.host} lays this out for the model is not known here)")
