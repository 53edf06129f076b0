"""How fast a loaded model reads and writes with given settings: one short measurement.

Knows: a context of its own, evaluating tokens that are given, clocks.
Refuses to know: which settings are compared, and what is concluded (commands/tune.py).

Nothing is sampled: the same tokens are evaluated every time, so that two settings are compared by the same work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from slmchat.engine.llama import LlamaEngine
from slmchat.engine.requests import SessionSettings
from slmchat.lazy_dataclasses import dataclass


class GivenUp(Exception):
    """The measurement was given up."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is evaluated: `n_prompt` tokens as a prompt, then `n_generated` one by one."""

    n_prompt: int
    n_generated: int


@dataclass(frozen=True, slots=True)
class WorkloadTimes:
    """Seconds for the prompt and for the tokens one by one."""

    prompt_s: float
    generation_s: float


def measure(
    engine: LlamaEngine,
    settings: SessionSettings,
    tokens: Sequence[int],
    work: Workload,
    is_cancelled: Callable[[], bool],
) -> WorkloadTimes:
    """Evaluate the first tokens of `tokens` (at least two more than the work takes) with these settings.

    The first batch of a context allocates and is not counted. Raises `GivenUp`, and `SlmError` (NO_FIT).
    """
    n_ctx = work.n_prompt + work.n_generated + 2
    context = engine.open_context(replace(settings, n_ctx=n_ctx), is_cancelled)
    try:
        context.evaluate_one(tokens[0])
        context.logits(-1)
        context.forget()
        start = time.perf_counter()
        for _ in context.prefill(tokens[: work.n_prompt]):
            pass
        context.logits(-1)  # waits for a GPU
        read = time.perf_counter()
        for token in tokens[work.n_prompt : work.n_prompt + work.n_generated]:
            if is_cancelled():
                raise GivenUp
            context.evaluate_one(token)
            context.logits(-1)
        done = time.perf_counter()
        if is_cancelled():
            raise GivenUp
        return WorkloadTimes(read - start, done - read)
    finally:
        context.close()
