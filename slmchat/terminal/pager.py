"""A long text, a page at a time: in $PAGER or less where there is a person to turn pages, else all at once.

Knows: which pager, how it is kept from leaving traces. Refuses to know: what the text is.
"""

import contextlib
import os
import shlex
import shutil
import subprocess

from slmchat.terminal import interrupts
from slmchat.terminal.console import Console
from slmchat.terminal.screen import ControlSequences

# -R: colours, -F: nothing to turn where it fits, -X: the text stays on the screen.
_LESS = ("-R", "-F", "-X")


def show(console: Console, text: ControlSequences) -> None:
    """Write the text to stdout, through a pager where it is longer than the window."""
    lines = console.size[1]
    command = pager_command(console)
    if command is None or text.count("\n") < lines:
        console.send(text)
        return
    # a pager's own files would keep what was looked for; LESSSECURE: no shell, no other files
    environ = {**os.environ, "LESSHISTFILE": "-", "LESSSECURE": "1"}
    console.flush()
    with contextlib.suppress(BrokenPipeError), interrupts.left_to_a_child():  # left before the end
        subprocess.run(command, input=text.encode("utf-8", "replace"), env=environ, check=False)


def pager_command(console: Console) -> list[str] | None:
    """The words of the command; None where nobody turns pages."""
    if not console.is_interactive or console.is_dumb or console.is_accessible:
        return None
    asked = console.environ.get("PAGER", "less")
    with contextlib.suppress(ValueError):  # an open quote
        words = shlex.split(asked)
        if words and shutil.which(words[0]):
            is_less = os.path.basename(words[0]) == "less" and len(words) == 1
            return [*words, *_LESS] if is_less else words
    return None
