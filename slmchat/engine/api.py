"""What an engine is: the Protocols, and what a loaded model says of itself.

An `Engine` is a loaded model; a `Session` is one mutable inference timeline on it (one KV cache with its tokens).
`Session.generate` is one generator: `Prefill`* -> `Chunk`* -> `Finish`. A `Pool` works on many prompts at once:
`Request`s in, `Result`s out. Local, remote and fake engines emit the same records, and `run`, `chat` and `batch` are
loops over them.

Knows: what each of them does with the records (requests.py, results.py).
Refuses to know: conversations, terminals, model names, llama.cpp. Imports nothing heavy.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from slmchat.engine.requests import Adapter, Limits, Prompt, Request, SessionSettings, TextOrTokens
from slmchat.engine.results import Embedding, Event, Finish, Prefill, Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass


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

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        """Number of tokens of the prompt as it would be evaluated; exact unless `info` says otherwise.

        `most`: of what has surely more, nobody wants to know how many; it may be an `AtLeast`, above `most`.
        """
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
