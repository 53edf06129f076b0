"""What Markdown costs per token: `python tests/benchmarks/bench_markdown.py`.

Feeds an answer of 5,000 tokens (chunks of four characters) and prints the time of each call of `feed`. The budget is
1 ms a token; the last tenth of the answer must not cost more than the first.
"""

import random
import statistics
import sys
import time

from slmchat.terminal.markdown import MarkdownStream

TOKENS = 5000
CHUNK = 4
PASSES = 3  # the best of them for each token: what else the machine does is not ours
SENTENCE = (
    "the model runs here, *never* sends `data` away, **which is good** for you; see [docs](https://a.b/c) 模型 🙂"
)
WORDS = SENTENCE.split()
CODE = {
    "python": 'def add(a: int, b: int = 2) -> int:  # sum\n    """Add\n    two."""\n    return f"{a}" + str(b)\n',
    "js": "/* two\n lines */\nconst add = (a, b) => { return `${a}\n${b}`; };\n",
    "text": "plain output 1 2 3\nmore of it\n",
}


def prose(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(5, 60)))


def section(kind: str) -> str:
    """A tenth of an answer of a kind."""
    rng = random.Random(7)
    parts: list[str] = []
    if kind in ("mixed", "prose"):
        parts.append(f"## {prose(rng)[:40]}\n\n{prose(rng)}\n\n")
    if kind in ("mixed", "lists"):
        parts.append("".join(f"{'  ' * rng.randint(0, 2)}- {prose(rng)}\n" for _ in range(3)) + "\n")
    if kind in ("mixed", "tables"):
        parts.append("| a | b |\n|---|--:|\n" + "".join(f"| {prose(rng)[:80]} | {n} |\n" for n in range(4)) + "\n")
    if kind in ("mixed", "fences"):
        parts.extend(f"```{name}\n{code}```\n" for name, code in CODE.items())
    text = "".join(parts)
    length = TOKENS * CHUNK // 10
    text *= length // len(text)
    return text + "> " + (prose(rng) * 40)[: length - len(text) - 4] + "\n\n"


def document(kind: str) -> str:
    """An answer of a kind, each tenth like the others."""
    length = TOKENS * CHUNK
    if kind == "one fence":
        return ("```python\n" + CODE["python"] * length)[:length]
    if kind == "one paragraph":
        return ((SENTENCE + " ") * length)[:length]
    if kind == "open markup":
        return ("**a `b [c *d " * length)[:length]
    return section(kind) * 10


def measure(text: str) -> list[float]:
    """Seconds of each call."""
    stream = MarkdownStream(lambda text: None, width=lambda: 80, has_links=True)
    times = []
    for start in range(0, len(text), CHUNK):
        before = time.perf_counter()
        stream.feed(text[start : start + CHUNK])
        times.append(time.perf_counter() - before)
    stream.close()
    return times


def main() -> None:
    write = sys.stdout.write
    write(f"{TOKENS} tokens of {CHUNK} characters; microseconds per token\n")
    write(f"{'document':<14}{'mean':>8}{'p99':>8}{'max':>9}{'last/first tenth':>18}\n")
    kinds = ("mixed", "prose", "lists", "tables", "fences", "one fence", "one paragraph", "open markup")
    measure(document("mixed"))  # imports and caches: once in a process, not once a token
    for kind in kinds:
        text = document(kind)
        times = [min(same) for same in zip(*(measure(text) for _ in range(PASSES)), strict=True)]
        tenth = len(times) // 10
        ratio = statistics.fmean(times[-tenth:]) / statistics.fmean(times[:tenth])
        mean, p99 = statistics.fmean(times) * 1e6, statistics.quantiles(times, n=100)[-1] * 1e6
        write(f"{kind:<14}{mean:>8.1f}{p99:>8.0f}{max(times) * 1e6:>9.0f}{ratio:>18.2f}\n")


if __name__ == "__main__":
    main()
