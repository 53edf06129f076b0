"""An engine without weights: it implements the public Protocols and says what it was told to say."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from slmchat.engine.api import ModelInfo
from slmchat.engine.requests import Adapter, Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import (
    Chunk,
    Event,
    Finish,
    FinishReason,
    Prefill,
    Result,
    Score,
    Timings,
    TokenLogprob,
    Usage,
)
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class FakeEngine:
    """Answers with `replies` in turn; a prompt has as many tokens as characters."""

    replies: list[Sequence[str]] = field(default_factory=lambda: [("Hello", ".")])
    template: str | None = CHATML
    trained: int = 100_000
    prompts: list[str] = field(default_factory=list)
    parts: list[tuple[Part, ...]] = field(default_factory=list)  # of the prompts of a stream pool
    requests: deque[Request] = field(default_factory=lambda: deque(maxlen=100))  # the last ones that a pool was given
    is_closed: bool = False
    kept: list[str] = field(default_factory=list)
    n_sessions: int = 0  # open ones
    samplers: list[SamplerSettings] = field(default_factory=list)  # those of the sessions' generations
    limits: list[Limits] = field(default_factory=list)  # theirs, too
    # what a pool says to a prompt, and in which order it is done with the requests that it holds
    answer: Callable[[str], str | SlmError] = lambda prompt: "yes"
    score: Callable[[str, str], Score] = lambda prompt, text: Score((-1.0,) * len(text.split()))
    logprob: Callable[[str], float] = lambda word: -1.0  # of each word of a pool's answers, where it is asked for
    alternatives: tuple[tuple[str, float], ...] = ()  # to each token of a session's answer, where they are asked for
    n_held: int = 1
    pick: Callable[[int], int] = lambda n_held: 0
    stream_pool: "FakeStreamPool | None" = None  # the one that was opened last

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("fake", self.trained, self.template, "<s>", "</s>")

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        return sum(len(part.text) for part in prompt.parts)

    def open_session(self, settings: SessionSettings) -> "FakeSession":
        self.n_sessions += 1
        return FakeSession(self, settings)

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> "FakePool":
        return FakePool(self, settings)

    def open_scorer(self, settings: SessionSettings) -> "FakePool":
        return FakePool(self, settings)

    def open_stream_pool(self, settings: SessionSettings, parallel: int | None = None) -> "FakeStreamPool":
        return FakeStreamPool(self, settings, parallel or 2)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Ready:
    """A model that is loaded already."""

    loaded: FakeEngine
    is_done: bool = True
    is_failed: bool = False
    is_private: bool = False
    plan: None = None
    notices: tuple[str, ...] = ()
    path: None = None

    def engine(self) -> FakeEngine:
        return self.loaded

    def wait_until_begun(self) -> None:
        pass

    def when_done(self, callback: object) -> None:
        pass

    def go_private(self) -> None:
        self.is_private = True


@dataclass
class FakeSession:
    engine: FakeEngine
    settings: SessionSettings
    is_cancelled: bool = False
    adapters: tuple[Adapter, ...] = ()

    @property
    def n_ctx(self) -> int:
        return self.settings.n_ctx

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        self.is_cancelled = False
        return self._generate(prompt, sampler, limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        self.engine.prompts.append("".join(part.text for part in prompt.parts))
        self.engine.samplers.append(sampler)
        self.engine.limits.append(limits)
        total = self.engine.count(prompt)
        yield Prefill(0, total, 0)
        yield Prefill(total, total, 0)
        reply = self.engine.replies.pop(0)
        reason = FinishReason.STOP
        said = 0
        for piece in reply:
            if self.is_cancelled:
                reason = FinishReason.INTERRUPTED
                break
            if limits.max_tokens is not None and said == limits.max_tokens:
                reason = FinishReason.LENGTH
                break
            said += 1
            told = () if limits.top_logprobs is None else (TokenLogprob(piece, -1.0, self.engine.alternatives),)
            yield Chunk(piece, (said,), logprobs=told)
        yield Finish(
            reason, Usage(total, 0, said), Timings(0.1, 0.1, 0.1), sampler.seed or 1, tuple(range(1, said + 1))
        )

    def cancel(self) -> None:
        self.is_cancelled = True

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = tuple(adapters)

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        self.engine.kept.append(owner)

    def close(self) -> None:
        self.engine.n_sessions -= 1


@dataclass
class FakePool:
    """Holds up to `n_held` requests and is done with them in the order of `pick`."""

    engine: FakeEngine
    settings: SessionSettings
    is_cancelled: bool = False
    most_held: int = 0
    held: list[Request | Result] = field(default_factory=list)
    report: str = "fake"

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        self.is_cancelled = False
        return self._run(requests)

    def _run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        held = self.held
        while not self.is_cancelled:
            while len(held) < self.engine.n_held and (request := next(requests, None)) is not None:
                held.append(request)
            if not held:
                return
            request = held.pop(self.engine.pick(len(held)))
            yield request if isinstance(request, Result) else self._done(request)

    def _done(self, request: Request) -> Result:
        self.engine.requests.append(request)
        prompt = "".join(part.text for part in request.prompt.parts)
        said = self.engine.answer(prompt)
        if isinstance(said, SlmError):
            return Result(request.id, error=said)
        if request.choices is not None:
            scores = tuple(self.engine.score(prompt, text) for text in request.choices.texts)
            finish = Finish(FinishReason.STOP, Usage(len(prompt), 0, 0), Timings(0.1, 0.0, None), 0, ())
            return Result(request.id, finish=finish, scores=scores)
        room = request.limits.max_tokens
        words = re.findall(r"\s*\S+", said)[:room]
        reason = FinishReason.STOP if "".join(words) == said.rstrip() else FinishReason.LENGTH
        finish = Finish(
            reason, Usage(len(prompt), 0, len(words)), Timings(0.1, 0.1, 0.1), request.sampler.seed or 1, ()
        )
        is_told = request.limits.top_logprobs is not None
        logprobs = tuple(TokenLogprob(word, self.engine.logprob(word)) for word in words if is_told)
        return Result(request.id, said if reason is FinishReason.STOP else "".join(words), finish, logprobs=logprobs)

    def resubmit(self, request: Request) -> None:
        self.held.insert(0, request)

    def cancel(self) -> None:
        self.is_cancelled = True

    def close(self) -> None:
        pass


@dataclass
class FakeStreamPool:
    """Says the next piece of every request's reply at each step; a step takes a moment, as a token does."""

    engine: FakeEngine
    settings: SessionSettings
    most: int
    report: str = "fake"
    cancelled: list[int] = field(default_factory=list)
    is_closed: bool = False
    _busy: dict[int, tuple[Request, Iterator[str], list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine.stream_pool = self

    @property
    def n_ctx(self) -> int:
        return self.settings.n_ctx

    @property
    def has_room(self) -> bool:
        return len(self._busy) < self.most

    @property
    def is_idle(self) -> bool:
        return not self._busy

    def begin(self, request: Request) -> Prefill:
        self.engine.prompts.append("".join(part.text for part in request.prompt.parts))
        self.engine.parts.append(request.prompt.parts)
        self.engine.samplers.append(request.sampler)
        self.engine.limits.append(request.limits)
        self._busy[request.id] = request, iter(self.engine.replies.pop(0)), []
        total = self.engine.count(request.prompt)
        return Prefill(0, total, 0)

    def step(self) -> Iterator[tuple[int, Event | SlmError]]:
        time.sleep(0.001)
        for number, (request, pieces, said) in list(self._busy.items()):
            piece = next(pieces, None)
            if piece is None or len(said) == request.limits.max_tokens:
                yield number, self._end(number, FinishReason.STOP if piece is None else FinishReason.LENGTH)
            else:
                said.append(piece)
                yield number, Chunk(piece, (len(said),))

    def _end(self, number: int, reason: FinishReason) -> Finish:
        request, _, said = self._busy.pop(number)
        usage = Usage(self.engine.count(request.prompt), 0, len(said))
        return Finish(reason, usage, Timings(0.1, 0.1, 0.1), request.sampler.seed or 1, ())

    def cancel(self, number: int) -> Finish | None:
        if number not in self._busy:
            return None
        self.cancelled.append(number)
        return self._end(number, FinishReason.INTERRUPTED)

    def keep_one(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True
