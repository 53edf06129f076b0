"""The sockets on which a server listens: made before the process is sealed, never afterwards.

Knows: addresses, the Unix socket of this user and who may come through it, an old socket that nobody listens on.
Refuses to know: what is asked.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from pathlib import Path

from slmchat import file_locks
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass

# Connections that wait to be accepted.
_BACKLOG = 128

# struct ucred { pid_t pid; uid_t uid; gid_t gid; };  (sys/socket.h)
_UCRED = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens. `path`: of a Unix socket, None for TCP. `lock`: the descriptor that keeps others from the
    path, as long as it is open."""

    made: socket.socket
    path: Path | None = None
    lock: int | None = None

    @property
    def address(self) -> str:
        """Where it listens, in words."""
        if self.path is not None:
            return str(self.path)
        host, port = self.made.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def accept(self) -> socket.socket | None:
        """The next connection; None when it is gone again, or is not this user's. Never waits."""
        try:
            made, _address = self.made.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):  # it waits until there is room
                return None
            raise
        made.setblocking(True)
        if self.path is not None and not _is_own(made):
            made.close()
            return None
        if self.path is None:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a token is a packet
        return made

    def close(self) -> None:
        """Listen no longer, and leave nothing in the file system. A second call does nothing: another server may have
        this path by then."""
        if self.made.fileno() < 0:
            return
        self.made.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        if self.lock is not None:
            os.close(self.lock)


def descriptors() -> int:
    """How many descriptors this process may have."""
    if sys.platform == "win32":
        return 1 << 16
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if most != resource.RLIM_INFINITY else 1 << 16


def is_loopback(host: str) -> bool:
    """Whether only this device reaches the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


_ELSEWHERE = "another place: --socket PATH"


def make_place(path: Path) -> None:
    """Make the directory of a socket, for the owner alone. Raises `SlmError` (USAGE)."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        said = "it is not a directory" if isinstance(error, FileExistsError) else (error.strerror or str(error)).lower()
        raise usage_error(f"{path.parent} cannot hold a socket: {said}.", _ELSEWHERE) from error


def on_tcp(host: str, port: int) -> Listener:
    """Raises `SlmError` (USAGE) when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        # create_server writes the address behind the reason, and hands on a resolver's numbers as if they were errno's
        said = (isinstance(error, OSError) and error.strerror) or str(error)
        is_port = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        raise usage_error(
            f"{host}:{port} cannot be listened on: {said.partition(' (while attempting')[0].lower()}.",
            "another port: --port N; or slm serve --status, if that is slm itself"
            if is_port
            else "an address of this device: --host ADDRESS",
        ) from error
    made.setblocking(False)
    return Listener(made)


def on_unix(path: Path) -> Listener:
    """A socket that is this user's alone, in a directory that is, too. One that a dead server has left is replaced.

    Raises `SlmError` (USAGE): another server listens there, or the path cannot be used.
    """
    make_place(path)
    lock = _locked(path)
    if lock is None:
        raise usage_error(f"a server listens on {path} already.", "slm serve --status; slm serve --stop ends it")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                path.unlink()
        made.bind(str(path))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        os.close(lock)
        said = error.strerror.lower() if error.strerror else "the path is too long for a socket"
        raise usage_error(f"{path} cannot be listened on: {said}.", _ELSEWHERE) from error
    finally:
        os.umask(before)
    made.setblocking(False)
    return Listener(made, path, lock)


def is_taken(path: Path) -> bool:
    """Whether a server has this Unix socket, or is about to."""
    lock = _locked(path)
    if lock is not None:
        os.close(lock)
    return lock is None


def _locked(path: Path) -> int | None:
    """The right to listen on this path, which ends with the descriptor; None: another server has it."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    if file_locks.hold(lock):
        return lock
    os.close(lock)
    return None


def _is_own(made: socket.socket) -> bool:
    """Whether the other end is this user's. Where the system does not tell, the rights of the directory have to do."""
    if not sys.platform.startswith(("linux", "android")):
        return True
    _pid, uid, _gid = _UCRED.unpack(made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return bool(uid == os.getuid())
