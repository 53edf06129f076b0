"""`slm chat`: a conversation in the terminal.

The story: choose a model (at the first run, pull one), close the process in, open the chat, stay in it until the end.

What the chat itself needs is imported when the model is chosen and the prompt stands there: the screen must not stay
empty meanwhile.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from slmchat.commands.repl.greeting import greet
from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from pathlib import Path

    from slmchat.models.backend import Backend, BackendModel
    from slmchat.options import ChatOptions, GenerationOptions
    from slmchat.settings import Settings
    from slmchat.terminal.console import Console
    from slmchat.terminal.early_prompt import EarlyPrompt


def chat(
    name: str | None,
    options: "GenerationOptions",
    chat_options: "ChatOptions",
    settings: "Settings",
    console: "Console",
) -> ExitCode:
    """Open a conversation and stay in it until Ctrl-D or /exit."""
    if not console.is_interactive:
        raise SlmError(
            "slm chat needs a terminal to type in.",
            hint='in a pipe: echo "text" | slm run "what to do with it"',
            exit_code=ExitCode.USAGE,
        )
    if name and options.model and name != options.model:
        raise SlmError(f"which model: '{name}' or '{options.model}'?", exit_code=ExitCode.USAGE)
    options = replace(options, model=name or options.model)
    if options.persona is not None:
        from slmchat.generation import params

        options = params.with_persona(options, settings)
    if options.model is None and options.endpoint is None:
        options, chat_options = _after_first_run(options, chat_options, settings, console)

    console.is_accessible = console.is_accessible or chat_options.plain
    from slmchat.commands.repl.export_directory import export_directory
    from slmchat.models.backend import open_backend
    from slmchat.models.warm_server import WarmServer
    from slmchat.terminal.early_prompt import EarlyPrompt

    exports = export_directory(chat_options.export_dir, settings)
    backend = open_backend(options, settings, console, (exports,), WarmServer.find(options, settings))
    model = None
    early = EarlyPrompt(console)
    try:
        if not (chat_options.session or chat_options.goes_on or chat_options.resume):
            # What a new conversation begins with is known: the prompt stands while the rest is imported.
            model = backend.find(options.model, settings, console)
            greet(console, model, is_private=settings.is_private, is_raw=options.raw)
            early.show()
        return _stay(backend, options, chat_options, settings, console, exports, model, early)
    finally:
        early.end()


def _stay(
    backend: "Backend",
    options: "GenerationOptions",
    chat_options: "ChatOptions",
    settings: "Settings",
    console: "Console",
    exports: "Path",
    model: "BackendModel | None",
    early: "EarlyPrompt",
) -> ExitCode:
    """The chat itself, from its first prompt on."""
    from slmchat.commands.repl import chat_settings, documents, recap, saved
    from slmchat.commands.repl.app import ChatApp
    from slmchat.commands.repl.slash_commands import COMMANDS

    room = ChatApp(
        backend, options, chat_options, settings, console, COMMANDS, documents.HOOKS, exports, model=model, early=early
    )
    try:
        chat_settings.take_over(room)
        if model is None:
            greet(console, room.session.model, is_private=settings.is_private, is_raw=options.raw)
        if room.session.conversation.roots:
            recap.show(room)
        if chat_options.resume:
            saved.sessions(room, "")
        room.loop()
    finally:
        room.close()
    return ExitCode.DONE


def _after_first_run(
    options: "GenerationOptions", chat_options: "ChatOptions", settings: "Settings", console: "Console"
) -> "tuple[GenerationOptions, ChatOptions]":
    """The options with the model that was chosen and pulled, where nothing that chats is installed."""
    from slmchat.models.resolve import is_first_run

    if not is_first_run(settings):
        return options, chat_options
    chat_options = _without_past(chat_options, settings, console)
    console.status("looking at this device …")
    from slmchat.commands.first_run import offer

    return replace(options, model=offer(settings, console)), chat_options


def _without_past(options: "ChatOptions", settings: "Settings", console: "Console") -> "ChatOptions":
    """Before anything is downloaded: there may be no conversation to go on with. Raises `SlmError` (USAGE)."""
    if not (options.session or options.goes_on):
        return options
    from slmchat.conversation.archive import Archive

    archive = Archive(settings.paths.sessions)
    try:
        if options.session:
            archive.find(options.session)
        elif archive.latest() is None:
            console.note("There is no saved conversation to go on with; this is a new one.")
            return replace(options, goes_on=False)
    finally:
        archive.close()
    return options
