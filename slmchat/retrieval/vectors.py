"""Vectors of chunks: an embedding model that is open, and the chunks that mean what a question means.

Knows: which texts an embedding model wants (its prefixes), how vectors are kept and compared.
Refuses to know: how a vector is computed (engine/embedding.py), SQL, words.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from slmchat.engine.api import Embedder
from slmchat.engine.quotations import QuotablePassages
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.chunks import DocumentChunk

# What a model was trained to see before a text: of a question, of a passage. From the model cards of their makers; a
# model that is not here (all-MiniLM, gte) was trained without.
_GEMMA = ("task: search result | query: ", "title: none | text: ")
_PREFIXES = {
    "embeddinggemma": _GEMMA,
    "gemma-embedding": _GEMMA,
    "nomic": ("search_query: ", "search_document: "),
    "e5": ("query: ", "passage: "),
    "arctic-embed": ("Represent this sentence for searching relevant passages: ", ""),
    "mxbai": ("Represent this sentence for searching relevant passages: ", ""),
    "bge": ("Represent this sentence for searching relevant passages: ", ""),
}


@dataclass(frozen=True, slots=True)
class Vectors:
    """An embedding model that is open. `model` tells its vectors from those of another. `prefixes`: what it wants
    before a question and before a passage (`prefixes_of`)."""

    model: str
    embedder: Embedder
    prefixes: tuple[str, str] = ("", "")

    def of_question(self, question: str) -> bytes | None:
        """The vector of a question, packed; None where it has none. Raises `SlmError` for what ends all."""
        made = next(self.embedder.run(iter((self.prefixes[0] + question,))), None)
        return packed(made.vector) if isinstance(made, Embedding) else None

    def of_chunks(
        self, chunks: Sequence[DocumentChunk], is_cancelled: Callable[[], bool]
    ) -> Iterator[tuple[DocumentChunk, bytes]]:
        """The vectors of those chunks that have one, in order. Raises `SlmError` for what ends all."""
        prefix = self.prefixes[1]
        texts = (f"{prefix}{context(chunk)}\n{chunk.text}" for chunk in chunks)
        for chunk, made in zip(chunks, self.embedder.run(texts), strict=False):
            if is_cancelled():
                self.embedder.cancel()
                return
            if not isinstance(made, SlmError):
                yield chunk, packed(made.vector)

    def of_nearest_sentences(self, question: bytes, chunks: Mapping[int, DocumentChunk]) -> Iterator[tuple[int, float]]:
        """The cosine of a question and of that sentence of each chunk that is nearest to it; chunks of one sentence are
        left out. Raises `SlmError` for what ends all.

        One sentence in 200 tokens of other things moves the vector of a chunk little.
        """
        prefix = self.prefixes[1]
        keys, texts = [], []
        for key, chunk in chunks.items():
            sentences = list(QuotablePassages.of((chunk.text,)).sentences())
            if len(sentences) > 1:
                keys += [key] * len(sentences)
                texts += sentences
        best: dict[int, float] = {}
        for key, made in zip(keys, self.embedder.run(prefix + text for text in texts), strict=False):
            if not isinstance(made, SlmError):
                best[key] = max(similarities(question, [packed(made.vector)])[0], best.get(key, -1.0))
        yield from best.items()


def prefixes_of(description: str) -> tuple[str, str]:
    """What a model was trained to see before a question and before a passage, by what its name, its file and its header
    say it is."""
    told = description.lower()
    # as a word of its own: "e5" is in many a hash
    known = (found for name, found in _PREFIXES.items() if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", told))
    return next(known, ("", ""))


def context(chunk: DocumentChunk) -> str:
    """What stands above a chunk, for whoever has to tell what it is about: the title and the headings."""
    return "\n".join(dict.fromkeys((chunk.title, *chunk.heading)))


def packed(vector: Sequence[float]) -> bytes:
    """Half precision: it moves no rank of the measured questions and takes half the room."""
    import numpy

    return numpy.asarray(vector, dtype="<f2").tobytes()


def similarities(question: bytes, vectors: Iterable[bytes]) -> list[float]:
    """The cosines of a question and chunks, all of them vectors of length 1 of one model."""
    import numpy

    rows = b"".join(vectors)
    if not rows:
        return []
    wanted = numpy.frombuffer(question, dtype="<f2").astype(numpy.float32)
    matrix = numpy.frombuffer(rows, dtype="<f2").reshape(-1, len(wanted)).astype(numpy.float32)
    found: list[float] = (matrix @ wanted).tolist()
    return found
