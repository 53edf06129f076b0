"""The seal on Linux: a seccomp filter, the sockets that were open before, and Landlock where the kernel has it.

Knows: in which order they are applied, which places stay writable, how to check that every thread has the filter.
Refuses to know: the numbers (seccomp.py, landlock.py), slm's own directories (the caller names them).

The filter comes first and is the seal. Landlock is a second lock on TCP, and keeps the process to its own places;
where a kernel lacks it, the seal holds and the details say what is missing.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from slmchat.privacy import inherited, landlock, seccomp
from slmchat.privacy.steps import Closed, NotOffered, Step

# Writing here stores nothing. /dev/shm is memory in which semaphores live (multiprocessing, OpenMP).
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/shm")

# What drivers open for writing: NVIDIA, DRI (Intel, AMD, Mesa), AMD compute, WSL, Mali, Adreno, Apple on Asahi by DRI.
_GPU_PATTERNS = ("nvidia*", "nvidia-caps/*", "dri", "kfd", "dxg", "mali*", "kgsl*")

_LOCAL_OPEN = "local sockets (AF_UNIX) stay open until the GPU backend has started"


class Linux:
    """seccomp, and Landlock where the kernel has it."""

    is_enforced_by_kernel = True

    def close(self, steps: AbstractSet[Step], writable: Sequence[Path]) -> Closed:
        """Close these steps for every thread of this process and its children. Raises `NotOffered`."""
        seccomp.install(steps)
        unsealed = _threads_without_filter()
        if unsealed:
            raise NotOffered(f"{_counted(len(unsealed), 'thread')} did not take the filter")
        details = ["seccomp refuses new sockets and the ways around them, in every thread and child"]
        if Step.NETWORK in steps:
            details += _of_inherited(inherited.replace_sockets())
        if Step.LOCAL not in steps:
            details.append(_LOCAL_OPEN)
        places = allowed_places(writable, has_gpu=Step.LOCAL not in steps) if Step.NETWORK in steps else ()
        try:
            abi = _landlock(steps, places)
        except NotOffered as reason:
            details.append(f"Landlock is not in force ({reason}): files are not protected by the seal")
            return Closed("seccomp", tuple(details))
        details += _of_landlock(abi, steps)
        return Closed("seccomp and Landlock", tuple(details), abi, places)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _landlock(steps: AbstractSet[Step], places: Sequence[Path]) -> int:
    if Step.NETWORK in steps:
        return landlock.restrict(places, has_scopes=Step.LOCAL in steps)
    return landlock.restrict_scopes()


def _of_inherited(replaced: int) -> list[str]:
    details = [f"closed, because they were open before: {_counted(replaced, 'socket')}"] if replaced else []
    streams = inherited.standard_sockets()
    if streams:
        names = ", ".join(("standard input", "standard output", "standard error")[number] for number in streams)
        details.append(f"{names} was given to slm as a socket and stays one: whoever started slm is at its other end")
    return details


def _of_landlock(abi: int, steps: AbstractSet[Step]) -> list[str]:
    details = []
    if Step.NETWORK in steps:
        details.append(f"Landlock (version {abi}) keeps writing to the places listed")
        if abi >= landlock.TCP_ABI:
            details.append("Landlock denies TCP a second time")
    if Step.LOCAL in steps and abi >= landlock.SCOPE_ABI:
        details.append("Landlock denies signals and abstract sockets to programs outside")
    others = _thread_count() - 1
    if others > 0:
        details.append(f"running before: {_counted(others, 'thread')}, covered by seccomp and not by Landlock")
    return details


def allowed_places(writable: Sequence[Path], *, has_gpu: bool) -> tuple[Path, ...]:
    """Where the sealed process may write. A path that does not exist yet stands for the directory it will be in."""
    named = list(writable)
    for place in (tempfile.gettempdir, os.getcwd):
        with suppress(OSError):  # none can be written; the directory has been deleted
            named.append(Path(place()))
    # A service runs in the root directory without meaning it; allowing that would allow everything.
    named = [path for path in named if path != Path("/") or path in writable]
    found = [Path(os.path.realpath(path if os.path.exists(path) else path.parent)) for path in named]
    found += [Path(name) for name in _DEVICES if os.path.exists(name)]
    found += _own_terminals()
    if has_gpu:
        found += [path for pattern in _GPU_PATTERNS for path in Path("/dev").glob(pattern)]
    return tuple(dict.fromkeys(found))


def _own_terminals() -> Iterable[Path]:
    """The terminals of the standard streams: not every terminal of the user."""
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            yield Path(os.ttyname(descriptor))


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
