"""`slm batch` against calls of `slm run`, against a loop that answers each row alone, and against the arithmetic.

The rows are names of things under a shared instruction of about 300 tokens, completions of 20 tokens, greedy. A whole
batch takes half a minute and more, so that only the first model runs it; both are measured inside one process. There
everybody reads the instruction once. The arithmetic is that of a bare loop of `llama_decode` over as many sequences as
the pool works on: nothing in Python can make a batch faster than that.
"""

import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import programs
from targets import Target, pairs

if TYPE_CHECKING:
    from slmchat.engine.llama import LlamaEngine
    from slmchat.engine.requests import SessionSettings

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


def in_process(model: str) -> tuple[Callable[[], float], Callable[[], float], Callable[[], float]]:
    """Rows a second of the pool, of a session, and of a bare loop, on one loaded model."""
    from slmchat.conversation.messages import Message, Role
    from slmchat.engine.requests import Limits, Request, SessionSettings
    from slmchat.engine.sampler import SamplerSettings
    from slmchat.generation.prompt import layout

    engine = programs.load_engine(model)
    is_raw = "-pt" in model
    lay_out = layout(engine, is_raw=is_raw)
    texts = [f"\nThing: {text}\nSentence:" if is_raw else text for text in _rows(N_LOOP)]
    prompts = [lay_out([Message(Role.SYSTEM, INSTRUCTION), Message(Role.USER, text)]) for text in texts]
    texts_of: list[list[int]] = [engine.vocabulary.tokenize(prompt) for prompt in prompts]
    settings, greedy, limits = (
        SessionSettings(4096, programs.THREADS, programs.THREADS),
        SamplerSettings(temperature=0),
        Limits(MAX_TOKENS),
    )
    pool = engine.open_pool(settings)

    def together() -> float:
        start = time.perf_counter()
        done = list(pool.run(Request(n, prompt, greedy, limits) for n, prompt in enumerate(prompts)))
        assert all(each.error is None for each in done)
        return N_LOOP / (time.perf_counter() - start)

    def alone() -> float:
        session = engine.open_session(settings)
        start = time.perf_counter()
        for prompt in prompts:
            for _ in session.generate(prompt, greedy, limits):
                pass
        rate = N_LOOP / (time.perf_counter() - start)
        session.close()
        return rate

    def bare() -> float:
        # as many at once as the pool has found to be best, with its attention
        return bare_rate(engine, engine._settled(settings, settings.n_ctx), texts_of, pool._growth.allowed)

    return together, alone, bare


def bare_rate(engine: "LlamaEngine", settings: "SessionSettings", rows: list[list[int]], n_at_once: int) -> float:
    """Rows a second of a loop that does nothing but what llama.cpp has to: so many sequences side by side."""
    from slmchat.engine.context import context_params
    from slmchat.engine.kvstore import shared_length

    api, model, vocabulary = engine.loaded.api, engine.loaded.model, engine.vocabulary
    params = context_params(api, settings, settings.batch_tokens)
    params.n_ctx, params.n_seq_max, params.kv_unified = 2 * settings.n_ctx, n_at_once + 1, True
    context = api.llama_init_from_model(model, params)
    memory = api.llama_get_memory(context)
    batch = api.llama_batch_init(settings.batch_tokens, 0, 1)
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())

    def decode(tokens: list[tuple[int, int, int, bool]]) -> None:
        for index, (token, position, sequence, needs_logits) in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, position, 1
            batch.seq_id[index][0], batch.logits[index] = sequence, needs_logits
        batch.n_tokens = len(tokens)
        assert api.llama_decode(context, batch) == 0

    start = time.perf_counter()
    n_shared = shared_length(rows[0], rows[1])
    decode([(token, place, 0, False) for place, token in enumerate(rows[0][:n_shared])])
    for begin in range(0, len(rows), n_at_once):
        group = rows[begin : begin + n_at_once]
        asked: list[tuple[int, int, int, bool]] = []
        for sequence, row in enumerate(group, 1):
            api.llama_memory_seq_rm(memory, sequence, -1, -1)
            # a whole sequence, because a sliding window cannot be copied in part
            api.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
            asked += [(row[at], at, sequence, at == len(row) - 1) for at in range(n_shared, len(row))]
        decode(asked)
        places = [number for number, (*_, needs_logits) in enumerate(asked) if needs_logits]
        for n_done in range(MAX_TOKENS):
            picked = [api.llama_sampler_sample(chain, context, place) for place in places]
            for token in picked:
                vocabulary.piece(token)
            if n_done < MAX_TOKENS - 1:
                decode(
                    [
                        (token, len(row) + n_done, n + 1, True)
                        for n, (token, row) in enumerate(zip(picked, group, strict=True))
                    ]
                )
                places = list(range(len(group)))
    rate = len(rows) / (time.perf_counter() - start)
    api.llama_sampler_free(chain)
    api.llama_batch_free(batch)
    api.llama_free(context)
    return rate


def measure(repeat: int) -> list[Target]:
    """Against calls of `slm run`, one by one, and the bare loop."""
    model = programs.MODELS[0]
    ratios, ours, theirs = pairs(repeat, lambda: batch_rate(model), lambda: run_rate(model))
    raw = {"slm batch rows/s": ours, "slm run rows/s": theirs}
    found = [Target(f"{model}: slm batch against calls of slm run", 10, ratios, raw, is_at_least=True)]
    for model in programs.MODELS:
        together, alone, bare = in_process(model)
        ratios, ours, theirs = pairs(repeat, together, alone)
        raw = {"pool rows/s": ours, "loop rows/s": theirs}
        found.append(Target(f"{model}: many at once against one by one", 1.7, ratios, raw, is_at_least=True))
        ratios, ours, theirs = pairs(repeat, together, bare)
        raw = {"pool rows/s": ours, "bare loop rows/s": theirs}
        found.append(Target(f"{model}: many at once against the bare loop", 0.95, ratios, raw, is_at_least=True))
    return found
