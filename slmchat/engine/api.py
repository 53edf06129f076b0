"""What an engine is: two Protocols and the small records that pass through them.

An `Engine` is a loaded model; a `Session` is one mutable inference timeline on it (one KV cache with its tokens).
`Session.generate` is one generator: `Prefill`* -> `Chunk`* -> `Finish`. A `Pool` works on many prompts at once:
`Request`s in, `Result`s out. Local, remote and fake engines emit the same records, and `run`, `chat` and `batch` are
loops over them.

Knows: prompts as parts with their provenance, limits, progress, chunks, why a generation ended.
Refuses to know: conversations, terminals, model names, llama.cpp. Imports nothing heavy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from slmchat.engine.kvstore import KvStore
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import UNASKED, Thinking, ThoughtMarks
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass

BATCH_TOKENS = 512
"""Tokens of a prompt that are evaluated at once, and how often progress is reported."""


@dataclass(frozen=True, slots=True)
class Image:
    """Pixels, decoded and bounded by whoever read them: 3 bytes (red, green, blue) a pixel, row by row from the top.

    `id`: SHA-256 of size and pixels in lower-case hex, by which caches and archives know the image again.
    """

    width: int
    height: int
    rgb: bytes = field(repr=False)
    id: str

    @classmethod
    def of(cls, width: int, height: int, rgb: bytes) -> "Image":
        """The image with its id. Raises ValueError when the pixels are not those of an image of this size."""
        if width < 1 or height < 1 or len(rgb) != 3 * width * height:
            raise ValueError("the pixels do not make an image of this size")
        import hashlib  # OpenSSL, for pictures alone

        return cls(width, height, rgb, hashlib.sha256(b"%dx%d:" % (width, height) + rgb).hexdigest())


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. Only `is_template` text may spell control tokens (`<|im_end|>`); all else is plain text.

    `tokens`: the ids this text was generated as, when it is an earlier completion of the same model. They are used
    as they are, because a text tokenized again need not give the tokens it was sampled as, and then the KV cache of
    the whole rest of the conversation would be lost. Ids without text are control tokens (`InfillTokens`).
    `image`: an image that stands here; such a part has no text. Nothing that a text spells ever becomes an image.
    """

    text: str
    is_template: bool = False
    tokens: tuple[int, ...] | None = None
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said. `role`: system, user or assistant. `images`: what is shown with it, before the text."""

    role: str
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a session evaluates: parts in order, and the same as the turns of a conversation.

    An engine with a model in its hands evaluates the parts; the model's beginning-of-sequence token is added where the
    model wants one and the template has not put it. An engine that lays conversations out itself
    (`ModelInfo.has_own_layout`) takes the turns. No turns: a bare text, to be completed as it is. Turns that end with
    the assistant's: the completion goes on with that text.
    `cache_hints`: other prompts that may be asked later (another question about the same document, say). What they have
    in common with this one is worth keeping; a session need not heed it.
    `owner`: the conversation whose words it holds, for a `StreamPool`, which keeps states by itself; "": none.
    """

    parts: tuple[Part, ...]
    turns: tuple[Turn, ...] = ()
    cache_hints: "tuple[Prompt, ...]" = ()
    owner: str = ""


class ConstraintKind(StrEnum):
    """In which language the text of a `Constraint` is written."""

    JSON = "json"  # any JSON object or array; the text is empty
    SCHEMA = "schema"  # JSON Schema
    GRAMMAR = "grammar"  # GBNF (llama.cpp, grammars/README.md), beginning at `root`
    REGEX = "regex"  # a regular expression that the whole completion matches
    QUOTATIONS = "quotations"  # spans of given passages (`QuotationRules`, as JSON)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion has to look like. The session lets the model choose only tokens that keep to it.

    `is_capped` (of JSON): with soft limits where lists and maps have none, so that an answer ends.
    """

    kind: ConstraintKind
    text: str
    is_capped: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a generation ends, besides the model's own end-of-generation tokens.

    `max_tokens` None means: until the context window is full. `stop` sequences are not part of the completion.
    `shown`: spellings of control tokens that are text of the completion all the same (marks around a thought); every
    other control token stands for no text. `constraint`: what the completion has to look like, from its first token on,
    or behind the thought that the prompt has opened. `top_logprobs` not None: the logprobs of every token
    are told, with so many of the most probable ones at its place.
    `thinking`: what was asked of the thought; `marks`: how the families write one; `unbroken`: beginnings and ends of
    what its budget must not cut through.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    thinking: Thinking = UNASKED
    marks: tuple[ThoughtMarks, ...] = ()
    unbroken: tuple[tuple[str, str], ...] = ()


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
class InfillTokens:
    """The ids with which a model was trained to fill in a gap: before the prefix, the suffix and the middle.

    `separator` stands between files and `repository` before the name of the project, None where the model has no such
    token. `is_suffix_first`: it was trained to read the suffix before the prefix.
    """

    prefix: int
    suffix: int
    middle: int
    separator: int | None = None
    repository: int | None = None
    is_suffix_first: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself. Texts are untrusted (they come from the file).

    `trained_context_length` 0: not known. `has_own_layout`: the engine lays a conversation out by itself, from the
    turns of a prompt; there is no template here. `has_exact_counts`: `Engine.count` counts and does not guess.
    `infill` None: the model was not trained to fill in gaps.
    """

    architecture: str
    trained_context_length: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    has_own_layout: bool = False
    has_exact_counts: bool = True
    infill: InfillTokens | None = None


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
    """How much a session may hold and how it computes. `n_ctx` in tokens.

    `most_ctx`: when a completion needs more than `n_ctx`, the window grows up to so many tokens, and nothing is
    evaluated again; 0: it stays as it is.
    `threads` generate and `threads_batch` read the prompt, of which `batch_tokens` are evaluated at once.
    `flash_attention` None: as llama.cpp thinks best for the device. `store`: states on disk, None for nothing on disk.
    `is_multi_turn`: more than one generation will follow; then states in memory are kept to go back to.
    `adapts_threads`: `threads` are the most, and fewer compute while other programs need the processors.
    `speculation`: drafts looked up in the conversation are verified in one batch where that pays: "auto" (with
    temperature 0 or a seed only in batches proved to give the very same text), "always" (in any batch) or "off". With
    a `draft_model` they come from that small model instead.
    `is_repeatable`: a pool waits for each request before it computes, so that the same requests are computed in the
    same batches, whatever the clock says; for measurements, where all requests are there.
    """

    n_ctx: int
    threads: int
    threads_batch: int
    kv_type: str = "f16"
    flash_attention: bool | None = None
    batch_tokens: int = BATCH_TOKENS
    store: KvStore | None = None
    is_multi_turn: bool = True
    adapts_threads: bool = False
    speculation: str = "auto"
    draft_model: Path | None = None
    adapters: tuple[Adapter, ...] = ()
    most_ctx: int = 0
    is_repeatable: bool = False


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
class Request:
    """One of many completions. `id` is the caller's own and comes back in `Result`.

    `choices`: nothing is generated, and `Result` has the scores of these texts instead (`Engine.open_scorer`).
    `n_ctx`: its context window, where that is to be smaller than a `StreamPool` has it.
    """

    id: int
    prompt: Prompt
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    limits: Limits = field(default_factory=Limits)
    choices: Choices | None = None
    n_ctx: int | None = None


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


TextOrTokens = str | tuple[int, ...]
"""What an embedder takes: a text, or the ids of its tokens in the model's vocabulary, marks around them included."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as a vector of length 1, and its tokens with the marks around them (0: not told)."""

    vector: tuple[float, ...]
    n_tokens: int


class Embedder(Protocol):
    """What turns texts into vectors. Not for two threads at once, except `cancel`."""

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        """A vector for each text, in order, or the error that it failed with. Raises `SlmError` for what ends all."""
        ...

    def cancel(self) -> None:
        """End `run` soon, without the texts that are not done; from any thread or signal handler."""
        ...

    def close(self) -> None: ...


class TextLogits(Protocol):
    """What a model expects at every place of a text. Not for two threads at once, except `cancel`."""

    def tokens(self, text: str) -> list[int]:
        """The tokens of a plain text, with the mark of its beginning where the model wants one."""
        ...

    def read(self, tokens: Sequence[int]) -> Iterator[Any]:
        """NumPy arrays of float32, together a row of logits for each token, in order; each is gone when the next one
        comes. Ends early after a cancel. Raises `SlmError`: CONTEXT for more tokens than the window has, BUG."""
        ...

    def cancel(self) -> None:
        """End `read` soon; from any thread or signal handler."""
        ...

    def close(self) -> None: ...


class Session(Protocol):
    """One inference timeline: a KV cache and the tokens in it. Not for two threads at once, except `cancel`."""

    @property
    def n_ctx(self) -> int:
        """The context window in tokens, as large as it is now; 0: not known, and the engine says what does not fit."""
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

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Store on disk, for the conversation `owner`, what has been evaluated, as far as it is worth it.

        `is_resting`: only what nobody would notice. Nothing happens without a store, or where the state is elsewhere.
        """
        ...

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Let these LoRA adapters count from the next generation on; what was computed with others is forgotten.

        Raises `SlmError` (DAMAGED) when one does not belong to this model; then the session is as it was.
        """
        ...

    def close(self) -> None: ...


class Pool(Protocol):
    """Many completions at once on one model. Not for two threads at once, except `cancel`."""

    @property
    def report(self) -> str:
        """One line about how it works now (how many at once and why), for `-v`."""
        ...

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests; each comes out as soon as it is done, in no particular order.

        Requests are taken as there is room for them, never all at once, and on another thread: an iterator that waits
        for its next request holds up nothing that has begun. A `Result` among the requests (something that failed
        before it could become one) comes out as it is. A request that fails is a `Result` with an error. When the
        caller does not ask for the next record, no work is done. A `cancel` counts from this call on.
        Raises what the iterator raises, and `SlmError`: USAGE when a constraint cannot be used, NETWORK when an
        endpoint fails for good, BUG when the engine itself fails.
        """
        ...

    def resubmit(self, request: Request) -> None:
        """Work on this request too, before those that wait: for the caller of `run`, between two of its records."""
        ...

    def cancel(self) -> None:
        """End `run` soon, without the requests that are not done; from any thread or signal handler."""
        ...

    def close(self) -> None: ...


class StreamPool(Protocol):
    """Many completions at once whose text is read while it comes. Not for two threads at once.

    Work is done in `step` alone, so whoever calls it decides on which thread, and between two steps what begins and
    what is given up.
    """

    @property
    def n_ctx(self) -> int:
        """The context window of each request, in tokens."""
        ...

    @property
    def report(self) -> str:
        """One line about how it works (how many at once), for `-v`."""
        ...

    @property
    def most(self) -> int:
        """How many requests are worked on at once."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether another request may begin now."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no request is worked on."""
        ...

    def begin(self, request: Request) -> Prefill:
        """Begin with a request, when there `has_room`; how much of its prompt is known already.

        Raises `SlmError`: CONTEXT when it leaves no room for a completion, USAGE for an empty prompt or a constraint
        that cannot be used.
        """
        ...

    def step(self) -> "Iterator[tuple[int, Event | SlmError]]":
        """One batch; what has come of it for each request, by its id. A `Finish` or an error is the last of a request.

        Raises `SlmError` (BUG) when the engine fails.
        """
        ...

    def cancel(self, number: int) -> "Finish | None":
        """End the request with this id; its last record, None when it is not worked on. What was read is kept."""
        ...

    def keep_one(self) -> bool:
        """Write one state that is worth it to the disk, when there is time; False when there is none."""
        ...

    def close(self) -> None:
        """Give up what is worked on, and keep on the disk what is worth it."""
        ...


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
        """A pool for up to `parallel` requests at once; None: as many as memory allows and measured speed rewards.

        `settings.n_ctx` is the context window of each request. Raises `SlmError` (NO_FIT) as `open_session`.
        """
        ...

    def open_stream_pool(self, settings: SessionSettings, parallel: int | None = None) -> StreamPool:
        """A pool of `parallel` completions whose text is read while it comes; None: as many as memory allows, four at
        most. Raises `SlmError`: NO_FIT as `open_session`, USAGE where the engine has none."""
        ...

    def open_scorer(self, settings: SessionSettings) -> Pool:
        """A pool for requests with choices. Raises `SlmError`: NO_FIT, USAGE where the engine has no probabilities."""
        ...

    def open_text_logits(self, settings: SessionSettings) -> TextLogits:
        """What tells all logits of a text. Raises `SlmError`: NO_FIT, USAGE where the engine has none to tell."""
        ...

    def embedder(self, settings: SessionSettings, *, is_cut: bool = False) -> Embedder:
        """What turns texts into vectors; `is_cut`: of texts that are too long, the beginning counts."""
        ...

    def close(self) -> None: ...
