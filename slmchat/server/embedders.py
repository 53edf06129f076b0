"""The embedding models of a server: those that are installed, each in memory while it is asked.

A request with many texts is made in groups, and after each of them the next request has its turn, and then the model
that chats. More requests than may wait are told to come back.

Knows: which one a name means, groups of texts, who is next. Refuses to know: the fields of requests and answers.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from slmchat.catalog.records import Installed
from slmchat.engine import heap
from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.models.embedding import embedder
from slmchat.models.open import OpenModel
from slmchat.server.connection import Gone
from slmchat.server.fields import BadRequest
from slmchat.server.on_demand import OnDemand
from slmchat.server.queue import Full
from slmchat.server.records import status_of
from slmchat.server.served_model import MOST_WAITING, RequestReporter
from slmchat.server.turns import ComputeTurns

# Architectures of embedding models that were trained so that a vector can be cut (Matryoshka): EmbeddingGemma, Nomic
# Embed 1.5 and 2, Qwen3 Embedding, Jina 3, as their makers state.
_SHORTENED = frozenset(("gemma-embedding", "nomic-bert", "nomic-bert-moe", "qwen3", "jina-bert-v3"))


# Texts of one turn: together so many characters at most (a token is about four of them), and so many of them. One that
# is longer has a turn for itself: it is evaluated whole.
_CHARACTERS = 4
_GROUP = 512 * _CHARACTERS
_MOST_IN_GROUP = 64


class EmbedderWeights:
    """An embedding model in memory."""

    def __init__(self, opened: OpenModel, turns: ComputeTurns) -> None:
        """Waits for the model. `turns`: what all models of this process share. Raises what its loading raises."""
        self.key = opened.model.key
        self._opened = opened
        self._embedder = embedder(opened, is_cut=False)
        self._turns = turns
        self._own_turns = ComputeTurns()
        opened.reporter = RequestReporter(opened.reporter)

    def vectors(self, texts: Sequence[TextOrTokens], is_gone: Callable[[], bool]) -> list[Embedding]:
        """A vector for each text.

        Raises `Full` when too many wait, `BadRequest` for a text that cannot be used, `Gone`, and `SlmError`.
        """
        if (n_waiting := self._own_turns.n_waiting) >= MOST_WAITING:
            raise Full(n_waiting)
        made: list[Embedding] = []
        for group in _groups(texts):
            with self._own_turns.turn(is_gone), self._turns.turn(is_gone):
                made += self._made(group, len(made))
            if is_gone():
                raise Gone
        return made

    def _made(self, group: Sequence[TextOrTokens], n_before: int) -> Iterator[Embedding]:
        results = self._embedder.run(iter(group))
        try:
            for number, result in enumerate(results, n_before):
                if isinstance(result, SlmError):
                    raise _refused(result, f"input[{number}]") from result
                yield result
        finally:
            self._embedder.cancel()  # what nobody wants any more
            deque(results, maxlen=0)

    @property
    def can_be_shortened(self) -> bool:
        """Whether the beginning of a vector is a vector, too."""
        return self._opened.engine.info.architecture in _SHORTENED

    def close(self) -> None:
        """Free the weights."""
        self._embedder.close()
        self._opened.close()
        heap.give_back()


class Embedders:
    """The embedding models that may be asked for. From any thread."""

    def __init__(
        self,
        open_model: Callable[[Installed], OpenModel],
        installed: Callable[[], Sequence[Installed]],
        keep_alive_s: float | None,
        first: Installed | None = None,
        turns: ComputeTurns | None = None,
    ) -> None:
        """`installed`: those that are here now. `first`: the one with which the server was started, as its own.
        `turns`: what they share with others that compute in this process."""
        self._turns = turns or ComputeTurns()
        self._open_model = open_model
        self._installed = installed
        self._keep_alive_s = keep_alive_s
        self._first = first
        self._changed = threading.Lock()
        self._held: dict[str, OnDemand[EmbedderWeights]] = {}

    def keys(self) -> list[str]:
        """The names of those that may be asked for."""
        return [each.key for each in self._known()]

    def used(self, name: str | None) -> AbstractContextManager[EmbedderWeights]:
        """The model of this name (None: the only one), loaded. Raises `BadRequest`, and what its loading raises."""
        meant = self._named(name)
        with self._changed:
            held = self._held.get(meant.key)
            if held is None:
                held = OnDemand(lambda: EmbedderWeights(self._open_model(meant), self._turns), self._keep_alive_s)
                self._held[meant.key] = held
        return held.used()

    def _named(self, name: str | None) -> Installed:
        known = self._known()
        if not name and (self._first or len(known) == 1):
            return self._first or known[0]
        for each in known:
            if name in (each.key, each.name):
                return each
        there_are = f"there are {', '.join(each.key for each in known)}" if known else "none is installed here"
        if not name:
            raise BadRequest(f"model must name an embedding model; {there_are}.", "model")
        message = f"the embedding model '{name[:200]}' is not here; {there_are}."
        raise BadRequest(message, "model", "model_not_found", 404)

    def _known(self) -> list[Installed]:
        others = [each for each in self._installed() if self._first is None or each.key != self._first.key]
        return [*([self._first] if self._first else []), *others]

    @property
    def is_loaded(self) -> bool:
        """Whether one is in memory."""
        return any(held.loaded is not None for held in self._all())

    def unload_if_idle(self) -> float | None:
        """Free what nobody has asked for long; the seconds after which to ask again, None: never."""
        return min((wait_s for held in self._all() if (wait_s := held.unload_if_idle()) is not None), default=None)

    def close(self) -> None:
        """Free them all."""
        for held in self._all():
            held.close()

    def _all(self) -> list[OnDemand[EmbedderWeights]]:
        with self._changed:
            return list(self._held.values())


def _groups(texts: Sequence[TextOrTokens]) -> Iterator[list[TextOrTokens]]:
    """The texts in the groups that are made in one turn."""
    group: list[TextOrTokens] = []
    size = 0
    for text in texts:
        length = len(text) if isinstance(text, str) else _CHARACTERS * len(text)
        if group and (size + length > _GROUP or len(group) == _MOST_IN_GROUP):
            yield group
            group, size = [], 0
        group.append(text)
        size += length
    yield group


def _refused(error: SlmError, place: str) -> BadRequest:
    status, code = status_of(error)
    return BadRequest(f"{place}: {error.message}", place, code, status)
