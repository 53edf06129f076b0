"""Measure `--choices` against generating the label, in one process, and how often either is right.

Usage: python tests/benchmarks/bench_choices.py [--repeat 1] [--threads 2] MODEL.gguf ...

The rows are the 204 labelled sentences of tests/data/sentiment.jsonl. The generated label is the first of the two words
that stands in 16 tokens of text, sampled as `slm run` does. Instruction-tuned models get a question
through their chat template, base models a text to complete.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import Target

from slmchat.commands.choosing import CONTENT_FREE, Choosing, prior_of
from slmchat.commands.run import layout
from slmchat.conversation.attachments import Attachment, compose
from slmchat.conversation.messages import Message, Role
from slmchat.engine import llama
from slmchat.engine.api import Chunk, Engine, Job, Limits, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings

LABELS = ("positive", "negative")
QUESTION = "What is the sentiment of this text? {}"
LINES = "Review: {}\nSentiment:"
MAX_TOKENS = 16
ROWS = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "sentiment.jsonl").read_text().splitlines()]


class Bench:
    """One model, one form of the question."""

    def __init__(self, path: str, threads: int) -> None:
        self.engine: Engine = llama.load(Path(path))
        self.settings = SessionSettings(1024, threads, threads)
        is_base = self.engine.info.chat_template is None
        self._lay_out = layout(self.engine, is_raw=is_base)
        self._instruction = LINES if is_base else QUESTION
        self.prompts = [self._prompt(row["text"]) for row in ROWS]

    def _prompt(self, text: str) -> Prompt:
        return self._lay_out([Message(Role.USER, compose(self._instruction, [Attachment(text)]))])

    def chosen(self, *, is_calibrated: bool) -> tuple[float, float]:
        """Rows a second and the share of right ones, by `--choices`."""
        choosing = Choosing(LABELS, None, is_calibrated)
        start = time.perf_counter()
        pool = self.engine.open_scorer(self.settings)
        prior = prior_of(choosing, pool, [self._prompt(text) for text in CONTENT_FREE])
        jobs = (Job(n, prompt, choices=choosing.choices(prompt)) for n, prompt in enumerate(self.prompts))
        said = {done.id: choosing.verdict(done.scores, prior).choice for done in pool.run(jobs)}
        rate = len(ROWS) / (time.perf_counter() - start)
        pool.close()
        return rate, _accuracy([said[n] for n in range(len(ROWS))])

    def generated(self, sampler: SamplerSettings) -> tuple[float, float]:
        """The same by generating; the session keeps what prompts share in its cache."""
        session = self.engine.open_session(self.settings)
        said = []
        start = time.perf_counter()
        for prompt in self.prompts:
            events = session.generate(prompt, sampler, Limits(MAX_TOKENS))
            said.append(_found("".join(event.text for event in events if isinstance(event, Chunk))))
        rate = len(ROWS) / (time.perf_counter() - start)
        session.close()
        return rate, _accuracy(said)


def _found(text: str) -> str:
    places = {label: text.lower().find(label) for label in LABELS}
    there = [label for label in LABELS if places[label] >= 0]
    return min(there, key=lambda label: places[label]) if there else ""


def _accuracy(said: Sequence[str]) -> float:
    return sum(one == row["label"] for one, row in zip(said, ROWS, strict=True)) / len(ROWS)


def measure(path: str, repeat: int, threads: int) -> Target:
    """The rate of `--choices` against that of generating, side by side; tells how often either is right."""
    bench = Bench(path, threads)
    ours, theirs = [], []
    for _ in range(repeat):
        rate, chosen = bench.chosen(is_calibrated=True)
        ours.append(rate)
        rate, generated = bench.generated(SamplerSettings(seed=1))
        theirs.append(rate)
    print(f"{Path(path).name}: right {chosen:.2f}, generated {generated:.2f}")
    raw = {"choices rows/s": ours, "generated rows/s": theirs}
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Target(f"--choices against generating, {Path(path).name}", 3.0, ratios, raw, is_at_least=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("models", nargs="+")
    given = parser.parse_args()
    for model in given.models:
        target = measure(model, given.repeat, given.threads)
        print(f"{target.name}: {target.median:.2f} (wanted {target.wanted}); {dict(target.raw)}")


if __name__ == "__main__":
    main()
