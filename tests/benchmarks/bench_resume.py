"""Measure what need not be evaluated again: a conversation that is resumed, a document that is asked about again.

Usage: python tests/benchmarks/bench_resume.py [--repeat 5] [--json]
The two real models of the tests must be installed in SLM_HOME. States go to a temporary directory.
Each ratio is a time to first token against that of the same prompt evaluated from its beginning, in the same process
(resuming) or by the same program (`slm run`).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from targets import Target

from slmchat.engine import llama
from slmchat.engine.api import Finish, Limits, Part, Prompt, SessionSettings
from slmchat.engine.kvstore import KvStore
from slmchat.engine.sampler import SamplerSettings

MODELS = ("smollm2:135m@Q4_1", "gemma3:270m-pt@Q4_K_M")
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CONVERSATION_TOKENS, DOCUMENT_TOKENS = 3000, 2000
_WORDS = "the river city council plan market engine water price winter report season village bridge garden island"


def measure(repeat: int) -> list[Target]:
    """Both targets for both models."""
    return [
        made
        for model in MODELS
        for made in (
            _target(f"{model} first token, resumed conversation", 0.05, repeat, _resuming(_path_of(model))),
            _target(f"{model} first token, document seen before", 0.1, repeat, _asking_again(_path_of(model))),
        )
    ]


def _target(name: str, limit: float, repeat: int, once: Callable[[int], tuple[float, float]]) -> Target:
    """`once(number)`: seconds to the first token, fresh and with what is stored."""
    found = [once(number) for number in range(repeat)]
    raw = {"fresh s": [fresh for fresh, _stored in found], "stored s": [stored for _fresh, stored in found]}
    return Target(name, limit, [stored / fresh for fresh, stored in found], raw, is_at_least=False)


def _resuming(path: Path) -> Callable[[int], tuple[float, float]]:
    """A conversation and then a question, evaluated afresh; and after the conversation was loaded from the disk."""

    def once(number: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as directory:
            engine = llama.load(path)
            text = Part(_text(number, CONVERSATION_TOKENS + 200))
            said = engine.vocabulary.tokenize(Prompt((text,)))[:CONVERSATION_TOKENS]
            settings = SessionSettings(4096, THREADS, THREADS, store=KvStore(Path(directory)))
            question = Part("\nWhat did we say about the river?\n")

            def ttft(prompt: Prompt, *, is_kept: bool) -> float:
                session = engine.open_session(settings)
                finish = list(session.generate(prompt, SamplerSettings(temperature=0), Limits(1)))[-1]
                assert isinstance(finish, Finish)
                assert finish.timings.ttft_s
                if is_kept:
                    session.keep("a")
                session.close()
                return finish.timings.ttft_s

            conversation = Part("", tokens=tuple(said))
            fresh = ttft(Prompt((conversation,)), is_kept=True)
            stored = ttft(Prompt((conversation, question)), is_kept=False)
            engine.close()
            return fresh, stored

    return once


def _asking_again(path: Path) -> Callable[[int], tuple[float, float]]:
    """`slm run` over a document, twice, with another question."""

    def once(number: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as home:
            document = Path(home, "document.txt")
            document.write_text(_text(number, DOCUMENT_TOKENS))
            first, second = (_run(path, home, document, asked) for asked in ("What is it about?", "Name one season."))
            return first, second

    return once


def _run(path: Path, home: str, document: Path, question: str) -> float:
    arguments = ["run", "-m", str(path), "--temp", "0", "-n", "1", "--json", "--threads", str(THREADS)]
    if "gemma" in path.name:  # a base model
        arguments.append("--raw")
    done = subprocess.run(
        [sys.executable, "-m", "slmchat", *arguments, "-f", str(document), question],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        env={**os.environ, "SLM_HOME": home},
    )
    return float(json.loads(done.stdout)["timings"]["ttft_s"])


def _text(seed: int, n_words: int) -> str:
    """About as many tokens as words, never the same text twice."""
    chance, words = random.Random(seed), _WORDS.split()
    return " ".join(chance.choice(words) for _ in range(n_words))


def _path_of(model: str) -> Path:
    shown = subprocess.run([sys.executable, "-m", "slmchat", "show", model, "--json"], capture_output=True, check=True)
    return Path(json.loads(shown.stdout)["path"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.repeat)
    if given.json:
        print(json.dumps([{**asdict(item), "median": item.median, "is_met": item.is_met} for item in found], indent=1))
        return
    for item in found:
        raw = "; ".join(f"{name} {', '.join(f'{value:.3f}' for value in values)}" for name, values in item.raw.items())
        print(f"{item.name}: {item.median:.4f} ({item.wanted}: {'met' if item.is_met else 'NOT met'}; {raw})")


if __name__ == "__main__":
    main()
