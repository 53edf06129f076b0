"""The other side of the check: what the attempts may reach, all of it on this device, and what arrived there.

Knows: listeners on the loopback device, local sockets, a name server with one answer, a memory cell.
Refuses to know: who tries to reach them.
"""

import ctypes
import os
import selectors
import socket
import struct
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from slmchat.privacy import android
from slmchat.privacy.probe_context import ProbeContext, call_number

_NR_IO_URING_SETUP = 425  # asm-generic/unistd.h; the same everywhere
_PARAMS_SIZE = 120  # sizeof(struct io_uring_params)  (linux/io_uring.h)
_CELL_SIZE = 64
_MAX_READS = 1000  # against a socket that is always ready
_IS_LINUX = sys.platform.startswith(("linux", "android"))


class ProbeServer:
    """Listeners of our own and a directory of our own, for as long as the attempts last. Raises `OSError` on entry."""

    def __init__(self, is_sealed: bool, *, is_for_server: bool = False) -> None:
        """`is_for_server`: the child is to be a server, too."""
        self._is_sealed = is_sealed
        self._is_for_server = is_for_server
        self._sockets: list[socket.socket] = []
        self._descriptors: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._arrived: list[bytes] = []
        self._cells = [ctypes.create_string_buffer(_CELL_SIZE) for _ in range(2)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="probe-server")

    def __enter__(self) -> "ProbeServer":
        self._folder = tempfile.TemporaryDirectory(prefix="slm-privacy-", ignore_cleanup_errors=True)
        try:
            self.context = self._made(Path(self._folder.name).resolve())
        except BaseException:
            self._free()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._free()

    def settle(self) -> None:
        """Stop watching, after everything that was sent so far has been read."""
        self._stopping.set()
        self._thread.join()
        for _ in range(_MAX_READS):
            if not self._read_what_is_there(timeout=0):
                return

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the child is started with."""
        context = self.context
        given = (
            context.inherited_stream,
            context.inherited_datagram,
            context.ring,
            context.terminal,
            context.listening,
        )
        return tuple(descriptor for descriptor in given if descriptor is not None)

    def has_heard(self, name: str) -> bool:
        """Whether anything of this attempt has arrived: at a listener, in a pipe, in memory."""
        cells = [bytes(cell.raw) for cell in self._cells]
        return any(name.encode() + b";" in data for data in (*self._arrived, *cells))

    def _made(self, folder: Path) -> ProbeContext:
        allowed, outside, here = folder / "allowed", folder / "outside", folder / "here"
        for made in (allowed, outside, here / ".git" / "hooks"):
            made.mkdir(parents=True)
        file = outside / "file"
        file.touch(0o600)
        tcp4 = self._listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        assert tcp4 is not None
        udp4 = self._listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        dns = self._listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0), is_dns=True)
        assert udp4 is not None
        assert dns is not None
        tcp6 = self._optional(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        udp6 = self._optional(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 0))
        local, abstract = str(outside / "stream"), f"slm-privacy-{os.getpid()}"
        family = getattr(socket, "AF_UNIX", None)
        return ProbeContext(
            is_sealed=self._is_sealed,
            parent=os.getpid(),
            tcp4=_port(tcp4),
            tcp6=_port(tcp6) if tcp6 else None,
            udp4=_port(udp4),
            udp6=_port(udp6) if udp6 else None,
            dns=_port(dns),
            allowed=str(allowed),
            outside=str(outside),
            file=str(file),
            here=str(here),
            temporary=str(folder.parent),
            unix_stream=local if family and self._optional(family, socket.SOCK_STREAM, local) else None,
            unix_datagram=local + "d" if family and self._optional(family, socket.SOCK_DGRAM, local + "d") else None,
            abstract=abstract
            if family and _IS_LINUX and self._optional(family, socket.SOCK_STREAM, "\0" + abstract)
            else None,
            fifo=self._fifo(outside / "fifo"),
            pipe=self._pipe(),
            inherited_stream=self._connected(_port(tcp4)),
            inherited_datagram=self._kept(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).fileno(),
            ring=self._ring(),
            terminal=self._terminal(),
            listener=tcp4.fileno(),
            cells=(ctypes.addressof(self._cells[0]), ctypes.addressof(self._cells[1])),
            listening=self._asked_server() if self._is_for_server else None,
        )

    def _kept(self, made: socket.socket) -> socket.socket:
        self._sockets.append(made)
        return made

    def _listener(
        self, family: int, kind: int, address: str | tuple[str, int], *, is_dns: bool = False
    ) -> socket.socket:
        made = self._kept(socket.socket(family, kind))
        made.bind(address)
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.listen()
        what = "dns" if is_dns else "listener" if kind == socket.SOCK_STREAM else "data"
        self._selector.register(made, selectors.EVENT_READ, what)
        return made

    def _optional(self, family: int, kind: int, address: str | tuple[str, int]) -> socket.socket | None:
        with suppress(OSError):
            return self._listener(family, kind, address)
        return None

    def _connected(self, port: int) -> int:
        return self._kept(socket.create_connection(("127.0.0.1", port))).fileno()

    def _asked_server(self) -> int:
        """A socket that the child listens on, with two clients that wait."""
        made = self._kept(socket.create_server(("127.0.0.1", 0)))
        for _ in range(2):
            self._connected(_port(made))
        return made.fileno()

    def _fifo(self, path: Path) -> str | None:
        if not hasattr(os, "mkfifo"):
            return None
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._descriptors.append(reader)
        self._selector.register(reader, selectors.EVENT_READ, "fifo")
        return str(path)

    def _pipe(self) -> int:
        """The writing end of a pipe of the parent's own, which the child does not inherit."""
        reader, writer = os.pipe()
        self._descriptors += (reader, writer)
        if os.name == "posix":  # elsewhere only sockets can be waited for
            self._selector.register(reader, selectors.EVENT_READ, "fifo")
        return writer

    def _ring(self) -> int | None:
        """An io_uring that the child inherits; None where the kernel or a container does not offer it."""
        if _IS_LINUX and not android.is_here():
            with suppress(OSError):
                # int io_uring_setup(u32 entries, struct io_uring_params *p);
                parameters = ctypes.create_string_buffer(_PARAMS_SIZE)
                self._descriptors.append(call_number(_NR_IO_URING_SETUP, 4, parameters))
                return self._descriptors[-1]
        return None

    def _terminal(self) -> int | None:
        if not hasattr(os, "openpty"):
            return None
        with suppress(OSError):
            self._descriptors += os.openpty()
            return self._descriptors[-1]
        return None

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._read_what_is_there(timeout=0.05)

    def _read_what_is_there(self, timeout: float) -> bool:
        ready = self._selector.select(timeout)
        for key, _events in ready:
            with suppress(OSError):
                self._read(key)
        return bool(ready)

    def _read(self, key: selectors.SelectorKey) -> None:
        if key.data == "fifo":
            data = os.read(key.fd, 4096)
            self._arrived.append(data)
            if not data:  # the writer has gone; a FIFO without one is always ready
                self._selector.unregister(key.fileobj)
            return
        here = key.fileobj
        assert isinstance(here, socket.socket)
        if key.data == "listener":
            connection, _address = here.accept()
            connection.setblocking(False)
            self._selector.register(self._kept(connection), selectors.EVENT_READ, "data")
            return
        data, sender = here.recvfrom(4096)
        self._arrived.append(_name_asked(data) if key.data == "dns" else data)
        if key.data == "dns":
            here.sendto(_answer(data), sender)
        elif not data and here.type == socket.SOCK_STREAM:
            self._selector.unregister(here)

    def _free(self) -> None:
        self._selector.close()
        for made in self._sockets:
            made.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._folder.cleanup()


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def _name_asked(query: bytes) -> bytes:
    """The first label of the name in a DNS query, as the message of the attempt."""
    return query[13 : 13 + query[12]] + b";" if len(query) > 13 else b""


def _answer(query: bytes) -> bytes:
    """A DNS answer with the address 127.0.0.1 for a question about an IPv4 address, else an empty one (RFC 1035)."""
    end = query.index(b"\0", 12) + 5  # the name, its type and its class
    question = query[12:end]
    is_address = question[-4:-2] == b"\0\1"
    header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_address), 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + b"\x7f\0\0\1"
    return header + question + (record if is_address else b"")
