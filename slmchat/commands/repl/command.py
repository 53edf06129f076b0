"""`slm chat`: a conversation in the terminal.

The story: choose a model (at the first run, pull one), close the process in, open the chat, stay in it until the end.
"""

from dataclasses import replace

from slmchat.commands.repl import files
from slmchat.commands.repl.app import ChatApp
from slmchat.commands.repl.slash_commands import COMMANDS, greet
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.models.backend import open_backend
from slmchat.models.resolve import is_first_run
from slmchat.options import ChatOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console


def chat(
    name: str | None,
    options: GenerationOptions,
    chat_options: ChatOptions,
    settings: Settings,
    console: Console,
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
    options = params.with_persona(replace(options, model=name or options.model), settings)
    if options.model is None and options.endpoint is None and is_first_run(settings):
        from slmchat.commands.first_run import offer

        options = replace(options, model=offer(settings, console))
    exports = files.export_directory(chat_options.export_dir, settings)
    backend = open_backend(options, settings, console, (exports,))
    room = ChatApp(backend, options, chat_options, settings, console, COMMANDS, exports)
    try:
        greet(room)
        room.loop()
    finally:
        room.close()
    return ExitCode.DONE
