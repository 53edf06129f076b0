"""Probabilities of tokens, from the logits of an evaluated token.

Knows: the softmax over a vocabulary. Refuses to know: what was evaluated, and what is done with it.
"""

import ctypes
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from slmchat.engine.api import Chance
from slmchat.engine.vocabulary import Vocabulary


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


class ChanceReader:
    """Collects the chances of the tokens of one completion, where somebody wants them."""

    def __init__(self, api: ModuleType, vocabulary: Vocabulary, n_alternatives: int | None) -> None:
        """`n_alternatives` None: nobody wants them, and nothing is read."""
        self._vocabulary = vocabulary
        self._n_alternatives = n_alternatives
        self._read = None if n_alternatives is None else LogProbabilities(api, vocabulary.n_tokens)
        self._found: list[Chance] = []

    def note(self, context: Any, index: int, token: int) -> None:
        """This token was picked from the logits at `index`; call it before the next batch."""
        if self._read is None or self._n_alternatives is None:
            return
        follows = self._read.after(context, index)
        others = tuple((self._text(other), follows.of(other)) for other in follows.best(self._n_alternatives))
        self._found.append(Chance(self._text(token), follows.of(token), others))

    def taken(self) -> tuple[Chance, ...]:
        """Those that were noted since the last call."""
        found, self._found = tuple(self._found), []
        return found

    def _text(self, token: int) -> str:
        return self._vocabulary.piece(token, is_shown=True).decode("utf-8", "replace")


class Follows:
    """Log-probabilities (natural logarithm) of every token at one place."""

    def __init__(self, logits: Any, total: float) -> None:
        """`total`: the logarithm of the sum of all exponentials."""
        self._logits = logits
        self._total = total

    def of(self, token: int) -> float:
        """The log-probability of this token."""
        return float(self._logits[token]) - self._total

    def best(self, count: int) -> list[int]:
        """The most probable tokens, best first."""
        import numpy

        count = min(count, len(self._logits))
        if count < 1:
            return []
        found = numpy.argpartition(self._logits, -count)[-count:]
        return [int(token) for token in found[numpy.argsort(-self._logits[found])]]

    def of_any(self, tokens: Sequence[int]) -> float:
        """The log-probability that one of these comes; negative infinity when there are none."""
        total = sum(math.exp(self.of(token)) for token in tokens)
        return math.log(total) if total > 0 else -math.inf
