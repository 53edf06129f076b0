"""How much memory this process may use: the machine's, less where a control group (a container) or a limit says so.

Knows: /proc/meminfo, control groups of versions 1 and 2, RLIMIT_AS; elsewhere psutil, which Android does without.
Refuses to know: what needs the memory.
All sizes are bytes.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.hardware.facts import Fact, number_of, text_of

ROOT = Path("/")

# Version 1 writes "no limit" as the largest multiple of a page below 2^63 (kernel, page_counter.h).
_UNLIMITED = 1 << 60

_M_ARENA_MAX = -8  # malloc.h


def total_memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: the machine's, or less in a control group."""
    fact = total(root)
    assert fact.value is not None
    return fact.value


def total(root: Path = ROOT) -> Fact[int]:
    """The machine's memory, or the smallest limit of the control groups that this process is in."""
    machine = _of_machine(root)[0]
    limits = [limit for group in _groups(root) if (limit := group.limit) is not None]
    if limits and min(limits) < machine:
        return Fact(min(limits), "the limit of its control group")
    return Fact(machine, "the machine's memory")


def available(root: Path = ROOT) -> Fact[int]:
    """Memory that can be had now without swapping: what is free and what only caches files.

    In a control group with a limit: the limit, less what the group uses, and the file cache among that counts as
    free, because the kernel takes it back first. The smallest of all wins.
    """
    machine = _of_machine(root)[1]
    rooms = [room for group in _groups(root) if (room := group.room) is not None]
    if rooms and min(rooms) < machine:
        return Fact(max(0, min(rooms)), "the limit of its control group, less what the group uses")
    return Fact(machine, "the machine's free memory and file cache")


def address_space() -> Fact[int]:
    """Bytes of address space that RLIMIT_AS (`ulimit -v`) leaves to this process; None without such a limit."""
    try:
        import resource
    except ImportError:
        return Fact(None, "this system has no RLIMIT_AS")
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY:
        return Fact(None, "RLIMIT_AS is not set")
    return Fact(max(0, soft - _mapped()), "RLIMIT_AS, less what is mapped")


def share_one_heap() -> None:
    """Let all threads allocate from one heap: glibc reserves 64 MiB of address space for each thread's own
    (malloc/arena.c, HEAP_MAX_SIZE), whenever that comes to its mind. Nothing happens with another C library."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        # int mallopt(int param, int value);  (malloc.h: M_ARENA_MAX)
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _of_machine(root: Path) -> tuple[int, int]:
    """The machine's memory, and what of it can be had now (proc_meminfo(5): MemTotal, MemAvailable, in KiB)."""
    found = {}
    for line in (text_of(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.strip().partition(" ")[0]
        if number.isdecimal():
            found[name] = int(number) * 1024
    if {"MemTotal", "MemAvailable"} <= found.keys():
        return found["MemTotal"], found["MemAvailable"]
    try:
        import psutil

        told = psutil.virtual_memory()
        return int(told.total), int(told.available)
    except (ImportError, OSError):  # /proc is not mounted: the C library asks the kernel, which does not count caches
        return _pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int:
    """Bytes, by sysconf(3). Raises `SlmError` (storage) where nobody tells."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if (pages := os.sysconf(name)) > 0:
            return pages * os.sysconf("SC_PAGE_SIZE")
    raise SlmError(
        "this system does not say how much memory it has.", hint="mount -t proc proc /proc", exit_code=ExitCode.STORAGE
    )


def _mapped() -> int:
    """Bytes of address space that this process uses (proc_pid_statm(5): the first number, in pages)."""
    pages = (text_of(ROOT / "proc/self/statm") or "").partition(" ")[0]
    if pages.isdecimal():
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    import psutil

    try:
        return int(psutil.Process().memory_info().vms)
    except (psutil.Error, OSError):  # /proc is not mounted
        return 0


class _Group:
    """One control group: its limit and what it uses."""

    def __init__(self, directory: Path, names: tuple[str, str]) -> None:
        limit, usage = names
        found = number_of(directory / limit)
        self.limit = found if found is not None and found < _UNLIMITED else None
        self._usage = number_of(directory / usage)
        self._stat = text_of(directory / "memory.stat") or ""

    @property
    def room(self) -> int | None:
        if self.limit is None or self._usage is None:
            return None
        return self.limit - max(0, self._usage - self._file_cache())

    def _file_cache(self) -> int:
        """Version 1 counts a group with those below it under `total_`, version 2 always does."""
        values = {
            key: int(value)
            for key, _, value in (line.partition(" ") for line in self._stat.splitlines())
            if value.isdecimal()
        }
        return sum(values.get(f"total_{name}", values.get(name, 0)) for name in ("inactive_file", "active_file"))


_VERSION_2 = ("memory.max", "memory.current")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _groups(root: Path) -> Iterator[_Group]:
    for version, directory in control_groups(root, "memory"):
        yield _Group(directory, _VERSION_2 if version == 2 else _VERSION_1)


def control_groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The control groups of this process for "memory" or "cpu", its own and those above it, in whichever versions are
    mounted: the version, and the directory."""
    mounted = root / "sys/fs/cgroup"
    for line in (text_of(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            yield from ((2, directory) for directory in _upwards(mounted, path))
        elif controller in controllers.split(","):
            yield from ((1, directory) for directory in _upwards(mounted / controller, path))


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    """The directory of a control group and those above it, up to where the hierarchy is mounted.

    A process that entered a namespace from outside has a path with `..` in it: those parts lie outside the mount.
    """
    parts = [part for part in path.split("/") if part not in ("", "..", ".")]
    for count in range(len(parts), -1, -1):
        yield mounted.joinpath(*parts[:count])
