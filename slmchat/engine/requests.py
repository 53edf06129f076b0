"""What an engine is asked: prompts as parts with their provenance, limits, how much a session may hold.

Knows: the records, all of them plain values. Refuses to know: who asks, what comes of it (results.py), llama.cpp.
"""

from collections.abc import Iterable
from dataclasses import field
from enum import StrEnum
from pathlib import Path

from slmchat.engine.kvstore import KvStore
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import UNASKED, Thinking, ThoughtMarks
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
    as they are where they spell the text, because a text tokenized again need not give the tokens it was sampled as,
    and then the KV cache of the whole rest of the conversation would be lost. Ids without text are control tokens
    (`InfillTokens`).
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

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands in it, not even a control token."""
        return not self.turns and not any(part.text or part.tokens or part.image for part in self.parts)


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


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter (a GGUF of its own) laid over the weights. `scale` 1 is as it was trained, 0 is without it.

    `stamp`: bytes and time of change (ns) of the file when it was looked at; another stamp is another adapter. What is
    computed with an adapter depends on all three, so the whole record belongs into the key of a stored state.
    """

    path: Path
    scale: float
    stamp: tuple[int, int]


def counting_adapters(adapters: Iterable[Adapter]) -> tuple[Adapter, ...]:
    """Those that change anything: with a scale of 0 it is as if the adapter was not there."""
    return tuple(adapter for adapter in adapters if adapter.scale)


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
    `waits_for_requests`: a pool waits for each request before it computes, so that the same requests share batches,
    whatever the clock says; for requests that are all there.
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
    waits_for_requests: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """Texts of which one is to be the answer. `has_end`: that the answer ends behind it counts too."""

    texts: tuple[str, ...]
    has_end: bool = False


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


TextOrTokens = str | tuple[int, ...]
"""What an embedder takes: a text, or the ids of its tokens in the model's vocabulary, marks around them included."""
