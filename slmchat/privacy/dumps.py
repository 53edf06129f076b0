"""No copy of this process's memory on the disk when it crashes, for `--private`.

Knows: the limit on core files, and Linux's mark that a process must not be dumped at all.
Refuses to know: who asks for it (models/loader.py, chat.py).

The limit alone is not enough on Linux: where core dumps are handed to a program (systemd-coredump, apport), the kernel
does not look at it. The mark stops both, and keeps other programs of the same user from tracing this process and from
reading its memory. It does not pass to programs that slm starts; the limit does.
"""

import ctypes
import os
import sys
from contextlib import suppress

from slmchat.errors import ExitCode, SlmError

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_SUID_DUMP_DISABLE = 0  # linux/sched/coredump.h


def switch_off() -> None:
    """Forbid core dumps of this process. Does nothing where slm knows no way. Raises `SlmError` (UNSEALED).

    Called after the seal is closed: on Linux the files of /proc/self belong to root from here on, and GPU drivers
    open some of them while they start.
    """
    try:
        _limit_core_files()
        if sys.platform.startswith(("linux", "android")):
            _refuse_dumps()
    except OSError as error:
        raise SlmError(
            f"core dumps cannot be switched off, as --private promises: {error.strerror}.",
            hint="without --private slm goes on; a crash may then leave a copy of its memory",
            exit_code=ExitCode.UNSEALED,
        ) from error


def _limit_core_files() -> None:
    with suppress(ImportError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _refuse_dumps() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # int prctl(int op, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5);
    libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
    if libc.prctl(_PR_SET_DUMPABLE, _SUID_DUMP_DISABLE, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
