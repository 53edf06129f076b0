"""`slm batch` against calls of `slm run` and against a loop that answers each row alone.

The rows are names of things under a shared instruction of about 300 tokens, completions of 20 tokens, greedy. A whole
batch takes half a minute and more, so that only the first model runs it; both are measured inside one process.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import programs
from targets import Target, pairs

N_ROWS = 200
N_RUNS = 5  # calls of `slm run` that are timed; each is like every other
N_LOOP = 64  # rows inside one process
MAX_TOKENS = 20
INSTRUCTION = "You are given a thing. Write a long story about it with many details, at least two hundred words. " * 14
THINGS = ("coffee", "phone", "lamp", "chair", "jacket", "book", "radio", "bicycle", "kettle", "blanket")
WORDS = ("cheap", "red", "small", "old", "loud", "new", "light", "warm", "good", "large")


def _rows(count: int) -> list[str]:
    return [f"a {WORDS[n // 10 % 10]} {THINGS[n % 10]}" for n in range(count)]


def _options(model: str) -> list[str]:
    """Both models get the same text; the base model gets it bare, and a prompt that ends in the input."""
    fixed = ["-m", model, "--temp", "0", "-n", str(MAX_TOKENS)]
    return [*fixed, "-s", INSTRUCTION] if "-pt" not in model else [*fixed, "--raw"]


def _prompt(model: str) -> list[str]:
    return [] if "-pt" not in model else [f"{INSTRUCTION}\nThing: {{}}\nSentence:"]


def batch_rate(model: str) -> float:
    """Rows a second of the whole process, loading included."""
    command = [*programs.SLM, "batch", *_options(model), *_prompt(model)]
    start = time.perf_counter()
    done = subprocess.run(
        command, input="\n".join(_rows(N_ROWS)), capture_output=True, text=True, check=True, env=programs.environment()
    )
    assert len(done.stdout.splitlines()) == N_ROWS
    return N_ROWS / (time.perf_counter() - start)


def run_rate(model: str) -> float:
    """Rows a second of single calls."""
    start = time.perf_counter()
    for text in _rows(N_RUNS):
        command = [*programs.SLM, "run", *_options(model), *_prompt(model)]
        subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=programs.environment())
    return N_RUNS / (time.perf_counter() - start)


def in_process(model: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """Rows a second of the pool and of a session, on one loaded model."""
    from slmchat.conversation.messages import Message, Role
    from slmchat.engine import llama
    from slmchat.engine.api import Limits, Request, SessionSettings
    from slmchat.engine.sampler import SamplerSettings
    from slmchat.generation.prompt import layout

    engine = llama.load(Path(programs.path_of(model)))
    is_raw = "-pt" in model
    lay_out = layout(engine, is_raw=is_raw)
    texts = [f"\nThing: {text}\nSentence:" if is_raw else text for text in _rows(N_LOOP)]
    prompts = [lay_out([Message(Role.SYSTEM, INSTRUCTION), Message(Role.USER, text)]) for text in texts]
    settings, greedy, limits = (
        SessionSettings(4096, programs.THREADS, programs.THREADS),
        SamplerSettings(temperature=0),
        Limits(MAX_TOKENS),
    )
    pool, session = engine.open_pool(settings), engine.open_session(settings)
    for _ in session.generate(prompts[0], greedy, Limits(1)):
        pass  # the shared beginning is in its cache from now on

    def together() -> float:
        start = time.perf_counter()
        done = list(pool.run(Request(n, prompt, greedy, limits) for n, prompt in enumerate(prompts)))
        assert all(each.error is None for each in done)
        return N_LOOP / (time.perf_counter() - start)

    def alone() -> float:
        start = time.perf_counter()
        for prompt in prompts:
            for _ in session.generate(prompt, greedy, limits):
                pass
        return N_LOOP / (time.perf_counter() - start)

    return together, alone


def measure(repeat: int) -> list[Target]:
    """Against calls of `slm run`, and against a loop with the prefix cached."""
    model = programs.MODELS[0]
    ratios, ours, theirs = pairs(repeat, lambda: batch_rate(model), lambda: run_rate(model))
    raw = {"slm batch rows/s": ours, "slm run rows/s": theirs}
    found = [Target(f"{model}: slm batch against calls of slm run", 10, ratios, raw, is_at_least=True)]
    for model in programs.MODELS:
        ratios, ours, theirs = pairs(repeat, *in_process(model))
        raw = {"pool rows/s": ours, "loop rows/s": theirs}
        found.append(Target(f"{model}: many at once against one by one", 1.7, ratios, raw, is_at_least=True))
    return found
