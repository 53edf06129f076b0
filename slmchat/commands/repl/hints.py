"""Errors in the words of the chat: `/set ctx N` where the command line says `--ctx N`.

Knows: which slash command does what an option does, and what helps in a chat where plain completion is suggested.
Refuses to know: what went wrong. Commands that a chat does not have (`slm verify`) stay as they are.
"""

import re

from slmchat.errors import SlmError

_COMMANDS = {
    "ctx": "/set ctx",
    "n": "/set max_tokens",
    "max-tokens": "/set max_tokens",
    "temp": "/set temperature",
    "seed": "/set seed",
    "threads": "/set threads",
    "think": "/think",
    "think-budget": "/think",
    "persona": "/persona",
    "lora": "/lora",
    "system": "/system",
}
_OPTION = re.compile(r"(?<![\w-])--?([a-z][a-z-]*)\b")
# What begins a part of a hint that leads out of the chat, and what to do in it instead ("": nothing).
_INSTEAD = {
    "plain completion does without it": "/undo takes the last exchange back, /clear begins anew",
    "complete text with it: slm run": "/model NAME lets another model answer",
    "slm run ": "",
    "slm sessions list": "/sessions lists them",
    "`slm list` shows": "/model lists the installed models",
}


def in_chat(error: SlmError) -> SlmError:
    """The same error, whose message and hint name what can be done in a chat."""
    hint = "; ".join(filter(None, map(_part, (error.hint or "").split("; "))))
    return SlmError(_commands_in(error.message), hint=hint or None, exit_code=error.exit_code)


def _part(part: str) -> str:
    for beginning, instead in _INSTEAD.items():
        if part.startswith(beginning):
            return instead
    return part if re.search(r"\bslm [a-z]", part) else _commands_in(part)


def _commands_in(text: str) -> str:
    return _OPTION.sub(lambda option: _COMMANDS.get(option[1], option[0]), text)
