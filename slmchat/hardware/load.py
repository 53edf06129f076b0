"""How busy the processors are, as counters that only grow.

Knows: where Linux, and through psutil macOS and Windows, count the time that processors were busy.
Refuses to know: what anyone concludes from it.
"""

import os
import sys
from collections.abc import Collection
from pathlib import Path

from slmchat.hardware.memory import ROOT

# /proc/stat (proc(5)): cpuN user nice system idle iowait irq softirq steal guest guest_nice, in ticks. Guest time is
# part of user time; waiting (idle, iowait) is not busy; steal is what a hypervisor gave to another machine.
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


def busy_seconds(cpus: Collection[int], root: Path = ROOT) -> float | None:
    """Seconds for which these processors have been busy since the start, for anyone; None where nobody counts them.

    `cpus` empty: all processors. The counters move in ticks of 10 ms (Linux, Windows: 15 ms).
    """
    if not sys.platform.startswith(("linux", "android")):  # Python 3.13 tells them apart
        return _by_psutil()
    try:
        with (root / "proc/stat").open("rb") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:  # Android keeps it to itself
        return None
    busy, found = 0, 0
    for line in lines:
        name, *fields = line.split()
        if not name.startswith(b"cpu"):
            break
        if name != b"cpu" and (not cpus or int(name[3:]) in cpus):
            ticks = [int(field) for field in fields[: _STEAL + 1]]
            busy += sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]
            found += 1
    return busy / os.sysconf("SC_CLK_TCK") if found else None


def _by_psutil() -> float | None:
    import psutil

    try:
        times = psutil.cpu_times()
    except OSError:
        return None
    return float(sum(times) - times.idle)
