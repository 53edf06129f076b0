"""The slash commands of the chat: one table, each with its help, its completion and its function.

Knows: what each command does to the chat. Refuses to know: keys and the loop (chat.py), how lines are parsed
(terminal/slash_commands.py).
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace

from slmchat import personas, ranges
from slmchat.catalog.library import Library
from slmchat.commands.repl import adapters, files, recap, thinking
from slmchat.commands.repl.app import ChatApp
from slmchat.conversation.messages import Conversation, Node, Role, title_of
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.response import describe
from slmchat.models import loader
from slmchat.models.backend import REMOTE_MARK
from slmchat.ranges import Range
from slmchat.terminal.doubt import LEGEND
from slmchat.terminal.line_editor import KEYS, complete_path
from slmchat.terminal.screen import ControlSequences
from slmchat.terminal.slash_commands import CommandTable, SlashCommand, as_typed, message_of
from slmchat.wording import counted

# A terminal need not take more through OSC 52 (xterm's limit is about 100,000 bytes of base64).
_MOST_COPIED = 74_000
_SHOWN_SESSIONS = 15


def _usage(message: str, hint: str | None = None) -> SlmError:
    return SlmError(message, hint=hint, exit_code=ExitCode.USAGE)


# The chat itself


def greet(chat: ChatApp) -> None:
    """The first lines: which model, how to get help, and where a resumed conversation stopped."""
    session = chat.session
    chat.console.note(f"{session.model.title or session.label}. /help lists the commands, Ctrl-D leaves.")
    if chat.is_private:
        chat.console.note("Private: no session, no history, nothing of this chat is written to the disk.")
    if session.conversation.roots:
        recap.show(chat)


def _help(chat: ChatApp, _arguments: str) -> None:
    for line in COMMANDS.help_lines():
        chat.console.note(line)
    width = max(len(keys) for keys, _ in KEYS)
    for keys, what in KEYS:
        chat.console.note(f"{keys:<{width}}  {what}")
    chat.console.note("A message that begins with a slash: //…")


def _exit(chat: ChatApp, _arguments: str) -> None:
    chat.leave()


def _clear(chat: ChatApp, _arguments: str) -> None:
    old = chat.session.conversation
    chat.session.conversation = Conversation(old.system, chat.recorder)
    chat.session.last = None
    kept = "" if chat.is_private or not old.roots else f" The old one is saved: /sessions {old.id[:8]}"
    chat.console.note(f"A new conversation; the system message stays.{kept}")


def _compact(chat: ChatApp, arguments: str) -> None:
    conversation = chat.session.conversation
    if not arguments:
        with chat.answering():
            is_done = chat.session.compact()
        chat.console.note("The summary stands for it; /compact undo goes back." if is_done else "Nothing has changed.")
    elif arguments == "show":
        chat.console.note(conversation.summary or "No summary stands for anything.")
    elif arguments == "undo":
        if conversation.seen_from is None:
            raise _usage("the model sees all of this conversation already.")
        conversation.see_from(None)
        chat.console.note("The model sees the whole conversation again.")
    else:
        raise _usage(f"/compact cannot do '{arguments}'.", "/compact, /compact show or /compact undo")


def _complete_compact(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    known = (("show", "the summary"), ("undo", "let the model see everything again"))
    return (each for each in known if each[0].startswith(text))


def _private(chat: ChatApp, _arguments: str) -> None:
    if chat.is_private:
        chat.console.note("This chat is private already.")
        return
    was_saved = bool(chat.session.conversation.roots)
    chat.go_private()
    chat.console.note("Private from now on: nothing more of this chat is written to the disk.")
    if was_saved:
        chat.console.note(
            f"What was said before is saved; slm sessions rm {chat.session.conversation.id[:8]} removes it."
        )


# The tree


def _retry(chat: ChatApp, _arguments: str) -> None:
    conversation = chat.session.conversation
    before = conversation.current
    question = conversation.last(Role.USER)
    if question is None:
        raise _usage("there is no question to answer again.")
    conversation.go_to(question)
    answer = None
    with chat.answering():
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


def _undo(chat: ChatApp, _arguments: str) -> None:
    question = chat.session.conversation.undo()
    if question is None:
        raise _usage("there is nothing to undo.")
    chat.console.note(f"Undone: {title_of(question.text)} (it is kept; /branch goes back to it)")


def _edit(chat: ChatApp, _arguments: str) -> None:
    conversation = chat.session.conversation
    question = conversation.last(Role.USER)
    if question is None:
        raise _usage("there is no question to edit.")
    try:
        text = message_of(chat.editor.read(default=as_typed(question.message.text), prompt="edit> "))
    except (KeyboardInterrupt, EOFError):
        chat.console.note("(not changed)")
        return
    if not text.strip():
        return
    before = conversation.current
    conversation.go_to(question.parent)
    attachments, chat.session.attachments = chat.session.attachments, []
    attached, chat.session.pictures = chat.session.pictures, list(question.message.pictures)
    try:
        chat.send(text)
    finally:
        chat.session.attachments, chat.session.pictures = attachments, attached
        if chat.session.conversation is conversation and conversation.current is question.parent:
            conversation.go_to(before)


def _continue(chat: ChatApp, _arguments: str) -> None:
    node = chat.session.conversation.current
    if node is not None and node.message.role is Role.ASSISTANT and not node.message.is_cut:
        chat.console.note("(the model had ended this answer by itself)")
    with chat.answering():
        chat.told(chat.session.go_on())


def _branch(chat: ChatApp, arguments: str) -> None:
    conversation = chat.session.conversation
    tips = [node for node in conversation.nodes() if not node.children]
    if not tips:
        raise _usage("there is nothing to branch from yet.")
    if not arguments:
        here = conversation.current
        for number, tip in enumerate(tips, start=1):
            mark = "*" if tip is here or here in _line_to(tip) else " "
            chat.console.note(f"{mark} {number}  {_described(tip)}")
        chat.console.note("/branch N goes there; what you say after /undo or /edit begins a branch of its own.")
        return
    if not arguments.isdecimal() or not 1 <= int(arguments) <= len(tips):
        raise _usage(f"there is no branch {arguments}; there are {len(tips)}.", "/branch lists them")
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
    return f"{len(line)} messages, last: {title_of(question.message.text)} → {title_of(tip.message.text)}"


# Sessions


def _sessions(chat: ChatApp, arguments: str) -> None:
    if not arguments:
        for item in chat.archive.list(_SHOWN_SESSIONS):
            mark = "*" if item.id == chat.session.conversation.id else " "
            chat.console.note(f"{mark} {item.short_id}  {item.title}  ({counted(item.message_count, 'message')})")
        chat.console.note("/sessions ID-or-title goes there.")
        return
    found = chat.resumed(chat.archive.find(arguments).id)
    if not chat.may_send(found):
        chat.console.note("(nothing of it has been sent)")
        return
    chat.session.conversation = found
    chat.session.last = None
    recap.show(chat)


def _complete_session(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    for item in chat.archive.list(200):
        if item.title.casefold().startswith(text.casefold()) or item.id.startswith(text):
            yield item.title, f"{item.short_id}, {item.message_count} messages"


def _title(chat: ChatApp, arguments: str) -> None:
    if not arguments:
        chat.console.note(chat.session.conversation.title or "No title yet: the first message gives it.")
        return
    chat.session.conversation.title = arguments
    chat.session.conversation.changed()
    chat.console.note(f"The title is now: {arguments}")


def _search(chat: ChatApp, arguments: str) -> None:
    if not arguments:
        raise _usage("what shall be searched for?", "/search WORDS")
    hits = chat.archive.search(arguments, may_write=not chat.is_private)
    for hit in hits[:_SHOWN_SESSIONS]:
        chat.console.note(files.hit_line(hit))
    chat.console.note(f"{len(hits)} found." if hits else "Nothing found.")


def _export(chat: ChatApp, arguments: str) -> None:
    if not chat.session.conversation.roots:
        raise _usage("there is nothing to export yet.")
    file = files.export(chat.session.conversation, arguments, chat.exports)
    chat.console.note(f"Written to {file}")


# Model and settings


def _model(chat: ChatApp, arguments: str) -> None:
    session = chat.session
    if not arguments:
        chat.console.note(f"{session.model.key}: {session.model.title}")
        return
    if arguments.startswith(REMOTE_MARK):
        raise _other_place(chat)
    model = chat.place.find(arguments, chat.settings, chat.console)
    model.check()
    had_adapters = bool(session.adapters)
    chat.switch_model(model)
    session.opened.loading.when_done(chat.editor.refresh)
    chat.console.note(f"From here on {session.label} answers; the conversation goes on.")
    if had_adapters and not session.adapters:
        chat.console.note("The adapters belonged to the model before; /lora lays others over this one.")


def _other_place(chat: ChatApp) -> SlmError:
    """A chat cannot move: what is sealed stays sealed."""
    id = chat.session.conversation.id[:8]
    number = len(chat.session.conversation.visible())
    again = "slm chat" if chat.is_private or not number else f"slm chat --session {id}"
    where = "at its endpoint" if chat.place.host else "sealed on this device"
    return _usage(
        f"this chat stays {where}: what keeps it there cannot be taken off again.",
        f"leave, and: {again} --endpoint URL|NAME -m MODEL (it asks before the {number} messages leave this device)",
    )


def _complete_model(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    if chat.place.host is not None:
        return
    for item in Library(chat.settings.paths).all():
        if item.key.startswith(text) and item.answers:
            yield item.key, item.title or ""


def _system(chat: ChatApp, arguments: str) -> None:
    conversation = chat.session.conversation
    if not arguments:
        chat.console.note(conversation.system or "There is no system message; /system TEXT sets one.")
        return
    conversation.system = None if arguments == '""' else arguments
    conversation.changed()
    chat.console.note("The system message is set." if conversation.system else "The system message is removed.")


_SAMPLER: Mapping[str, Range] = {**ranges.SAMPLER, "seed": ranges.SEED}
_RANGES: Mapping[str, Range] = {
    **_SAMPLER,
    "ctx": ranges.CTX,
    "threads": ranges.THREADS,
    "max_tokens": ranges.MAX_TOKENS,
}


def _set(chat: ChatApp, arguments: str) -> None:
    session = chat.session
    if not arguments:
        for name in _SAMPLER:
            value = getattr(session.sampler, name)
            chat.console.note(f"{name:15} {'a new one each time' if value is None else value}")
        if chat.place.host is None:
            chat.console.note(f"{'ctx':15} {session.n_ctx or session.asked_ctx or 'chosen when the model is loaded'}")
            chat.console.note(f"{'threads':15} {session.threads or 'as many as there are free cores'}")
        chat.console.note(f"{'max_tokens':15} {session.limits.max_tokens or 'no limit'}")
        return
    name, _, text = arguments.partition(" ")
    if name in ("ctx", "threads") and chat.place.host is not None:
        raise _usage(f"{name} is decided at {chat.place.host}, not here.")
    if name not in _RANGES:
        raise _usage(f"there is no setting '{name}'.", f"/set KEY VALUE with one of {', '.join(_RANGES)}")
    value = _number(name, text.strip())
    if name in _SAMPLER:
        session.sampler_changes[name] = value
    elif name == "max_tokens":
        session.set_max_tokens(int(value))
    else:
        setattr(session, "asked_ctx" if name == "ctx" else "threads", int(value))
        if name == "ctx" and session.trained_ctx and value > session.trained_ctx:
            chat.console.warn(loader.beyond_training(f"ctx {int(value)}", session.trained_ctx))
        session.reopen()
    chat.console.note(f"{name} is now {value:g}.")


def _number(name: str, text: str) -> float:
    allowed = _RANGES[name]
    try:
        value = float(text)
    except ValueError:
        raise _usage(f"{name} must be a number, not '{text}'.", f"/set {name} VALUE") from None
    number = int(value) if allowed.is_whole and value.is_integer() else value
    if not allowed.holds(number):
        raise _usage(f"{name} must be {allowed}.")
    return number


def _complete_setting(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    return ((f"{name} ", str(allowed)) for name, allowed in _RANGES.items() if name.startswith(text))


def _persona(chat: ChatApp, arguments: str) -> None:
    known = params.personas(chat.settings)
    if not arguments:
        for name, persona in known.items():
            chat.console.note(f"{name:14} {persona.description}")
        return
    persona = personas.find(arguments, known)
    session = chat.session
    session.conversation.system = persona.system
    session.conversation.changed()
    session.sampler_changes = dict(persona.sampler)
    session.examples = params.example_messages(persona)
    if persona.max_tokens:
        session.set_max_tokens(persona.max_tokens)
    asked = replace(session.options, think=persona.think, think_budget=persona.think_budget)
    session.set_thinking(params.thinking_of(asked, chat.settings))
    if persona.model and chat.place.host is None and not session.model.is_called(persona.model):
        _model(chat, persona.model)
    chat.console.note(f"From here on: {persona.name}, {persona.description}")


def _complete_persona(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    return ((name, it.description) for name, it in params.personas(chat.settings).items() if name.startswith(text))


def _confidence(chat: ChatApp, _arguments: str) -> None:
    if not chat.shows_doubt and (chat.console.is_dumb or not chat.console.is_stdout_tty):
        raise _usage("this terminal cannot underline", "slm run --json --logprobs has the numbers")
    chat.shows_doubt = not chat.shows_doubt
    chat.session.limits = replace(chat.session.limits, top_logprobs=0 if chat.shows_doubt else None)
    if chat.shows_doubt:
        chat.console.note("The next answers show where the model was unsure, as plain text without Markdown.")
        chat.console.send(LEGEND)
    else:
        chat.console.note("Answers are shown as usual.")


# What goes in and out


def _file(chat: ChatApp, arguments: str) -> None:
    if not arguments:
        for item in chat.session.attachments:
            tokens = chat.session.count_text(item.text)
            chat.console.note(f"{item.name}: {chat.session.about}{tokens:,} tokens, with the next message")
        if not chat.session.attachments:
            raise _usage("which file?", "/file PATH… (globs too); with the next message it goes to the model")
        return
    if arguments == '""':
        chat.session.attachments = []
        chat.console.note("Nothing is attached any more.")
        return
    read = files.read_all(arguments)
    counted = [(item, chat.session.count_text(item.text)) for item in read]
    for item, tokens in counted:
        chat.console.note(f"{item.name}: {len(item.text):,} characters, {chat.session.about}{tokens:,} tokens")
    total = sum(tokens for _, tokens in counted)
    free = chat.session.n_ctx - chat.session.tokens_used
    chat.session.attachments += read
    told = f"{chat.session.about}{total:,} tokens go along with your next message"
    if not chat.session.n_ctx:
        chat.console.note(f"{told}.")
        return
    chat.console.note(
        f"{told} ({free:,} of {chat.session.n_ctx:,} are free"
        + ('; that will not fit). /file "" detaches them.' if total > free else ").")
    )


def _image(chat: ChatApp, arguments: str) -> None:
    session = chat.session
    if not arguments:
        for picture in session.pictures:
            chat.console.note(f"{picture.describe()}, {session.cost_of(picture):,} tokens, with the next message")
        if not session.pictures:
            raise _usage("which picture?", "/image PATH… (globs too); with the next message the model sees it")
        return
    if arguments == '""':
        session.pictures = []
        chat.console.note("No picture is attached any more.")
        return
    session.model.check_vision(chat.settings)
    counted = [(picture, session.cost_of(picture)) for picture in files.read_pictures(arguments)]
    for picture, tokens in counted:
        if not chat.is_plain:
            files.draw(picture, chat.console)
        chat.console.note(f"{picture.describe()}, {tokens:,} tokens")
    session.pictures += [picture for picture, _ in counted]
    total = sum(tokens for _, tokens in counted)
    free = session.n_ctx - session.tokens_used
    chat.console.note(
        f"{total:,} tokens go along with your next message ({free:,} of {session.n_ctx:,} are free"
        + ('; that will not fit). /image "" detaches them.' if total > free else ").")
    )


def _complete_file(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    return complete_path(text)


def _complete_export(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    return complete_path(text, chat.exports)


def _copy(chat: ChatApp, _arguments: str) -> None:
    """OSC 52: the terminal itself puts the text on the clipboard; the seal refuses the sockets of X11 and Wayland."""
    node = chat.session.conversation.last(Role.ASSISTANT)
    if node is None:
        raise _usage("there is no answer to copy yet.")
    data = node.message.text.encode()
    if len(data) > _MOST_COPIED:
        raise _usage(f"the answer is too long for the terminal's clipboard ({len(data):,} bytes).", "/export FILE")
    chat.console.send(ControlSequences(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07"))
    chat.console.note("The last answer is handed to the terminal's clipboard (terminals may have that switched off).")


def _editor(chat: ChatApp, arguments: str) -> None:
    text = chat.editor.edit_text(arguments)
    if text and text.strip():
        chat.next_text = text


def _stats(chat: ChatApp, _arguments: str) -> None:
    last = chat.session.last
    if last is None:
        chat.console.note("Nothing was generated yet.")
    else:
        chat.console.note(describe(last.reason, last.usage, last.timings))


def _context(chat: ChatApp, _arguments: str) -> None:
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
        chat.console.note(f"The model no longer sees the first {hidden} messages of this conversation.")


def _prompt(chat: ChatApp, _arguments: str) -> None:
    messages = chat.session.messages()
    if not messages:
        raise _usage("there is no prompt yet.")
    prompt = chat.session.prompt(messages)
    if not chat.session.has_own_layout or not prompt.turns:
        images = (
            f"[picture, {part.image.width} × {part.image.height}]" if part.image else part.text for part in prompt.parts
        )
        chat.console.note("".join(images))
        return
    for turn in prompt.turns:
        chat.console.note(f"[{turn.role}]\n{turn.text}")
    chat.console.note(f"(how {chat.place.host} lays this out for the model is not known here)")


COMMANDS: CommandTable[ChatApp] = CommandTable(
    (
        SlashCommand("help", "", "show the commands", _help),
        SlashCommand("exit", "", "leave (also Ctrl-D)", _exit),
        SlashCommand("retry", "", "another answer to the last question; the old one is kept", _retry),
        SlashCommand("undo", "", "take the last exchange back", _undo),
        SlashCommand("edit", "", "change the last question and ask it again", _edit),
        SlashCommand("continue", "", "let a cut answer go on", _continue),
        SlashCommand("branch", "[N]", "list the branches of the conversation, or go to one", _branch),
        SlashCommand(
            "compact", "[show|undo]", "let a summary stand for older exchanges, or go back", _compact, _complete_compact
        ),
        SlashCommand("clear", "", "start a new conversation", _clear),
        SlashCommand("file", "PATH…", 'attach text files to the next message; "" detaches', _file, _complete_file),
        SlashCommand("image", "PATH…", 'show pictures with the next message; "" detaches', _image, _complete_file),
        SlashCommand("editor", "[TEXT]", "write the next message in $EDITOR", _editor),
        SlashCommand("model", "[NAME]", "let another model go on", _model, _complete_model),
        SlashCommand(
            "lora",
            "[PATH=SCALE]",
            'list adapters, add or rescale one; "none" removes them',
            adapters.command,
            adapters.complete,
        ),
        SlashCommand("system", "[TEXT]", 'show or set the system message; "" removes it', _system),
        SlashCommand("persona", "[NAME]", "list personas, or take one on", _persona, _complete_persona),
        SlashCommand("set", "[KEY VALUE]", "sampler, ctx, threads, max_tokens", _set, _complete_setting),
        SlashCommand(
            "think",
            "[on|off|N]",
            "thinking on, off or at most N tokens; hide, show",
            thinking.command,
            thinking.complete,
        ),
        SlashCommand("confidence", "", "underline where the model is unsure, or stop that", _confidence),
        SlashCommand("context", "", "what fills the window, message by message", _context),
        SlashCommand("prompt", "", "the exact prompt as the model sees it", _prompt),
        SlashCommand("stats", "", "speed and tokens of the last answer", _stats),
        SlashCommand("copy", "", "the last answer to the clipboard", _copy),
        SlashCommand("sessions", "[ID|TITLE]", "list saved conversations, or go to one", _sessions, _complete_session),
        SlashCommand("title", "[TEXT]", "show or set the title", _title),
        SlashCommand("search", "WORDS", "search all saved conversations", _search),
        SlashCommand("export", "[FILE]", "write this conversation to a file (.md or .json)", _export, _complete_export),
        SlashCommand("private", "", "write nothing from now on", _private),
    )
)
