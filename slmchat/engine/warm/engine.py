"""The engine of a server of this user, as a command sees it: `WarmEngine`.

The server does what an engine here would do; the chat template, the checks of an answer and its exit code stay here.

Knows: which connection is for what. Refuses to know: what is said on one (session.py), where the socket is, whether
the model is the right one (models/warm_server.py).
"""

from collections.abc import Sequence
from typing import Any

from slmchat.engine.api import ModelInfo, Pool, Session
from slmchat.engine.requests import Prompt, SessionSettings
from slmchat.engine.results import AtLeast
from slmchat.engine.warm.codec import encode
from slmchat.engine.warm.connection import WarmConnection, ask
from slmchat.engine.warm.pool import WarmPool
from slmchat.engine.warm.session import WarmSession, only_answers
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WarmModel:
    """The model in a server's memory. `n_ctx`: the context window of a request there; `is_ctx_asked`: it was asked for,
    not chosen as suits the device. `most`: how many answers at once."""

    n_ctx: int
    most: int
    info: ModelInfo
    is_ctx_asked: bool = False


class AnswersOnly:
    """What else an `Engine` is asked for raises `SlmError` (USAGE): who wants it has an engine of its own."""

    def _refused(self, settings: SessionSettings, *_: Any, **_named: Any) -> Any:
        raise only_answers()

    open_pool = open_stream_pool = open_scorer = open_text_logits = embedder = _refused


class WarmEngine(AnswersOnly):
    """A loaded model in another process. Implements `Engine`, for sessions and pools."""

    def __init__(self, asking: WarmConnection, generating: Sequence[WarmConnection], model: WarmModel) -> None:
        """`asking`: for short questions, from any thread. `generating`: one for each answer at a time."""
        self._asking = asking
        self._generating = generating
        self._model = model

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    @property
    def most(self) -> int:
        """How many answers there can be at once."""
        return min(len(self._generating), self._model.most)

    def is_gone(self) -> bool:
        """Whether the server has ended, or a connection is of no more use. Between answers."""
        return any(connection.is_gone() for connection in (self._asking, *self._generating))

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        """Number of tokens, as the server counts them. Raises `SlmError` (NETWORK) when it is gone."""
        said = ask(self._asking, {"count": encode(prompt), "most": most})
        return (AtLeast if said["is_least"] else int)(said["count"])

    def open_session(self, settings: SessionSettings) -> Session:
        """A turn in the server's queue for each generation."""
        return self._session(self._generating[0], settings)

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> Pool:
        """Turns in the server's queue side by side: `parallel`, None: as many as it has."""
        count = min(parallel or self.most, self.most)
        return WarmPool([self._session(connection, settings) for connection in self._generating[:count]])

    def _session(self, connection: WarmConnection, settings: SessionSettings) -> WarmSession:
        return WarmSession(connection, min(max(settings.n_ctx, settings.most_ctx), self._model.n_ctx))

    def close(self) -> None:
        for connection in (self._asking, *self._generating):
            connection.close()
