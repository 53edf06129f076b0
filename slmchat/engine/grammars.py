"""Grammars that llama.cpp has read for a loaded model, and a copy of one for each answer (`ReadGrammars`).

All rows of a batch have the grammar of one schema. To read it costs 1 ms for most schemas and 90 ms for a large one; to
copy what has been read, a fifth to a thirtieth of that. What is kept has chosen nothing yet, so a copy begins where a
grammar that was just read begins.

Knows: which grammars were asked for last. Refuses to know: how one is read (constraint.py), what it is for.
"""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

# A schema has two: with soft limits and without. llama.cpp takes some eight bytes for each character of a grammar.
_MOST = 4


class ReadGrammars:
    """The grammars of one model. From any thread."""

    def __init__(self, api: ModuleType) -> None:
        self._api = api
        self._kept: dict[str, Any] = {}
        self._lock = threading.Lock()

    def copy(self, gbnf: str, read: Callable[[], Any]) -> Any:
        """llama.cpp's sampler of this grammar, which the caller frees. `read` reads it; what it raises is raised."""
        with self._lock:
            kept = self._kept.pop(gbnf, None) or read()
            self._kept[gbnf] = kept
            if len(self._kept) > _MOST:
                self._api.llama_sampler_free(self._kept.pop(next(iter(self._kept))))
            # struct llama_sampler * llama_sampler_clone(const struct llama_sampler * smpl);
            return self._api.llama_sampler_clone(kept)

    def close(self) -> None:
        """Free what is kept, before the model goes; copies stay."""
        with self._lock:
            while self._kept:
                self._api.llama_sampler_free(self._kept.popitem()[1])
