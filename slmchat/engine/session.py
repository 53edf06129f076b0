"""One generation after another on one KV cache (`LlamaSession`).

Knows: the story of a generation: reuse, prefill, one token after another until an end.
Refuses to know: how tokens are evaluated (context.py), chosen (sampler.py) or spelled (vocabulary.py).

The decode loop is our own: one `llama_decode`, one sample and one piece per token, nothing copied, nothing
detokenized twice. The high-level `Llama` class is not used (docs/decisions.md says what it costs).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from slmchat.engine.api import (
    Chunk,
    Event,
    Finish,
    FinishReason,
    Limits,
    Prefill,
    Prompt,
    SessionSettings,
    Timings,
    Usage,
)
from slmchat.engine.constraint import ConstrainedSampler, open_sampler
from slmchat.engine.context import Context, check_room
from slmchat.engine.probabilities import ChanceReader
from slmchat.engine.sampler import Sampler, SamplerSettings
from slmchat.engine.text import CompletionText
from slmchat.engine.vocabulary import Vocabulary


@dataclass(slots=True)
class _Run:
    """Counts and clocks of one generation."""

    start: float
    prompt_tokens: int
    cached: int
    seed: int
    prompt_end: float | None = None
    first_token: float | None = None

    def finish(self, reason: FinishReason, tokens: list[int], *, is_cut: bool) -> Finish:
        now = time.perf_counter()
        prompt_end = self.prompt_end if self.prompt_end is not None else now
        return Finish(
            reason=reason,
            usage=Usage(self.prompt_tokens, self.cached, len(tokens)),
            timings=Timings(
                prompt_s=prompt_end - self.start,
                generation_s=now - prompt_end,
                ttft_s=None if self.first_token is None else self.first_token - self.start,
            ),
            seed=self.seed,
            tokens=None if is_cut else tuple(tokens),
        )


class LlamaSession:
    """One inference timeline. Implements `Session`."""

    def __init__(self, api: ModuleType, model: Any, vocabulary: Vocabulary, settings: SessionSettings) -> None:
        """Raises `SlmError` (NO_FIT) when the memory of the KV cache cannot be had."""
        self._api = api
        self._vocabulary = vocabulary
        self._is_cancelled = False
        self._context = Context(api, model, settings, lambda: self._is_cancelled)

    @property
    def n_ctx(self) -> int:
        """The context window in tokens, as asked for (llama.cpp itself rounds up to a multiple of 256)."""
        return self._context.n_ctx

    def cancel(self) -> None:
        """End the generation that is running; from any thread or a signal handler."""
        self._is_cancelled = True

    def close(self) -> None:
        """Free the KV cache."""
        self._context.close()

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """Evaluate the prompt and sample: `Prefill`* -> `Chunk`* -> `Finish`.

        A `cancel` counts from this call on, not only from the first record. Raises `SlmError`: CONTEXT when the
        prompt leaves no room for a completion, USAGE when it is empty, BUG when llama.cpp fails; the session stays
        usable.
        """
        self._is_cancelled = False
        return self._generate(prompt, sampler, limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        start = time.perf_counter()
        tokens = self._vocabulary.tokenize(prompt)
        check_room(len(tokens), self.n_ctx)
        cached = self._context.reuse(tokens)
        settings = sampler.with_seed()
        run = _Run(start, len(tokens), cached, settings.seed or 0)
        yield Prefill(cached, len(tokens), cached)
        for done in self._context.prefill(tokens[cached:]):
            yield Prefill(cached + done, len(tokens), cached)
        run.prompt_end = time.perf_counter()
        if self._is_cancelled:
            yield run.finish(FinishReason.INTERRUPTED, [], is_cut=False)
            return
        chosen = open_sampler(self._api, self._vocabulary, settings, limits.constraint)
        try:
            yield from self._decode(run, chosen, limits)
        finally:
            chosen.close()

    def _decode(self, run: _Run, sampler: Sampler | ConstrainedSampler, limits: Limits) -> Iterator[Event]:
        context, vocabulary = self._context, self._vocabulary
        text = CompletionText(limits.stop)
        completion: list[int] = []
        pending: list[int] = []
        shown = vocabulary.tokens_of(limits.shown)
        chances = ChanceReader(self._api, vocabulary, limits.n_alternatives)
        while True:
            reason = self._end_before_next(len(completion), limits)
            if reason is not None:
                break
            if completion:
                context.evaluate_one(completion[-1])
            token = sampler.pick(context.handle)
            if run.first_token is None:
                run.first_token = time.perf_counter()
            if vocabulary.is_end(token):
                reason = FinishReason.STOP
                break
            chances.note(context.handle, -1, token)
            completion.append(token)
            pending.append(token)
            piece = text.feed(vocabulary.piece(token, is_shown=token in shown))
            if piece:
                yield Chunk(piece, tuple(pending), chances=chances.taken())
                pending.clear()
            if text.is_stopped:
                reason = FinishReason.STOP
                break
        rest = text.flush()
        if rest or pending:
            yield Chunk(rest, tuple(pending), chances=chances.taken())
        yield run.finish(reason, completion, is_cut=text.is_stopped)

    def _end_before_next(self, n_completion: int, limits: Limits) -> FinishReason | None:
        """Why no further token may be evaluated, None when one may."""
        if self._is_cancelled:
            return FinishReason.INTERRUPTED
        if limits.max_tokens is not None and n_completion >= limits.max_tokens:
            return FinishReason.LENGTH
        if len(self._context.tokens) >= self.n_ctx:
            return FinishReason.CONTEXT
        return None
