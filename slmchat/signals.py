"""Signals of this process itself: ending by one as if nobody had heard it, a Ctrl-C that has to come again.

Knows: the C library's `signal`, since Python's own is for the main thread only; where a KeyboardInterrupt gets lost.
Refuses to know: why slm ends, what Ctrl-C means.
"""

import _thread
import os
import signal
import threading
from typing import cast

# How soon a lost Ctrl-C comes again, in seconds; and again, when native code has not come back by then.
_REPEAT_S = 0.02

_lock = threading.Lock()
_coming: threading.Timer | None = None
_n_sent = 0
_is_repeated = False


def repeat_interrupt() -> None:
    """Let Ctrl-C come again in a moment: its KeyboardInterrupt came up where Python cannot pass it on.

    That is in a function which native code has called, and in a destructor. From any thread.
    """
    global _coming
    with _lock:
        if _coming is None:
            _coming = threading.Timer(_REPEAT_S, _interrupt)
            _coming.daemon = True
            _coming.start()


def forget_interrupt() -> None:
    """Ctrl-C has had its effect: none comes again."""
    global _coming, _is_repeated
    with _lock:
        if _coming is not None:
            _coming.cancel()
        _coming, _is_repeated = None, False


def is_repeated() -> bool:
    """Whether the Ctrl-C that has just come is one that was lost before. True once for each."""
    global _is_repeated
    is_repeated, _is_repeated = _is_repeated, False
    return is_repeated


def n_repeated() -> int:
    """How many have come again so far: nobody has pressed a key for those."""
    return _n_sent


def _interrupt() -> None:
    global _coming, _n_sent, _is_repeated
    with _lock:
        if _coming is not threading.current_thread():  # forgotten meanwhile
            return
        _coming, _is_repeated = None, True
        _n_sent += 1
    if hasattr(signal, "pthread_kill"):  # as from the keyboard: it ends a wait for a lock, too
        signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)
    else:
        _thread.interrupt_main()


def restore_default(number: int) -> None:
    """Let this signal do again what it does by default. From any thread."""
    import ctypes  # not at the top: most commands never end so

    # sighandler_t signal(int signum, sighandler_t handler);  NULL is SIG_DFL
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    libc.signal(number, None)


def end_by(number: int) -> None:
    """End this process by this signal. It may arrive on another thread, a moment later."""
    restore_default(number)
    os.kill(os.getpid(), number)
