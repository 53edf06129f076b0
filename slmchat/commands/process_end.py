"""The ends of this process that nobody chose: a crash below slm, a Ctrl-C that native code does not hear.

Knows: what has to be put right then, and in which order. Refuses to know: how a crash is noticed (engine/crash_report)
and how presses of Ctrl-C are counted (terminal/interrupts).
"""

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

from slmchat import signals
from slmchat.engine import crash_report
from slmchat.errors import SlmError, is_debugged
from slmchat.terminal import interrupts, restore


def take_over() -> None:
    """This process is slm's own, not a program's that uses slm. In the main thread, before anything else."""
    restore.remember()
    interrupts.listen()
    crash_report.take_over(_say, interrupts.watch)
    sys.unraisablehook = _unraisable


def may_leave_at_once() -> bool:
    """Whether no thread is left that Python would wait for."""
    return all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate())


def leave_at_once(code: int) -> NoReturn:
    """End without what Python takes apart then, module by module: 10 to 20 ms in which nothing happens any more.

    A thread may still be inside llama.cpp, so that nothing of it may be torn down now; and another Ctrl-C meanwhile
    would be the end by SIGINT instead of by this code."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _say(error: SlmError) -> None:
    """On the descriptor: the thread that crashed may hold the lock of the stream."""
    from slmchat.sanitize import sanitize

    restore.give_back()
    hint = f"hint: {sanitize(error.hint)}\n" if error.hint else ""
    os.write(2, f"slm: {sanitize(error.message)}\n{hint}".encode("utf-8", "replace"))


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """An exception where Python cannot pass it on: Ctrl-C comes again, anything else is told in one sentence."""
    if unraisable.exc_type is KeyboardInterrupt:
        signals.repeat_interrupt()
    elif is_debugged(os.environ):
        sys.__unraisablehook__(unraisable)
    else:
        from slmchat.sanitize import sanitize

        said = f"{unraisable.exc_type.__name__}: {unraisable.exc_value}"
        told = f"slm: an error of slm's own, beside what it does: {sanitize(said)}.\n"
        os.write(2, (told + "hint: SLM_DEBUG=1 shows where; please report it\n").encode("utf-8", "replace"))
