"""Measure the index of documents: searching 5,000 passages, reading, and memory while 50,000 are read.

Words are as frequent as in a language (Zipf). Vectors are made up, of 384 numbers like those of all-MiniLM: what is
measured is how long they are compared, not how they are computed. Each part runs in a process of its own.
"""

import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from targets import Target

from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.reporting import LogReporter
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.vectors import Vectors

CHUNKS, MANY = 5_000, 50_000
EACH = 50  # passages of a document
QUESTIONS = 40
DIMENSIONS = 384


def measure(repeat: int) -> list[Target]:
    """A search, the rate of reading, and how memory grows."""
    by_words, by_both, many = (
        _measured(count, kind) for count, kind in ((CHUNKS, "words"), (CHUNKS, "both"), (MANY, "words"))
    )
    rate = [CHUNKS / by_words["index_s"]]
    return [
        Target("5,000 passages, a search by words", 100, by_words["search_ms"], {}, False, "ms"),
        Target("5,000 passages, a search by words and vectors", 100, by_both["search_ms"], {}, False, "ms"),
        Target("50,000 passages, a search by words", 500, many["search_ms"], {}, False, "ms"),
        Target(
            "passages indexed each second, by words", 200, rate, {"of 50,000": [MANY / many["index_s"]]}, True, "/s"
        ),
        Target(
            *("50,000 passages indexed, memory beyond that of 5,000", 40, [many["peak_mib"] - by_words["peak_mib"]]),
            *({"peak MiB": [by_words["peak_mib"], many["peak_mib"]], "file MiB": [many["file_mib"]]}, False, "MiB"),
        ),
    ]


def _measured(count: int, kind: str) -> dict[str, list[float] | float]:
    done = subprocess.run(
        [sys.executable, __file__, str(count), kind], stdout=subprocess.PIPE, text=True, check=True, timeout=3_600
    )
    return json.loads(done.stdout)


class _MadeUp:
    """Vectors of length 1 that depend on the text alone."""

    def run(self, texts: Iterator[str | tuple[int, ...]]) -> Iterator[Embedding | SlmError]:
        for text in texts:
            pick = random.Random(str(text))
            values = [pick.gauss(0, 1) for _ in range(DIMENSIONS)]
            length = sum(value * value for value in values) ** 0.5
            yield Embedding(tuple(value / length for value in values), 1)

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


def _main(count: int, kind: str) -> None:
    import resource

    pick = random.Random(1)
    words = ["".join(pick.choices("etaoinshrdlucm", k=pick.randint(2, 9))) for _ in range(30_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def some(number: int) -> str:
        return " ".join(pick.choices(words, cum_weights=weights, k=number))

    with tempfile.TemporaryDirectory() as directory:
        documents = Path(directory, "documents")
        documents.mkdir()
        for number in range(count // EACH):
            text = "\n\n".join(f"# {some(4)}\n\n{some(90)}." for _ in range(EACH))
            (documents / f"{number}.md").write_text(text)
        vectors = Vectors("made up", _MadeUp()) if kind == "both" else None
        file = Path(directory, "documents.db")
        index = DocumentIndex(file, lambda text: len(text) // 4, vectors)
        begin = time.perf_counter()
        report = index.add([documents], LogReporter(), lambda: False)
        index_s = time.perf_counter() - begin
        assert report.n_chunks == count, report
        search_ms = []
        for _ in range(QUESTIONS):
            question = " ".join(pick.sample(words[:3_000], 4) + pick.sample(words, 3))
            begin = time.perf_counter()
            assert index.search(question, 5)
            search_ms.append(1000 * (time.perf_counter() - begin))
        index.close()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
        print(
            json.dumps(
                {
                    "index_s": index_s,
                    "search_ms": search_ms,
                    "peak_mib": peak,
                    "file_mib": file.stat().st_size / (1 << 20),
                }
            )
        )


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
