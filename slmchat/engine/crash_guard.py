"""A model is guarded until it has given its first token: if llama.cpp ends slm before, the next start can tell it.

A native abort leaves no time to say anything. So a marker stands on the disk (crash_markers.py) while llama.cpp does
something with a model that it has not done yet: it loads, opens a session or a pool, looks at a first image, evaluates
a first prompt. A marker whose process is gone tells what happened. From the first token on the model is proven, and
its sessions run as if there were no guard.

Knows: which steps of an `Engine`, and of what it opens, are guarded, and how an earlier slm ended with a model.
Refuses to know: how a model is loaded, what follows from an end (models that crash are tried with less elsewhere).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

from slmchat.engine import crash_markers
from slmchat.engine.api import Engine
from slmchat.engine.crash_markers import CrashMarker
from slmchat.engine.crash_markers import Ended as Ended
from slmchat.engine.requests import Prompt
from slmchat.engine.results import Chunk, Event, Finish, Prefill, Result
from slmchat.errors import SlmError


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
        return cast(Engine, _GuardedEngine(engine, self)) if self.is_on else engine

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

    def watch(self, records: Iterator[Any]) -> Iterator[Any]:
        """These records; the first that is neither progress nor a failure proves the model."""
        return self._watched(records) if self.is_on else records

    def _watched(self, records: Iterator[Any]) -> Iterator[Any]:
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


class _Guarded:
    """An engine, or what it has opened, behind the guard. What has no way in `_WAYS` is the thing's own."""

    def __init__(self, own: Any, guard: CrashGuard) -> None:
        self.own = own
        self.guard = guard

    def __getattr__(self, name: str) -> Any:
        found, way = getattr(self.own, name), _WAYS.get(name)
        if way is None:
            return found
        made = self.__dict__[name] = partial(way, self.guard, found)  # looked up once: a server steps for every token
        return made


class _GuardedEngine(_Guarded):
    """Implements `Engine`."""

    _has_counted = False

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        count: int
        if self._has_counted and not any(part.image for part in prompt.parts):  # an image opens the projector
            count = self.own.count(prompt, most)
            return count
        with self.guard:
            count = self.own.count(prompt, most)
        self._has_counted = True
        return count


def _opened(guard: CrashGuard, open: Callable[..., Any], *given: Any, **named: Any) -> Any:
    made = _done(guard, open, *given, **named)
    return _Guarded(made, guard) if guard.is_on else made


def _done(guard: CrashGuard, do: Callable[..., Any], *given: Any, **named: Any) -> Any:
    with guard:
        return do(*given, **named)


def _watched(guard: CrashGuard, records: Callable[..., Iterator[Any]], *given: Any) -> Iterator[Any]:
    return guard.watch(records(*given))


def _stepped(guard: CrashGuard, step: Callable[[], Iterator[tuple[int, Event | SlmError]]]) -> Iterator[Any]:
    if not guard.is_on:
        return step()
    events = _done(guard, lambda: list(step()))
    if any(isinstance(event, Chunk | Finish) for _, event in events):
        guard.stop()
    return iter(events)


# What is done with llama.cpp for the first time, by the names of the methods in engine/api.py.
_WAYS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("open_session", "open_pool", "open_stream_pool", "open_scorer", "open_text_logits"), _opened),
    "embedder": _opened,
    **dict.fromkeys(("set_adapters", "begin"), _done),
    **dict.fromkeys(("generate", "run", "read"), _watched),
    "step": _stepped,
}


def unguarded(engine: Engine) -> Engine:
    """The engine itself, for those who need more of it than `Engine` promises."""
    return cast(Engine, engine.own) if isinstance(engine, _GuardedEngine) else engine


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
