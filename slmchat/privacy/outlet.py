"""One way left open: what a process that asks an endpoint is kept to, as far as this system can.

Knows: what of the seal still holds with one connection to make, which mechanism keeps it, and which does not.
Refuses to know: endpoints, HTTP, when it is wanted.

This is not the seal. On Linux the kernel keeps files (Landlock), other ports (Landlock, TCP) and other kinds of
sockets (seccomp) closed; it cannot see which host a connection goes to. That is kept by a guard inside Python, which
stops Python code only. The status says so, line by line.
"""

import errno
import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmchat.privacy.seal import SealStatus, adopt, refuse_if
from slmchat.privacy.steps import NotOffered


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where the one connection goes: the endpoint, or the proxy before it. `is_loopback`: it is on this device."""

    host: str
    port: int
    is_loopback: bool


def narrow(outlet: Outlet, *, is_required: bool, writable: Sequence[Path]) -> SealStatus:
    """Close everything but the way to `outlet`. It cannot be opened again.

    `writable` as in `seal()`. `is_required` is `--offline`: raises `SlmError` (UNSEALED) where the kernel does not
    keep the process to connections to this port.
    """
    details: list[str] = []
    places: tuple[Path, ...] | None = None
    abi: int | None = None
    mechanism = ""
    if sys.platform.startswith(("linux", "android")):
        mechanism, abi, places = _on_linux(outlet, writable, details)
    else:
        details.append("the kernel of this system keeps nothing closed: slm knows no way to leave one way open")
    from slmchat.privacy.landlock import TCP_ABI

    is_port_kept = abi is not None and abi >= TCP_ABI and "seccomp" in mechanism
    if not is_port_kept:
        refuse_if(is_required, details)
    sys.addaudithook(_Guard(outlet))
    whither = "this device" if outlet.is_loopback else outlet.host
    details.append(f"a guard inside Python keeps connections to {whither}; native code and children pass it")
    return adopt(SealStatus("", False, False, tuple(details), abi, places))


def _on_linux(
    outlet: Outlet, writable: Sequence[Path], details: list[str]
) -> tuple[str, int | None, tuple[Path, ...] | None]:
    """The mechanisms in force, Landlock's version, and where this process may still write."""
    from slmchat.privacy import landlock, linux, seccomp

    mechanisms = []
    try:
        seccomp.install_outlet(is_loopback=outlet.is_loopback)
        mechanisms.append("seccomp")
        kinds = "TCP" if outlet.is_loopback else "IP and local ones"
        details.append(f"seccomp refuses every kind of socket but {kinds}, and the ways around sockets")
    except NotOffered as reason:
        details.append(f"the kernel refuses no sockets ({reason})")
    places = linux.allowed_places(writable, has_gpu=False)
    try:
        abi = landlock.restrict(places, has_scopes=False, port=outlet.port)
    except NotOffered as reason:
        details.append(f"Landlock is not in force ({reason}): files and ports are not protected")
        return " and ".join(mechanisms), None, None
    mechanisms.append("Landlock")
    details.append(f"Landlock (version {abi}) keeps writing to the places listed")
    if abi >= landlock.TCP_ABI:
        details.append(f"Landlock keeps TCP to port {outlet.port}, of any host")
    return " and ".join(mechanisms), abi, places


class _Guard:
    """An audit hook that refuses names, addresses and ports other than those of the outlet."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith("socket.") and not self._is_allowed(event, arguments):
            raise PermissionError(errno.EPERM, "slm leaves one way open, and this is another one", event)

    def _is_allowed(self, event: str, arguments: tuple[object, ...]) -> bool:
        outlet = self._outlet
        if event == "socket.getaddrinfo":
            return not outlet.is_loopback and arguments[0] in (outlet.host, outlet.host.encode())
        if event == "socket.connect":
            address = arguments[1] if len(arguments) > 1 else None
            if not isinstance(address, tuple) or len(address) < 2:
                return False
            is_itself = _is_loopback(address[0])
            # Where the system has no socket pairs (Windows), Python connects to itself to make one.
            is_pair = is_itself and sys.platform == "win32"
            return is_pair or (address[1] == outlet.port and (is_itself or not outlet.is_loopback))
        if event == "socket.bind":
            address = arguments[1] if len(arguments) > 1 else None
            return sys.platform == "win32" and isinstance(address, tuple) and _is_loopback(address[0])
        return event not in _REFUSED


# Events of https://docs.python.org/3/library/audit_events.html that no connection to an endpoint needs.
_REFUSED = frozenset(
    {
        "socket.sendto",
        "socket.sendmsg",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.getnameinfo",
    }
)


def _is_loopback(host: object) -> bool:
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
