"""A completion as it grows (`GenerationState`): what a session and a slot of a pool do with every token.

A session decodes one completion, a pool many at once. From the moment a token is picked both do the same with it, and
they do it here: does it end the completion, which text does it stand for, how probable was it, may another one follow?

Knows: stop sequences, whole characters, thoughts, limits, finish reasons, counts and clocks.
Refuses to know: how tokens are evaluated and picked, who reads the text (session.py, slot.py).
"""

import time
from typing import Any

from slmchat.engine.loaded import LoadedModel
from slmchat.engine.probabilities import LogprobReader
from slmchat.engine.repetition import EVERY, repeats_itself
from slmchat.engine.requests import Limits
from slmchat.engine.results import Chunk, Finish, FinishReason, Timings, Usage
from slmchat.engine.speculation import DraftStats
from slmchat.engine.text import CompletionText
from slmchat.engine.thinking import ThoughtWatch


class GenerationState:
    """One completion behind a prompt of `n_prompt` tokens, of which `n_cached` need no evaluation.

    `reason` says why no further token may be evaluated, None while one may. `tokens`: those of the completion so far.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        limits: Limits,
        *,
        n_ctx: int,
        n_prompt: int,
        n_cached: int,
        seed: int | None,
        watch: ThoughtWatch | None,
        asked: float,
        start: float,
    ) -> None:
        """`watch` follows the thought; None: nothing is taken for one. `asked`: when the completion was asked for,
        `start`: when work on it began (both of `time.perf_counter`)."""
        self.tokens: list[int] = []
        self.draft_stats = DraftStats()
        self._vocabulary = loaded.vocabulary
        self._shown = loaded.vocabulary.tokens_of(limits.shown)
        self._text = CompletionText(limits.stop)
        self._logprobs = LogprobReader(loaded.api, loaded.vocabulary, limits.top_logprobs)
        self._watch = watch
        self._n_prompt = n_prompt
        self._n_cached = n_cached
        self._seed = seed or 0
        self._n_ctx = n_ctx
        self._max_tokens = limits.max_tokens
        self._n_given = 0  # tokens that stand in chunks
        self._asked = asked
        self._start = start
        self._prompt_end: float | None = None
        self._first_token: float | None = None
        self.reason = self._limit_reached()

    def prompt_ended(self) -> None:
        """The prompt has been evaluated."""
        self._prompt_end = time.perf_counter()

    def accept(self, token: int, context: Any, index: int) -> str:
        """Take the token that was picked from the logits at `index`; the text that is certain with it.

        Call it before the next batch is evaluated. Raises `SlmError` (BUG) when log-probabilities are wanted and the
        logits are not numbers.
        """
        if self._first_token is None:
            self._first_token = time.perf_counter()
        vocabulary = self._vocabulary
        if vocabulary.is_end(token):
            self.reason = FinishReason.STOP
            return ""
        self._logprobs.note(context, index, token)
        self.tokens.append(token)
        data = vocabulary.piece(token, is_shown=token in self._shown)
        if self._watch is not None:
            self._watch.accept(data)
        text = self._text.feed(data)
        self.reason = FinishReason.STOP if self._text.is_stopped else self._limit_reached()
        return text

    def window_grew(self, n_ctx: int) -> None:
        """The context window has `n_ctx` tokens from now on: where it was full, another token may follow."""
        self._n_ctx = n_ctx
        self.reason = self._limit_reached()

    def chunk(self, text: str) -> Chunk:
        """This text, with the tokens since the last chunk."""
        tokens = tuple(self.tokens[self._n_given :])
        self._n_given = len(self.tokens)
        return Chunk(text, tokens, logprobs=self._logprobs.taken())

    def last_chunk(self) -> Chunk:
        """What was held back, at the end; it may have no text and no tokens."""
        return self.chunk(self._text.flush())

    def finish(self, reason: FinishReason) -> Finish:
        """The last record, after `last_chunk`."""
        now = time.perf_counter()
        prompt_end = now if self._prompt_end is None else self._prompt_end
        draft_stats = self.draft_stats
        return Finish(
            reason=reason,
            usage=Usage(
                self._n_prompt,
                self._n_cached,
                len(self.tokens),
                draft_stats.drafted,
                draft_stats.accepted,
                thinking_tokens=0 if self._watch is None else self._watch.n_tokens,
            ),
            timings=Timings(
                prompt_s=prompt_end - self._start,
                generation_s=now - prompt_end,
                ttft_s=None if self._first_token is None else self._first_token - self._asked,
            ),
            seed=self._seed,
            tokens=None if self._text.is_stopped else tuple(self.tokens),
        )

    def _limit_reached(self) -> FinishReason | None:
        n_tokens = len(self.tokens)
        if self._max_tokens is not None and n_tokens >= self._max_tokens:
            return FinishReason.LENGTH
        # the last token is not evaluated, so that it needs no place
        if self._n_prompt + n_tokens > self._n_ctx:
            return FinishReason.CONTEXT
        # who says how long it may become gets it that long
        goes_round = self._max_tokens is None and n_tokens % EVERY == 0 and repeats_itself(self.tokens)
        return FinishReason.REPETITION if goes_round else None
