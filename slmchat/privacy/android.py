"""Android's own filter for apps, which Termux lives in: a system call that is not on its list ends the process.

Knows: how to see that this is Android, and how to make such a call without being ended by it (SIGSYS).
Refuses to know: which calls are on the list; it changes from version to version.

Landlock is not on it: xz and file were ended by asking for it (termux-packages, issues 19347 and 30082).
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


def is_here() -> bool:
    """Whether the kernel below is Android's, also under a Linux distribution in proot. Too often does no harm."""
    has_kernel = sys.platform != "win32" and "android" in os.uname().release.lower()
    return hasattr(sys, "getandroidapilevel") or "ANDROID_ROOT" in os.environ or has_kernel


def is_survived(call: Callable[[], object]) -> bool:
    """Whether a system call is answered, whatever the answer is. On Android it is tried in a child first."""
    if not is_here():
        return True
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGSYS, signal.SIG_DFL)  # Android's own handler would write a report of a crash
            call()
        finally:
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def raise_instead_of_ending() -> None:
    """From here on, such a call of the main thread raises `PermissionError`: for attempts that try many of them."""
    if is_here():
        signal.signal(signal.SIGSYS, _raise)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise PermissionError(errno.EPERM, "refused by Android's filter")
