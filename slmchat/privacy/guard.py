"""The in-process guard: for systems where slm knows no mechanism of the kernel. It stops Python code only.

Knows: the audit events that Python raises before it uses the network.
Refuses to know: anything outside Python. Native code, a child process, or Python code that calls the C library
through ctypes passes it; a mistake in slm or in a library written in Python does not. It cannot be taken off again.
"""

import errno
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from slmchat.privacy.steps import Closed, Step

# Events of https://docs.python.org/3/library/audit_events.html that come before a name or another machine is reached.
_REFUSED = frozenset(
    {
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.getnameinfo",
    }
)


class Guard:
    """An audit hook that refuses connections, addresses and names."""

    is_enforced_by_kernel = False

    def __init__(self, reasons: Sequence[str] = ()) -> None:
        self._reasons = tuple(reasons)

    def close(self, steps: AbstractSet[Step], writable: Sequence[Path]) -> Closed:
        """Install the hook; local sockets are refused with the rest, files are not protected."""
        import _socket

        # Where the system has no socket pairs (Windows), Python connects to itself to make one; asyncio needs it.
        is_pair_emulated = not hasattr(_socket, "socketpair")

        def refuse(event: str, arguments: tuple[object, ...]) -> None:
            if event in _REFUSED and not (is_pair_emulated and _is_to_itself(event, arguments)):
                raise PermissionError(errno.EPERM, "slm is sealed: no network", event)

        sys.addaudithook(refuse)
        details = [f"the kernel does not enforce the seal ({reason})" for reason in self._reasons]
        details.append("a guard inside Python refuses connections by Python code; native code and children pass it")
        if is_pair_emulated:
            details.append("connections of this device to itself (127.0.0.1) stay open: Python needs them here")
        return Closed("in-process guard", tuple(details))


def _is_to_itself(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether this is a connection or an address of the loopback device. Arguments: the socket, the address."""
    if event not in ("socket.connect", "socket.bind") or len(arguments) < 2:
        return False
    address = arguments[1]
    return isinstance(address, tuple) and address[:1] in (("127.0.0.1",), ("::1",))
