"""What a grammar costs, and whether everything that comes out is right.

Usage: python tests/benchmarks/bench_grammar.py rate MODEL.gguf [--pairs 5] [--temp T]
       python tests/benchmarks/bench_grammar.py schemas MODEL.gguf|tiny [--runs 1000] [--seed 0]

`rate`: generation tok/s with a typical schema against none, alternating in one process; the ratio of the medians, and
how many tokens needed a look at more than the most probable candidates. `schemas`: one completion for each of many
random schemas; every one that is finished must be right.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gguf_samples import write_tiny_llama
from schema_samples import described, random_schema, with_references

from slmchat.commands import shaping
from slmchat.engine import constraint, llama
from slmchat.engine.api import Constraint, ConstraintKind, Finish, FinishReason, Limits, Part, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.schemas import fields

TEXT = "Ann Miller is 34 years old, likes tennis and cooking, is happy today and was born on 3 May 1990."
SCHEMA = fields.parse("name, age int, tags[], mood enum(good|bad), born date")
N_TOKENS = 120


def generated(
    session: llama.LlamaSession, prompt: Prompt, sampler: SamplerSettings, limits: Limits
) -> tuple[str, Finish]:
    text = ""
    finish = None
    for event in session.generate(prompt, sampler, limits):
        if isinstance(event, Finish):
            finish = event
        elif hasattr(event, "text"):
            text += event.text
    assert finish is not None
    return text, finish


def rate(path: Path, pairs: int, temperature: float) -> None:
    widths: Counter[int] = Counter()
    chosen = constraint.ConstrainedSampler._chosen

    def counted(self, candidates, *, is_all):  # type: ignore[no-untyped-def]
        widths[len(candidates)] += 1
        return chosen(self, candidates, is_all=is_all)

    constraint.ConstrainedSampler._chosen = counted  # type: ignore[method-assign]
    engine = llama.load(path)
    session = engine.open_session(SessionSettings(n_ctx=1024, threads=2, threads_batch=2))
    prompt = Prompt((Part(f"{TEXT}\n\nExtract name, age, tags, mood and born.\n\nJSON:\n"),))
    schema = Constraint(ConstraintKind.SCHEMA, json.dumps(SCHEMA))
    rates: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs):
        for is_shaped in (False, True):
            limits = Limits(max_tokens=N_TOKENS, constraint=schema if is_shaped else None)
            _, finish = generated(session, prompt, SamplerSettings(temperature=temperature, seed=pair), limits)
            rates[is_shaped].append(finish.usage.completion_tokens / finish.timings.generation_s)
    free, shaped = statistics.median(rates[False]), statistics.median(rates[True])
    print(f"{path.name}: {free:.1f} tok/s free, {shaped:.1f} with a schema: {shaped / free:.3f} (>= 0.9)")
    print("looked at candidates:", dict(sorted(widths.items())), [round(rate, 1) for rate in rates[True]])


def schemas(model: str, runs: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as directory:
        if model == "tiny":
            path = write_tiny_llama(Path(directory) / "tiny.gguf", chat_template=None, context_length=2048)
        else:
            path = Path(model)
        engine = llama.load(path)
        session = engine.open_session(SessionSettings(n_ctx=2048, threads=2, threads_batch=2))
        outcomes: Counter[str] = Counter()
        begin = time.perf_counter()
        for run in range(seed, seed + runs):
            rng = random.Random(run)
            schema = with_references(rng) if run % 7 == 0 else random_schema(rng)
            outcomes[one_run(session, schema, run)] += 1
        session.close()
        engine.close()
        print(f"{runs} schemas in {time.perf_counter() - begin:.0f} s: {dict(outcomes)}")
        return int(outcomes["wrong"] > 0)


def one_run(session: llama.LlamaSession, schema: object, seed: int) -> str:
    """ "right", "cut off" or "wrong"."""
    shape = shaping.of_schema(schema)
    sampler = SamplerSettings(temperature=1.0, top_k=(0, 40)[seed % 2], min_p=(0.0, 0.05)[seed // 2 % 2], seed=seed)
    prompt = Prompt((Part("Answer in JSON:"),))
    text, finish = generated(session, prompt, sampler, Limits(max_tokens=400, constraint=shape.constraint))
    try:
        shape.value(text, finish.reason)
    except SlmError as error:
        if finish.reason is FinishReason.LENGTH:
            return "cut off"
        print(seed, error.message, repr(text[:300]), described(schema)[:300])
        return "wrong"
    return "right"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("rate", "schemas"))
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "rate":
        rate(Path(given.model), given.pairs, given.temp)
        return 0
    return schemas(given.model, given.runs, given.seed)


if __name__ == "__main__":
    sys.exit(main())
