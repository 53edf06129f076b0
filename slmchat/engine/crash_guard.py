"""A model is guarded until it has given its first token: if llama.cpp ends slm before, the next start can tell it.

A native abort leaves no time to say anything. So a marker stands on the disk (crash_markers.py) while llama.cpp does
something with a model that it has not done yet: it loads, opens a session or a pool, looks at a first image, evaluates
a first prompt. A marker whose process is gone tells what happened. From the first token on the model is proven, and
its sessions run as if there were no guard.

Knows: which steps of an `Engine` and a `Session` are guarded, and how an earlier slm ended with a model.
Refuses to know: how a model is loaded, what follows from an end (models that crash are tried with less elsewhere).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from slmchat.engine import crash_markers
from slmchat.engine.api import (
    Adapter,
    Chunk,
    Embedder,
    Embedding,
    Engine,
    Event,
    Finish,
    Limits,
    ModelInfo,
    Pool,
    Prefill,
    Prompt,
    Request,
    Result,
    Session,
    SessionSettings,
    StreamPool,
    TextLogits,
    TextOrTokens,
)
from slmchat.engine.crash_markers import CrashMarker
from slmchat.engine.crash_markers import Ended as Ended
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError

Record = TypeVar("Record", Event, Result, Embedding | SlmError)


class CrashGuard:
    """The guard of one model in this process. From any thread."""

    def __init__(self, model: Path, data: Path | None) -> None:
        """`data`: slm's data directory; None: nothing is left on the disk, so that nothing is guarded."""
        self._marker = None if data is None else CrashMarker(data, model)
        self._lock = threading.Lock()
        self._depth = 0

    def load(self, load: Callable[[], Engine]) -> Engine:
        """The engine that `load` gives, guarded as long as it is not proven. Raises what `load` raises."""
        with self:
            engine = load()
        return _GuardedEngine(engine, self) if self.is_on else engine

    @property
    def is_on(self) -> bool:
        """Whether the model is not proven yet."""
        return self._marker is not None

    def stop(self) -> None:
        """The model is proven, or nothing may be left on the disk from now on."""
        with self._lock:
            marker, self._marker = self._marker, None
            if marker is not None:
                marker.clear()

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._marker is not None:
                self._marker.set()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._marker is not None and not self._depth:
                self._marker.clear()

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        """These records; the first that is neither progress nor a failure proves the model."""
        return self._watched(records) if self.is_on else records

    def _watched(self, records: Iterator[Record]) -> Iterator[Record]:
        with self:
            for record in records:
                is_failure = isinstance(record, SlmError) or (isinstance(record, Result) and record.error is not None)
                if not isinstance(record, Prefill) and not is_failure:
                    break
                yield record
            else:
                return
            self.stop()
        yield record
        yield from records


class _GuardedEngine:
    """Implements `Engine`."""

    def __init__(self, engine: Engine, guard: CrashGuard) -> None:
        self.engine = engine
        self.guard = guard
        self.close = engine.close
        self._has_counted = False

    @property
    def info(self) -> ModelInfo:
        return self.engine.info

    def count(self, prompt: Prompt) -> int:
        if self._has_counted and not any(part.image for part in prompt.parts):  # an image opens the projector
            return self.engine.count(prompt)
        with self.guard:
            count = self.engine.count(prompt)
        self._has_counted = True
        return count

    def open_session(self, settings: SessionSettings) -> Session:
        with self.guard:
            session = self.engine.open_session(settings)
        return _GuardedSession(session, self.guard) if self.guard.is_on else session

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> Pool:
        with self.guard:
            return _GuardedPool(self.engine.open_pool(settings, parallel), self.guard)

    def open_stream_pool(self, settings: SessionSettings, parallel: int | None = None) -> StreamPool:
        with self.guard:
            return _GuardedStreamPool(self.engine.open_stream_pool(settings, parallel), self.guard)

    def open_scorer(self, settings: SessionSettings) -> Pool:
        with self.guard:
            return _GuardedPool(self.engine.open_scorer(settings), self.guard)

    def embedder(self, settings: SessionSettings, *, is_cut: bool = False) -> Embedder:
        return _GuardedEmbedder(self.engine.embedder(settings, is_cut=is_cut), self.guard)

    def open_text_logits(self, settings: SessionSettings) -> TextLogits:
        with self.guard:
            return _GuardedTextLogits(self.engine.open_text_logits(settings), self.guard)


class _GuardedTextLogits:
    """Implements `TextLogits`."""

    def __init__(self, logits: TextLogits, guard: CrashGuard) -> None:
        self._logits = logits
        self._guard = guard
        self.tokens = logits.tokens
        self.cancel = logits.cancel
        self.close = logits.close

    def read(self, tokens: Sequence[int]) -> Iterator[Any]:
        with self._guard:
            yield from self._logits.read(tokens)


class _GuardedEmbedder:
    """Implements `Embedder`."""

    def __init__(self, embedder: Embedder, guard: CrashGuard) -> None:
        self._embedder = embedder
        self._guard = guard
        self.cancel = embedder.cancel
        self.close = embedder.close

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        return self._guard.watch(self._embedder.run(texts))


class _GuardedSession:
    """Implements `Session`."""

    def __init__(self, session: Session, guard: CrashGuard) -> None:
        self._session = session
        self._guard = guard
        self.cancel = session.cancel
        self.keep = session.keep
        self.close = session.close

    @property
    def n_ctx(self) -> int:
        return self._session.n_ctx

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        return self._guard.watch(self._session.generate(prompt, sampler, limits))

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        with self._guard:
            self._session.set_adapters(adapters)


class _GuardedPool:
    """Implements `Pool`."""

    def __init__(self, pool: Pool, guard: CrashGuard) -> None:
        self._pool = pool
        self._guard = guard
        self.resubmit = pool.resubmit
        self.cancel = pool.cancel
        self.close = pool.close

    @property
    def report(self) -> str:
        return self._pool.report

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        return self._guard.watch(self._pool.run(requests))


class _GuardedStreamPool:
    """Implements `StreamPool`."""

    def __init__(self, pool: StreamPool, guard: CrashGuard) -> None:
        self._pool = pool
        self._guard = guard
        self.cancel = pool.cancel
        self.keep_one = pool.keep_one
        self.close = pool.close
        self.n_ctx = pool.n_ctx
        self.most = pool.most
        self.report = pool.report

    @property
    def has_room(self) -> bool:
        return self._pool.has_room

    @property
    def is_idle(self) -> bool:
        return self._pool.is_idle

    def begin(self, request: Request) -> Prefill:
        with self._guard:
            return self._pool.begin(request)

    def step(self) -> Iterator[tuple[int, Event | SlmError]]:
        if not self._guard.is_on:
            return self._pool.step()
        with self._guard:
            events = list(self._pool.step())
        if any(isinstance(event, Chunk | Finish) for _, event in events):
            self._guard.stop()
        return iter(events)


def unguarded(engine: Engine) -> Engine:
    """The engine itself, for those who need more of it than `Engine` promises."""
    return engine.engine if isinstance(engine, _GuardedEngine) else engine


@contextmanager
def examined(engine: Engine) -> Iterator[Engine]:
    """The engine itself; everything that is done with it meanwhile is guarded."""
    with engine.guard if isinstance(engine, _GuardedEngine) else nullcontext():
        yield unguarded(engine)


def last_end(data: Path, model: Path) -> Ended | None:
    """How an earlier slm ended while it first worked on this model; None: well, or by somebody's wish."""
    return crash_markers.ended(data, model)


def forget_last_end(data: Path, model: Path) -> None:
    """It has been told: the next start does not tell it again."""
    crash_markers.take(data, model)


def untold_ends(data: Path, models: Sequence[Path]) -> dict[Path | None, Ended]:
    """The ends that nobody has been told of, by model; None stands for models that are not among these."""
    left = crash_markers.left(data)
    found: dict[Path | None, Ended] = {}
    for model in models:
        own = crash_markers.left(data, model)
        if own:
            found[model] = Ended.worst(own.values())
        left = {marker: how for marker, how in left.items() if marker not in own}
    if left:
        found[None] = Ended.worst(left.values())
    return found
