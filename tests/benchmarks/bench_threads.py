"""Threads that follow what other programs take: idle, beside busy programs, and after they have left.

Half of the processors are kept busy by processes that only count; then all of them by another llama.cpp, whose threads
spin while they wait for each other, as ours do. The best fixed number of threads is found by
measuring every number up to the most; the machine must be idle otherwise.
"""

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import programs
from targets import Target, pairs, rounds

from slmchat.engine import llama
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings

N_TOKENS, N_CTX = 150, 1024
SETTLE_S = 0.5  # what other programs take is known to a chat from the time before the question
LOADED_S = 3.0  # another llama.cpp computes by then
RECOVERY_S = 5.0
COUNTING = (sys.executable, "-c", "while True: pass")
MOST = max(1, programs.THREADS)


def measure(repeat: int) -> list[Target]:
    engine = programs.load_engine(programs.MODELS[0])
    try:
        idle = _against_best(engine, repeat, "idle", 0.98)
        with _busy(max(1, MOST // 2)):
            disturbed = _against_best(engine, repeat, f"{max(1, MOST // 2)} of {MOST} processors taken", 0.8)
        back = [_recovery(engine) for _ in rounds(repeat)]
        spun = _beside_spinning(engine, repeat)
    finally:
        engine.close()
    name = "all threads again after the others have left"
    return [idle, disturbed, Target(name, 2, back, {"s": back}, is_at_least=False, unit="s"), spun]


def _beside_spinning(engine: llama.LlamaEngine, repeat: int) -> Target:
    """The rate beside a llama.cpp that generates with all processors, over the rate alone."""
    rate = functools.partial(_rate, engine, MOST, adapts=True)
    ratios, beside, alone = [], [], []
    for _ in rounds(repeat):
        alone.append(rate())
        with _busy(1, programs.bare_loop(programs.MODELS[0], 16_000, 16_384), LOADED_S):
            beside.append(rate())
        ratios.append(beside[-1] / alone[-1])
    raw = {"beside it tok/s": beside, "alone tok/s": alone}
    return Target("beside another llama.cpp: rate over that alone", 0.2, ratios, raw, is_at_least=True)


def _against_best(engine: llama.LlamaEngine, repeat: int, name: str, goal: float) -> Target:
    fixed = {count: _rate(engine, count, adapts=False) for count in _counts()}
    best = max(fixed, key=lambda count: fixed[count])
    ratios, mine, others = pairs(
        repeat,
        functools.partial(_rate, engine, MOST, adapts=True),
        functools.partial(_rate, engine, best, adapts=False),
    )
    most = [fixed[MOST]]
    raw = {"adaptive tok/s": mine, f"{best} threads tok/s": others, f"{MOST} threads tok/s": most}
    return Target(f"{name}: rate against the best fixed number of threads", goal, ratios, raw, is_at_least=True)


def _counts() -> list[int]:
    """All numbers on a small machine, halves and quarters on a large one."""
    return (
        sorted({MOST, MOST - 1, 3 * MOST // 4, MOST // 2, MOST // 4} - {0, -1})
        if MOST > 4
        else list(range(1, MOST + 1))
    )


def _rate(engine: llama.LlamaEngine, threads: int, *, adapts: bool) -> float:
    """Tokens a second, the prompt not counted."""
    session = engine.open_session(_settings(threads, adapts=adapts))
    finish = list(session.generate(_PROMPT, SamplerSettings(temperature=0), Limits(N_TOKENS)))[-1]
    session.close()
    return float(finish.usage.completion_tokens / finish.timings.generation_s)  # type: ignore[union-attr]


def _recovery(engine: llama.LlamaEngine) -> float:
    """Seconds from the end of the other programs until all threads compute, in the middle of a generation."""
    session = engine.open_session(_settings(MOST, adapts=True))
    with contextlib.ExitStack() as others:
        others.enter_context(_busy(max(1, MOST // 2)))
        events = session.generate(_PROMPT, SamplerSettings(temperature=0), Limits(N_CTX - 64))
        start = time.perf_counter()
        for _event in events:
            if time.perf_counter() - start > 1:
                break
        assert session._context.threads < MOST or MOST == 1, "nothing was given way to"
    left = time.perf_counter()
    for _event in events:
        if session._context.threads == MOST or time.perf_counter() - left > RECOVERY_S:
            break
    seconds = time.perf_counter() - left
    session.close()
    return seconds


def _settings(threads: int, *, adapts: bool) -> SessionSettings:
    return SessionSettings(N_CTX, threads, threads, adapts_threads=adapts, speculation="off", is_multi_turn=False)


@contextlib.contextmanager
def _busy(count: int, command: Sequence[str] = COUNTING, settle_s: float = SETTLE_S) -> Iterator[None]:
    """So many processes, which only count if nothing else is said, for as long as this lasts."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, env=programs.environment(), **quiet) for _ in range(count)]  # type: ignore[call-overload]
    try:
        time.sleep(settle_s)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


_PROMPT = Prompt((Part(programs.PROMPT),))
