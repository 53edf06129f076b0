"""Ending by a signal from any thread, as if nobody had heard it.

Knows: the C library's `signal`, since Python's own is for the main thread only. Refuses to know: why slm ends.
"""

import os


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
