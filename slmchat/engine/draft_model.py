"""Drafts by a second, smaller model that shares the vocabulary.

Knows: keeping its own KV cache in step with the conversation, what its guesses cost and how often they are right.
Refuses to know: verifying them (session.py).
"""

import time
from collections.abc import Callable, Sequence

from slmchat.engine.context import Context
from slmchat.engine.image_tokens import is_image_token
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.sampler import Sampler, SamplerSettings
from slmchat.engine.speculation import WORTHWHILE, Costs

# Weight of a new observation in the rate of right guesses and in the cost of making one.
_WEIGHT = 0.1
_FIRST_RATE, _SURE_RATE = 0.8, 0.6

# Tokens without guesses after they did not pay, twice as many each time.
_FIRST_REST, _LONGEST_REST = 16, 256


class ModelDrafts:
    """`Drafts` of a small model: its most probable tokens, as many as pay."""

    def __init__(self, small: LoadedModel, context: Context, free: Callable[[], None]) -> None:
        """`small` and `context` are its own from here on: `close` frees the context, and the weights with `free`."""
        self._free = free
        self._context = context
        self._sampler = Sampler(small.api, small.vocabulary.n_tokens, SamplerSettings(temperature=0))
        self._tokens: list[int] = []
        self._has_images = False
        self._guesses: list[int] = []
        self._costs = Costs()
        self._rate = _FIRST_RATE
        self._single: float | None = None
        self._own: float | None = None
        self._rest = 0
        self._next_rest = _FIRST_REST

    @property
    def is_sure(self) -> bool:
        return self._rate > _SURE_RATE

    def start(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._has_images = any(map(is_image_token, tokens))  # the small model has no projector
        self._guesses = []

    def add(self, token: int) -> None:
        self._tokens.append(token)
        self._rest = max(0, self._rest - 1)
        if self._guesses:
            is_right = self._guesses.pop(0) == token
            self._rate += _WEIGHT * (is_right - self._rate)
            if not is_right:
                self._guesses = []

    def draft(self, most: int, sizes: Sequence[int]) -> list[int]:
        if len(self._tokens) >= self._context.n_ctx:
            self._context.grow()
        most = min(most, self._context.n_ctx - len(self._tokens))
        if self._rest or not sizes or most < 1 or self._has_images or not self._catches_up():
            return []
        length = self._length(most, sizes)
        if not length:
            self._rest, self._next_rest = self._next_rest, min(_LONGEST_REST, 2 * self._next_rest)
            length = min(sizes[0] - 1, most)
        else:
            self._next_rest = _FIRST_REST
        self._guesses = self._guess(length)
        return list(self._guesses)

    def measured(self, size: int, seconds: float) -> None:
        self._costs.measured(size, seconds)
        if size == 1:
            self._single = seconds if self._single is None else self._single + _WEIGHT * (seconds - self._single)

    def set_threads(self, threads: int) -> None:
        self._context.set_threads(threads)

    def close(self) -> None:
        """Free the KV cache and the weights of the small model."""
        self._sampler.close()
        self._context.close()
        self._free()

    def _catches_up(self) -> bool:
        """Evaluate what is new, at most a batch of it; whether that was all.

        So a long prompt is read between tokens: the answer goes on meanwhile, and can be interrupted.
        """
        new = self._tokens[self._context.reuse(self._tokens) :]
        self._context.evaluate(new[: self._context.batch_tokens])
        return len(new) <= self._context.batch_tokens

    def _guess(self, length: int) -> list[int]:
        context = self._context
        start = time.perf_counter()
        guesses = [self._sampler.pick(context.handle)]
        while len(guesses) < length:
            context.evaluate_one(guesses[-1])
            guesses.append(self._sampler.pick(context.handle))
        if length > 1:
            each = (time.perf_counter() - start) / (length - 1)
            self._own = each if self._own is None else self._own + _WEIGHT * (min(each, 2 * self._own) - self._own)
        return guesses

    def _length(self, most: int, sizes: Sequence[int]) -> int:
        """The number of guesses that promises most tokens for the time of making and verifying them; 0: none."""
        own = 0.0 if self._own is None or not self._single else self._own / self._single
        best, best_gain = 0, WORTHWHILE
        for size in sizes:
            if size - 1 > most:
                break
            tokens = sum(self._rate**power for power in range(size))
            gain = tokens / (self._costs.of(size) + size * own)
            if gain > best_gain:
                best, best_gain = size - 1, gain
        return best
