"""What an engine is: two Protocols and the small records that pass through them.

An `Engine` is a loaded model; a `Session` is one mutable inference timeline on it (one KV cache with its tokens).
`Session.generate` is one generator: `Prefill`* -> `Chunk`* -> `Finish`. Local, remote and fake engines emit the same
records, and `run`, `chat` and `batch` are loops over them.

Knows: prompts as parts with their provenance, limits, progress, chunks, why a generation ended.
Refuses to know: conversations, terminals, model names, llama.cpp. Imports nothing heavy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from slmchat.engine.sampler import SamplerSettings


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
class Prompt:
    """What a session evaluates: parts in order.

    The model's beginning-of-sequence token is added where the model wants one and the template has not put it.
    """

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a generation ends, besides the model's own end-of-generation tokens.

    `max_tokens` None means: until the context window is full. `stop` sequences are not part of the completion.
    `shown`: spellings of control tokens that are text of the completion all the same (marks around a thought); every
    other control token stands for no text.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


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
class Chunk:
    """Whole characters of the completion, and the tokens since the last chunk (text may lag behind its tokens)."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `prompt_tokens` includes the `cached_tokens` that were not evaluated again."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


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
    """What a loaded model says of itself. Texts are untrusted (they come from the file)."""

    architecture: str
    trained_context_length: int
    chat_template: str | None
    bos_text: str
    eos_text: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter (a GGUF of its own) laid over the weights. `scale` 1 is as it was trained, 0 is without it.

    `stamp`: bytes and time of change (ns) of the file when it was looked at; another stamp is another adapter. What is
    computed with an adapter depends on all three, so the whole record belongs into the key of a stored state.
    """

    path: Path
    scale: float
    stamp: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How much a session may hold and how it computes. `n_ctx` in tokens; `threads` for decode and prefill."""

    n_ctx: int
    threads: int
    threads_batch: int
    kv_type: str = "f16"
    adapters: tuple[Adapter, ...] = ()


class Session(Protocol):
    """One inference timeline: a KV cache and the tokens in it. Not for two threads at once, except `cancel`."""

    @property
    def n_ctx(self) -> int:
        """The context window in tokens."""
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

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Let these LoRA adapters count from the next generation on; what was computed with others is forgotten.

        Raises `SlmError` (DAMAGED) when one does not belong to this model; then the session is as it was.
        """
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """A loaded model."""

    @property
    def info(self) -> ModelInfo: ...

    def count(self, prompt: Prompt) -> int:
        """Exact number of tokens of the prompt as it would be evaluated."""
        ...

    def open_session(self, settings: SessionSettings) -> Session:
        """A new, empty session. Raises `SlmError` (NO_FIT) when its memory cannot be had."""
        ...

    def close(self) -> None: ...
