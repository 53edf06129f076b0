"""The slash commands of the chat: one table, each with its help, its completion and its function.

Knows: which commands there are, by which other names people know them; help, the system message.
Refuses to know: keys and the loop (app.py), how lines are parsed (terminal/slash_commands.py), what the commands of the
modules beside it do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from slmchat.commands.repl import (
    adapters,
    chat_settings,
    documents,
    enclosures,
    models,
    persona,
    saved,
    thinking,
    tree,
    view,
)
from slmchat.commands.repl.app import ChatApp, usage
from slmchat.terminal.doubt import LEGEND
from slmchat.terminal.line_editor import KEYS
from slmchat.terminal.slash_commands import CommandTable, SlashCommand

# The chat itself


def _help(chat: ChatApp, arguments: str) -> None:
    if arguments == "keys":
        width = max(len(keys) for keys, _ in KEYS)
        for keys, what in KEYS:
            chat.console.note(f"{keys:<{width}}  {what}")
        return
    for line in COMMANDS.help_of(arguments) if arguments else COMMANDS.help_lines():
        chat.console.note(line)
    if not arguments:
        chat.console.note("")
        chat.console.note("/help NAME tells more of one, /help keys the keys. A message that begins with a slash: //…")


def _complete_help(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    if "keys".startswith(text):
        yield "keys", "what keys do"
    for command in COMMANDS.commands:
        if command.name.startswith(text):
            yield command.name, command.help


def _exit(chat: ChatApp, _arguments: str) -> None:
    chat.leave()


# What the model is told


def _system(chat: ChatApp, arguments: str) -> None:
    conversation = chat.session.conversation
    if not arguments:
        chat.console.note(conversation.system or "There is no system message; /system TEXT sets one.")
        return
    conversation.system = None if arguments == '""' else arguments
    conversation.changed()
    chat.console.note("The system message is set." if conversation.system else "The system message is removed.")


def _confidence(chat: ChatApp, _arguments: str) -> None:
    if not chat.answers.shows_doubt and (chat.console.is_dumb or not chat.console.is_stdout_tty):
        raise usage("this terminal cannot underline", "slm run --json --logprobs has the numbers")
    chat.answers.shows_doubt = not chat.answers.shows_doubt
    chat.session.limits = replace(chat.session.limits, top_logprobs=0 if chat.answers.shows_doubt else None)
    if chat.answers.shows_doubt:
        chat.console.note("The next answers show where the model was unsure, as plain text without Markdown.")
        chat.console.send(LEGEND)
    else:
        chat.console.note("Answers are shown as usual.")


_GROUPS: Mapping[str, tuple[SlashCommand[ChatApp], ...]] = {
    "The conversation": (
        SlashCommand(
            "retry", "", "another answer to the last question; the old one is kept", tree.retry,
            also=("regen", "regenerate", "redo"), more="/branch lists the answers and goes back to any of them.",
        ),
        SlashCommand("undo", "", "take the last exchange back", tree.undo),
        SlashCommand("edit", "", "change the last question and ask it again (also Esc Esc)", tree.edit),
        SlashCommand("continue", "", "let a cut answer go on", tree.go_on),
        SlashCommand("branch", "[N]", "list the branches of the conversation, or go to one", tree.branch),
        SlashCommand("clear", "", "start a new conversation", tree.clear, also=("new", "reset")),
        SlashCommand(
            "compact", "[show|undo]", "let a summary stand for older exchanges, or go back",
            tree.compact, tree.complete_compact,
            more="The model writes the summary, and you see it before it counts. Your own record stays complete.",
        ),
    ),
    "What goes along": (
        SlashCommand(
            "file", "PATH…", 'attach files and directories to the next message; "" detaches',
            enclosures.file, enclosures.complete, also=("attach", "read"),
            more="Globs and ~ work, names with blanks want quotes. Of a directory every text file is taken, but not "
            "hidden ones and those of tools (node_modules). In a message @PATH does the same for one file.",
        ),
        SlashCommand(
            "image", "PATH…", 'show pictures with the next message; "" detaches', enclosures.image, enclosures.complete
        ),
        SlashCommand(
            "docs", "[PATH…|drop]", "answer from documents, list them, or stop that", documents.command,
            documents.complete,
            more="Files and directories. What answers a message is quoted from them word by word, and shown below.",
        ),
        SlashCommand("editor", "[TEXT]", "write the next message in $EDITOR", enclosures.editor),
    ),
    "Model and settings": (
        SlashCommand(
            "model", "[NAME]", "choose an installed model to go on, or name one", models.command, models.complete,
            also=("models",),
        ),
        SlashCommand(
            "lora", "[PATH=SCALE]", 'list adapters, add or rescale one; "none" removes them',
            adapters.command, adapters.complete,
        ),
        SlashCommand(
            "system", "[TEXT]", 'show or set the system message; "" removes it', _system, also=("system-prompt",)
        ),
        SlashCommand("persona", "[NAME]", "list personas, or take one on", persona.command, persona.complete),
        SlashCommand(
            "set", "[KEY [VALUE]]", "sampler, limits, stop, ctx, threads; none resets",
            chat_settings.command, chat_settings.complete,
            more="Keys may be written as the options are (temp, n, top-k). /set stop TEXT adds a stop sequence. "
            "--save behind it keeps the value for later chats.",
        ),
        SlashCommand(
            "think",
            "[on|off|N]",
            "thinking on, off or at most N tokens; hide, show",
            thinking.command,
            thinking.complete,
        ),
        SlashCommand("confidence", "", "underline where the model is unsure, or stop that", _confidence),
    ),
    "What the model sees": (
        SlashCommand(
            "context", "", "what fills the window, message by message", view.context, also=("tokens", "usage")
        ),
        SlashCommand("prompt", "", "the exact prompt as the model sees it", view.prompt),
        SlashCommand("stats", "", "speed and tokens of the last answer", view.stats),
    ),
    "What is kept": (
        SlashCommand(
            "sessions", "[ID|TITLE]", "choose a saved conversation, or go to one", saved.sessions,
            saved.complete_session, also=("load", "resume", "history"),
        ),
        SlashCommand("title", "[TEXT]", "show or set the title", saved.title, also=("rename",)),
        SlashCommand("search", "WORDS", "search all saved conversations", saved.search),
        SlashCommand(
            "export", "[FILE]", "write this conversation to a file (.md or .json)", saved.export, saved.complete_export
        ),
        SlashCommand(
            "save", "[code] FILE", "write the last answer, or a code block of it, to a file", saved.save,
            more="/save FILE, /save code FILE, /save code 2 FILE. A file that is there is never overwritten: the new "
            "one gets a number. Every message is saved by itself; /sessions has the conversations.",
        ),
        SlashCommand(
            "copy", "[code] [N]", "the last answer or a code block to the clipboard", saved.copy, saved.complete_copy,
            more="/copy 2 is the answer before the last, /copy code the last block of code, /copy code 1 the first.",
        ),
        SlashCommand("private", "", "write nothing from now on", saved.private),
    ),
    "The chat": (
        SlashCommand(
            "help", "[NAME|keys]", "show the commands, one of them, or the keys", _help, _complete_help, also=("?",)
        ),
        SlashCommand("exit", "", "leave (also Ctrl-D)", _exit, also=("quit", "bye", "q")),
    ),
}  # fmt: skip

COMMANDS: CommandTable[ChatApp] = CommandTable(
    replace(command, group=group) for group, commands in _GROUPS.items() for command in commands
)
