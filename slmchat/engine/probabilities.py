"""Probabilities of tokens, from the logits of an evaluated token.

Knows: the softmax over a vocabulary. Refuses to know: what was evaluated, and what is done with it.
"""

import ctypes
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class LogProbabilities:
    """Reads the logits of a context."""

    def __init__(self, api: ModuleType, n_tokens: int) -> None:
        """`n_tokens`: size of the vocabulary."""
        self._api = api
        self._row = ctypes.c_float * n_tokens

    def after(self, context: Any, index: int) -> "Follows":
        """What may follow the token at `index` of the last batch (-1: its last one). Copied: it outlives the batch."""
        import numpy

        # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
        pointer = self._api.llama_get_logits_ith(context, index)
        row = ctypes.cast(pointer, ctypes.POINTER(self._row)).contents
        logits = numpy.frombuffer(memoryview(row).cast("B"), dtype=numpy.float32).astype(numpy.float64)
        highest = float(logits.max())
        return Follows(logits, highest + math.log(float(numpy.exp(logits - highest).sum())))


class Follows:
    """Log-probabilities (natural logarithm) of every token at one place."""

    def __init__(self, logits: Any, total: float) -> None:
        """`total`: the logarithm of the sum of all exponentials."""
        self._logits = logits
        self._total = total

    def of(self, token: int) -> float:
        """The log-probability of this token."""
        return float(self._logits[token]) - self._total

    def of_any(self, tokens: Sequence[int]) -> float:
        """The log-probability that one of these comes; negative infinity when there are none."""
        total = sum(math.exp(self.of(token)) for token in tokens)
        return math.log(total) if total > 0 else -math.inf
