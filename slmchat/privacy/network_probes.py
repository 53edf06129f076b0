"""Ways out by sockets: every family, through Python, through the C library's resolver and by bare system calls.

Knows: how to reach what the parent holds out (`ProbeContext`). Nothing here goes beyond the loopback device.
Refuses to know: whether there is a seal.
"""

import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
import threading

from slmchat.privacy.probe_context import TIMEOUT_S, Probe, ProbeContext, Refused, Unavailable, call

# linux/socket.h; not in every build of Python
_AF_NETLINK, _AF_PACKET, _AF_VSOCK = 16, 17, 40
_FAMILIES = range(64)
_KINDS = (1, 2, 3, 5)  # SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET  (linux/net.h)


def _message(name: str) -> bytes:
    return f"{name};".encode()


def _given(value: int | None) -> int:
    if value is None:
        raise Unavailable("this system has no such address")
    return value


def _by_python(family: int, kind: int, address: str | tuple[str, int], name: str) -> str:
    with socket.socket(family, kind) as out:
        out.settimeout(TIMEOUT_S)
        if kind == socket.SOCK_STREAM:
            out.connect(address)
            out.sendall(_message(name))
        else:
            out.sendto(_message(name), address)
    return "sent"


def _tcp4(context: ProbeContext, name: str) -> str:
    return _by_python(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", context.tcp4), name)


def _tcp6(context: ProbeContext, name: str) -> str:
    return _by_python(socket.AF_INET6, socket.SOCK_STREAM, ("::1", _given(context.tcp6)), name)


def _udp4(context: ProbeContext, name: str) -> str:
    return _by_python(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", context.udp4), name)


def _udp6(context: ProbeContext, name: str) -> str:
    return _by_python(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", _given(context.udp6)), name)


def _sockaddr(family: int, port: int) -> bytes:
    if family == socket.AF_INET:
        # struct sockaddr_in { sa_family_t sin_family; in_port_t sin_port; struct in_addr sin_addr; };
        return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
    # struct sockaddr_in6 { sin6_family; sin6_port; uint32_t sin6_flowinfo; struct in6_addr; uint32_t sin6_scope_id; };
    return struct.pack("=H", family) + struct.pack("!H", port) + bytes(4) + bytes(15) + b"\1" + bytes(4)


def _by_calls(family: int, kind: int, port: int, name: str) -> str:
    # int socket(int domain, int type, int protocol);
    descriptor = call("socket", family, kind, 0)
    try:
        address, data = _sockaddr(family, port), _message(name)
        if kind == socket.SOCK_STREAM:
            # int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen);
            call("connect", descriptor, ctypes.c_char_p(address), len(address))
            os.write(descriptor, data)
        else:
            # ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *to, socklen_t);
            call("sendto", descriptor, ctypes.c_char_p(data), len(data), 0, ctypes.c_char_p(address), len(address))
    finally:
        os.close(descriptor)
    return "sent"


def _tcp4_calls(context: ProbeContext, name: str) -> str:
    return _by_calls(socket.AF_INET, socket.SOCK_STREAM, context.tcp4, name)


def _tcp6_calls(context: ProbeContext, name: str) -> str:
    return _by_calls(socket.AF_INET6, socket.SOCK_STREAM, _given(context.tcp6), name)


def _udp4_calls(context: ProbeContext, name: str) -> str:
    return _by_calls(socket.AF_INET, socket.SOCK_DGRAM, context.udp4, name)


def _udp6_calls(context: ProbeContext, name: str) -> str:
    return _by_calls(socket.AF_INET6, socket.SOCK_DGRAM, _given(context.udp6), name)


class _ResolverState(ctypes.Structure):
    # struct __res_state { int retrans; int retry; unsigned long options; int nscount;
    #                      struct sockaddr_in nsaddr_list[MAXNS]; ... };  (glibc, resolv/bits/types/res_state.h)
    _fields_ = (
        ("retrans", ctypes.c_int),
        ("retry", ctypes.c_int),
        ("options", ctypes.c_ulong),
        ("nscount", ctypes.c_int),
        ("nsaddr_list", ctypes.c_char * 48),
    )


def _dns(context: ProbeContext, name: str) -> str:
    """Ask the resolver for a name. It is pointed to the parent's name server first: no query may leave this device."""
    if sys.platform.startswith(("linux", "android")):
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "__res_state"):
            raise Unavailable("this C library's resolver cannot be pointed to a name server of our own")
        # int __res_init(void);  struct __res_state *__res_state(void);
        resolver_state = libc["__res_state"]
        resolver_state.restype = ctypes.POINTER(_ResolverState)
        libc["__res_init"]()
        state = resolver_state().contents
        state.retrans, state.retry, state.nscount = 1, 1, 1
        ctypes.memmove(ctypes.addressof(state) + _ResolverState.nsaddr_list.offset, _sockaddr(2, context.dns), 16)
    elif not context.is_sealed:
        raise Unavailable("without the seal the query would leave this device")
    try:
        found = socket.getaddrinfo(f"{name}.invalid", 80, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as error:
        # The C library answers a refused socket with "no such name"; the parent knows whether its server was asked.
        known = {getattr(socket, code): code for code in dir(socket) if code.startswith("EAI_")}
        raise Refused(known.get(error.errno or 0, str(error))) from error
    return f"resolved to {found[0][4][0]}"


def _unix_stream(context: ProbeContext, name: str) -> str:
    if context.unix_stream is None:
        raise Unavailable("no AF_UNIX")
    return _by_python(socket.AF_UNIX, socket.SOCK_STREAM, context.unix_stream, name)


def _unix_abstract(context: ProbeContext, name: str) -> str:
    if context.abstract is None:
        raise Unavailable("no abstract names")
    return _by_python(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + context.abstract, name)


def _unix_pair(context: ProbeContext, name: str) -> str:
    if context.unix_datagram is None:
        raise Unavailable("no AF_UNIX datagrams")
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(_message(name), context.unix_datagram)
    return "sent"


def _netlink(_context: ProbeContext, _name: str) -> str:
    with socket.socket(_AF_NETLINK, socket.SOCK_RAW, 0) as out:  # NETLINK_ROUTE
        out.bind((0, 0))
    return "opened"


def _opened(family: int, kind: int, protocol: int) -> str:
    socket.socket(family, kind, protocol).close()
    return "opened"


def _raw_ip(_context: ProbeContext, _name: str) -> str:
    return _opened(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def _packet(_context: ProbeContext, _name: str) -> str:
    return _opened(_AF_PACKET, socket.SOCK_RAW, 0)


def _vsock(_context: ProbeContext, _name: str) -> str:
    return _opened(_AF_VSOCK, socket.SOCK_STREAM, 0)


def _every_family(_context: ProbeContext, _name: str) -> str:
    answered = [family for family in _FAMILIES if not all(_is_refused(family, kind) for kind in _KINDS)]
    if answered:
        return f"families that answered: {', '.join(map(str, answered))}"
    raise PermissionError(errno.EPERM, "all refused")


def _is_refused(family: int, kind: int) -> bool:
    try:
        os.close(call("socket", family, kind, 0))
    except OSError as error:
        return error.errno == errno.EPERM
    return False


_CHILD = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2).sendall(sys.argv[2].encode() + b";")
except OSError as error:
    sys.exit(error.errno)
"""


def _child(context: ProbeContext, name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", _CHILD, str(context.tcp4), name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    if done.returncode > 0:
        raise OSError(done.returncode, os.strerror(done.returncode))
    return f"the child ended with {done.returncode}"


class EarlyThread:
    """A thread that is started before the seal and tries after it."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self._task: tuple[ProbeContext, str] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="started before the seal")
        self._thread.start()

    def _run(self) -> None:
        self._go.wait()
        assert self._task is not None
        try:
            attempt = _tcp4_calls if sys.platform.startswith(("linux", "android")) else _tcp4
            attempt(*self._task)
        except BaseException as error:  # noqa: BLE001 - judged where the attempt is
            self._error = error

    def attempt(self, context: ProbeContext, name: str) -> str:
        self._task = (context, name)
        self._go.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return "sent"


def probes(early: EarlyThread) -> tuple[Probe, ...]:
    """The ways out by sockets."""
    return (
        Probe("tcp4", "TCP over IPv4, by Python", _tcp4),
        Probe("tcp6", "TCP over IPv6, by Python", _tcp6),
        Probe("udp4", "UDP over IPv4, by Python", _udp4),
        Probe("udp6", "UDP over IPv6, by Python", _udp6),
        Probe("tcp4-calls", "TCP over IPv4, by system calls", _tcp4_calls, is_linux_only=True),
        Probe("tcp6-calls", "TCP over IPv6, by system calls", _tcp6_calls, is_linux_only=True),
        Probe("udp4-calls", "UDP over IPv4, by system calls", _udp4_calls, is_linux_only=True),
        Probe("udp6-calls", "UDP over IPv6, by system calls", _udp6_calls, is_linux_only=True),
        Probe("dns", "a name looked up (getaddrinfo)", _dns),
        Probe("unix", "a local socket by its path", _unix_stream),
        Probe("unix-abstract", "a local socket by an abstract name", _unix_abstract, is_linux_only=True),
        Probe("unix-pair", "a datagram from a socket pair to a local socket", _unix_pair),
        Probe("netlink", "a netlink socket (the kernel's own network settings)", _netlink, is_linux_only=True),
        Probe("raw-ip", "a raw IP socket", _raw_ip),
        Probe("packet", "a packet socket (Ethernet frames)", _packet, is_linux_only=True),
        Probe("vsock", "a vsock (from a virtual machine to its host)", _vsock, is_linux_only=True),
        Probe("every-family", "every other family of sockets", _every_family, is_linux_only=True),
        Probe("child", "a child process", _child),
        Probe("thread", "a thread that was started before the seal", early.attempt),
    )
