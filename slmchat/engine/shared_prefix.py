"""The beginning that many prompts share: evaluated once (`SharedPrefix`), for pools that work so (`PrefixPool`).

The rows of a batch mostly begin alike: an instruction, a document, examples. That beginning stands in a sequence of its
own in the KV cache, and the sequence of every prompt begins as a copy of it, which takes no memory and no time. Its
state is kept on the disk: the next batch, run, chat or server that begins so reads none of it.

Knows: how long the shared prefix is, what a prompt has in common with it, how requests reach a pool and are given up.
Refuses to know: when another prefix pays, and what happens behind it (pool.py, scoring.py).
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic

from slmchat.engine.feed import Feed, Prepared
from slmchat.engine.image_tokens import is_image_token, whole
from slmchat.engine.kvstore import MIN_TOKENS, SHARED, KvStore, StateKey, shared_length
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.requests import Request, SessionSettings, counting_adapters
from slmchat.engine.results import Result
from slmchat.engine.sequences import Sequences

MIN_SHARED = 8
"""A shared beginning that is shorter is not worth a sequence of its own."""

SECOND_PROMPT_S = 0.05
"""How long the first prompt waits for a second one, in seconds: what they share is then evaluated once."""

_SEQUENCE = 0  # that of the prefix; those of the prompts are 1, 2, ...


class SharedPrefix:
    """The tokens of sequence 0."""

    def __init__(
        self, sequences: Sequences, is_cancelled: Callable[[], bool], store: KvStore | None, key: StateKey | None
    ) -> None:
        """`store` None: nothing is on the disk. `key`: what a state there depends on."""
        self._sequences = sequences
        self._is_cancelled = is_cancelled
        self._store = store if key is not None else None
        self._key = key or StateKey(Path(), "")
        self._snapshots = sequences.snapshots(_SEQUENCE)
        self._n_last = 0  # length of the last one
        self._n_known = 0  # tokens of it that were on the disk
        self.tokens: list[int] = []

    @property
    def report(self) -> str:
        """The end of a line for `-v`: how much was shared, "" for nothing."""
        if not self._n_last:
            return ""
        known = f", {self._n_known:,} of them before this" if self._n_known else ""
        return f"; {self._n_last:,} tokens of every prompt were evaluated once{known}"

    def common(self, tokens: Sequence[int]) -> int:
        """How many tokens a prompt begins with that are the prefix's."""
        return n_common(self.tokens, tokens)

    def replace(self, tokens: list[int]) -> int:
        """Evaluate these tokens as the new prefix; its length: 0 where it is too short or the cache has no place."""
        self.forget()
        if len(tokens) < MIN_SHARED:
            return 0
        self._n_known = self._from_disk(tokens)
        if not self._read(tokens, self._n_known):
            return 0
        if self._n_known < len(tokens):
            self._keep()
        return len(tokens)

    def grow(self, tokens: list[int]) -> int:
        """Evaluate the rest of these tokens, which begin with the prefix, and let all of them be it; its length: 0
        where the cache has no place. Not for the disk: what one row adds is of no use to another."""
        return len(tokens) if self._read(tokens, len(self.tokens)) else 0

    def cut(self, n_tokens: int) -> int:
        """Let the prefix be its own first tokens, which are evaluated again only where the memory cannot be cut."""
        kept = self.tokens[:n_tokens]
        if not self._sequences.cut(_SEQUENCE, self._sequences.position(kept, n_tokens)):
            return self.replace(kept)
        self.tokens, self._n_last = kept, n_tokens
        return n_tokens

    def _read(self, tokens: list[int], begin: int) -> bool:
        """Evaluate these tokens from `begin` on, and let all of them be the prefix; False: there is none now."""
        if not self._sequences.read(_SEQUENCE, tokens, begin, len(tokens)) or self._is_cancelled():
            self.forget()
            return False
        self.tokens, self._n_last = tokens, len(tokens)
        return True

    def _from_disk(self, tokens: list[int]) -> int:
        """How many of these tokens the sequence holds after what is on the disk of them was read."""
        if self._store is None or not self._is_for_disk(tokens):
            return 0
        found = self._store.find(self._key, tokens, self._snapshots.usable, MIN_TOKENS)
        if found is None or not self._sequences.load(_SEQUENCE, found.tokens, found.path):
            return 0
        n_same = shared_length(found.tokens, tokens)
        if n_same < len(found.tokens) and not self._snapshots.cut(n_same):
            self._sequences.forget(_SEQUENCE)
            return 0
        return n_same

    def _keep(self) -> None:
        if self._store is not None and self._is_for_disk(self.tokens):
            size = self._sequences.state_size(_SEQUENCE)
            write: Callable[[Path], bool] = lambda path: self._sequences.save(_SEQUENCE, self.tokens, path)  # noqa: E731
            self._store.put(self._key, SHARED, self.tokens, size, write)

    def _is_for_disk(self, tokens: Sequence[int]) -> bool:
        """A beginning with pictures is not: its tokens do not say what is in them."""
        return len(tokens) >= MIN_TOKENS and not any(map(is_image_token, tokens))

    def begin(self, sequence: int, n_tokens: int) -> None:
        """Let a sequence, which is empty, begin with the first tokens of the prefix."""
        if n_tokens:
            self._sequences.copy(_SEQUENCE, sequence, self._sequences.position(self.tokens, n_tokens))

    def forget(self) -> None:
        """Take the prefix out of the cache; copies of it stay."""
        self._sequences.forget(_SEQUENCE)
        self.tokens = []

    def forget_all(self) -> None:
        """Empty the cache: the prefix and everything that began with it."""
        self._sequences.forget_all()
        self.tokens = []


class PrefixPool(ABC, Generic[Prepared]):
    """What every `Pool` on a KV cache of llama.cpp's has: the cache, its adapters, the requests on their way to it."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: SessionSettings,
        *,
        most: int,
        n_sequences: int,
        n_cells: int,
        abortable_from: int,
        key: StateKey | None = None,
        has_images: bool = False,
    ) -> None:
        """`most`: prompts that are worked on at once. `abortable_from` and `has_images`: as in `Sequences`.
        `key`: what states on the disk depend on, None: none are kept.

        Raises `SlmError`: NO_FIT for the memory of the KV cache, DAMAGED for an adapter of another model.
        """
        self._loaded = loaded
        self._vocabulary = loaded.vocabulary
        self._n_ctx = settings.n_ctx
        self._most = most
        self._waits = settings.waits_for_requests  # however long they take
        self._is_cancelled = False
        self._feed: Feed[Prepared] | None = None
        self._resubmitted: deque[Request] = deque()
        self._sequences = Sequences(
            loaded,
            settings,
            n_sequences=n_sequences,
            n_cells=n_cells,
            is_cancelled=lambda: self._is_cancelled,
            abortable_from=abortable_from,
            has_images=has_images,
            longest=settings.n_ctx,
        )
        if key is not None and (adapters := counting_adapters(settings.adapters)):
            key = key.with_more(repr(adapters))
        self._prefix = SharedPrefix(self._sequences, lambda: self._is_cancelled, settings.store, key)

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests, as `Pool` says."""
        self._is_cancelled = False
        self._feed = Feed(requests, self._prepare, ahead=self._most)
        return self._run(self._feed)

    def resubmit(self, request: Request) -> None:
        """Work on this request too, before those that wait."""
        self._resubmitted.append(request)

    def cancel(self) -> None:
        """End the `run` that goes on; from any thread or a signal handler."""
        self._is_cancelled = True
        if self._feed is not None:
            self._feed.wake()

    def close(self) -> None:
        """Free the KV cache."""
        self._sequences.close()

    @abstractmethod
    def _prepare(self, request: Request) -> Prepared | Result:
        """On the feed's thread: what is worked on, or the reason why it cannot be done."""

    @abstractmethod
    def _run(self, feed: Feed[Prepared]) -> Iterator[Result]: ...


def n_common(one: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of the common beginning, images in it whole; the last token of `prompt` does not count, its logits are
    needed."""
    return whole(prompt, min(shared_length(one, prompt), len(prompt) - 1))
