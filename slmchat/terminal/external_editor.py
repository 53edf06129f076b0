"""$VISUAL or $EDITOR on a text that slm owns.

Knows: which editor, a file for it that nobody else can read, how to leave no copies. Refuses to know: what is written.
"""

import contextlib
import os
from collections.abc import Sequence

from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.terminal import interrupts, restore


def editor_command() -> list[str]:
    """The words of the command that edits a file. Raises `SlmError` when there is none."""
    import shlex
    import shutil

    for variable in ("VISUAL", "EDITOR"):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        with contextlib.suppress(ValueError):  # an open quote
            command = shlex.split(value, posix=os.name == "posix")
            if shutil.which(command[0]):
                return [*command, *_without_traces(command[0])]
        raise usage_error(
            f"${variable} names an editor that cannot be run: {value}",
            f"export {variable}=nano (or another editor that is installed)",
        )
    for name in ("nano", "vim", "vi") if os.name == "posix" else ("notepad",):
        if shutil.which(name):
            return [name, *_without_traces(name)]
    raise usage_error(
        "there is no editor: $VISUAL and $EDITOR are not set, and none of nano, vim and vi is installed.",
        "export EDITOR=NAME; Alt-Enter makes new lines without an editor",
    )


def _without_traces(program: str) -> list[str]:
    """Options that keep Vim from copying the text into its own files (swap file, viminfo or shada)."""
    import shutil

    name = os.path.basename(os.path.realpath(shutil.which(program) or program))
    return ["-n", "-i", "NONE"] if name.startswith(("vim", "nvim")) else []


def edited(text: str, command: Sequence[str], *, in_memory: bool) -> str:
    """What the editor leaves of `text`, without the line end that editors add."""
    import subprocess
    import tempfile

    memory = "/dev/shm" if in_memory and os.access("/dev/shm", os.W_OK) else None
    try:
        folder = tempfile.mkdtemp(prefix="slm-", dir=memory)  # 0700
        with restore.removed(folder):
            file = os.path.join(folder, "message.md")
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
                out.write(text if not text or text.endswith("\n") else text + "\n")
            with interrupts.left_to_a_child():
                code = subprocess.call([*command, file])
            if code != 0:
                raise usage_error(f"the editor {command[0]} ended with code {code}; the text is as it was.")
            with open(file, encoding="utf-8", errors="replace") as back:
                return back.read().removesuffix("\n")
    except OSError as error:
        raise SlmError(
            f"the text could not be edited: {error.strerror or error}.",
            hint="TMPDIR chooses another directory for the file",
            exit_code=ExitCode.STORAGE,
        ) from error
