"""The server of this user that has a model in memory already: found before a command is sealed, used where it fits.

Knows: which server computes just what a command of its own would compute.
Refuses to know: where its socket is (warm_socket.py), what is said over it (engine/warm), how it is started
(commands/serve.py).
"""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slmchat import __version__
from slmchat.catalog.records import Installed
from slmchat.errors import SlmError
from slmchat.models.backend import BackendModel, LocalModel
from slmchat.models.warm_socket import HELLO_S, computed_with, connect, socket_path
from slmchat.options import GenerationOptions
from slmchat.privacy.steps import KeptSockets
from slmchat.reporting import Reporter
from slmchat.settings import Settings

if TYPE_CHECKING:  # most commands find no server
    from slmchat.engine.warm.connection import WarmConnection
    from slmchat.engine.warm.engine import WarmEngine
    from slmchat.models.loader import LoadedBeside, Loading


class WarmServer:
    """A server that runs: the connections to it, made before the seal. Implements `ModelServer`."""

    def __init__(self, asking: "WarmConnection", generating: "Sequence[WarmConnection]") -> None:
        self._asking = asking
        self._generating = generating
        self.kept = KeptSockets(connected=tuple(each.fileno() for each in (asking, *generating)))

    @classmethod
    def find(cls, options: GenerationOptions, settings: Settings, n_answers: int = 1) -> "WarmServer | None":
        """The server of this user; None: there is none, or this command may not use one. `n_answers`: at once."""
        if options.no_server or options.endpoint or settings.is_private or options.draft or options.speculation:
            return None
        made = [connect(socket_path(settings)) for _ in range(1 + n_answers)]
        connections = [each for each in made if each is not None]
        return None if len(connections) < len(made) else cls(connections[0], connections[1:])

    def instead_of(
        self, model: BackendModel, options: GenerationOptions, settings: Settings
    ) -> "WarmLocalModel | None":
        """The model in the server's memory; None when it is another one, or computed in another way."""
        from slmchat.engine.warm.codec import decode
        from slmchat.engine.warm.connection import ask
        from slmchat.engine.warm.engine import WarmEngine, WarmModel

        with contextlib.suppress(SlmError, KeyError, TypeError, ValueError, OSError):
            self._asking.wait_at_most(HELLO_S)
            said: dict[str, Any] = ask(self._asking, {"hello": True})
            self._asking.wait_at_most(None)
            wanted = {"version": __version__, "key": model.key, "options": list(computed_with(options))}
            if isinstance(model, LocalModel) and said == wanted:
                warm = decode(WarmModel, ask(self._asking, {"model": True})["model"])
                if (options.ctx or settings.n_ctx or 0) <= warm.n_ctx:
                    return WarmLocalModel(
                        model.installed, WarmEngine(self._asking, self._generating, warm), warm.n_ctx, warm.is_ctx_asked
                    )
        return None


class WarmLocalModel(LocalModel):
    """An installed model that is in the memory of a server already."""

    def __init__(self, installed: Installed, engine: "WarmEngine", n_ctx: int, is_ctx_asked: bool = False) -> None:
        """`n_ctx`: the largest window there; `is_ctx_asked`: its user has chosen that."""
        super().__init__(installed)
        self.engine = engine
        self.n_ctx = n_ctx
        self.is_ctx_asked = is_ctx_asked

    def here(self) -> LocalModel:
        """The same, to be loaded by this process."""
        return LocalModel(self.installed)

    def with_projector(self, path: str | None) -> "WarmLocalModel":
        return self

    def start(self, options: GenerationOptions, settings: Settings, beside: "LoadedBeside") -> "Loading":
        """It is loaded."""
        from slmchat.models.loader import Loading

        return Loading(lambda: (self.engine, None))

    def report(self, loading: "Loading", reporter: Reporter) -> None:
        reporter.detail("from the memory of slm serve")
