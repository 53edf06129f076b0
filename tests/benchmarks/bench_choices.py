"""`--choices` against generating the label, in one process, and how often either is right.

The rows are the 204 labelled sentences of slmchat/evaluation/suite/sentiment.jsonl. The generated label is the first of the two words
that stands in 16 tokens of text, sampled as `slm run` does. Instruction-tuned models get a question through their chat
template, base models a text to complete. Generating takes most of a minute, so that only the first model is measured.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import programs
from targets import Target, pairs

from slmchat.conversation.attachments import Attachment, compose
from slmchat.conversation.messages import Message, Role
from slmchat.engine.api import Engine
from slmchat.engine.requests import Limits, Prompt, Request, SessionSettings
from slmchat.engine.results import Chunk
from slmchat.engine.sampler import SamplerSettings
from slmchat.generation.classify import CONTENT_FREE, ClassificationTask, content_free_prior
from slmchat.generation.prompt import layout

LABELS = ("positive", "negative")
QUESTION = "What is the sentiment of this text? {}"
LINES = "Review: {}\nSentiment:"
MAX_TOKENS = 16
ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "slmchat/evaluation/suite/sentiment.jsonl").read_text().splitlines()
]


class Bench:
    """One model, one form of the question."""

    def __init__(self, model: str) -> None:
        self.engine: Engine = programs.load_engine(model)
        self.settings = SessionSettings(1024, programs.THREADS, programs.THREADS)
        is_base = self.engine.info.chat_template is None
        self._lay_out = layout(self.engine, is_raw=is_base)
        self._instruction = LINES if is_base else QUESTION
        self.prompts = [self._prompt(row["text"]) for row in ROWS]

    def _prompt(self, text: str) -> Prompt:
        return self._lay_out([Message(Role.USER, compose(self._instruction, [Attachment(text)]))])

    def chosen(self, *, is_calibrated: bool) -> tuple[float, float]:
        """Rows a second and the share of right ones, by `--choices`."""
        choosing = ClassificationTask(LABELS, None, is_calibrated)
        start = time.perf_counter()
        pool = self.engine.open_scorer(self.settings)
        prior = content_free_prior(choosing, pool, [self._prompt(text) for text in CONTENT_FREE])
        requests = (Request(n, prompt, choices=choosing.choices(prompt)) for n, prompt in enumerate(self.prompts))
        said = {done.id: choosing.classification(done.scores, prior).label for done in pool.run(requests)}
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


def measure(repeat: int) -> list[Target]:
    """The rate of `--choices` against that of generating, and how often it is right against how often generating is."""
    model = programs.MODELS[0]
    bench = Bench(model)
    chosen, generated = [], []

    def choosing() -> float:
        rate, right = bench.chosen(is_calibrated=True)
        chosen.append(right)
        return rate

    def generating() -> float:
        rate, right = bench.generated(SamplerSettings(seed=1))
        generated.append(right)
        return rate

    ratios, ours, theirs = pairs(repeat, choosing, generating)
    _, uncalibrated = bench.chosen(is_calibrated=False)
    bench.engine.close()
    raw = {"choices rows/s": ours, "generated rows/s": theirs}
    right = [a / b for a, b in zip(chosen, generated, strict=True)]
    shares = {"right by choices": chosen, "right by generating": generated, "right without prior": [uncalibrated]}
    return [
        Target(f"{model}: --choices against generating the label", 3.0, ratios, raw, is_at_least=True),
        Target(f"{model}: --choices right, over generating", 1.0, right, shares, is_at_least=True),
    ]
