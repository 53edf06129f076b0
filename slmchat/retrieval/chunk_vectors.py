"""The vectors of the chunks of an index: made some at a time, and compared with that of a question.

A vector takes a hundred times as long as all the rest of a chunk, and somebody waits for an answer. So there are some
seconds for vectors before a question, and the next question goes on. Until all chunks have one, the best by their words
get theirs when they are needed, and these alone are compared by meaning: a chunk must not come first because others
have no vector yet.

Knows: which chunks have a vector, how long may be spent on more. Refuses to know: words, how ranks become one
(index.py), how a vector is computed (vectors.py).
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic

from slmchat.reporting import Reporter
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.store import Store
from slmchat.retrieval.vectors import Vectors, similarities
from slmchat.wording import counted

VECTORS_S = 4.0
"""Seconds for vectors before a question is answered: about as long as somebody waits without asking what is going on.
A document of some pages is done by then."""

BEST_BY_WORDS = 12
"""Chunks that get their vectors for a question while not all have one."""

# Vectors between two looks at the clock: on a slow device they take some seconds.
_AT_ONCE = 8


class ChunkVectors:
    """The vectors in a store, of one embedding model; without a model there are none."""

    def __init__(self, store: Store, vectors: Vectors | None) -> None:
        self._store = store
        self._vectors = vectors
        self._made: dict[int, bytes] = {}  # for questions; the next `make` makes them for the file
        self._asked: tuple[str, bytes | None] = ("", None)

    def make(
        self, within: Sequence[Path], reporter: Reporter, is_cancelled: Callable[[], bool], seconds: float | None
    ) -> int:
        """Make the vectors that are missing of the chunks below these paths, until so many seconds are over (None: all
        of them); how many are missing then. Raises `SlmError` as `Store` and embedders do."""
        vectors, store = self._vectors, self._store
        if vectors is None:
            return 0
        self._made.clear()
        end = None if seconds is None else monotonic() + seconds
        model = store.model_key(vectors.model, is_made=True)
        n_missing = store.n_without_vector(model, within) if model is not None else 0
        n_done = 0
        while model is not None and (chunks := store.without_vector(model, within, _AT_ONCE)):
            reporter.status(f"reading documents: {n_done:,} of {counted(n_missing, 'passage')} by meaning")
            made = list(vectors.of_chunks(chunks, is_cancelled))
            store.put_vectors(model, made)
            n_done += len(made)
            if len(made) < len(chunks):  # cancelled; or some have none, and would come again and again
                return 0
            if end is not None and monotonic() >= end:
                break
        return n_missing - n_done

    def ranked(
        self, question: str, best_by_words: Sequence[int], within: Sequence[Path], most: int
    ) -> list[tuple[int, float]]:
        """Chunks with the cosines of their vectors and that of a question, the nearest first: of all chunks below these
        paths at most so many, or where some have no vector yet, those that are the best by their words."""
        wanted = self._of_question(question)
        model = None if self._vectors is None else self._store.model_key(self._vectors.model, is_made=False)
        if self._vectors is None or wanted is None:
            return []
        if model is None or self._store.n_without_vector(model, within):
            return self._ranked_of(self._vectors, wanted, best_by_words, model)
        best: list[tuple[float, int]] = []
        for page in self._store.vectors(model, within):
            found = similarities(wanted, (vector for _, vector in page))
            best = heapq.nlargest(most, [*best, *zip(found, (key for key, _ in page), strict=True)])
        return [(key, similarity) for similarity, key in best]

    def _ranked_of(
        self, vectors: Vectors, wanted: bytes, keys: Sequence[int], model: int | None
    ) -> list[tuple[int, float]]:
        """These chunks alone; their vectors are made where they have none."""
        made = {key: self._made[key] for key in keys if key in self._made}
        if model is not None:
            made |= self._store.vectors_of(model, [key for key in keys if key not in made])
        missing = self._store.chunks([key for key in keys if key not in made])
        new = {chunk.key: vector for chunk, vector in vectors.of_chunks(list(missing.values()), lambda: False)}
        self._made |= new
        made |= new
        there = [key for key in keys if key in made]  # of equal ones the better by words stays first
        found = similarities(wanted, (made[key] for key in there))
        return sorted(zip(there, found, strict=True), key=lambda pair: -pair[1])

    def with_sentences(
        self, question: str, chunks: Mapping[int, DocumentChunk], similarity: Mapping[int, float]
    ) -> dict[int, float]:
        """The cosines of these chunks, or of the sentence in them that is nearer to a question than the whole is."""
        wanted = self._of_question(question)
        found = dict(similarity)
        if self._vectors is not None and wanted is not None:
            for key, of_sentence in self._vectors.of_nearest_sentences(wanted, chunks):
                found[key] = max(of_sentence, found.get(key, -1.0))
        return found

    def _of_question(self, question: str) -> bytes | None:
        if self._vectors is not None and self._asked[0] != question:
            self._asked = (question, self._vectors.of_question(question))
        return self._asked[1]

    def close(self) -> None:
        """Close the embedding model."""
        if self._vectors is not None:
            self._vectors.embedder.close()
