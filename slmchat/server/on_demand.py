"""Something heavy that is loaded when it is first asked for, and freed when nobody has asked for a while.

Knows: when it is there, how many are using it. Refuses to know: what it is, what is asked of it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

# What is being used is looked at again after so many seconds at the earliest.
_LOOK_AGAIN_S = 1.0


class _Closable(Protocol):
    """What can be freed."""

    def close(self) -> None: ...


Held = TypeVar("Held", bound=_Closable)


class OnDemand(Generic[Held]):
    """One thing that comes and goes. From any thread."""

    def __init__(self, load: Callable[[], Held], keep_alive_s: float | None) -> None:
        """`keep_alive_s`: after so many seconds without a use it is freed; None: never."""
        self._load_it = load
        self._keep_alive_s = keep_alive_s
        self._changed = threading.Condition()
        self._loaded: Held | None = None
        self._is_changing = False  # it is being loaded or freed, by one thread, without the lock
        self._n_users = 0
        self._used_at = time.monotonic()

    @property
    def loaded(self) -> Held | None:
        """What is in memory; None: nothing."""
        return self._loaded

    @contextmanager
    def used(self) -> Iterator[Held]:
        """It, loaded, which stays while this lasts. Raises what its loading raises."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            self._n_users += 1
            self._is_changing = is_loading = self._loaded is None
        try:
            if is_loading:
                self._load()
            loaded = self._loaded
            assert loaded is not None
            yield loaded
        finally:
            with self._changed:
                self._n_users -= 1
                self._used_at = time.monotonic()

    def _load(self) -> None:
        loaded: Held | None = None
        try:
            loaded = self._load_it()
        finally:
            with self._changed:
                self._loaded, self._is_changing = loaded, False
                self._changed.notify_all()

    def unload_if_idle(self) -> float | None:
        """Free it if it is time; the seconds after which to ask again, None: never."""
        if self._keep_alive_s is None:
            return None
        with self._changed:
            if self._loaded is None or self._is_changing:  # nobody can have left it alone for long by then
                return self._keep_alive_s
            left = self._used_at + self._keep_alive_s - time.monotonic()
            if self._n_users or left > 0:
                return max(left, _LOOK_AGAIN_S)
        self.close()
        return self._keep_alive_s

    def close(self) -> None:
        """Free it; what is being done with it ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_changing)
            loaded, self._is_changing = self._loaded, True
        if loaded is not None:
            loaded.close()
        with self._changed:
            self._loaded, self._is_changing = None, False
            self._changed.notify_all()
