"""Sockets, and descriptors as good as sockets, that were open before the seal: found, and put out of use.

Knows: how to find a process's open descriptors, and that the standard streams are a case of their own.
Refuses to know: why the seal is closed.

A socket that slm was started with (a listener of systemd, a connection of whatever started slm) would go on working,
because the seal refuses new ones. It is replaced by /dev/null under the same number: whoever in this process still
owns that number can close it without closing somebody else's file.

The standard streams 0, 1 and 2 stay, also when they are sockets, as under inetd or systemd, or in a pipeline of some
shells: they are what the user gave slm to read from and write to. The seal makes them plain streams: they cannot be
connected, bound or sent to another address.
"""

import os
import stat

_STANDARD_STREAMS = (0, 1, 2)

# By the name that /proc gives them: an io_uring, whose polling thread sends without a system call of this process;
# a network device of user space, into which whole packets are written.
_LIKE_SOCKETS = ("anon_inode:[io_uring]", "/dev/net/tun", "/dev/tun")

# Where /proc is not mounted, descriptors are looked for below this number.
_PROBED = 4096


def replace_sockets() -> int:
    """Replace every socket and its like, but not the standard streams, by /dev/null; the number replaced."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    replaced = 0
    try:
        for descriptor in open_descriptors():
            if descriptor not in _STANDARD_STREAMS and (is_socket(descriptor) or _is_like_one(descriptor)):
                os.dup2(null, descriptor, inheritable=False)
                replaced += 1
    finally:
        os.close(null)
    return replaced


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
