"""The server of this user that has a model in memory already: found before a command is sealed, used where it fits.

Knows: where its Unix socket is, which server computes just what a command of its own would compute.
Refuses to know: what is said over it (engine/warm), how it is started (commands/serve.py).
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat import __version__
from slmchat.errors import SlmError
from slmchat.models.backend import BackendModel, LocalModel
from slmchat.models.loader import Loading
from slmchat.options import GenerationOptions
from slmchat.privacy.steps import KeptSockets
from slmchat.reporting import Reporter
from slmchat.settings import Settings

if TYPE_CHECKING:  # most commands find no server
    from slmchat.engine.warm.engine import WarmConnection, WarmEngine

# A server that does not say what it is by then, in seconds, has other things to do: it loads a model, say.
_HELLO_S = 1.0


def socket_path(settings: Settings) -> Path:
    """Where a server of this user listens for slm's own commands."""
    return settings.paths.data / "serve" / "socket"


def connect(path: Path) -> "WarmConnection | None":
    """A connection to the server behind this socket; None when there is none."""
    if not path.exists():
        return None
    import socket

    from slmchat.engine.warm.engine import WarmConnection

    if not hasattr(socket, "AF_UNIX"):
        return None
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(str(path))
    except OSError:  # nobody listens any more, or the path is too long for a socket
        made.close()
        return None
    return WarmConnection(made)


def computed_with(options: GenerationOptions) -> tuple[str, ...]:
    """The options that change what is computed, as a server tells them; those of speed and memory are left out."""
    return tuple(
        f"{name}={value}"
        for name, value in (
            ("lora", ",".join(options.lora)),
            ("kv_type", options.kv_type or "f16"),
            ("device", options.device or ""),
            ("gpu_layers", options.gpu_layers or "auto"),
            ("mmproj", options.mmproj or ""),
        )
    )


class WarmServer:
    """A server that runs: the connection to it, made before the seal."""

    def __init__(self, connection: "WarmConnection") -> None:
        self._connection = connection
        self.kept = KeptSockets(connected=(connection.fileno(),))

    @classmethod
    def find(cls, options: GenerationOptions, settings: Settings) -> "WarmServer | None":
        """The server of this user; None: there is none, or this command may not use one."""
        if options.endpoint or settings.is_private or options.draft or options.speculation:
            return None
        connection = connect(socket_path(settings))
        return None if connection is None else cls(connection)

    def instead_of(self, model: BackendModel, options: GenerationOptions) -> "WarmLocalModel | None":
        """The model in the server's memory; None when it is another one, or computed in another way."""
        from slmchat.engine.warm.codec import decode
        from slmchat.engine.warm.engine import WarmEngine, WarmModel, ask

        with contextlib.suppress(SlmError, KeyError, TypeError, ValueError):
            self._connection.wait_at_most(_HELLO_S)
            said: dict[str, Any] = ask(self._connection, {"hello": True})
            self._connection.wait_at_most(None)
            wanted = {"version": __version__, "key": model.key, "options": list(computed_with(options))}
            if isinstance(model, LocalModel) and said == wanted:
                warm = decode(WarmModel, ask(self._connection, {"model": True})["model"])
                if (options.ctx or 0) <= warm.n_ctx:
                    return WarmLocalModel(model.installed, WarmEngine(self._connection, warm), warm.n_ctx)
        return None


@dataclass(frozen=True, slots=True)
class WarmLocalModel(LocalModel):
    """An installed model that is in the memory of a server already."""

    engine: "WarmEngine"
    n_ctx: int

    def with_projector(self, path: str | None) -> "WarmLocalModel":
        return self

    def start(self, options: GenerationOptions, settings: Settings) -> Loading:
        """It is loaded."""
        return Loading(lambda: (self.engine, None))

    def report(self, loading: Loading, reporter: Reporter) -> None:
        reporter.detail("from the memory of slm serve")
