"""What the best of several answers brings: right answers and seconds, against one answer. For docs/eval.md.

    python -m tests.best_of_gain smollm2:135m --n 8 --items 46
    python -m tests.best_of_gain smollm2:135m --n 8 --items 100 --gsm8k test.jsonl

Questions are asked one after the other, as a person would: what counts is the time until the answer is there. The
answers go by their last number; the questions stand behind the worked examples of the suite's task `mathematics`.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slmchat
from slmchat.evaluation import task_catalog
from slmchat.evaluation.statistics import paired_difference, wilson
from slmchat.generation.numbers import last_number

# The questions of GSM8K that are asked when not all of them are.
_SEED = 1


@dataclass(frozen=True)
class Variant:
    """A way to ask, and what came of each question: whether it was right, seconds, tokens."""

    name: str
    right: tuple[bool, ...]
    seconds: tuple[float, ...]
    tokens: tuple[int, ...]


def questions(gsm8k: Path | None, most: int) -> list[tuple[str, str]]:
    """Questions with their numbers."""
    if gsm8k is None:
        return [(item.prompt, item.answers[0]) for item in task_catalog.load("mathematics").items[:most]]
    rows = [json.loads(line) for line in gsm8k.read_text().splitlines()]
    chosen = random.Random(_SEED).sample(rows, min(most, len(rows)))
    return [(row["question"], last_number(row["answer"]) or "") for row in chosen]


def asked(model: slmchat.Model, name: str, items: Sequence[tuple[str, str]], **options: Any) -> Variant:
    """Every question, one after the other."""
    task = task_catalog.load("mathematics")
    before = [
        {"role": role, "content": text}
        for example in task.examples
        for role, text in (("user", example.prompt), ("assistant", example.worked or example.answers[0]))
    ]
    right, seconds, tokens = [], [], []
    for number, (question, answer) in enumerate(items, 1):
        start = time.perf_counter()
        messages = [*before, {"role": "user", "content": question}]
        done = model.complete(messages=messages, system=task.system or None, max_tokens=task.max_tokens, **options)
        seconds.append(time.perf_counter() - start)
        right.append(last_number(done.text) == answer)
        tokens.append(done.best_of.n_tokens if done.best_of else done.usage.completion_tokens)
        print(f"{name}: {number} of {len(items)}, {sum(right)} right, {sum(seconds):.0f} s", flush=True)
    return Variant(name, tuple(right), tuple(seconds), tuple(tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--temperature", type=float, default=0.8)
    given = parser.parse_args()
    items = questions(given.gsm8k, given.items)
    with slmchat.load(given.model, ctx=2048, threads=given.threads) as model:
        hot = {"temperature": given.temperature, "seed": 1}
        made = [
            asked(model, "greedy, one", items, temperature=0),
            asked(model, f"temperature {given.temperature:g}, one", items, **hot),
            asked(model, f"the best of {given.n}", items, best_of=given.n, vote="number", **hot),
        ]
    first = made[0]
    print(
        f"\n| {given.model} | right | 95 % | seconds for a question | right a minute | tokens |\n|---|---|---|---|---|---|"
    )
    for each in made:
        interval = wilson(sum(each.right), len(items))
        print(
            f"| {each.name} | {sum(each.right)} of {len(items)} | {interval.low:.0%} to {interval.high:.0%} | "
            f"{statistics.median(each.seconds):.1f} | {60 * sum(each.right) / sum(each.seconds):.1f} | {sum(each.tokens):,} |"
        )
    for each in made[1:]:
        gap = paired_difference([float(one) for one in each.right], [float(one) for one in first.right])
        print(
            f"{each.name} against {first.name}: {gap.value:+.1%} ({gap.interval.low:+.1%} to {gap.interval.high:+.1%}), "
            f"{sum(each.seconds) / sum(first.seconds):.1f} times the time"
        )


if __name__ == "__main__":
    main()
