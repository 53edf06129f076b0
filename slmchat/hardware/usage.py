"""What is in use of this device: the most memory that this process ever held, and how busy the others keep it.

Knows: where the operating system counts both. Refuses to know: what is measured meanwhile, and whether it matters.
"""

import os
import sys
import time

from slmchat.hardware import load


def peak_memory() -> int | None:
    """Bytes of this process's largest resident set so far, pages of mapped files that it touched included.

    `ru_maxrss` is in bytes on macOS and in KiB elsewhere (getrusage(2)); Windows calls it the peak working set.
    """
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def resident_memory() -> int | None:
    """Bytes of this process that are in memory now, pages of mapped files included; None where nobody tells."""
    try:
        with open("/proc/self/statm", "rb") as counted:  # Linux, Android: pages (proc_pid_statm(5))
            return int(counted.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil

        try:
            return int(psutil.Process().memory_info().rss)
        except psutil.Error:  # /proc is not mounted
            return None
    except (ImportError, OSError, RuntimeError):
        return None


class OthersWatch:
    """What other programs compute while this one does. Starts to watch when it is made."""

    def __init__(self) -> None:
        self._start = _counted()

    def share(self) -> float | None:
        """The part of all processors' time (0 to 1) that others have used since the start; None: the system hides it.

        Busy time of the machine less the time of all threads of this process. Android hides the machine's.
        """
        now = _counted()
        if self._start is None or now is None:
            return None
        wall, busy, own = (after - before for before, after in zip(self._start, now, strict=True))
        n_cpus = os.cpu_count() or 1
        return min(1.0, max(0.0, busy - own) / (wall * n_cpus)) if wall > 0 else 0.0


def _counted() -> tuple[float, float, float] | None:
    """Seconds: the clock, busy time of all processors together, processor time of this process."""
    busy = load.busy_seconds(())
    return None if busy is None else (time.perf_counter(), busy, time.process_time())
