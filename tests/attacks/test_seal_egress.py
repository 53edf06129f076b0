"""A process that asks an endpoint: it reaches that place, and the kernel keeps it from every other."""

import json
import os
import sys
from pathlib import Path

import fork_server
import pytest
from endpoint_server import EndpointServer
from sealed_process import REPOSITORY, landlock_abi, needs_landlock, needs_seccomp

pytestmark = [pytest.mark.real, needs_seccomp, needs_landlock]

# argv: the endpoint's port, another one, whether the endpoint is "here", whether a process of its own connects.
_ATTEMPTS = """
import ctypes, errno, json, os, socket, struct, sys
from slmchat.engine.remote.cancel import Cancel
from slmchat.engine.remote.route import Route
from slmchat.engine.remote.wire import dial, _dialed
from slmchat.privacy.dialer import DialerProcess
from slmchat.privacy.egress import Egress, restrict_egress
port, other, is_here, has_dialer = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "here", sys.argv[4] == "dialer"
route = Route("127.0.0.1", port)
dialer = DialerProcess(lambda: dial(route), port=port, names=not is_here) if has_dialer else None
inherited = socket.create_connection(("127.0.0.1", other))
local, name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "\\0slm-test-" + str(os.getpid())
local.bind(name)
reader, writer = os.pipe()
if os.fork() == 0:  # holds the local socket open to the end, so that a datagram could arrive
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
said = restrict_egress(Egress("127.0.0.1", port, is_here), is_required=False, writable=(), dialer=dialer)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def tried(what):
    try:
        what()
        return "out"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def native(host, port, protocol=0):
    def attempt():
        made = libc.syscall(ctypes.c_long(SOCKET), 2, 1, protocol)
        address = struct.pack("=HH4s8x", 2, socket.htons(port), socket.inet_aton(host))
        if made < 0 or libc.connect(made, address, 16):
            raise OSError(ctypes.get_errno(), "refused")
    return tried(attempt)
SOCKET = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
def connect(host, port):
    socket.socket().connect((host, port))
def from_pair(kind):
    one, two = socket.socketpair(socket.AF_UNIX, kind)
    one.sendto(b"x", name)
def hands_over():
    one, two = socket.socketpair()
    socket.send_fds(one, [b"x"], [1])
found = {
    "python, the place": tried(lambda: connect("127.0.0.1", port)), "native, the place": native("127.0.0.1", port),
    "python, another port": tried(lambda: connect("127.0.0.1", other)), "native, another port": native("127.0.0.1", other),
    "python, another host": tried(lambda: connect("127.0.0.2", port)), "native, another host": native("127.0.0.2", port),
    "native, mptcp": native("127.0.0.1", other, 262),
    "a name": tried(lambda: socket.getaddrinfo("example.org", 80)),
    "datagrams": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "datagrams over IPv6": tried(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
    "raw": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "a local socket": tried(lambda: socket.socket(socket.AF_UNIX)),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "a pair of datagrams": tried(lambda: from_pair(socket.SOCK_DGRAM)),
    "a pair of streams": tried(socket.socketpair),
    "listening": tried(lambda: socket.create_server(("127.0.0.1", 0))),
    "a connection of before": tried(lambda: inherited.sendall(b"x")),
    "datagrams of before": tried(lambda: udp.sendto(b"x", ("127.0.0.1", other))),
    "a descriptor handed out": tried(hands_over),
    "a file here": tried(lambda: open("here", "w")),
    "chmod": tried(lambda: os.chmod(sys.executable, 0o755)),
}
if dialer is not None:
    cancel = Cancel()
    for _ in range(2):
        with _dialed(dialer, cancel) as stream:
            stream.setblocking(True)
            stream.sendall(b"GET /v1/models HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            found["handed over"] = stream.recv(12).decode()
            found["turned elsewhere"] = tried(lambda: stream.connect(("127.0.0.1", other)))
    found["dialer's memory"] = tried(lambda: open(f"/proc/{dialer._child}/mem", "r+b"))
print(json.dumps({"found": found, "is_closed": said.is_closed, "details": said.details}))
"""


def _found(where: str, how: str, cwd: Path) -> dict[str, object]:
    with EndpointServer() as server, EndpointServer() as other:
        done = fork_server.run(
            [sys.executable, "-c", _ATTEMPTS, str(server.port), str(other.port), where, how],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert other.requests == []
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["is_closed"] is False  # it is not called sealed
    return {**answer["found"], "details": " ".join(answer["details"])}


@pytest.mark.parametrize("where", ["here", "there"])
def test_with_a_process_that_connects_there_is_no_way_but_that_one(where: str, tmp_path: Path) -> None:
    found = _found(where, "dialer", tmp_path)
    assert "guard" not in str(found.pop("details"))
    assert (found.pop("handed over"), found.pop("a pair of streams")) == ("HTTP/1.1 200", "out")
    assert found.pop("a name") != "out"  # the C library's word for a refused socket differs
    # a replaced socket is no socket any more; Python's listening begins with a socket
    assert (found.pop("a connection of before"), found.pop("datagrams of before")) == ("ENOTSOCK", "EPERM")
    assert (found.pop("a file here"), found.pop("dialer's memory")) == ("EACCES", "EACCES")
    assert set(found.values()) == {"EPERM"}, found


@pytest.mark.parametrize("where", ["here", "there"])
def test_without_it_the_kernel_keeps_the_port_and_python_the_host(where: str, tmp_path: Path) -> None:
    found = _found(where, "alone", tmp_path)
    details = str(found.pop("details"))
    assert "a guard inside Python keeps connections" in details and "native code and children pass it" in details
    assert (found.pop("python, the place"), found.pop("native, the place")) == ("out", "out")
    native = found.pop("native, another host")  # what only a process that connects closes
    assert native in ("out", "ECONNREFUSED")
    if where == "here":
        assert found.pop("python, another host") in ("out", "ECONNREFUSED")  # 127.0.0.2 is this device too
    assert found.pop("native, another port") == ("EACCES" if landlock_abi() >= 4 else "out")
    assert found.pop("a pair of streams") == "out"
    assert (found.pop("a connection of before"), found.pop("a file here")) == ("ENOTSOCK", "EACCES")
    assert set(found.values()) == {"EPERM"}, found


def test_the_process_that_connects_gives_up_with_those_who_ask_and_ends_with_them(tmp_path: Path) -> None:
    code = """
import socket, sys, time, os, threading
from slmchat.engine.remote.cancel import Cancel, Cancelled
from slmchat.engine.remote.route import Route
from slmchat.engine.remote.wire import NoSuchHost, TimedOut, dial, _dialed
from slmchat.privacy.dialer import DialerProcess
def ask(dialer, cancel=None):
    try:
        return _dialed(dialer, cancel or Cancel()).close()
    except (OSError, NoSuchHost, TimedOut, Cancelled) as error:
        return f"{type(error).__name__} {getattr(error, 'errno', '')}".strip()
closed = DialerProcess(lambda: dial(Route("127.0.0.1", 9)), port=9, names=False)
print(ask(closed), ask(closed))
stuck = DialerProcess(lambda: (time.sleep(3600), None), port=9, names=False)
cancel = Cancel()
threading.Timer(0.05, cancel.set).start()
print(ask(stuck, cancel))
gone = DialerProcess(lambda: dial(Route("127.0.0.1", 9)), port=9, names=False)
os.kill(gone._child, 9)
os.waitpid(gone._child, 0)
print(ask(gone).split()[0])
closed._channel.close()
print(os.waitpid(closed._child, 0)[1])
os.kill(stuck._child, 9)
"""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = fork_server.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, cancelled, ended, status = done.stdout.splitlines()
    assert refused == "ConnectionRefusedError 111 ConnectionRefusedError 111"
    assert cancelled == "Cancelled"
    assert ended in ("ConnectionAbortedError", "BrokenPipeError", "ConnectionResetError")
    assert status == "0"
