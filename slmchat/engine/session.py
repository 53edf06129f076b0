"""One generation after another on one KV cache (`LlamaSession`).

Knows: the story of a generation: reuse, prefill, one token after another until an end.
Refuses to know: how tokens are evaluated (context.py) and chosen (sampler.py), what a token does to the completion
(generation_state.py).

The decode loop is our own: one `llama_decode`, one sample and one piece per token, nothing copied, nothing
detokenized twice. The high-level `Llama` class is not used (docs/decisions.md says what it costs).
"""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence

from slmchat.engine.context import Context, tokens_within
from slmchat.engine.generation_state import GenerationState
from slmchat.engine.image_tokens import is_image_token
from slmchat.engine.kept_exactness import KeptExactness
from slmchat.engine.kvstore import StateKey
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.memory import SessionMemory
from slmchat.engine.requests import Adapter, Limits, Prompt, SessionSettings, counting_adapters
from slmchat.engine.results import Event, FinishReason, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.speculation import SIZES, Drafts, ExactnessCheck
from slmchat.engine.thinking_sampler import TokenSampler, sampler_for, watch_for
from slmchat.engine.threads import Watch
from slmchat.errors import SlmError


class LlamaSession:
    """One inference timeline. Implements `Session`."""

    def __init__(self, loaded: LoadedModel, settings: SessionSettings, key: StateKey, drafts: Drafts | None) -> None:
        """`key`: what the states of this session depend on. `drafts`: where guesses come from, closed with this.

        Raises `SlmError`: NO_FIT when memory runs out, DAMAGED for an adapter that does not belong to this model.
        """
        self._loaded = loaded
        self._adapters: tuple[Adapter, ...] = ()
        self._key = key
        self._is_cancelled = False
        self._context = Context(
            loaded.api, loaded.model, settings, lambda: self._is_cancelled, loaded.vocabulary.vision
        )
        self._memory = SessionMemory(self._context, settings.store, key, is_multi_turn=settings.is_multi_turn)
        self._watch = Watch(settings.threads, loaded.started) if settings.adapts_threads else None
        self._drafts = drafts
        self._exactness = ExactnessCheck(KeptExactness(key))
        self._is_always_exact = settings.speculation != "always"
        self._is_exact = True  # the text of this generation must be the one that single tokens give
        try:
            self.set_adapters(settings.adapters)
        except SlmError:
            self._context.close()
            raise

    @property
    def n_ctx(self) -> int:
        """The context window in tokens, as asked for or grown (llama.cpp itself rounds up to a multiple of 256)."""
        return self._context.n_ctx

    def cancel(self) -> None:
        """End the generation that is running; from any thread or a signal handler."""
        self._is_cancelled = True

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Store the state of the KV cache for `owner`, as far as that is worth it."""
        self._memory.keep(owner, is_resting=is_resting)

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Let these LoRA adapters count from the next generation on; the KV cache is emptied when they change.

        Raises `SlmError` (DAMAGED) when one does not belong to this model; then the session is as it was.
        """
        counting = counting_adapters(adapters)
        if counting != self._adapters:
            self._loaded.adapters.apply(self._context.handle, counting)
            self._adapters = counting
            self._context.forget()
            key = self._key.with_more(repr(counting)) if counting else self._key
            self._memory.depend_on(key)
            self._exactness = ExactnessCheck(KeptExactness(key))  # an adapter's matrices have kernels of their own

    def close(self) -> None:
        """Free the KV cache, and what the drafts hold."""
        self._context.close()
        if self._drafts is not None:
            self._drafts.close()
            self._drafts = None

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """Evaluate the prompt and sample: `Prefill`* -> `Chunk`* -> `Finish`.

        A `cancel` counts from this call on, not only from the first record. Raises `SlmError`: CONTEXT when the
        prompt leaves no room for a completion, USAGE when it is empty, DAMAGED when the model computes no numbers, BUG
        when llama.cpp fails; the session stays usable.
        """
        self._is_cancelled = False
        return self._generate(prompt, sampler, limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        start = time.perf_counter()
        vocabulary = self._loaded.vocabulary
        tokens = tokens_within(vocabulary, prompt, self.n_ctx)
        cached = self._memory.reuse(tokens)
        settings = sampler.with_seed()
        self._is_exact = self._is_always_exact and (sampler.temperature <= 0 or sampler.seed is not None)
        watch = watch_for(prompt, limits)
        state = GenerationState(
            self._loaded,
            limits,
            n_ctx=self.n_ctx,
            n_prompt=len(tokens),
            n_cached=cached,
            seed=settings.seed,
            watch=watch,
            asked=start,
            start=start,
        )
        live = self._context.n_evaluated
        yield Prefill(cached, len(tokens), cached, live)
        cache_hints = [vocabulary.tokenize(other) for other in prompt.cache_hints]
        self._adapt_threads(is_computing=False)
        for done in self._memory.prefill(tokens, cache_hints):
            self._adapt_threads()
            yield Prefill(done, len(tokens), cached, live)
        state.prompt_ended()
        if self._is_cancelled:
            yield state.finish(FinishReason.INTERRUPTED)
            return
        chosen = sampler_for(self._loaded, settings, limits, watch)
        try:
            yield from self._decode(state, chosen, limits)
        finally:
            chosen.close()

    def _decode(self, state: GenerationState, sampler: TokenSampler, limits: Limits) -> Iterator[Event]:
        with contextlib.closing(self._tokens(state, sampler, limits)) as tokens:
            while state.reason is None and not self._is_cancelled:
                text = state.accept(next(tokens), self._context.handle, -1)
                if text:
                    yield state.chunk(text)
                if state.reason is FinishReason.CONTEXT and self._grow():
                    state.window_grew(self.n_ctx)
        rest = state.last_chunk()
        if rest.text or rest.tokens:
            yield rest
        yield state.finish(state.reason or FinishReason.INTERRUPTED)

    def _tokens(self, state: GenerationState, sampler: TokenSampler, limits: Limits) -> Generator[int, None, None]:
        """One token after another. Whenever it is left, the KV cache holds all of them but the last."""
        context = self._context
        # the logprobs of a token are read from the logits of the last evaluation, of which a draft has many
        drafts = self._drafts if context.can_take_back and limits.top_logprobs is None else None
        n_prompt = len(context.tokens)
        if drafts is not None:
            drafts.start(context.tokens)
        token = sampler.pick(context.handle)
        while True:
            if drafts is not None:
                drafts.add(token)
            yield token
            self._adapt_threads()
            guesses = self._guesses(n_prompt, limits.max_tokens) if drafts is not None else []
            if guesses:
                token = yield from self._verified(state, sampler, token, guesses)
                continue
            start = time.perf_counter()
            context.evaluate_one(token)
            token = sampler.pick(context.handle)
            if drafts is not None:
                drafts.measured(1, time.perf_counter() - start)

    def _guesses(self, n_prompt: int, max_tokens: int | None) -> list[int]:
        context, drafts = self._context, self._drafts
        n_room = min(self.n_ctx, n_prompt + (max_tokens or self.n_ctx))  # the window may have grown
        place = len(context.tokens)
        assert drafts is not None
        sizes = self._exactness.sizes(place, context.threads, is_sure=drafts.is_sure) if self._is_exact else SIZES
        guesses = drafts.draft(n_room - place - 1, sizes)
        return [] if any(map(is_image_token, guesses)) else guesses  # a model does not write images

    def _verified(
        self, state: GenerationState, sampler: TokenSampler, token: int, guesses: list[int]
    ) -> Generator[int, None, int]:
        """Evaluate `token` and the guesses in one batch; yields those guesses that the sampler would have picked.

        Returns the token that it picked instead of the first wrong guess, or behind the last one. Every position is
        picked from its own logits, so that the distribution is that of single tokens, whatever the sampler does.
        """
        context, drafts = self._context, self._drafts
        assert drafts is not None
        start = time.perf_counter()
        place = len(context.tokens)
        context.evaluate_draft([token, *guesses])
        elapsed = time.perf_counter() - start
        if self._is_exact and not self._exactness.holds(place, context.threads, len(guesses) + 1):
            drafts.measured(len(guesses) + 1, elapsed)
            return (yield from self._proved(state, sampler, token, guesses))
        state.draft_stats.drafted += len(guesses)
        n_right = place + 1  # tokens of the cache that are the completion's
        try:
            for index, guess in enumerate(guesses):
                start = time.perf_counter()
                token = sampler.pick(context.handle, index)
                elapsed += time.perf_counter() - start
                if token != guess:
                    break
                drafts.add(token)
                state.draft_stats.accepted += 1
                yield token
                n_right += 1
            else:
                token = sampler.pick(context.handle, len(guesses))
        finally:
            context.take_back(n_right)
        drafts.measured(len(guesses) + 1, elapsed)
        return token

    def _proved(
        self, state: GenerationState, sampler: TokenSampler, token: int, guesses: list[int]
    ) -> Generator[int, None, int]:
        """The tokens one by one after all, compared with the batch just evaluated; otherwise as `_verified`."""
        context, drafts, exactness = self._context, self._drafts, self._exactness
        assert drafts is not None
        size, threads = len(guesses) + 1, context.threads
        rows = [context.logits(index) for index in range(size)]
        place = len(context.tokens) - size
        context.take_back(place)
        for row, guess in zip(rows, [*guesses, None], strict=True):
            context.evaluate_one(token)
            is_equal = context.logits(-1) == row
            exactness.observed(place, threads, size, is_equal=is_equal)
            token = sampler.pick(context.handle)
            state.draft_stats.drafted += guess is not None
            state.draft_stats.accepted += token == guess
            if token != guess or not is_equal:
                break
            drafts.add(token)
            yield token
        return token

    def _adapt_threads(self, *, is_computing: bool = True) -> None:
        """Compute with as many threads as there are free processors now, where that was not settled by the user."""
        if self._watch is not None:
            threads = self._watch.look(is_computing=is_computing)
            self._context.set_threads(threads)
            if self._drafts is not None:
                self._drafts.set_threads(threads)

    def _grow(self) -> bool:
        """A larger window, if there may be one. The last token is not evaluated yet, so that no logits are needed."""
        if not self._context.grow():
            return False
        if self._adapters:
            self._loaded.adapters.apply(self._context.handle, self._adapters)
        return True
