"""Python functions that native code calls (`guarded`).

An exception cannot pass through native code: ctypes prints it and drops it. In the main thread a callback is also where
Python looks for signals, so that Ctrl-C while a context opens (llama.cpp logs some fifty lines) often came up in there,
and was lost. Such a KeyboardInterrupt comes again, until native code has come back.

Knows: which exceptions must not end there. Refuses to know: what a callback does. What goes wrong in one otherwise is
slm's own error, which the process tells (commands/process_end.py).
"""

from collections.abc import Callable
from typing import NoReturn, TypeVar

from slmchat import signals

_Answer = TypeVar("_Answer")


def guarded(function: Callable[..., _Answer], instead: _Answer) -> Callable[..., _Answer]:
    """The function for native code. `instead`: what it answers when Ctrl-C has come up inside of it."""

    def called(*arguments: object) -> _Answer:
        try:
            return function(*arguments)
        except KeyboardInterrupt:
            signals.repeat_interrupt()
            return instead

    return called


def raise_interrupt() -> NoReturn:
    """Raise the KeyboardInterrupt with which a guarded function has ended native code, now that it has come back."""
    signals.forget_interrupt()
    raise KeyboardInterrupt
