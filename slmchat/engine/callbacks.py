"""Python functions that native code calls (`guarded`).

An exception cannot pass through native code: ctypes prints it and drops it. In the main thread a callback is also where
Python looks for signals, so that Ctrl-C while a context opens (llama.cpp logs some fifty lines) often came up in there,
and was lost. Such a KeyboardInterrupt comes again, until native code has come back. Most come up before the first line
of the callback, where no `try` of it catches them: they are found in `sys.unraisablehook`, which is left as it was for
everything else.

Knows: which exceptions must not end there. Refuses to know: what a callback does. What goes wrong in one otherwise is
slm's own error, which the process tells (commands/process_end.py).
"""

import sys
from collections.abc import Callable
from types import CodeType, TracebackType
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

    _listen(called.__code__)
    return called


_code: CodeType | None = None  # that of all guarded functions
_told_else: Callable[["sys.UnraisableHookArgs"], object] | None = None  # who is told of other exceptions


def _listen(code: CodeType) -> None:
    global _code, _told_else
    if _told_else is None:
        _code, _told_else = code, sys.unraisablehook
        sys.unraisablehook = _unraisable


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    if unraisable.exc_type is KeyboardInterrupt and _is_guarded(unraisable.exc_traceback):
        signals.repeat_interrupt()
    elif _told_else is not None:
        _told_else(unraisable)


def _is_guarded(traceback: TracebackType | None) -> bool:
    """Whether it came up in a guarded function. `object`, the function itself, is None from Python 3.13 on."""
    return traceback is not None and traceback.tb_frame.f_code is _code


def raise_interrupt() -> NoReturn:
    """Raise the KeyboardInterrupt with which a guarded function has ended native code, now that it has come back."""
    signals.forget_interrupt()
    raise KeyboardInterrupt
