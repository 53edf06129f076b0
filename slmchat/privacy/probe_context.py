"""What the check of the seal is made of: one probe, the context that it runs in, what became of it.

Refuses to know: any particular probe (network_probes.py, bypass_probes.py), how the child is run (seal_check.py).
"""

import ctypes
import os
import pickle
import signal
from collections.abc import Callable
from enum import Enum

from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy import seccomp

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """What the parent holds out for the child to reach, as plain values; None: this system does not have it.

    Ports are on the loopback device, paths in a fresh temporary directory, descriptors inherited by the child, but for
    `listener` and `pipe`, which are the parent's own. `file` is in `outside`; `here` is the child's current directory,
    with a git repository; `temporary` is the system's temporary directory. `listening`: a socket of the child's own as
    a server, with two connections that wait; None: the child is no server.
    """

    is_sealed: bool
    parent: int
    tcp4: int
    tcp6: int | None
    udp4: int
    udp6: int | None
    dns: int
    allowed: str
    outside: str
    file: str
    here: str
    temporary: str
    unix_stream: str | None
    unix_datagram: str | None
    abstract: str | None
    fifo: str | None
    pipe: int
    inherited_stream: int
    inherited_datagram: int
    ring: int | None
    terminal: int | None
    listener: int
    cells: tuple[int, int]
    listening: int | None = None


class Unavailable(Exception):
    """This system does not have what the attempt needs; the message says what."""


class Refused(Exception):
    """The attempt was refused in another form than an `OSError`; the message is how."""


class Promise(Enum):
    """What keeps the seal's word about an attempt. Files and signals are Landlock's alone."""

    SEAL = "seal"
    LANDLOCK_FILES = "files"
    LANDLOCK_SCOPES = "scopes"


@dataclass(frozen=True, slots=True)
class Probe:
    """One way out. `attempt` returns what it reached, or raises `OSError`, `Refused` or `Unavailable`."""

    name: str
    title: str
    attempt: Callable[[ProbeContext, str], str]
    is_linux_only: bool = False
    promise: Promise = Promise.SEAL


class ProbeOutcome(Enum):
    """What became of an attempt."""

    REFUSED = "refused"
    OUT = "got out"
    WORKS = "works, as it must"
    BROKEN = "does not work"
    NOT_OFFERED = "not offered by this system"
    NOT_PROMISED = "not covered by the seal on this system"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One attempt, and how it was refused (the name of the error) or what it reached.

    `is_witnessed`: something of it arrived at the parent.
    """

    name: str
    title: str
    outcome: ProbeOutcome
    how: str
    is_witnessed: bool = False


def call(name: str, *arguments: object) -> int:
    """A system call by its number, past the C library's function for it. Raises `OSError`."""
    numbers = {entry.name: entry.number(seccomp.machine()) for entry in seccomp.CALLS}
    return call_number({"pidfd_open": 434, **numbers}[name], *arguments)  # pidfd_open: the same everywhere


def call_number(number: int, *arguments: object) -> int:
    # long syscall(long number, ...);
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    widened = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *widened))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def in_fork(attempt: Callable[[], str]) -> str:
    """Run an attempt that may kill or trace in a child of its own. Raises what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                answer: object = attempt()
            except BaseException as error:  # noqa: BLE001 - raised again in the parent
                answer = error
            os.write(writer, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Unavailable(f"it ends in {signal.Signals(os.WTERMSIG(status)).name}")
    answer = pickle.loads(data)
    if isinstance(answer, BaseException):
        raise answer
    return str(answer)
