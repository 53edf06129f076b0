"""What the best of several answers brings: right answers and seconds, against one answer. For docs/eval.md.

    python -m tests.best_of_gain smollm2:135m --n 8 --items 46
    python -m tests.best_of_gain smollm2:135m --n 8 --items 100 --gsm8k test.jsonl
    python -m tests.best_of_gain smollm2:135m --rows kept.jsonl --seconds 200      # again and again, until it is done

Questions are asked one after the other, as a person would: what counts is the time until the answer is there. The
answers go by their last number; the questions stand behind the worked examples of the suite's task `mathematics`.
Each question is asked in every way before the next one. With `--rows` what was measured is kept, and a later call goes
on with it, so that a machine need not stand still for all of it at once; `--seconds` ends a call.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import slmchat
from slmchat.evaluation import task_catalog
from slmchat.evaluation.statistics import paired_difference, wilson
from slmchat.generation.numbers import last_number

# The questions of GSM8K that are asked when not all of them are.
_SEED = 1


@dataclass(frozen=True)
class Asked:
    """A question that was asked in one way: whether the answer is right, seconds until it was there, tokens."""

    question: str
    way: str
    is_right: bool
    seconds: float
    tokens: int


def questions(gsm8k: Path | None, most: int) -> list[tuple[str, str]]:
    """Questions with their numbers."""
    if gsm8k is None:
        return [(item.prompt, item.answers[0]) for item in task_catalog.load("mathematics").items[:most]]
    rows = [json.loads(line) for line in gsm8k.read_text().splitlines()]
    chosen = random.Random(_SEED).sample(rows, min(most, len(rows)))
    return [(row["question"], last_number(row["answer"]) or "") for row in chosen]


def ask(model: slmchat.Model, way: str, question: str, answer: str, options: dict[str, Any]) -> Asked:
    """One question in one way."""
    task = task_catalog.load("mathematics")
    messages = [
        {"role": role, "content": text}
        for example in task.examples
        for role, text in (("user", example.prompt), ("assistant", example.worked or example.answers[0]))
    ]
    messages.append({"role": "user", "content": question})
    start = time.perf_counter()
    done = model.complete(messages=messages, system=task.system or None, max_tokens=task.max_tokens, **options)
    seconds = time.perf_counter() - start
    tokens = done.best_of.n_tokens if done.best_of else done.usage.completion_tokens
    return Asked(question, way, last_number(done.text) == answer, seconds, tokens)


def table(name: str, rows: Sequence[Asked], ways: Sequence[str]) -> str:
    """What was measured, as docs/eval.md has it: of the questions that were asked in every way."""
    by_way = {way: {row.question: row for row in rows if row.way == way} for way in ways}
    done = [question for question in by_way[ways[0]] if all(question in by_way[way] for way in ways)]
    lines = [
        f"| {name}, {len(done)} questions | right | 95 % | seconds for a question | right a second | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for way in ways:
        of_way = [by_way[way][question] for question in done]
        right, seconds = sum(row.is_right for row in of_way), sum(row.seconds for row in of_way)
        interval = wilson(right, len(done))
        lines.append(
            f"| {way} | {right} of {len(done)} | {interval.low:.0%} to {interval.high:.0%} | "
            f"{seconds / len(done):.1f} (median {statistics.median(row.seconds for row in of_way):.1f}) | "
            f"{right / seconds:.3f} | {sum(row.tokens for row in of_way):,} |"
        )
    for way in ways[1:]:
        pairs = [(by_way[way][question], by_way[ways[0]][question]) for question in done]
        gap = paired_difference([float(a.is_right) for a, _ in pairs], [float(b.is_right) for _, b in pairs])
        times = sum(a.seconds for a, _ in pairs) / sum(b.seconds for _, b in pairs)
        lines.append(
            f"{way} against {ways[0]}: {gap.value:+.1%} ({gap.interval.low:+.1%} to {gap.interval.high:+.1%}), "
            f"{times:.1f} times the time"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--rows", type=Path, help="where rows are kept")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no question after so many")
    given = parser.parse_args()
    hot = {"temperature": given.temperature, "seed": 1}
    ways: dict[str, dict[str, Any]] = {
        "greedy, one": {"temperature": 0},
        f"temperature {given.temperature:g}, one": hot,
        f"temperature {given.temperature:g}, the best of {given.n}": {**hot, "best_of": given.n, "vote": "number"},
    }
    rows: list[Asked] = []
    if given.rows and given.rows.exists():
        rows = [Asked(**json.loads(line)) for line in given.rows.read_text().splitlines()]
    known = {(row.question, row.way) for row in rows}
    items = questions(given.gsm8k, given.items)
    with (
        slmchat.load(given.model, ctx=2048, threads=given.threads) as model,
        open(given.rows or os.devnull, "a") as kept,
    ):
        model.complete("Hello", max_tokens=1)  # the weights are read
        end = time.monotonic() + given.seconds
        for number, (question, answer) in enumerate(items, 1):
            missing = [way for way in ways if (question, way) not in known]
            if missing and time.monotonic() > end:
                break
            for way in missing:
                rows.append(ask(model, way, question, answer, ways[way]))
                print(json.dumps(asdict(rows[-1])), file=kept, flush=True)
            print(f"{number} of {len(items)}", flush=True)
    print(table(given.model, rows, tuple(ways)))


if __name__ == "__main__":
    main()
