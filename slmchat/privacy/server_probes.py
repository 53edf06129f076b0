"""What the seal of a server is tried with besides: it has to let connections in, and what came in must not lead out.

Knows: the socket that listens, one connection that it takes in.
Refuses to know: whether there is a seal, the ways out that every sealed process is tried with (network_probes.py).
"""

import ctypes
import os
import socket
import struct
from functools import cache

from slmchat.privacy.probe_context import Probe, ProbeContext, Unavailable, call


def _listening(context: ProbeContext) -> int:
    if context.listening is None:
        raise Unavailable("this system does not pass a socket on")
    return context.listening


@cache
def _accepted(descriptor: int) -> socket.socket:
    """The connection that waits: the parent has made it."""
    with socket.socket(fileno=os.dup(descriptor)) as known:
        family, kind = known.family, known.type
    # int accept4(int sockfd, struct sockaddr *addr, socklen_t *addrlen, int flags);
    return socket.socket(family, kind, fileno=call("accept4", descriptor, None, None, 0))


def accept(context: ProbeContext, _name: str) -> str:
    """What a server is there for: take a connection in, and answer. Raises `OSError` when it cannot."""
    _accepted(_listening(context)).sendall(b"answered")
    return "a connection was taken in"


def _connect(descriptor: int, context: ProbeContext) -> str:
    # struct sockaddr_in { sa_family_t sin_family; in_port_t sin_port; struct in_addr sin_addr; };
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", context.tcp4) + socket.inet_aton("127.0.0.1")
    # int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen);
    call("connect", descriptor, ctypes.c_char_p(address + bytes(8)), 16)
    return "connected"


def _turned(context: ProbeContext, _name: str) -> str:
    accepted = _accepted(_listening(context)).fileno()
    # A connection is dissolved by an address of no family, and can then be made anew (connect(2)).
    call("connect", accepted, ctypes.c_char_p(bytes(16)), 16)
    return _connect(accepted, context)


def _listening_connects(context: ProbeContext, _name: str) -> str:
    return _connect(_listening(context), context)


def _accept_by_copy(context: ProbeContext, _name: str) -> str:
    copy = os.dup(_listening(context))
    try:
        os.close(call("accept4", copy, None, None, 0))
    finally:
        os.close(copy)
    return "a connection was taken in by another descriptor"


ACCEPT = Probe("accept", "taking a connection in, which a server must", accept)
PROBES = (
    Probe("turned", "turning a connection that was taken in to another address", _turned, is_linux_only=True),
    Probe("listening-connects", "connecting the socket that listens", _listening_connects, is_linux_only=True),
    Probe("accept-by-copy", "taking connections in by another descriptor", _accept_by_copy, is_linux_only=True),
)
