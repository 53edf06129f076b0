"""The seal on Linux: a seccomp filter, the sockets that were open before, and Landlock where the kernel has it.

Knows: in which order they are applied, how to check that every thread has the filter, and what is left open.
Refuses to know: the numbers (calls.py, landlock.py), which places stay writable (writable_paths.py).

The filter comes first and is the seal. Landlock is a second lock on TCP, and keeps the process to its own places;
where a kernel lacks it, the seal holds and the details say what is missing.
"""

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from slmchat.privacy import inherited, landlock, seccomp, writable_paths
from slmchat.privacy.steps import Closed, KeptSockets, NotOffered, Step

_YAMA_NOBODY = 3  # Documentation/admin-guide/LSM/Yama.rst: no attach
_CAP_SYS_PTRACE = 19  # linux/capability.h

_LOCAL_OPEN = "local sockets (AF_UNIX) stay open until the GPU backend has started"


class Linux:
    """seccomp, and Landlock where the kernel has it."""

    is_enforced_by_kernel = True

    def __init__(self, kept: KeptSockets | None = None) -> None:
        """`kept`: sockets that stay open, and what they may do."""
        self._kept = kept or KeptSockets()

    def close(self, steps: AbstractSet[Step], writable: Sequence[Path]) -> Closed:
        """Close these steps for every thread of this process and its children. Raises `NotOffered`."""
        seccomp.install(steps, self._kept.listening)
        unsealed = _threads_without_filter()
        if unsealed:
            raise NotOffered(f"{_counted(len(unsealed), 'thread')} did not take the filter")
        details = ["seccomp refuses new sockets and the ways around them, in every thread and child"]
        if Step.NETWORK in steps:
            details += of_inherited(inherited.replace_sockets(self._kept.all))
        if self._kept.listening:
            details.append("connections are accepted by the sockets that listen, and none can be made")
        if Step.LOCAL not in steps:
            details.append(_LOCAL_OPEN)
        gaps = inherited.survivors(seccomp.machine(), self._kept.all)
        if Step.LOCAL in steps and Step.NETWORK not in steps:
            details += _of_a_driver(inherited.left_by_a_driver(self._kept.all))
        if set(steps) == {Step.NETWORK}:
            return Closed("seccomp", tuple(details), gaps=gaps)
        allowed, problems = (
            writable_paths.allowed_paths(writable, has_gpu=Step.LOCAL not in steps) if Step.FILES in steps else ((), ())
        )
        try:
            abi = _landlock(steps, allowed)
        except NotOffered as reason:
            details.append(f"Landlock is not in force ({reason}): files are not protected by the seal")
            return Closed("seccomp", tuple(details), gaps=(*gaps, *open_memory()))
        if Step.FILES in steps:
            writable_paths.use_temporary_directory()
        details += [*problems, *_of_landlock(abi, steps)]
        return Closed("seccomp and Landlock", tuple(details), abi, allowed, gaps)


def open_memory() -> tuple[str, ...]:
    """Where Landlock is missing: whether Yama keeps this process from the memory of others, in words if it does not."""
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        scope = 0
    if scope >= _YAMA_NOBODY or (scope and not _may_trace_all()) or not os.path.exists("/proc/self/mem"):
        return ()
    return ("the memory of your other programs can be written (/proc/PID/mem): neither Landlock nor Yama forbids it",)


def _may_trace_all() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    granted = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(granted, 16) >> _CAP_SYS_PTRACE & 1)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _landlock(steps: AbstractSet[Step], places: Sequence[Path]) -> int:
    if Step.FILES in steps:
        return landlock.restrict(places, has_scopes=Step.LOCAL in steps)
    return landlock.restrict_scopes()


def of_inherited(replaced: int) -> list[str]:
    """What became of the sockets that were open before, in words; `replaced` is how many were put out of use."""
    details = [f"closed, because they were open before: {_counted(replaced, 'socket')}"] if replaced else []
    streams = inherited.standard_sockets()
    if streams:
        names = ", ".join(("standard input", "standard output", "standard error")[number] for number in streams)
        details.append(f"{names} was given to slm as a socket and stays one: whoever started slm is at its other end")
    return details


def _of_a_driver(left: int) -> list[str]:
    return [f"the driver of the GPU keeps {_counted(left, 'local socket')}, to nobody or to its own services"] * bool(
        left
    )


def _of_landlock(abi: int, steps: AbstractSet[Step]) -> list[str]:
    details = []
    if Step.FILES in steps:
        details.append(f"Landlock (version {abi}) keeps writing to the places listed")
        if abi >= landlock.TCP_ABI:
            details.append("Landlock denies TCP a second time")
    if Step.LOCAL in steps and abi >= landlock.SCOPE_ABI:
        details.append("Landlock denies signals and abstract sockets to programs outside")
    others = _thread_count() - 1
    if others > 0:
        details.append(f"running before: {_counted(others, 'thread')}, covered by seccomp and not by Landlock")
    return details


def _threads() -> list[Path]:
    try:
        return list(Path("/proc/self/task").iterdir())
    except OSError:  # /proc is not mounted; then the answer of seccomp(2) has to do
        return []


def _thread_count() -> int:
    return len(_threads())


def _threads_without_filter() -> list[str]:
    """Threads that are not in seccomp's filter mode (2), by what the kernel says of each."""
    without = []
    for thread in _threads():
        with suppress(OSError):  # the thread has ended meanwhile
            lines = (thread / "status").read_text().splitlines()
            mode = next((line for line in lines if line.startswith("Seccomp:")), None)
            if mode is not None and mode.split()[1] != "2":
                without.append(thread.name)
    return without
