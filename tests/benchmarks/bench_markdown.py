"""What Markdown costs per token.

Feeds an answer of 5,000 tokens (chunks of four characters) and prints the time of each call of `feed`. The budget is
1 ms a token; the last tenth of the answer must not cost more than the first.
"""

import random
import statistics
import time

from targets import Target

from slmchat.terminal.markdown import MarkdownStream

TOKENS = 5000
CHUNK = 4
KINDS = ("mixed", "prose", "lists", "tables", "fences", "one fence", "one paragraph", "open markup")
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


def time_calls(text: str) -> list[float]:
    """Seconds of each call."""
    stream = MarkdownStream(lambda text: None, width=lambda: 80)
    times = []
    for start in range(0, len(text), CHUNK):
        before = time.perf_counter()
        stream.feed(text[start : start + CHUNK])
        times.append(time.perf_counter() - before)
    stream.close()
    return times


def measure(repeat: int) -> list[Target]:
    """The mean of every kind of document in microseconds, and the last tenth of its time over the first."""
    time_calls(document("mixed"))  # imports and caches: once in a process, not once a token
    means: dict[str, list[float]] = {}
    growths: dict[str, list[float]] = {}
    for kind in KINDS:
        text = document(kind)
        times = [min(same) for same in zip(*(time_calls(text) for _ in range(max(PASSES, repeat))), strict=True)]
        tenth = len(times) // 10
        means[kind] = [statistics.fmean(times) * 1e6]
        growths[kind] = [statistics.fmean(times[-tenth:]) / statistics.fmean(times[:tenth])]
    return [
        Target("Markdown, per token, the slowest kind of text", 1000, max(means.values()), means, False, "us"),
        Target("Markdown, last tenth over first, the worst kind", 1.5, max(growths.values()), growths, False),
    ]
