"""Lines of shell that name slm: which calls stand in them, and whether slm understands these.

Shared by the tests of the help's examples and of the pages.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import typer

from slmchat import cli

_ENDS = set("|<>;&()")


def calls(line: str) -> Iterator[list[str]]:
    """The words behind each `slm` in a line of shell: pipes, redirections and substitutions end a call."""
    line = re.sub(r"(^|\s)#\s.*", "", line)
    words = shlex.shlex(re.sub(r'"?\$\((.*?)\)"?', r" ; \1 ; ", line), posix=True, punctuation_chars="|<>;&()")
    words.whitespace_split = True
    words.commenters = ""  # hf:OWNER/REPO#REVISION
    call: list[str] | None = None
    for word in words:
        if word and set(word) <= _ENDS:
            if call is not None:
                yield call
            call = None
        elif call is None and (word == "slm" or word.endswith("/bin/slm")):
            call = []
        elif call is not None:
            call.append(word)
    if call is not None:
        yield call


def understood(words: list[str]) -> str:
    """The command that these words call, once its options and arguments have been read (and nothing was done)."""
    command = cli.whole_program()
    path: list[str] = []
    context = None
    while hasattr(command, "commands") and words and words[0] in command.commands:
        name, *words = words
        path.append(name)
        command = command.commands[name]
    with suppress(typer.Exit), command.make_context(path[-1] if path else "slm", words, parent=context):
        pass  # `--help` and `--version` answer while they are read
    return " ".join(path)


def options() -> set[str]:
    """Every option of every command, in all its spellings."""

    def of(command: Any) -> set[str]:
        own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        return own.union(*(of(sub) for sub in getattr(command, "commands", {}).values()))

    return of(cli.whole_program()) | {"--help", "-h"}
