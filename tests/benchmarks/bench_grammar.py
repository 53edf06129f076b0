"""What a grammar costs, and whether everything that comes out is right.

Usage beside the whole benchmark: python tests/benchmarks/bench_grammar.py [--runs 1000] [--seed 0] [MODEL.gguf]

The rate: generation tok/s with a typical schema against none, alternating in one process. The schemas: one completion
for each of many random schemas, with random weights unless a model is named; every one that is finished must be right.
Run as a program, it does only the schemas, as many as are wanted.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import programs
from gguf_samples import write_tiny_llama
from schema_samples import described, random_schema, with_references
from targets import Target, pairs

from slmchat.engine import constraint, llama
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.errors import SlmError
from slmchat.generation import structured
from slmchat.schemas import fields

TEXT = "Ann Miller is 34 years old, likes tennis and cooking, is happy today and was born on 3 May 1990."
SCHEMA = fields.parse("name, age int, tags[], mood enum(good|bad), born date")
N_TOKENS = 120
N_SCHEMAS = 100
TEMPERATURES = (0.0, 0.8)


def measure(repeat: int) -> list[Target]:
    """The rate for every model and temperature; answers of random schemas that are not right."""
    found = [target for model in programs.MODELS for target in _rates(model, repeat)]
    outcomes = schemas(None, N_SCHEMAS, 0)
    raw = {name: [float(count)] for name, count in sorted(outcomes.items())}
    return [*found, Target(f"{N_SCHEMAS} random schemas: wrong answers", 0, [outcomes["wrong"]], raw, False)]


def _rates(model: str, repeat: int) -> Iterator[Target]:
    engine = programs.load_engine(model)
    session = engine.open_session(_settings(1024))
    prompt = Prompt((Part(f"{TEXT}\n\nExtract name, age, tags, mood and born.\n\nJSON:\n"),))
    schema = Constraint(ConstraintKind.SCHEMA, json.dumps(SCHEMA))

    calls = itertools.count()

    def rate(temperature: float, constraint: Constraint | None) -> float:
        limits = Limits(max_tokens=N_TOKENS, constraint=constraint)
        sampler = SamplerSettings(temperature=temperature, seed=next(calls) // 2)  # both of a pair have the same
        _, finish = _generated(session, prompt, sampler, limits)
        return finish.usage.completion_tokens / finish.timings.generation_s

    for temperature in TEMPERATURES:
        rate(temperature, schema), rate(temperature, None)  # the grammar's tables, the session's graphs: once
        with _widths() as widths:
            ratios, structured_rate, free = pairs(
                repeat,
                lambda temperature=temperature: rate(temperature, schema),
                lambda temperature=temperature: rate(temperature, None),
            )
        raw = {"with a schema tok/s": structured_rate, "free tok/s": free}
        raw |= {f"tokens that took {width:,} candidates": [count] for width, count in sorted(widths.items())}
        yield Target(f"{model}: rate with a schema against none, temperature {temperature}", 0.9, ratios, raw, True)
    session.close()
    engine.close()


@contextmanager
def _widths() -> Iterator[Counter[int]]:
    """How often the grammar looked at how many candidates."""
    widths: Counter[int] = Counter()
    chosen = constraint.ConstrainedSampler._chosen

    def counted(self, candidates, *, is_all):  # type: ignore[no-untyped-def]
        widths[len(candidates)] += 1
        return chosen(self, candidates, is_all=is_all)

    constraint.ConstrainedSampler._chosen = counted  # type: ignore[method-assign]
    try:
        yield widths
    finally:
        constraint.ConstrainedSampler._chosen = chosen  # type: ignore[method-assign]


def _settings(n_ctx: int) -> SessionSettings:
    return SessionSettings(n_ctx, programs.THREADS, programs.THREADS, speculation="off")


def _generated(session: LlamaSession, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> tuple[str, Finish]:
    text = ""
    finish = None
    for event in session.generate(prompt, sampler, limits):
        if isinstance(event, Finish):
            finish = event
        elif hasattr(event, "text"):
            text += event.text
    assert finish is not None
    return text, finish


def schemas(model: Path | None, runs: int, seed: int) -> Counter[str]:
    """How many answers are right, cut off and wrong; what is wrong is printed."""
    with tempfile.TemporaryDirectory() as directory:
        path = model or write_tiny_llama(Path(directory) / "tiny.gguf", chat_template=None, context_length=2048)
        engine = llama.load(path)
        session = engine.open_session(_settings(2048))
        outcomes: Counter[str] = Counter()
        for run in range(seed, seed + runs):
            rng = random.Random(run)
            schema = with_references(rng) if run % 7 == 0 else random_schema(rng)
            outcomes[_one_run(session, schema, run)] += 1
        session.close()
        engine.close()
    return outcomes


def _one_run(session: LlamaSession, schema: object, seed: int) -> str:
    """ "right", "cut off" or "wrong"."""
    wanted = structured.of_schema(schema)
    sampler = SamplerSettings(temperature=1.0, top_k=(0, 40)[seed % 2], min_p=(0.0, 0.05)[seed // 2 % 2], seed=seed)
    prompt = Prompt((Part("Answer in JSON:"),))
    text, finish = _generated(session, prompt, sampler, Limits(max_tokens=400, constraint=wanted.constraint))
    try:
        wanted.value(text, finish.reason)
    except SlmError as error:
        if finish.reason is FinishReason.LENGTH:
            return "cut off"
        print(seed, error.message, repr(text[:300]), described(schema)[:300], file=sys.stderr)
        return "wrong"
    return "right"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcomes = schemas(given.model, given.runs, given.seed)
    print(f"{given.runs} schemas: {dict(outcomes)}")
    return int(outcomes["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
