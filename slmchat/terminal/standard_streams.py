"""The three standard streams as this process got them: one that is closed, one that cannot be written.

A program may be started with a standard stream closed (`slm list >&-`, a service manager, cron). Python then has None
in its place, and the next file that is opened gets its number: what is printed would go into that file. So the door
calls `open_missing` before anything else. /dev/null takes the number of a closed stream, for reading only: stdin is
empty, and what is written to stdout is refused as it would have been.

Knows: descriptors 0 to 2. Refuses to know: who reads or writes them, and what is told then (screen.py, console.py).
"""

import contextlib
import os
import sys
from typing import TextIO


def open_missing() -> None:
    """Give each closed standard stream its descriptor and its Python stream back. Before anything else is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free, and those below are taken by now; messages may be written into nothing
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            os.set_inheritable(number, True)  # a child has the same three
        if getattr(sys, name) is None:
            mode, errors = ("r", "strict") if number == 0 else ("w", "backslashreplace" if number == 2 else "replace")
            stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def is_read_only(stream: TextIO) -> bool:
    """Whether the descriptor behind the stream was opened for reading only, as stdout is where it had been closed."""
    if sys.platform == "win32":  # the first write tells it there
        return False
    import fcntl

    try:
        flags = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
    except (OSError, ValueError):  # no descriptor: a test's stream, a notebook's
        return False
    return flags & os.O_ACCMODE == os.O_RDONLY


def give_up(stream: TextIO) -> None:
    """What the stream still holds goes nowhere: Python would try again at its end, and fail with its own code."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor: nothing is flushed into a file
        number = stream.fileno()
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, number)
        if empty != number:
            os.close(empty)
