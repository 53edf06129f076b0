"""A model of an OpenAI-compatible endpoint (`RemoteEngine`).

Knows: which model is meant, that it is laid out and counted over there. Refuses to know: conversations (session.py),
terminals, where the endpoint and its key are kept (endpoints.py).

Messages are sent as turns, and token counts are estimates until the endpoint tells its own. A session has a connection
of its own, so that many can ask at once.
"""

import difflib
from collections.abc import Callable
from contextlib import closing

from slmchat.endpoints import Endpoint
from slmchat.engine.api import ModelInfo, Pool, StreamPool, TextLogits
from slmchat.engine.remote import dialect, errors
from slmchat.engine.remote.adapters import RemoteAdapter, list_adapters
from slmchat.engine.remote.client import Client
from slmchat.engine.remote.dialect import Listed
from slmchat.engine.remote.embedding import RemoteEmbedder
from slmchat.engine.remote.known_model import KnownModel
from slmchat.engine.remote.pool import AT_ONCE, RemotePool
from slmchat.engine.remote.route import Route
from slmchat.engine.remote.scorer import RemoteScorer
from slmchat.engine.remote.session import RemoteSession
from slmchat.engine.requests import Prompt, SessionSettings
from slmchat.errors import ExitCode, SlmError, usage_error


class RemoteEngine:
    """A model over there. Implements `Engine`."""

    def __init__(self, client: Client, new_client: Callable[[], Client], model: Listed) -> None:
        """`client` has asked for the models; the first session goes on with its connection."""
        self._model = KnownModel(client.endpoint, model)
        self._new_client = new_client
        self._spare: Client | None = client

    @property
    def model(self) -> Listed:
        """What is known of the model now: an answer may have taught more than the endpoint's list said."""
        return self._model.listed

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            architecture="remote",
            trained_context_length=self._model.n_ctx,
            chat_template=None,
            bos_text="",
            eos_text="",
            has_own_layout=True,
            has_exact_counts=False,
        )

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        """About how many tokens the prompt has; better once the endpoint has counted one itself."""
        return self._model.count(prompt)

    def open_session(self, settings: SessionSettings) -> RemoteSession:
        """A new conversation. The endpoint decides how it computes: of the `settings` only the adapters have a say."""
        client, self._spare = self._spare or self._new_client(), None
        session = RemoteSession(self._model, client)
        session.set_adapters(settings.adapters)
        return session

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> RemotePool:
        """Up to `parallel` requests at once; the endpoint decides how it computes them."""
        most, why = parallel or AT_ONCE, "as asked for" if parallel else "more: --parallel N"
        if self.model.kind.answers_one:
            most, why = 1, "a second one would end the first on this server"
        return RemotePool(lambda: self.open_session(settings), most, why)

    def open_stream_pool(self, settings: SessionSettings, parallel: int | None = None) -> StreamPool:
        """Raises `SlmError` (USAGE): an endpoint has a queue of its own."""
        raise usage_error("the model of an endpoint cannot be served again.")

    def embedder(self, settings: SessionSettings, *, is_cut: bool = False) -> RemoteEmbedder:
        """Texts to vectors over there. What is too long, the endpoint refuses, or cuts by itself."""
        client, self._spare = self._spare or self._new_client(), None
        return RemoteEmbedder(self._model.endpoint, self._model.listed.id, client)

    def open_scorer(self, settings: SessionSettings) -> Pool:
        """Scores from what the endpoint tells of the first token of an answer, in chats."""
        return RemoteScorer(self.open_pool(settings), self._model.endpoint.address)

    def open_text_logits(self, settings: SessionSettings) -> TextLogits:
        """Raises `SlmError` (USAGE): no endpoint tells all of them."""
        raise usage_error("an endpoint does not tell all logits of a text.")

    def close(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None


def load(
    endpoint: Endpoint, key: str | None, name: str | None, route: Route, tell: Callable[[str], None]
) -> RemoteEngine:
    """The model of this name on an endpoint, or its only one. `tell` hears what the user should know meanwhile.

    Raises `SlmError`: NETWORK when the endpoint cannot be asked, NO_MODEL with the closest names.
    """

    def new_client() -> Client:
        return Client(endpoint, key, route, tell)

    client = new_client()
    name = name or endpoint.model
    models = _models(client, must_tell=name is None)
    return RemoteEngine(client, new_client, Listed(name) if models is None and name else choose(models, name, endpoint))


def list_models(endpoint: Endpoint, key: str | None, route: Route, tell: Callable[[str], None]) -> tuple[Listed, ...]:
    """The models of an endpoint. Raises `SlmError` (network)."""
    with closing(Client(endpoint, key, route, tell)) as client:
        return _models(client, must_tell=True) or ()


def _models(client: Client, *, must_tell: bool) -> tuple[Listed, ...] | None:
    """What `/models` lists; None where an endpoint has no such list, unless it `must_tell`."""
    try:
        found = dialect.listed(client.get("/models"))
    except errors.Refusal as refusal:
        if refusal.status not in (404, 405, 501):
            raise
        if must_tell:
            raise errors.lists_nothing(client.endpoint, refusal) from refusal
        return None
    if found is None and must_tell:
        raise errors.garbled(client.endpoint, "it is not a list of models")
    return found


def served_adapters(
    endpoint: Endpoint, key: str | None, route: Route, tell: Callable[[str], None]
) -> tuple[RemoteAdapter, ...]:
    """The LoRA adapters of an endpoint. Raises `SlmError` as `list_adapters` does."""
    with closing(Client(endpoint, key, route, tell)) as client:
        return list_adapters(client)


def choose(models: tuple[Listed, ...] | None, name: str | None, endpoint: Endpoint) -> Listed:
    """The model that is meant. Raises `SlmError` (no model)."""
    models = models or ()
    where = endpoint.address
    hint = f"slm list --endpoint {endpoint.asked_as}"
    if name is None:
        if len(models) == 1:
            return models[0]
        what = "has no model" if not models else f"has {len(models):,} models and none is chosen"
        raise SlmError(f"{where} {what}.", hint=f"name one with -m; {hint}", exit_code=ExitCode.NO_MODEL)
    for spelled in (name, f"{name}:latest"):  # as Ollama reads a name without a tag
        for model in models:
            if spelled in (model.id, *model.aliases):
                return model
    same = [model for model in models if model.id.casefold() == name.casefold()]
    if len(same) == 1:
        return same[0]
    near = _near(name, [model.id for model in models])
    hint = f"did you mean {', '.join(near)}?" if near else hint
    raise SlmError(f"{where} has no model '{name}'.", hint=hint, exit_code=ExitCode.NO_MODEL)


def _near(name: str, ids: list[str]) -> list[str]:
    folded = {id.casefold(): id for id in ids}
    for id in ids:  # llama-server names a model by its file
        folded.setdefault(id.rpartition("/")[2].casefold().removesuffix(".gguf"), id)
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    parts = [low for low in folded if name.casefold() in low]
    return list(dict.fromkeys(folded[low] for low in [*close, *parts]))[:3]
