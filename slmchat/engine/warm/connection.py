"""The line to a server of this user: `WarmConnection`.

Everything goes over Unix sockets that were connected before the process was sealed: a line of JSON for each request,
lines of JSON back. It is imported by a start that has 0.2 s in all, so it imports nothing else.

Knows: lines, when nobody is at the other end any more. Refuses to know: what is said, where the socket is.
"""

import json
import select
import socket
import threading
from typing import Any

from slmchat.errors import ExitCode, SlmError

# Bytes of a line: a prompt of a hundred thousand tokens is some MB. The server does not read on behind them.
MOST_LINE = 64 * 1024 * 1024


class WarmConnection:
    """The socket to a server."""

    def __init__(self, made: socket.socket) -> None:
        """`made` is connected. It is this object's own from here on."""
        self._socket = made
        self._lines = made.makefile("rb")
        self._turn = threading.Lock()

    def fileno(self) -> int:
        """The descriptor, which the seal leaves open."""
        return self._socket.fileno()

    def wait_at_most(self, seconds: float | None) -> None:
        """For a line; None: as long as it takes. Too long is an OSError, after which it is of no more use."""
        self._socket.settimeout(seconds)

    def send(self, request: dict[str, Any]) -> None:
        """Say a request. Raises OSError, and `SlmError` (CONTEXT) for one that is longer than the server reads."""
        data = json.dumps(request).encode() + b"\n"
        if len(data) > MOST_LINE:
            raise _too_long(len(data))
        self._socket.sendall(data)

    def line(self) -> dict[str, Any]:
        """The next line. Raises OSError at the end, ValueError for what is no object."""
        data = self._lines.readline()
        if not data.endswith(b"\n"):
            raise ConnectionResetError("the server has closed the connection")
        said = json.loads(data)
        if not isinstance(said, dict):
            raise ValueError("not an object")
        return said

    def asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """The line that answers this request, from any thread. Raises as `send` and `line` do."""
        with self._turn:
            self.send(request)
            return self.line()

    def is_gone(self) -> bool:
        """Whether nobody is at the other end any more. While nothing is waited for."""
        try:
            return bool(select.select([self._socket], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Close it; also from a signal handler, while a line is waited for."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def ask(connection: WarmConnection, request: dict[str, Any]) -> dict[str, Any]:
    """The one line that answers this request, from any thread. Raises `SlmError`: NETWORK when the server is gone, what
    it says."""
    try:
        said = connection.asked(request)
    except (OSError, ValueError) as error:
        raise server_gone() from error
    if "error" in said:
        raise error_of(said["error"])
    return said


def error_as_record(error: SlmError) -> dict[str, Any]:
    """An error as the server says it."""
    return {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}


def error_of(said: dict[str, Any]) -> SlmError:
    """The error that a server has said."""
    return SlmError(
        said["message"], hint=said["hint"], exit_code=next(code for code in ExitCode if code == said["exit_code"])
    )


def _too_long(size: int) -> SlmError:
    return SlmError(
        f"the prompt takes {size // 1_000_000:,} MB, and slm serve reads at most {MOST_LINE // 1_000_000:,} MB.",
        hint="a shorter input; or with --no-server",
        exit_code=ExitCode.CONTEXT,
    )


def server_gone() -> SlmError:
    """What is told when the server ends in the middle of something."""
    return SlmError(
        "slm serve ended while it answered.",
        hint="the same command again; or with --no-server",
        exit_code=ExitCode.NETWORK,
    )
