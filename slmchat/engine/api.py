"""What an engine is: two Protocols and the small records that pass through them.

An `Engine` is a loaded model; a `Session` is one mutable inference timeline on it (one KV cache with its tokens).
`Session.generate` is one generator: `Prefill`* -> `Chunk`* -> `Finish`. A `Pool` works on many prompts at once:
`Job`s in, `Done`s out. Local, remote and fake engines emit the same records, and `run`, `chat` and `batch` are loops
over them.

Knows: prompts as parts with their provenance, limits, progress, chunks, why a generation ended.
Refuses to know: conversations, terminals, model names, llama.cpp. Imports nothing heavy.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. Only `is_template` text may spell control tokens (`<|im_end|>`); all else is plain text.

    `tokens`: the ids this text was generated as, when it is an earlier completion of the same model. They are used
    as they are, because a text tokenized again need not give the tokens it was sampled as, and then the KV cache of
    the whole rest of the conversation would be lost.
    """

    text: str
    is_template: bool = False
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said. `role`: system, user or assistant."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a session evaluates: parts in order, and the same as the turns of a conversation.

    An engine with a model in its hands evaluates the parts; the model's beginning-of-sequence token is added where the
    model wants one and the template has not put it. An engine that lays conversations out itself
    (`ModelInfo.has_own_layout`) takes the turns. No turns: a bare text, to be completed as it is. Turns that end with
    the assistant's: the completion goes on with that text.
    """

    parts: tuple[Part, ...]
    turns: tuple[Turn, ...] = ()


class ConstraintKind(StrEnum):
    """In which language the text of a `Constraint` is written."""

    JSON = "json"  # any JSON object or array; the text is empty
    SCHEMA = "schema"  # JSON Schema
    GRAMMAR = "grammar"  # GBNF (llama.cpp, grammars/README.md), beginning at `root`
    REGEX = "regex"  # a regular expression that the whole completion matches


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion has to look like. The session lets the model choose only tokens that keep to it."""

    kind: ConstraintKind
    text: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a generation ends, besides the model's own end-of-generation tokens.

    `max_tokens` None means: until the context window is full. `stop` sequences are not part of the completion.
    `shown`: spellings of control tokens that are text of the completion all the same (marks around a thought); every
    other control token stands for no text. `constraint`: what the completion has to look like, from its first token on.
    `n_alternatives` not None: the chances of every token are told, with so many of the most probable ones at its place.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    constraint: Constraint | None = None
    n_alternatives: int | None = None


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its turn, or a stop sequence came
    LENGTH = "length"  # max_tokens reached
    CONTEXT = "context"  # the context window is full
    INTERRUPTED = "interrupted"  # cancel() was called


@dataclass(frozen=True, slots=True)
class Prefill:
    """Progress of prompt evaluation in tokens. `done` starts at `cached`: what the KV cache already held."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Chance:
    """A token of a completion and how probable the model found it, before any sampler or constraint had a say.

    `logprob`: the natural logarithm. `alternatives`: the most probable tokens at its place with theirs, best first.
    """

    text: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole characters of the completion, and the tokens since the last chunk (text may lag behind its tokens).

    `tokens` is empty where they are not known. `is_thinking`: the engine itself has told a thought from the answer.
    `chances`: of the same tokens, where `Limits` asks for them.
    """

    text: str
    tokens: tuple[int, ...]
    is_thinking: bool = False
    chances: tuple[Chance, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `prompt_tokens` includes the `cached_tokens` that were not evaluated again.

    `is_estimate`: nobody who could has counted them.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    is_estimate: bool = False


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


Event = Prefill | Chunk | Finish


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself. Texts are untrusted (they come from the file).

    `trained_context_length` 0: not known. `has_own_layout`: the engine lays a conversation out by itself, from the
    turns of a prompt; there is no template here. `has_exact_counts`: `Engine.count` counts and does not guess.
    """

    architecture: str
    trained_context_length: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    has_own_layout: bool = False
    has_exact_counts: bool = True


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How much a session may hold and how it computes. `n_ctx` in tokens; `threads` for decode and prefill."""

    n_ctx: int
    threads: int
    threads_batch: int
    kv_type: str = "f16"


@dataclass(frozen=True, slots=True)
class Choices:
    """Texts of which one is to be the answer. `has_end`: that the answer ends behind it counts too."""

    texts: tuple[str, ...]
    has_end: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """How probable a text is as the answer: the natural logarithms of the probability of each of its tokens.

    `end`: the same for an end of the answer behind them, None where it was not asked for.
    """

    logprobs: tuple[float, ...]
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One of many completions. `id` is the caller's own and comes back in `Done`.

    `choices`: nothing is generated, and `Done` has the scores of these texts instead (`Engine.open_scorer`).
    """

    id: int
    prompt: Prompt
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    limits: Limits = field(default_factory=Limits)
    choices: Choices | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The whole text of a job and how it ended, or the error that it ended with (then `finish` is None).

    `thinking`: what the engine itself has told apart from the answer. `scores`: one for each of the job's choices.
    """

    id: int
    text: str = ""
    finish: Finish | None = None
    error: SlmError | None = None
    thinking: str = ""
    scores: tuple[Score, ...] = ()
    chances: tuple[Chance, ...] = ()


class Session(Protocol):
    """One inference timeline: a KV cache and the tokens in it. Not for two threads at once, except `cancel`."""

    @property
    def n_ctx(self) -> int:
        """The context window in tokens; 0: not known, and the engine says when a prompt does not fit."""
        ...

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """Evaluate the prompt (the cached prefix is not evaluated again) and sample until an end.

        A `cancel` counts from this call on.
        Raises `SlmError` (CONTEXT) when the prompt leaves no room for a completion; the session stays usable.
        """
        ...

    def cancel(self) -> None:
        """End the generation that is running, in prefill too; from any thread or signal handler."""
        ...

    def close(self) -> None: ...


class Pool(Protocol):
    """Many completions at once on one model. Not for two threads at once, except `cancel`."""

    @property
    def report(self) -> str:
        """One line about how it works now (how many at once and why), for `-v`."""
        ...

    def run(self, jobs: Iterator[Job | Done]) -> Iterator[Done]:
        """Work on the jobs; each comes out as soon as it is done, in no particular order.

        Jobs are taken as there is room for them, never all at once, and on another thread: an iterator that waits for
        its next job holds up nothing that has begun. A `Done` among the jobs (something that failed before it could
        become one) comes out as it is. A job that fails is a `Done` with an error. When the caller does not ask for
        the next record, no work is done. A `cancel` counts from this call on.
        Raises what the iterator raises, and `SlmError`: USAGE when a constraint cannot be used, NETWORK when an
        endpoint fails for good, BUG when the engine itself fails.
        """
        ...

    def again(self, job: Job) -> None:
        """Work on this job too, before those that wait: for the caller of `run`, between two of its records."""
        ...

    def cancel(self) -> None:
        """End `run` soon, without the jobs that are not done; from any thread or signal handler."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """A loaded model."""

    @property
    def info(self) -> ModelInfo: ...

    def count(self, prompt: Prompt) -> int:
        """Number of tokens of the prompt as it would be evaluated; exact unless `info` says otherwise."""
        ...

    def open_session(self, settings: SessionSettings) -> Session:
        """A new, empty session. Raises `SlmError` (NO_FIT) when its memory cannot be had."""
        ...

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> Pool:
        """A pool for up to `parallel` jobs at once; None: as many as memory allows and measured speed rewards.

        `settings.n_ctx` is the context window of each job. Raises `SlmError` (NO_FIT) as `open_session`.
        """
        ...

    def open_scorer(self, settings: SessionSettings) -> Pool:
        """A pool whose jobs have choices. Raises `SlmError`: NO_FIT, USAGE where the engine has no probabilities."""
        ...

    def close(self) -> None: ...
