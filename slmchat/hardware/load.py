"""How busy the processors are: counters that only grow, and how many tasks want a processor now.

Knows: where Linux, and through psutil macOS and Windows, count the time that processors were busy; where Linux counts
what is ready to run. Refuses to know: what anyone concludes from it.
"""

import os
import sys
import time
from collections.abc import Collection
from pathlib import Path

from slmchat.hardware.memory import ROOT

# /proc/stat (proc(5)): cpuN user nice system idle iowait irq softirq steal guest guest_nice, in ticks. Guest time is
# part of user time; waiting (idle, iowait) is not busy; steal is what a hypervisor gave to another machine.
_IDLE, _IOWAIT, _STEAL = 3, 4, 7

# One look may see a task that runs for a moment, as the terminal does that draws what was just written: the least of
# some looks counts.
_LOOKS, _BETWEEN_LOOKS_S = 5, 0.002


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


def others_running(root: Path = ROOT) -> int | None:
    """How many tasks of the machine, this one left out, run or wait for a processor now; None where nobody tells.

    Takes up to 10 ms; none when the first look finds the machine at rest.
    """
    if not sys.platform.startswith(("linux", "android")):
        return _by_load_average()
    least: int | None = None
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_LOOKS_S)
        try:
            # proc(5): "procs_running Number of processes in runnable state", this one is among them
            lines = (root / "proc/stat").read_bytes().splitlines()
        except OSError:  # Android keeps it to itself
            return None
        running = next((int(line.split()[1]) for line in lines if line.startswith(b"procs_running ")), None)
        if running is None:
            return None
        least = running - 1 if least is None else min(least, running - 1)
        if least <= 0:
            return 0
    return least


def _by_load_average() -> int | None:
    """The average of the last minute, rounded (macOS); None on Windows, which has none."""
    try:
        return round(os.getloadavg()[0])
    except (AttributeError, OSError):
        return None


def _by_psutil() -> float | None:
    import psutil

    try:
        times = psutil.cpu_times()
    except OSError:
        return None
    return float(sum(times) - times.idle)
