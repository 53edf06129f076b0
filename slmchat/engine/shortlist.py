"""The few tokens of a vocabulary that a sampler chain could choose (`Shortlist`), found with NumPy.

llama.cpp's chain begins with a list of all tokens, made anew for each token that is picked: 0.07 ms for 49,000 tokens
and 0.45 ms for 262,000; in a pool, where the list of each completion has left the processor's cache when it is its turn
again, 0.12 ms for 49,000. To a session that is 1 to 3 % of a token, and more to a pool, where a token costs less. So a
pool finds the best logit, and those near it, in the logits themselves (0.02 and 0.08 ms for 262,000) and lets the chain
choose among these. NumPy takes 0.1 s to import, which one answer would not earn back: a pool of a model with a large
vocabulary begins with it, others go on with it when they have picked many tokens.

Knows: which tokens the chain would be left with. Refuses to know: how the chain chooses among them.
"""

import ctypes
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

# From so many tokens of a vocabulary on, NumPy is worth its import to every pool; from so many logits on that a pool
# has looked at without it (1,000 tokens of 49,000), to every other: it would have paid by then.
_LARGE = 100_000
_EARNED = 50_000_000

# How far below the best logit candidates are looked for, one after the other; and how many are a short list.
_NEAR = (8.0, 16.0)
_MOST = 4096


# NumPy, once somebody has found it worth its import. Not looked up in sys.modules: another thread may be importing it.
_numpy: ModuleType | None = None


def prepare(n_tokens: int, n_picked: int = 0) -> None:
    """A pool picks from a vocabulary of this size, and has picked so many tokens."""
    global _numpy
    if _numpy is None and (n_tokens >= _LARGE or n_tokens * n_picked >= _EARNED):
        import numpy

        _numpy = numpy


def numpy_in_use() -> ModuleType | None:
    """NumPy, where it has been prepared in this process."""
    return _numpy


class Shortlist:
    """The logits of one context after another."""

    def __init__(self, api: ModuleType, n_tokens: int, numpy: ModuleType) -> None:
        self._api = api
        self._numpy = numpy
        self._row = ctypes.c_float * n_tokens
        data = api.llama_token_data  # struct llama_token_data { llama_token id; float logit; float p; };
        self._data = (data * _MOST)()
        made = numpy.dtype([("id", numpy.int32), ("logit", numpy.float32), ("p", numpy.float32)])
        assert made.itemsize == ctypes.sizeof(data)
        kept = numpy.frombuffer(self._data, made)
        self._ids, self._kept = kept["id"], kept["logit"]

    @classmethod
    def made(cls, api: ModuleType, n_tokens: int) -> "Shortlist | None":
        """None where NumPy has not been prepared."""
        return None if _numpy is None else cls(api, n_tokens, _numpy)

    def best(self, context: Any, index: int) -> int:
        """The token with the highest logit, of several the first, as llama.cpp's greedy sampler has it; one whose logit
        is not a number, where there is one."""
        return int(self._logits(context, index).argmax())

    def candidates(self, context: Any, index: int, count: int) -> Any:
        """llama.cpp's `llama_token_data_array` of the `count` tokens with the highest logits, and some more perhaps:
        valid until the next call.

        None where these are not few: so many are nearly alike, or so far apart; or they are not numbers.
        """
        logits = self._logits(context, index)
        highest = logits.max()
        for below in _NEAR:
            near = (logits >= highest - below).nonzero()[0]
            if len(near) >= count:
                break
        n_near = len(near)
        if not count <= n_near <= _MOST:
            return None
        self._ids[:n_near], self._kept[:n_near] = near, logits[near]
        return self._api.llama_token_data_array(data=self._data, size=n_near, selected=-1, sorted=False)

    def _logits(self, context: Any, index: int) -> "numpy.ndarray[Any, Any]":
        """Those at `index` of the last batch, not copied: they last until the next one."""
        # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
        row = self._api.llama_get_logits_ith(context, index)
        view = self._row.from_address(ctypes.addressof(row.contents))
        return self._numpy.frombuffer(view, dtype=self._numpy.float32)  # type: ignore[no-any-return]
