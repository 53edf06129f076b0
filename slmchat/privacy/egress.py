"""One way left open: what a process that asks an endpoint is kept to, as far as this system can.

Knows: what of the seal still holds with one place to reach, which mechanism keeps it, and which does not.
Refuses to know: endpoints, HTTP, when it is wanted.

This is not the seal. On Linux the process gives up sockets as a sealed one does, and another process hands it
connections to the one place (dialer.py): the kernel keeps it to them. Where that process cannot be started, the kernel
keeps it to TCP and to one port, and a guard inside Python to the host; elsewhere there is only the guard, which stops
Python code only. The status says so, line by line.
"""

import errno
import ipaddress
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy.dialer import DialerProcess
from slmchat.privacy.seal import SealStatus, adopt, refuse_if
from slmchat.privacy.steps import NotOffered


@dataclass(frozen=True, slots=True)
class Egress:
    """Where the connections go: the endpoint, or the proxy before it. `is_loopback`: it is on this device.

    `addresses`: what the host's name was found to mean, by whoever connects; it grows. The guard knows no others.
    """

    host: str
    port: int
    is_loopback: bool
    addresses: AbstractSet[str] = frozenset()


def restrict_egress(
    egress: Egress, *, is_required: bool, writable: Sequence[Path], dialer: DialerProcess | None = None
) -> SealStatus:
    """Close everything but the way to `egress`. It cannot be opened again.

    `writable` as in `seal()`. `dialer`: hands over the connections, so that this process needs to make none.
    `is_required` is `--offline`: raises `SlmError` (UNSEALED) where the kernel does not keep the process to that.
    """
    if sys.platform.startswith(("linux", "android")):
        status = _on_linux(egress, writable, dialer)
    else:
        status = SealStatus("", False, False, ("the kernel of this system keeps nothing closed",))
    whither = "this device" if egress.is_loopback else egress.host
    details = list(status.details)
    if dialer is None or not status.mechanism:
        sys.addaudithook(_Guard(egress))
        details.append(f"a guard inside Python keeps connections to {whither}; native code and children pass it")
    details += [f"not closed: {gap}" for gap in status.gaps]
    if not status.is_enforced_by_kernel:
        refuse_if(is_required, status.gaps or details)
    return adopt(SealStatus("", False, False, tuple(details), status.landlock_abi, status.writable, status.gaps))


def _on_linux(egress: Egress, writable: Sequence[Path], dialer: DialerProcess | None) -> SealStatus:
    """The mechanisms in force, and whether they keep this process to the egress's port at least."""
    from slmchat.privacy import inherited, landlock, linux, seccomp, writable_paths

    kept = () if dialer is None else (dialer.descriptor,)
    details: list[str] = []
    gaps: list[str] = []
    mechanisms = []
    try:
        seccomp.install_tcp() if dialer is None else seccomp.install_handed()
        mechanisms.append("seccomp")
        details.append(
            "seccomp refuses every kind of socket but TCP, and the ways around sockets"
            if dialer is None
            else "seccomp refuses new sockets and the ways around them, in every thread and child; "
            f"connections to {egress.host}:{egress.port} come from a process of slm's own that makes no others"
        )
    except NotOffered as reason:
        details.append(f"the kernel refuses no sockets ({reason})")
    details += linux.of_inherited(inherited.replace_sockets(kept))
    if mechanisms:
        gaps += inherited.survivors(seccomp.machine(), kept)
    allowed, problems = writable_paths.allowed_paths(writable, has_gpu=False)
    port = egress.port if dialer is None else None
    abi: int | None = None
    try:
        abi = landlock.restrict(allowed, has_scopes=dialer is not None, port=port)
    except NotOffered as reason:
        details.append(f"Landlock is not in force ({reason}): files and ports are not protected")
        gaps += linux.open_memory()
    else:
        writable_paths.use_temporary_directory()
        mechanisms.append("Landlock")
        details += [*problems, f"Landlock (version {abi}) keeps writing to the places listed"]
        if abi >= landlock.TCP_ABI:
            details.append(
                "Landlock denies TCP a second time" if port is None else f"Landlock keeps TCP to port {port}"
            )
    has_sockets_closed = "seccomp" in mechanisms and (
        dialer is not None or (abi is not None and abi >= landlock.TCP_ABI)
    )
    return SealStatus(
        " and ".join(mechanisms),
        has_sockets_closed and not gaps,
        False,
        tuple(details),
        abi,
        None if abi is None else allowed,
        tuple(gaps),
    )


class _Guard:
    """An audit hook that refuses names, addresses and ports other than those of the egress."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith("socket.") and not self._is_allowed(event, arguments):
            raise PermissionError(errno.EPERM, "slm leaves one way open, and this is another one", event)

    def _is_allowed(self, event: str, arguments: tuple[object, ...]) -> bool:
        egress = self._egress
        if event == "socket.getaddrinfo":
            return not egress.is_loopback and arguments[0] in (egress.host, egress.host.encode())
        if event == "socket.connect":
            address = arguments[1] if len(arguments) > 1 else None
            if not isinstance(address, tuple) or len(address) < 2:
                return False
            is_itself = _is_loopback(address[0])
            # Where the system has no socket pairs (Windows), Python connects to itself to make one.
            is_pair = is_itself and sys.platform == "win32"
            is_there = is_itself if egress.is_loopback else address[0] in {egress.host, *egress.addresses}
            return is_pair or (address[1] == egress.port and is_there)
        if event == "socket.bind":
            address = arguments[1] if len(arguments) > 1 else None
            return sys.platform == "win32" and isinstance(address, tuple) and _is_loopback(address[0])
        return event not in _REFUSED


# Events of https://docs.python.org/3/library/audit_events.html that no connection to an endpoint needs.
_REFUSED = frozenset(
    {"socket.sendto", "socket.sendmsg", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
)


def _is_loopback(host: object) -> bool:
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
