"""Facts about this device. Every fact may be unknown; unknown is None, never a guess.

Knows: where the operating system says how many cores there are. Refuses to know: what anyone does with it.
"""

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")


def physical_cores() -> int:
    """Physical cores that this process may use: those of its affinity mask, two threads of one core counted once."""
    usable = usable_cpus()
    cores = {_text(_CPUS / f"cpu{cpu}" / "topology" / "core_cpus_list") for cpu in usable}
    if usable and None not in cores:
        return len(cores)
    import psutil

    counted = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(counted, len(usable) or counted))


def usable_cpus() -> frozenset[int]:
    """Logical processors in this process's affinity mask; empty where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def cpu_quota() -> float | None:
    """Processors' worth of time that a cgroup (a container) allows, None without a limit.

    From `cpu.max` (cgroup v2: "QUOTA PERIOD" in microseconds, or "max") of this process's group and those above it.
    """
    group = _own_cgroup()
    quotas: list[float] = []
    while group is not None:
        quota, _, period = (_text(group / "cpu.max") or "max").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
        group = group.parent if group != _CGROUPS else None
    return min(quotas, default=None)


def total_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less in a container (cgroup v2 `memory.max`)."""
    limits = []
    group = _own_cgroup()
    while group is not None:
        limit = _text(group / "memory.max") or "max"
        if limit.isdecimal():
            limits.append(int(limit))
        group = group.parent if group != _CGROUPS else None
    import psutil

    return min([int(psutil.virtual_memory().total), *limits])


def _own_cgroup() -> Path | None:
    line = next(
        (line for line in (_text(Path("/proc/self/cgroup")) or "").splitlines() if line.startswith("0::")), None
    )
    return _CGROUPS / line[3:].lstrip("/") if line else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
