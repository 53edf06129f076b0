"""What is piped in, and a word to whoever waits for it without knowing.

A program that starts slm may leave standard input open and never write to it (a `while read` loop, ssh, cron, a parent
process). slm then waits for text that never comes. After two seconds it says so.

Knows: reading standard input, how long silence lasts. Refuses to know: encodings, what the input is for.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slmchat.terminal.console import Console

# So long nothing may come before it is told, in seconds: longer than most programs take for their first line.
TOLD_AFTER_S = 2.0

WAITING = "waiting for standard input (none? < /dev/null)"


def read_piped(console: Console, most: int = -1) -> bytes:
    """All of standard input, or its first `most` bytes; tells when nothing comes."""
    binary = getattr(console.stdin, "buffer", None)
    with _told_when_idle(console):
        # a test's stream may have text alone
        return bytes(binary.read(most)) if binary is not None else console.stdin.read(most).encode()


def telling_when_idle(read: Callable[[int], bytes], console: Console) -> Callable[[int], bytes]:
    """`read` as it is, but its first call tells when nothing comes."""
    is_first = True

    def told(size: int) -> bytes:
        nonlocal is_first
        if not is_first:
            return read(size)
        is_first = False
        with _told_when_idle(console):
            return read(size)

    return told


@contextmanager
def _told_when_idle(console: Console) -> Iterator[None]:
    if console.stdin.isatty():  # whoever types knows that slm waits
        yield
        return
    timer = threading.Timer(TOLD_AFTER_S, console.note, (WAITING,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
