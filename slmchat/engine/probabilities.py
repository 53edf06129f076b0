"""Probabilities of tokens, from the logits of an evaluated token.

Knows: the softmax over a vocabulary, and that a number which is not finite is an error, never a probability.
Refuses to know: what was evaluated, and what is done with it.
"""

import ctypes
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from slmchat.engine.results import TokenLogprob
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError


class LogProbabilities:
    """Reads the logits of a context."""

    def __init__(self, api: ModuleType, n_tokens: int) -> None:
        """`n_tokens`: size of the vocabulary."""
        self._api = api
        self._row = ctypes.c_float * n_tokens

    def after(self, context: Any, index: int) -> "NextTokenLogprobs":
        """What may follow the token at `index` of the last batch (-1: its last one). Copied: it outlives the batch.

        Raises `SlmError` (BUG) when llama.cpp has computed no numbers there.
        """
        import numpy

        # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
        pointer = self._api.llama_get_logits_ith(context, index)
        row = ctypes.cast(pointer, ctypes.POINTER(self._row)).contents
        logits = numpy.frombuffer(memoryview(row).cast("B"), dtype=numpy.float32).copy()
        highest = logits.max()  # not a number if one of them is not
        if not math.isfinite(highest):
            raise not_finite()
        # Exponentials in single precision take a fifth of the time, which every token of several answers pays; their
        # relative error of 1e-7 is that of the logarithm, and the sum itself is exact enough in double precision.
        total = float(numpy.exp(logits - highest).sum(dtype=numpy.float64))
        return NextTokenLogprobs(logits, float(highest) + math.log(total))

    def rows(self, context: Any, count: int) -> Any:
        """A row of logits (float32) for each of the first `count` tokens of the last batch. Copied."""
        import numpy

        found = [self._api.llama_get_logits_ith(context, index) for index in range(count)]
        views = [ctypes.cast(pointer, ctypes.POINTER(self._row)).contents for pointer in found]
        return numpy.stack([numpy.frombuffer(memoryview(view).cast("B"), dtype=numpy.float32) for view in views])


def kl_divergence(logits: Any, others: Any) -> float:
    """How far the second of two rows of logits is from the first: the Kullback-Leibler divergence, in nats.

        KL(P || Q) = sum over the vocabulary of P(t) * (ln P(t) - ln Q(t))

    P by the first row, Q by the second; in double precision. Raises `SlmError` (BUG) where one of them has a number
    that is not finite, or the second forbids what the first allows.
    """
    import numpy

    ours, theirs = _log_softmax(logits), _log_softmax(others)
    shares = numpy.exp(ours)
    is_possible = shares > 0  # what P never says adds nothing, whatever Q says of it
    found = float(numpy.dot(shares[is_possible], ours[is_possible] - theirs[is_possible]))
    if not math.isfinite(found):
        raise not_finite()
    return max(0.0, found)  # below 0 by rounding alone


def _log_softmax(logits: Any) -> Any:
    import numpy

    values = logits.astype(numpy.float64)
    highest = float(values.max())  # not a number if one of them is not
    if not math.isfinite(highest):
        raise not_finite()
    values -= highest
    return values - math.log(float(numpy.exp(values).sum()))


class LogprobReader:
    """Collects the logprobs of the tokens of one completion, where somebody wants them."""

    def __init__(self, api: ModuleType, vocabulary: Vocabulary, top_logprobs: int | None) -> None:
        """`top_logprobs` None: nobody wants them, and nothing is read."""
        self._vocabulary = vocabulary
        self._n_alternatives = top_logprobs
        self._read = None if top_logprobs is None else LogProbabilities(api, vocabulary.n_tokens)
        self._found: list[TokenLogprob] = []

    def note(self, context: Any, index: int, token: int) -> None:
        """This token was picked from the logits at `index`; call it before the next batch. Raises `SlmError` (BUG)."""
        if self._read is None or self._n_alternatives is None:
            return
        follows = self._read.after(context, index)
        best = follows.best(self._n_alternatives)
        data = [self._vocabulary.piece(each, is_shown=True) for each in (token, *best)]
        text, *others = (each.decode("utf-8", "replace") for each in data)
        alternatives = tuple(zip(others, map(follows.of, best), strict=True))
        self._found.append(TokenLogprob(text, follows.of(token), alternatives, data[0], tuple(data[1:])))

    def taken(self) -> tuple[TokenLogprob, ...]:
        """Those that were noted since the last call."""
        found, self._found = tuple(self._found), []
        return found


class NextTokenLogprobs:
    """Log-probabilities (natural logarithm) of every token at one place."""

    def __init__(self, logits: Any, total: float) -> None:
        """`total`: the logarithm of the sum of all exponentials."""
        self._logits = logits
        self._total = total

    def of(self, token: int) -> float:
        """The log-probability of this token. Raises `SlmError` (BUG) when it is not a finite number."""
        return _finite(float(self._logits[token]) - self._total)

    def best(self, count: int) -> list[int]:
        """The most probable tokens, best first; those that cannot come are left out."""
        import numpy

        count = min(count, len(self._logits))
        if count < 1:
            return []
        found = numpy.argpartition(self._logits, -count)[-count:]
        ordered = found[numpy.argsort(-self._logits[found])]
        return [int(token) for token in ordered if math.isfinite(self._logits[token])]

    def of_any(self, tokens: Sequence[int]) -> float:
        """The log-probability that one of these comes. Raises `SlmError` (BUG) when none of them can."""
        found = [float(self._logits[token]) - self._total for token in tokens]
        highest = _finite(max(found, default=-math.inf))
        return highest + math.log(sum(math.exp(each - highest) for each in found))


def _finite(logprob: float) -> float:
    if not math.isfinite(logprob):
        raise not_finite()
    return logprob


def not_finite() -> SlmError:
    """What is said when logits or log-probabilities are infinite or not numbers."""
    return SlmError(
        "the model's probabilities are not numbers: llama.cpp computed wrongly, or the weights are damaged.",
        hint="slm verify tells whether the weights are intact, slm doctor what is wrong with llama.cpp here",
        exit_code=ExitCode.BUG,
    )
