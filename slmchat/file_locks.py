"""A lock on a file that is open: one process alone writes it.

The lock belongs to the open descriptor. The system gives it back when the descriptor is closed, also when the process
is killed: nothing has to be cleared away, and no second file lies about.

Knows: locks of POSIX and Windows. Refuses to know: what is in the file, who waits for how long.
"""

import os
import sys

# Windows locks bytes, and others can then not read these: far behind the end of any file.
_FAR = 1 << 40


def hold(descriptor: int) -> bool:
    """Lock an open file for this descriptor alone; False: another one has it.

    True also where the file system has no locks (some network shares, FUSE): there is nobody to ask.
    """
    if sys.platform == "win32":
        import msvcrt

        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
