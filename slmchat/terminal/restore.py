"""What a terminal gets back when slm ends in the middle of something: the modes it had, and an end to what was begun.

Knows: the terminal's modes when slm started, the sequences that undo what is in force now (a scroll region, bracketed
paste), and the directory of a text that is in an editor. Refuses to know: why slm ends, and what is said then.

Whoever changes the terminal undoes it by itself in all usual ways out. This is for the others: a crash below slm, a
second Ctrl-C while native code does not come back. They write to the descriptors, since a stream may be locked.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from slmchat.terminal.size import terminal_size

# Bracketed paste: the terminal marks where a paste begins and ends (xterm, ctlseqs).
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
# What a line editor leaves: attributes, its toolbar below the cursor, bracketed paste; no cursor, no wrapping at times.
PROMPT = f"\x1b[0m\x1b[J{PASTE_OFF}\x1b[?25h\x1b[?7h"

_modes: list[Any] | None = None
_undoing: dict[str, str] = {}
_leftovers: set[str] = set()


def remember() -> None:
    """The modes of the terminal, before slm changes any."""
    global _modes
    if sys.platform == "win32":  # the console has none that outlive a program
        return
    import termios

    with contextlib.suppress(termios.error):
        _modes = termios.tcgetattr(0)


def begun(what: str, undoing: str) -> None:
    """Something is in force that these sequences end."""
    _undoing[what] = undoing


def ended(what: str) -> None:
    """It has been undone."""
    _undoing.pop(what, None)


@contextlib.contextmanager
def undone(what: str, undoing: str) -> Iterator[None]:
    """`begun` and `ended` around a block."""
    begun(what, undoing)
    try:
        yield
    finally:
        ended(what)


@contextlib.contextmanager
def removed(directory: str) -> Iterator[None]:
    """A directory of slm's own that is gone behind the block, also when slm ends in it."""
    _leftovers.add(directory)
    try:
        yield
    finally:
        _remove_leftovers()
        _leftovers.discard(directory)


def _remove_leftovers() -> None:
    if _leftovers:
        import shutil  # asked for by editors alone

        for directory in [*_leftovers]:
            shutil.rmtree(directory, ignore_errors=True)


def give_back() -> None:
    """Undo what is in force, and stand at the beginning of a line. From any thread; nothing where no terminal is."""
    _remove_leftovers()
    if sys.platform == "win32":
        return
    import termios

    with contextlib.suppress(termios.error, OSError):
        if _modes is not None and os.tcgetpgrp(0) == os.getpgrp():  # a job in the background would be stopped
            termios.tcsetattr(0, termios.TCSANOW, _modes)
    if not os.isatty(1) or os.environ.get("TERM") == "dumb":
        return
    with contextlib.suppress(OSError):
        # As many blanks as make a new line of any begun one, and of none (zsh does it the same way).
        blanks = " " * (terminal_size(1, os.environ)[0] - 1)
        os.write(1, f"{''.join(_undoing.values())}\x1b[0m{blanks}\r\x1b[K".encode())
