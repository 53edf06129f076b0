"""One completion among many: where its prompt and its text stand in a sequence of the KV cache.

Knows: which tokens come next, what came of the completion.
Refuses to know: the other completions, the KV cache (sequences.py), what a token does to a text (generation_state.py).
"""

import time
from dataclasses import field
from typing import Any

from slmchat.engine.generation_state import GenerationState
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.requests import Request
from slmchat.engine.results import Chunk, Finish, FinishReason, Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.sequences import TokenSpan
from slmchat.engine.thinking_sampler import sampler_for, watch_for
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request with its tokens. The sampler has its seed, so that a request that starts again says the same."""

    request: Request
    tokens: list[int]
    sampler: SamplerSettings
    start: float = field(default_factory=time.perf_counter)


class Slot:
    """A completion that is being worked on, in a sequence of its own that already holds `n_shared` tokens."""

    def __init__(self, sequence: int, work: PreparedRequest, n_shared: int, n_ctx: int, loaded: LoadedModel) -> None:
        """Raises `SlmError` (USAGE) when the request's constraint cannot be used."""
        self.sequence = sequence
        self.work = work
        self._n_shared = n_shared
        self._n_evaluated = n_shared
        self._again: list[int] | None = None  # what is evaluated instead of the prompt after it lost its sequence
        limits = work.request.limits
        watch = watch_for(work.request.prompt, limits)
        self._sampler = sampler_for(loaded, work.sampler, limits, watch)
        self._state = GenerationState(
            loaded,
            limits,
            n_ctx=n_ctx,
            n_prompt=len(work.tokens),
            n_cached=n_shared,
            seed=work.sampler.seed,
            watch=watch,
            asked=work.start,
            start=time.perf_counter(),
        )
        self._pieces: list[str] = []
        self.error: SlmError | None = None  # what it failed with

    @property
    def is_ended(self) -> bool:
        """It has come to an end, or it failed."""
        return self.error is not None or (self._state.reason is not None and not self.is_in_prompt)

    @property
    def is_in_prompt(self) -> bool:
        """The prompt is not evaluated to its end yet."""
        return self._n_evaluated < len(self._prompt)

    @property
    def _prompt(self) -> list[int]:
        return self.work.tokens if self._again is None else self._again

    @property
    def n_evaluated(self) -> int:
        """Tokens of the prompt and of the completion that its sequence holds."""
        return self._n_evaluated

    @property
    def held(self) -> list[int]:
        """The tokens that its sequence holds."""
        return [*self.work.tokens, *self._state.tokens][: self._n_evaluated]

    @property
    def n_own(self) -> int:
        """Cells of the KV cache that are its own now, or will be when its prompt is evaluated."""
        return max(self._n_evaluated, len(self._prompt)) - self._n_shared

    def begin_again(self, sequence: int, n_held: int) -> None:
        """Go on in another sequence, which holds the first `n_held` of the same tokens: the rest is evaluated again."""
        self.sequence = sequence
        self._again = [*self.work.tokens, *self._state.tokens]
        self._n_evaluated = self._n_shared = n_held

    def next_span(self, room: int) -> TokenSpan | None:
        """The tokens to evaluate next, at most `room`; None when that is none."""
        if room < 1:
            return None
        if not self.is_in_prompt:
            return TokenSpan(self.sequence, self._n_evaluated, self._state.tokens[-1:])
        tokens = self._prompt[self._n_evaluated : self._n_evaluated + room]
        is_last = self._n_evaluated + len(tokens) == len(self._prompt)
        return TokenSpan(self.sequence, self._n_evaluated, tokens, needs_logits=is_last)

    def evaluated(self, span: TokenSpan, context: Any, place: int) -> None:
        """The span is evaluated, its logits are at `place`: pick the next token, if one may come."""
        was_in_prompt = self.is_in_prompt
        self._n_evaluated += len(span.tokens)
        if self.is_in_prompt:
            return
        if was_in_prompt and not self._state.tokens:
            self._state.prompt_ended()
        if self._state.reason is not None:
            return
        try:
            self._pieces.append(self._state.accept(self._sampler.pick(context, place), context, place))
        except SlmError as error:  # the constraint leaves it no token, or its logits are not numbers
            self.error = error

    def chunk(self) -> Chunk | None:
        """The text that is certain since the last chunk, with its tokens; None when there is none."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return self._state.chunk(text) if text else None

    def last_chunk(self) -> Chunk:
        """What was held back, at the end."""
        return self._state.last_chunk()

    def finish(self, reason: FinishReason | None = None) -> Finish:
        """The last record, after `last_chunk`. `reason`: why it ends here, where it has not come to an end itself."""
        reason = reason or self._state.reason
        assert reason is not None
        return self._state.finish(reason)

    def done(self) -> Result:
        """The whole completion, after its end, where no chunk was taken; or what it failed with."""
        if self.error is not None:
            return Result(self.work.request.id, error=self.error)
        rest = self.last_chunk()
        return Result(self.work.request.id, "".join(self._pieces) + rest.text, self.finish(), logprobs=rest.logprobs)

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()
