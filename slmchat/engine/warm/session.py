"""Generations in a server of this user: `WarmConnection`, `WarmSession`.

Everything goes over Unix sockets that were connected before the process was sealed: a line of JSON for each request,
lines of JSON back. A generation is cancelled by any word on its line.

Knows: the lines, how an answer on them is given up. Refuses to know: where the socket is, what the model is.
"""

import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from slmchat.engine.api import Adapter, Chunk, Event, Finish, Limits, Prefill, Prompt
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.warm.codec import decode, encode
from slmchat.errors import ExitCode, SlmError

EVENTS: dict[str, type[Prefill] | type[Chunk] | type[Finish]] = {"prefill": Prefill, "chunk": Chunk, "finish": Finish}


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
        """Say a request. Raises OSError."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")

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


class WarmSession:
    """Generations in the server's queue, one after the other. Implements `Session`."""

    def __init__(self, connection: WarmConnection, n_ctx: int) -> None:
        self._connection = connection
        self._is_cancelled = False
        self._is_asked = False  # the server has the whole request, and its answer has not ended
        self.n_ctx = n_ctx

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """As `Session` says; the errors are those of the server's engine, and NETWORK when it is gone."""
        self._is_cancelled = False
        return self._events(prompt, sampler, limits)

    def _events(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        asked = {"prompt": encode(prompt), "sampler": encode(sampler), "limits": encode(limits), "n_ctx": self.n_ctx}
        try:
            self._connection.send({"generate": asked})
            self._is_asked = True
            if self._is_cancelled:  # while it was sent
                self._give_up()
            while self._is_asked:
                yield self._event()
        except (OSError, ValueError) as error:
            self._connection.close()
            raise _gone() from error
        finally:
            if self._is_asked:  # nobody takes what is left of the answer
                self._drop_rest()

    def _event(self) -> Event:
        said = self._connection.line()
        if "error" in said:
            self._is_asked = False
            raise error_of(said["error"])
        ((name, data),) = said.items()
        event = decode(EVENTS[name], data)
        self._is_asked = not isinstance(event, Finish)
        return event

    def _drop_rest(self) -> None:
        try:
            self._give_up()
            while self._is_asked:
                self._event()
        except (OSError, ValueError, SlmError):
            self._is_asked = False
            self._connection.close()

    def cancel(self) -> None:
        """End the generation: a word on the line says that nobody wants the rest."""
        self._is_cancelled = True
        if self._is_asked:
            self._give_up()

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):  # then whoever reads finds out
            self._connection.send({"cancel": True})

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Nothing: the server keeps what is worth it, by the owner of the prompt."""

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Raises `SlmError` (USAGE) for any: the server has its own."""
        if adapters:
            raise only_answers()

    def close(self) -> None:
        """Nothing: the connection is the engine's."""


def ask(connection: WarmConnection, request: dict[str, Any]) -> dict[str, Any]:
    """The one line that answers this request, from any thread. Raises `SlmError`: NETWORK when the server is gone, what
    it says."""
    try:
        said = connection.asked(request)
    except (OSError, ValueError) as error:
        raise _gone() from error
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


def _gone() -> SlmError:
    return SlmError(
        "slm serve ended while it answered.",
        hint="the same command again; or with --no-server",
        exit_code=ExitCode.NETWORK,
    )


def only_answers() -> SlmError:
    """What this engine does not do."""
    return SlmError(
        "the engine of slm serve gives answers, and nothing else.", hint="--no-server", exit_code=ExitCode.USAGE
    )
