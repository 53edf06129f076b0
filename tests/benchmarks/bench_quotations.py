"""What it costs that a model can only copy: generation tok/s while it quotes out of 4,000 tokens, against none.

Both of a pair go on behind the same prompt. The first quotation of a model also pays for the table of its vocabulary's
pieces, once; that is told beside it.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import programs
from targets import Target, pairs

from slmchat.engine import llama
from slmchat.engine.quotations import QuotationRules
from slmchat.engine.requests import Constraint, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings

DOCUMENTS = Path(__file__).resolve().parent.parent / "data" / "ask" / "documents"
N_TOKENS, N_PASSAGES = 120, 4_000
TEMPERATURES = (0.0, 0.8)


def measure(repeat: int) -> list[Target]:
    """The rate for every model and temperature."""
    return [target for model in programs.MODELS for target in _rates(model, repeat)]


def _rates(model: str, repeat: int) -> Iterator[Target]:
    engine = programs.load_engine(model)
    begin = time.perf_counter()
    n_pieces = len(engine.loaded.vocabulary.pieces)
    table_s = time.perf_counter() - begin
    passages = _passages(engine)
    n_ctx = N_PASSAGES + 1_024
    session = engine.open_session(SessionSettings(n_ctx, programs.THREADS, programs.THREADS, speculation="off"))
    prompt = Prompt((Part("\n\n".join(passages) + "\n\nQuestion: What has to be done every year?\n\nSentences:\n"),))
    quoting = QuotationRules(passages, most=9).constraint()
    calls = itertools.count()

    def rate(temperature: float, constraint: Constraint | None) -> float:
        sampler = SamplerSettings(temperature=temperature, seed=next(calls) // 2)  # both of a pair have the same
        *_, finish = session.generate(prompt, sampler, Limits(N_TOKENS, constraint=constraint))
        assert isinstance(finish, Finish)
        return finish.usage.completion_tokens / finish.timings.generation_s

    for temperature in TEMPERATURES:
        rate(temperature, quoting), rate(temperature, None)  # the prompt is read, once
        ratios, quoted, free = pairs(
            repeat,
            lambda temperature=temperature: rate(temperature, quoting),
            lambda temperature=temperature: rate(temperature, None),
        )
        raw = {"quoting tok/s": quoted, "free tok/s": free, f"table of {n_pieces:,} pieces, seconds": [table_s]}
        yield Target(f"{model}: rate while quoting against none, temperature {temperature}", 0.95, ratios, raw, True)
    session.close()
    engine.close()


def _passages(engine: llama.LlamaEngine) -> tuple[str, ...]:
    """Documents of the tests, as many as have 4,000 tokens together."""
    found: list[str] = []
    for file in sorted(DOCUMENTS.iterdir()):
        found += file.read_text(encoding="utf-8").split("\n\n")
    n_tokens = 0
    for count, text in enumerate(found):
        n_tokens += engine.count(Prompt((Part(f"{text}\n\n"),)))
        if n_tokens > N_PASSAGES - 100:
            return tuple(found[:count])
    return tuple(found)
