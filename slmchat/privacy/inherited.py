"""Sockets, and descriptors as good as sockets, that were open before the seal: found, and put out of use.

Knows: how to find a process's open descriptors, and that the standard streams are a case of their own.
Refuses to know: why the seal is closed.

A socket that slm was started with (a listener of systemd, a connection of whatever started slm) would go on working,
because the seal refuses new ones. It is replaced by /dev/null under the same number: whoever in this process still
owns that number can close it without closing somebody else's file.

Some of it cannot be put out of use: an io_uring whose memory is mapped goes on without a descriptor, and a thread that
waits in the kernel for a connection will get one. That is found and told (`survivors`): it is not sealed.

The standard streams 0, 1 and 2 stay, also when they are sockets, as under inetd or systemd, or in a pipeline of some
shells: they are what the user gave slm to read from and write to. The seal makes them plain streams: they cannot be
connected, bound or sent to another address.
"""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from slmchat.privacy.calls import CALLS

_STANDARD_STREAMS = (0, 1, 2)

# By the name that /proc gives them: an io_uring, whose polling thread sends without a system call of this process;
# a network device of user space, into which whole packets are written; the network of virtual machines.
_LIKE_SOCKETS = ("anon_inode:[io_uring]", "/dev/net/tun", "/dev/tun", "/dev/vhost-net", "/dev/vhost-vsock")

# The same in /proc/self/maps. A socket that is mapped (AF_XDP, AF_PACKET) sends what is written into its memory.
_MAPPED = {b"anon_inode:[io_uring]": "an io_uring is mapped into memory", b"socket:[": "a socket is mapped into memory"}

# A thread that waits in one of these gets a new socket from it, whatever happens to the descriptors meanwhile.
_BRINGING_IN = ("accept", "accept4", "recvmsg", "recvmmsg", "io_uring_enter")

# Where /proc is not mounted, descriptors are looked for below this number.
_PROBED = 4096


def replace_sockets(kept: Collection[int] = ()) -> int:
    """Replace every socket and its like, but not the standard streams and `kept`, by /dev/null; the number replaced."""
    spared = {*_STANDARD_STREAMS, *kept}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    replaced = 0
    try:
        for descriptor in open_descriptors():
            if descriptor not in spared and (is_socket(descriptor) or _is_like_one(descriptor)):
                os.dup2(null, descriptor, inheritable=False)
                replaced += 1
    finally:
        os.close(null)
    return replaced


def survivors(machine: str, kept: Collection[int] = ()) -> tuple[str, ...]:
    """What of before still leads out, in words: asked for when the filter is in force and the sockets are replaced.

    `machine` as in `calls.Call.number`. Without /proc nothing is found.
    """
    threads = _other_threads()
    found = [*_mapped(), *_waiting(threads, machine), *_kept_by_threads(threads, {*_STANDARD_STREAMS, *kept})]
    return tuple(dict.fromkeys(found))


def _mapped() -> Iterator[str]:
    with suppress(OSError), open("/proc/self/maps", "rb") as stream:
        maps = stream.read()
        yield from (what for mark, what in _MAPPED.items() if mark in maps)


def _other_threads() -> list[Path]:
    with suppress(OSError):
        return [Path("/proc/self/task", name) for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
    return []


def _waiting(threads: Collection[Path], machine: str) -> Iterator[str]:
    """Threads that have been in such a call since before the filter: /proc names the call that a thread is in."""
    numbers = {str(call.number(machine)): call.name for call in CALLS if call.name in _BRINGING_IN} if threads else {}
    for thread in threads:
        with suppress(OSError):  # the thread has ended meanwhile, or the kernel does not tell
            name = numbers.get((thread / "syscall").read_text().split()[0])
            if name is not None:
                yield f"a thread waits in {name}(), which will bring it a socket"


def _kept_by_threads(threads: Collection[Path], spared: Collection[int]) -> Iterator[str]:
    """Sockets in the descriptors that a thread has for itself (unshare), and not together with this one."""
    for thread in threads:
        with suppress(OSError):
            for entry in (thread / "fd").iterdir():
                with suppress(OSError):
                    kind = os.readlink(entry)
                    if int(entry.name) in spared or not kind.startswith(("socket:[", *_LIKE_SOCKETS)):
                        continue
                    if not _is_here(entry.name, kind):
                        yield "a thread has a socket among descriptors of its own"


def _is_here(name: str, kind: str) -> bool:
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{name}") == kind
    return False


def left_by_a_driver(kept: Collection[int] = ()) -> int:
    """Sockets that are open although all were replaced: local ones, of a GPU's driver. They cannot be connected."""
    return sum(is_socket(each) for each in open_descriptors() if each not in {*_STANDARD_STREAMS, *kept})


def standard_sockets() -> tuple[int, ...]:
    """Those of the standard streams that are sockets."""
    return tuple(descriptor for descriptor in _STANDARD_STREAMS if is_socket(descriptor))


def open_descriptors() -> list[int]:
    """The numbers of this process's open files; on a system that does not list them, all that might be."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
        except OSError:
            continue
    return list(range(_PROBED))


def is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _is_like_one(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") in _LIKE_SOCKETS
    except OSError:
        return False
