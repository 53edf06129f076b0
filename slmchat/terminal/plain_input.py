"""Reading from a terminal without a line editor: whole lines on a dumb one, one key for a question.

Knows: termios and how bytes become text. Refuses to know: history, completion, what a line means.
"""

import contextlib
import os
import select
import sys
from collections.abc import Callable

from slmchat.sanitize import sanitize
from slmchat.terminal.slash_commands import is_open_block

# How long more of a paste is waited for after Enter, in seconds: nobody types that fast, and nobody notices the pause.
MORE_S = 0.015
# How long the rest of a key that begins with Esc may take, in seconds.
REST_OF_KEY_S = 0.05
# How often a dumb terminal's prompt looks whether the chat is over, in seconds.
_LOOK_S = 0.2


def clean(text: str) -> str:
    """Bytes that are not UTF-8 arrive as lone surrogates; nothing behind the editor can use those."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_plainly(prompt: str, default: str, is_over: Callable[[], bool]) -> str:
    """A line on a dumb terminal, which edits by itself. Pasted lines and `\"\"\"` blocks are read as one text."""
    if default:
        sys.stdout.write(f"{sanitize(default)}\n(Enter alone sends this text)\n")
    sys.stdout.write(sanitize(prompt, one_line=True))
    sys.stdout.flush()
    lines = [_plain_line(is_over)]
    while is_open_block("\n".join(lines)) or is_waiting(MORE_S):
        lines.append(_plain_line(is_over))
    return "\n".join(lines) or default


def _plain_line(is_over: Callable[[], bool]) -> str:
    if sys.platform == "win32":
        return input()
    data = b""
    while not data.endswith(b"\n"):
        while not is_waiting(_LOOK_S):
            if is_over():
                raise EOFError
        part = os.read(sys.stdin.fileno(), 4096)
        if not part and not data:
            raise EOFError
        data += part
    return data[:-1].decode("utf-8", "replace")


def is_waiting(seconds: float, descriptor: int | None = None) -> bool:
    """Whether something can be read from the terminal; `descriptor` None: the one that is standard input."""
    if sys.platform == "win32":
        return False
    return bool(select.select([sys.stdin.fileno() if descriptor is None else descriptor], [], [], seconds)[0])


def pressed_key(question: str) -> str | None:
    """One key, not shown; "" for one that is no character. None for Esc, Ctrl-C, Ctrl-D and the end of input."""
    try:
        import termios
    except ImportError:  # Windows
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            return input(sanitize(question)).strip()[:1]
        return None
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    raw = [*before]
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    raw[6] = [*before[6]]
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    # FLUSH: what was typed before the question is dropped. So this comes before the question, not after.
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, raw)
    try:
        sys.stdout.write(sanitize(question))
        sys.stdout.flush()
        data = os.read(descriptor, 64)
        if data == b"\x1b" and is_waiting(REST_OF_KEY_S):  # an arrow key begins with Esc
            data += os.read(descriptor, 64)
    except KeyboardInterrupt:  # a signal from outside
        return None
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    if data in (b"", b"\x1b", b"\x03", b"\x04"):
        return None
    text = data.decode("utf-8", "replace").rstrip("\r\n")  # a dumb terminal sends whole lines
    return text if len(text) == 1 and text.isprintable() else ""
