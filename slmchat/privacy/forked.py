"""A process of slm's own that is forked before the seal closes, does one thing, and can do nothing else.

Some rights cannot be given to a sealed process without giving too much: to replace one file needs the right to make any
file beside it, to open one connection needs the right to open any. They stay with a small process, which is asked over
a channel and told nothing that it has to trust: no name of a file, no address crosses the channel.

Knows: fork, what the child must not inherit. Refuses to know: what the child does (writer.py, dialer.py).
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection
from contextlib import suppress

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_FIRST_DESCRIPTOR, _MOST_DESCRIPTORS = 3, 1 << 16


def is_possible() -> bool:
    """Whether this system seals in a way for which such processes are needed."""
    return sys.platform.startswith(("linux", "android"))


def start(serve: Callable[[], None], channel: Collection[int]) -> int:
    """Start a child that keeps these descriptors, runs `serve` and ends; its process id. Raises `OSError`.

    Keys and hang-ups at the terminal are not for it: it ends when the other end of its channel is closed.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        _let_go_of_all_but(channel)
        # int prctl(int op, unsigned long arg2, ...);  nobody of the same user may trace it or write into its memory
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), 0)
        serve()
        status = 0
    finally:
        os._exit(status)


def _let_go_of_all_but(channel: Collection[int]) -> None:
    """The standard streams among them: whoever reads slm's answer would wait for this process as well."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    first = _FIRST_DESCRIPTOR
    for kept in (*sorted(channel), _MOST_DESCRIPTORS):
        os.closerange(first, kept)
        first = kept + 1


def wait(child: int) -> None:
    """Wait for such a process, whose channel has been closed."""
    with suppress(ChildProcessError):  # somebody else has waited for it
        os.waitpid(child, 0)
