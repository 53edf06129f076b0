"""The engine of a server of this user, as a command sees it: `WarmEngine`, `WarmSession`.

Everything goes over one Unix socket that was connected before the process was sealed: a line of JSON for each request,
lines of JSON back. The server does what a session here would do; the chat template, the checks of an answer and its
exit code stay here. A generation is cancelled by closing the connection.

Knows: the lines. Refuses to know: where the socket is, whether the model is the right one (models/warm_server.py).
"""

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slmchat.engine.api import (
    NEVER_BEGUN,
    Adapter,
    Chunk,
    Embedder,
    Event,
    Finish,
    Limits,
    ModelInfo,
    Pool,
    Prefill,
    Prompt,
    Session,
    SessionSettings,
    StreamPool,
    TextLogits,
)
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.warm.codec import decode, encode
from slmchat.errors import ExitCode, SlmError

EVENTS: dict[str, type[Prefill] | type[Chunk] | type[Finish]] = {"prefill": Prefill, "chunk": Chunk, "finish": Finish}


@dataclass(frozen=True, slots=True)
class WarmModel:
    """The model in a server's memory, and the context window that a request may have there."""

    n_ctx: int
    info: ModelInfo


class WarmConnection:
    """The socket to a server."""

    def __init__(self, made: socket.socket) -> None:
        """`made` is connected. It is this object's own from here on."""
        self._socket = made
        self._lines = made.makefile("rb")

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

    def close(self) -> None:
        """Close it; also from a signal handler, while a line is waited for."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class WarmEngine:
    """A loaded model in another process. Implements `Engine`, for sessions alone."""

    def __init__(self, connection: WarmConnection, model: WarmModel) -> None:
        self._connection = connection
        self._model = model

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    def count(self, prompt: Prompt) -> int:
        """Number of tokens, as the server counts them. Raises `SlmError` (NETWORK) when it is gone."""
        return int(ask(self._connection, {"count": encode(prompt)})["count"])

    def open_session(self, settings: SessionSettings) -> Session:
        """A turn in the server's queue for each generation."""
        return WarmSession(self._connection, self._model.n_ctx)

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> Pool:
        """Raises `SlmError` (USAGE): many at once are for an engine of one's own."""
        raise _only_sessions()

    def open_stream_pool(self, settings: SessionSettings, parallel: int | None = None) -> StreamPool:
        """Raises `SlmError` (USAGE)."""
        raise _only_sessions()

    def open_scorer(self, settings: SessionSettings) -> Pool:
        """Raises `SlmError` (USAGE)."""
        raise _only_sessions()

    def open_text_logits(self, settings: SessionSettings) -> TextLogits:
        """Raises `SlmError` (USAGE)."""
        raise _only_sessions()

    def embedder(self, settings: SessionSettings, *, is_cut: bool = False) -> Embedder:
        """Raises `SlmError` (USAGE)."""
        raise _only_sessions()

    def close(self) -> None:
        self._connection.close()


class WarmSession:
    """Generations in the server's queue. Implements `Session`."""

    def __init__(self, connection: WarmConnection, n_ctx: int) -> None:
        self._connection = connection
        self._is_cancelled = False
        self.n_ctx = n_ctx

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """As `Session` says; the errors are those of the server's engine, and NETWORK when it is gone."""
        self._is_cancelled = False
        return self._events(prompt, sampler, limits)

    def _events(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        asked = {"prompt": encode(prompt), "sampler": encode(sampler), "limits": encode(limits)}
        said: dict[str, Any] | None = None
        while True:
            try:
                if said is None:
                    self._connection.send({"generate": asked})
                said = self._connection.line()
            except (OSError, ValueError) as error:
                if self._is_cancelled:
                    yield NEVER_BEGUN
                    return
                raise _gone() from error
            if "error" in said:
                raise error_of(said["error"])
            ((name, data),) = said.items()
            event = decode(EVENTS[name], data)
            yield event
            if isinstance(event, Finish):
                return

    def cancel(self) -> None:
        """End the generation: the server notices that nobody listens."""
        self._is_cancelled = True
        self._connection.close()

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Nothing: the server keeps what is worth it."""

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Raises `SlmError` (USAGE) for any: the server has its own."""
        if adapters:
            raise _only_sessions()

    def close(self) -> None:
        """Nothing: the connection is the engine's."""


def ask(connection: WarmConnection, request: dict[str, Any]) -> dict[str, Any]:
    """The one line that answers this request. Raises `SlmError`: NETWORK when the server is gone, what it says."""
    try:
        connection.send(request)
        said = connection.line()
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


def _only_sessions() -> SlmError:
    return SlmError("the engine of slm serve gives answers one by one.", hint="--no-server", exit_code=ExitCode.USAGE)
