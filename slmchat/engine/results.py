"""What comes of a generation: progress, chunks, why it ended, counts, clocks, and the whole of one among many.

Knows: the records, all of them plain values. Refuses to know: what was asked (requests.py), who reads them.
"""

from collections.abc import Callable
from dataclasses import field
from enum import StrEnum

from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass


class AtLeast(int):
    """A number of tokens that was not counted to its end: there are so many, or more. A sentence has it in words."""

    def __format__(self, spec: str) -> str:
        return f"at least {int(self):{spec}}"

    def __add__(self, other: int) -> "AtLeast":
        return AtLeast(int(self) + other)

    __radd__ = __add__

    def __sub__(self, other: int) -> "AtLeast":
        """`other` is exact."""
        return AtLeast(int(self) - other)


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its turn, or a stop sequence came
    LENGTH = "length"  # max_tokens reached
    CONTEXT = "context"  # the context window is full
    REPETITION = "repetition"  # it went round in circles, where `Limits.max_tokens` said nothing (repetition.py)
    INTERRUPTED = "interrupted"  # cancel() was called

    @property
    def is_cut(self) -> bool:
        """Whether the model itself would have gone on, and nobody stopped it."""
        return self in (FinishReason.LENGTH, FinishReason.CONTEXT, FinishReason.REPETITION)


@dataclass(frozen=True, slots=True)
class Prefill:
    """Progress of prompt evaluation in tokens. `done` starts at `cached`: what the KV cache already held.

    `live`: how many are done at the moment of the call, for whoever asks between two of these records, which may lie
    seconds apart; from any thread. None where the engine does not know.
    """

    done: int
    total: int
    cached: int
    live: Callable[[], float] | None = field(default=None, compare=False, repr=False)

    def now(self) -> float:
        """Tokens that are done by now, as far as it is known; from any thread."""
        return self.done if self.live is None else min(max(self.live(), self.done), self.total)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of a completion and how probable the model found it, before any sampler or constraint had a say.

    `logprob`: the natural logarithm. `alternatives`: the most probable tokens at its place with theirs, best first.
    `data`: the bytes of the token, `alternative_data` those of the alternatives: a token may be half a character, and
    then its `text` cannot be put together again. None and empty where an endpoint does not tell them.
    """

    text: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()
    data: bytes | None = None
    alternative_data: tuple[bytes | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole characters of the completion, and the tokens since the last chunk (text may lag behind its tokens).

    `tokens` is empty where they are not known. `is_thinking`: the engine itself has told a thought from the answer.
    `logprobs`: of the same tokens, where `Limits` asks for them.
    """

    text: str
    tokens: tuple[int, ...]
    is_thinking: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `prompt_tokens` includes the `cached_tokens` that were not evaluated again.

    `drafted_tokens` were guessed and verified in batches; `accepted_tokens` of them are part of the completion.
    `is_estimate`: nobody who could has counted them. `thinking_tokens` of the completion are a thought, without its
    marks.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    is_estimate: bool = False
    thinking_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of wall time. `ttft_s`: from the call of generate() to the first token, None if there was none."""

    prompt_s: float
    generation_s: float
    ttft_s: float | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The last record. `tokens` are those of the completion, or None when a stop sequence cut through them."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    seed: int
    tokens: tuple[int, ...] | None


NEVER_BEGUN = Finish(FinishReason.INTERRUPTED, Usage(0, 0, 0), Timings(0.0, 0.0, None), 0, ())
"""The end of a generation that was cancelled before anything was counted."""


Event = Prefill | Chunk | Finish


@dataclass(frozen=True, slots=True)
class Score:
    """How probable a text is as the answer: the natural logarithms of the probability of each of its tokens.

    `end`: the same for an end of the answer behind them, None where it was not asked for.
    """

    logprobs: tuple[float, ...]
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The whole text of a request and how it ended, or the error that it ended with (then `finish` is None).

    `thinking`: what the engine itself has told apart from the answer. `scores`: one for each of the request's choices.
    """

    id: int
    text: str = ""
    finish: Finish | None = None
    error: SlmError | None = None
    thinking: str = ""
    scores: tuple[Score, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as a vector of length 1, and its tokens with the marks around them (0: not told)."""

    vector: tuple[float, ...]
    n_tokens: int
