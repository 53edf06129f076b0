"""The measuring of `slm bench`: a walk through the context window with a stop at each depth.

Every step only adds to what the KV cache holds, so that all kinds of memory, sliding windows too, are measured without
evaluating anything twice. It runs on the public Protocol: what is measured is what `run` and `chat` get.
Refuses to know: how a model is found and loaded, what the figures look like.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence

from slmchat.engine.api import Engine, Session
from slmchat.engine.requests import Limits, Part, Prompt
from slmchat.engine.results import Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass

PROMPT_TOKENS = 256  # a message with a pasted paragraph; llama.cpp's own programs evaluate up to 512 at once
GENERATION_TOKENS = 64

# Depths of a plot: its line is seen, and a measurement does not take longer than a coffee.
_PLOT_DEPTHS = 7

# A model that ends its turn early is asked again, at most this often, until enough tokens are there.
_TRIES = 4

# Brings a text to its length: one token in every vocabulary that knows English.
_PADDING = " and"


class Interrupted(Exception):
    """Ctrl-C during a generation: nothing of this step counts."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A generation at its end, and the joules that were counted while the prompt was read and while it generated."""

    finish: Finish
    prompt_j: float = 0.0
    generation_j: float = 0.0


Follow = Callable[[Session, Prompt, SamplerSettings, Limits], Followed]
"""Runs a generation to its end."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What one stop of one pass measured. `depth`: tokens that were in the KV cache before the message.

    `prompt_s` seconds for `prompt_tokens` evaluated, `generation_s` seconds for `generation_tokens` decoded, `ttft_s`
    seconds from the message to the first token of its answer; `prompt_j` and `generation_j`: joules (`Followed`).
    """

    depth: int
    prompt_tokens: int
    prompt_s: float
    generation_tokens: int
    generation_s: float
    ttft_s: float
    prompt_j: float = 0.0
    generation_j: float = 0.0

    @property
    def prompt_tps(self) -> float:
        return self.prompt_tokens / self.prompt_s

    @property
    def generation_tps(self) -> float | None:
        """None when the model said nothing but the mark of its end, however often it was asked."""
        return self.generation_tokens / self.generation_s if self.generation_tokens else None


@dataclass(frozen=True, slots=True)
class Steps:
    """Depths to stop at (in tokens, ascending) and how many tokens are evaluated and generated there."""

    depths: tuple[int, ...]
    n_prompt: int
    n_generation: int


def plan(n_ctx: int, asked: Sequence[int]) -> Steps:
    """A walk through a window of `n_ctx` tokens: 0, 512, 2,048 and so on, or the depths asked for.

    A small window is measured with a shorter message. Raises `SlmError` (USAGE) for a depth that does not fit.
    """
    n_prompt = min(PROMPT_TOKENS, n_ctx // 4)
    n_generation = max(2, min(GENERATION_TOKENS, n_ctx // 4))
    room = n_ctx - n_prompt - n_generation
    if too_deep := [depth for depth in asked if depth > room]:
        raise usage_error(
            f"--depth {max(too_deep)} does not fit: a context window of {n_ctx:,} tokens has room for {room:,}.",
            f"a larger window: --ctx {max(too_deep) + n_prompt + n_generation}",
        )
    usual = (0, *(512 * 4**power for power in range(8)))
    return Steps(tuple(sorted(set(asked)) or [depth for depth in usual if depth <= room]), n_prompt, n_generation)


def evenly(n_ctx: int) -> list[int]:
    """Depths for a plot: from 0 to the end of the window, as many as there are places between two messages."""
    steps = plan(n_ctx, [])
    each = 2 * (steps.n_prompt + steps.n_generation)
    last = n_ctx - steps.n_prompt - steps.n_generation
    n_parts = max(1, min(_PLOT_DEPTHS - 1, last // each))
    return [last * number // n_parts for number in range(n_parts + 1)]


def walk(session: Session, engine: Engine, steps: Steps, sampler: SamplerSettings, follow: Follow) -> Iterator[Stop]:
    """One pass on a new session. Raises `Interrupted` when a generation was."""
    text = _Text(engine)
    for depth in steps.depths:
        if depth > text.count():
            text.grow_to(depth)
            _generate(session, text, sampler, 1, follow)
        text.grow_to(text.count() + steps.n_prompt)
        yield _measure(session, text, sampler, steps.n_generation, follow)


def _measure(session: Session, text: "_Text", sampler: SamplerSettings, wanted: int, follow: Follow) -> Stop:
    followed = _generate(session, text, sampler, wanted, follow)
    first, joules = followed.finish, followed.generation_j
    decoded, seconds = _decoded(first), first.timings.generation_s
    for _ in range(_TRIES - 1):
        if decoded >= wanted - 1 or text.count() + text.sentence_tokens + wanted > session.n_ctx:
            break
        text.ask_on()
        more = _generate(session, text, sampler, wanted - decoded, follow)
        decoded += _decoded(more.finish)
        seconds, joules = seconds + more.finish.timings.generation_s, joules + more.generation_j
    evaluated = first.usage.prompt_tokens - first.usage.cached_tokens
    ttft_s = first.timings.ttft_s if first.timings.ttft_s is not None else first.timings.prompt_s
    return Stop(
        depth=first.usage.cached_tokens,
        prompt_tokens=evaluated,
        prompt_s=first.timings.prompt_s,
        generation_tokens=decoded,
        generation_s=seconds,
        ttft_s=ttft_s,
        prompt_j=followed.prompt_j,
        generation_j=joules,
    )


def _decoded(finish: Finish) -> int:
    """Tokens that were decoded while generating: the first was sampled from the prompt's logits.

    The last one is decoded only where something (the mark of the end) was sampled behind it.
    """
    said = finish.usage.completion_tokens
    return max(0, said - 1 if finish.reason is FinishReason.LENGTH else said)


def _generate(session: Session, text: "_Text", sampler: SamplerSettings, n_tokens: int, follow: Follow) -> Followed:
    followed = follow(session, text.prompt(), sampler, Limits(max_tokens=n_tokens))
    finish = followed.finish
    if finish.reason is FinishReason.INTERRUPTED:
        raise Interrupted
    if n_tokens > 1:
        text.add_completion(finish)
    return followed


class _Text:
    """The prompt so far: sentences of filler, and the completions that came between them as the tokens they are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parts: list[Part] = []
        self._sentences = 0
        # no state that was saved for another text may answer for this one
        self._nonce = secrets.token_hex(4)
        self.sentence_tokens = engine.count(Prompt((Part("\n\n" + self._sentence(88_888)),)))
        one, two = (engine.count(Prompt((Part(_PADDING * times),))) for times in (1, 2))
        self._padding_tokens = max(1, two - one)

    def prompt(self) -> Prompt:
        return Prompt(tuple(self._parts))

    def count(self) -> int:
        """Tokens so far."""
        return self._engine.count(self.prompt()) if self._parts else 0

    def grow_to(self, n_tokens: int) -> None:
        """Add text until the prompt has this many tokens, or almost."""
        text = "\n\n"
        self._parts.append(Part(text))
        while (missing := n_tokens - self.count()) >= self.sentence_tokens:
            for _ in range(missing // self.sentence_tokens):
                self._sentences += 1
                text += self._sentence(self._sentences)
            self._parts[-1] = Part(text)
        self._parts[-1] = Part(text + _PADDING * (missing // self._padding_tokens))

    def add_completion(self, finish: Finish) -> None:
        if finish.tokens:
            self._parts.append(Part("", tokens=finish.tokens))

    def ask_on(self) -> None:
        """A sentence behind an answer that ended early."""
        self._sentences += 1
        self._parts.append(Part("\n\n" + self._sentence(self._sentences)))

    def _sentence(self, number: int) -> str:
        place = ("river", "harbour", "station", "market", "orchard", "library")[number % 6]
        return f" On day {number} of journey {self._nonce} we reached the {place} and wrote down what the people said."
