"""One completion among many: where its prompt and its text stand.

Knows: which tokens come next, what a picked token means, why a completion ends.
Refuses to know: the other completions, the KV cache (sequences.py).
"""

import time
from dataclasses import dataclass, field
from typing import Any

from slmchat.engine.api import Done, Finish, FinishReason, Job, Timings, Usage
from slmchat.engine.constraint import ConstrainedSampler
from slmchat.engine.probabilities import ChanceReader
from slmchat.engine.sampler import Sampler, SamplerSettings
from slmchat.engine.sequences import Stretch
from slmchat.engine.text import CompletionText
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import SlmError


@dataclass(frozen=True, slots=True)
class Work:
    """A job with its tokens. The sampler has its seed, so that a job that starts again says the same."""

    job: Job
    tokens: list[int]
    sampler: SamplerSettings
    shown: frozenset[int]
    start: float = field(default_factory=time.perf_counter)


class Slot:
    """A completion that is being worked on, in a sequence of its own that already holds `n_shared` tokens."""

    def __init__(
        self,
        sequence: int,
        work: Work,
        sampler: Sampler | ConstrainedSampler,
        chances: ChanceReader,
        n_shared: int,
        vocabulary: Vocabulary,
    ) -> None:
        self.sequence = sequence
        self.work = work
        self.reason: FinishReason | None = None
        self._error: SlmError | None = None
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._n_shared = n_shared
        self._n_evaluated = n_shared
        self._chances = chances
        self._text = CompletionText(work.job.limits.stop)
        self._pieces: list[str] = []
        self._completion: list[int] = []
        self._begin = time.perf_counter()
        self._first_token: float | None = None

    @property
    def is_ended(self) -> bool:
        """It has come to an end, or it failed."""
        return self.reason is not None or self._error is not None

    @property
    def is_in_prompt(self) -> bool:
        """The prompt is not evaluated to its end yet."""
        return self._n_evaluated < len(self.work.tokens)

    @property
    def n_own(self) -> int:
        """Cells of the KV cache that are its own now, or will be when its prompt is evaluated."""
        return max(self._n_evaluated, len(self.work.tokens)) - self._n_shared

    def next_stretch(self, room: int) -> Stretch | None:
        """The tokens to evaluate next, at most `room`; None when that is none."""
        if room < 1:
            return None
        if not self.is_in_prompt:
            return Stretch(self.sequence, self._n_evaluated, self._completion[-1:])
        tokens = self.work.tokens[self._n_evaluated : self._n_evaluated + room]
        is_last = self._n_evaluated + len(tokens) == len(self.work.tokens)
        return Stretch(self.sequence, self._n_evaluated, tokens, needs_logits=is_last)

    def evaluated(self, stretch: Stretch, n_ctx: int, context: Any, place: int) -> None:
        """The stretch is evaluated, its logits are at `place`: pick the next token; `reason` says whether it ends."""
        self._n_evaluated += len(stretch.tokens)
        if self.is_in_prompt:
            return
        limit = self.work.job.limits.max_tokens
        if limit is None or limit > 0:
            try:
                token = self._sampler.pick(context, place)
                if not self._vocabulary.is_end(token):
                    self._chances.note(context, place, token)
            except SlmError as error:  # the constraint leaves it no token, or its logits are not numbers
                self._error = error
                return
            if self._first_token is None:
                self._first_token = time.perf_counter()
            self._heard(token)
        if self.reason is None and limit is not None and len(self._completion) >= limit:
            self.reason = FinishReason.LENGTH
        elif self.reason is None and self._n_evaluated >= n_ctx:
            self.reason = FinishReason.CONTEXT

    def _heard(self, token: int) -> None:
        if self._vocabulary.is_end(token):
            self.reason = FinishReason.STOP
            return
        self._completion.append(token)
        self._pieces.append(self._text.feed(self._vocabulary.piece(token, is_shown=token in self.work.shown)))
        if self._text.is_stopped:
            self.reason = FinishReason.STOP

    def done(self) -> Done:
        """The whole completion, after its end; or what it failed with."""
        if self._error is not None:
            return Done(self.work.job.id, error=self._error)
        assert self.reason is not None
        now = time.perf_counter()
        first = self._first_token if self._first_token is not None else now
        is_cut = self._text.is_stopped
        text = "".join(self._pieces) + self._text.flush()
        finish = Finish(
            reason=self.reason,
            usage=Usage(len(self.work.tokens), self._n_shared, len(self._completion)),
            timings=Timings(
                prompt_s=first - self._begin,
                generation_s=now - first,
                ttft_s=None if self._first_token is None else first - self.work.start,
            ),
            seed=self.work.sampler.seed or 0,
            tokens=None if is_cut else tuple(self._completion),
        )
        return Done(self.work.job.id, text, finish, chances=self._chances.taken())

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()
