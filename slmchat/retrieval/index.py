"""The index: documents that were read once, found again by words and, with an embedding model, by meaning.

Knows: which files are new, changed, gone; how the ranks of words, pieces of words and vectors become one.
Refuses to know: how a file is read (loaders/), where chunks are cut (chunks.py), which of them have a vector,
SQL (store.py), what becomes of them.

Reading is one transaction for each file: after a `kill -9` every document is in the index whole or not at all, and the
next `add` goes on. Vectors are made afterwards (chunk_vectors.py); until then a chunk is found by its words.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from time import monotonic, time_ns

from slmchat.database import Database, MemoryDatabase
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.reporting import Reporter
from slmchat.retrieval import words
from slmchat.retrieval.chunk_vectors import BEST_BY_WORDS, ChunkVectors
from slmchat.retrieval.chunks import DocumentChunk, TokenCounter, cut
from slmchat.retrieval.file_tree import LEFT_OUT, MOST_FILES, FoundFile, files_below, resolved
from slmchat.retrieval.index_schema import SCHEMA
from slmchat.retrieval.loaders.bounds import NotDocument, Unreadable
from slmchat.retrieval.loaders.reading import DocumentReader, ReadingEnded, content_of
from slmchat.retrieval.store import IndexedFile, KnownFile, Store, not_indexed
from slmchat.retrieval.vectors import Vectors
from slmchat.wording import counted

# Tokens of a chunk: five of them leave room in a window of 2,048. All-MiniLM was trained for 256.
CHUNK_TOKENS = 200

# Reciprocal rank fusion: Cormack, Clarke, Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
# learning methods", SIGIR 2009. Theirs is 60, for thirty lists that agree; with these three a smaller number, by which
# the first places count more, found one or two answers more (docs/decisions.md).
_K = 5
_CANDIDATES = 100  # of each list
# A file whose time of change is so close to that of its reading may have changed once more in the same tick of the file
# system (FAT has ticks of 2 s).
_TICK_NS = 2_000_000_000
_STATUS_S = 0.1
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that was found. `score` orders passages of one search and means nothing beyond it.

    `word_rank`, `vector_rank`: its place in the two lists, from 1; None where it is not in the list.
    `similarity`: cosine of the vectors of the question and of the chunk or the sentence of it that is nearest, -1 to 1;
    None without an embedding model. It can be compared from one search to the next.
    """

    chunk: DocumentChunk
    score: float
    word_rank: int | None = None
    vector_rank: int | None = None
    similarity: float | None = None


@dataclass(slots=True)
class SkippedFiles:
    """Files that are left out for one reason: how many, and some of them. `is_news`: one of them ought to be
    read, and nobody was told so before."""

    n_files: int = 0
    examples: list[Path] = field(default_factory=list)
    is_news: bool = False


@dataclass(slots=True)
class IndexReport:
    """What became of the paths: files that can be searched now, and those that cannot, by reason.

    `n_files`, `n_chunks`: all that lie below the paths and are in the index, read just now or before. `n_read`: files
    read just now. `n_gone`: files taken out of the index, because they are not there any more.
    `skipped`: reason in words ("is encrypted") -> the files. What is hidden or a tool's own counts, too.
    `roots`: the paths, resolved: pass them to `search` as `within`. `is_cut`: it was cancelled, or a limit ended it.
    `n_without_vector`: chunks that are found by their words alone so far, for want of time.
    """

    roots: tuple[Path, ...] = ()
    n_files: int = 0
    n_chunks: int = 0
    n_read: int = 0
    n_gone: int = 0
    skipped: dict[str, SkippedFiles] = field(default_factory=dict)
    is_cut: bool = False
    n_without_vector: int = 0

    def skip(self, reason: str, path: Path, *, is_news: bool) -> None:
        """Count a file that is left out."""
        found = self.skipped.setdefault(reason, SkippedFiles())
        found.n_files += 1
        found.is_news = found.is_news or is_news
        if len(found.examples) < _EXAMPLES:
            found.examples.append(path)


@dataclass(frozen=True, slots=True)
class Removal:
    """What was forgotten. Not `is_erased`: another slm was in the way or the disk is full, traces may stay until the
    next removal."""

    n_documents: int
    is_erased: bool


class DocumentIndex:
    """The index in `file`, or in memory. One object for each thread of work; many processes may use the file at once.

    The file is made by the first `add`. Every method may raise `SlmError`: STORAGE (no room, another slm writes for too
    long), DAMAGED.
    """

    def __init__(
        self,
        file: Path | None,
        count_tokens: TokenCounter,
        vectors: Vectors | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        """`file` None: in memory (`--private`). `vectors` None: by words alone. `chunk_tokens`: the largest chunk."""
        self._database = MemoryDatabase("the index", SCHEMA) if file is None else Database(file, SCHEMA)
        self._store = Store(self._database)
        self._count_tokens = count_tokens
        self._chunk_tokens = chunk_tokens
        self._by_vectors = ChunkVectors(self._store, vectors)

    # Writing

    def add(
        self,
        paths: Sequence[Path],
        reporter: Reporter,
        is_cancelled: Callable[[], bool],
        *,
        is_fresh: bool = False,
        vectors_s: float | None = None,
    ) -> IndexReport:
        """Read what is new or has changed below these files and directories, forget what is gone.

        `is_fresh`: read everything again (`--reindex`). `vectors_s`: no more vectors are made behind so many seconds,
        None: all that are missing. Raises `SlmError` (USAGE) for a path that does not exist; a
        file that cannot be read is skipped and counted. When it is cancelled, what was read until then stays.
        """
        if not self._database.has_fts5():
            raise usage_error(
                "this Python's SQLite has no full-text index (FTS5), and documents need one.",
                "another build of Python has it; most do",
            )
        report = IndexReport(resolved(paths))
        reader = DocumentReader(is_cancelled)
        try:
            self._read_all(report, reader, reporter, is_cancelled, is_fresh=is_fresh)
            if not report.is_cut:
                report.n_without_vector = self._by_vectors.make(report.roots, reporter, is_cancelled, vectors_s)
                report.is_cut = is_cancelled()
        except ReadingEnded:
            report.is_cut = True
        finally:
            reader.close()
            reporter.status("")
        return report

    def _read_all(
        self,
        report: IndexReport,
        reader: DocumentReader,
        reporter: Reporter,
        is_cancelled: Callable[[], bool],
        *,
        is_fresh: bool,
    ) -> None:
        seen: set[Path] = set()
        n_looked_at, next_status, begin = 0, monotonic() + _STATUS_S, time_ns()
        for root in report.roots:
            for found in files_below(root):
                n_looked_at += 1
                if is_cancelled() or n_looked_at > MOST_FILES:
                    report.is_cut = True
                    if n_looked_at > MOST_FILES:
                        reporter.warn(f"there are more than {MOST_FILES:,} files; the others were left out.")
                    return
                if monotonic() >= next_status:
                    looked_at = counted(n_looked_at, "file")
                    reporter.status(
                        f"reading documents: {looked_at} looked at, {report.n_read:,} read · {found.path.name}"
                    )
                    next_status = monotonic() + _STATUS_S
                known = self._brought_up_to_date(found, report, reader, is_fresh=is_fresh)
                if known is None:
                    continue
                seen.add(found.path)
                if known.problem is not None:
                    report.skip(known.problem, found.path, is_news=known.read_at >= begin)
                    continue
                report.n_files += 1
                report.n_chunks += known.n_chunks
        # by their paths: another indexer may have given them other keys meanwhile
        gone = [key for key, path in self._store.paths(report.roots) if path not in seen]
        self._store.forget(gone)
        report.n_gone = len(gone)

    def _brought_up_to_date(
        self, found: FoundFile, report: IndexReport, reader: DocumentReader, *, is_fresh: bool
    ) -> KnownFile | None:
        """What the index knows of a file after it was read, if that was needed; None: it does not become a document."""
        if found.reason is not None:
            report.skip(found.reason, found.path, is_news=found.reason not in LEFT_OUT)
            return None
        known = self._store.known(found.path)
        is_same = known is not None and (known.n_bytes, known.mtime) == (found.n_bytes, found.mtime)
        if known is not None and is_same and not is_fresh and known.read_at - known.mtime > _TICK_NS:
            return known
        try:
            content = content_of(found.path)
        except Unreadable as error:
            report.skip(error.reason, found.path, is_news=not isinstance(error, NotDocument))
            return None
        if known is not None and known.sha256 == content.sha256 and not is_fresh:
            self._store.touch(known.key, content.mtime)
            return known
        try:
            document = reader.read(content)
        except Unreadable as error:
            return self._store.put(content, None, (), error.reason, replaces=is_fresh)
        report.n_read += 1
        chunks = cut(document, self._count_tokens, self._chunk_tokens)
        return self._store.put(content, document, chunks, None, replaces=is_fresh)

    def remove(self, paths: Sequence[Path] | None) -> Removal:
        """Forget the documents at or below these paths (None: all), and leave nothing of their text.

        Raises `SlmError` (USAGE) for a path that the index has nothing of: then all stay.
        """
        for path in paths or ():
            if not self._store.paths([path]):
                raise not_indexed(path)
        keys = [key for key, _ in self._store.paths(paths or ())]
        return Removal(len(keys), self._store.erase(keys))

    # Reading

    def search(self, question: str, top: int, within: Sequence[Path] = ()) -> list[Passage]:
        """The best `top` passages for a question, the best first; none when nothing of it is found.

        `within`: only files at or below these paths (`IndexReport.roots`); empty: all of the index.
        """
        store = self._store
        terms = words.terms_of(question)
        by_words = store.ranked("words", _query(terms), within, _CANDIDATES)
        by_pieces = store.ranked("pieces", _any_of(words.pieces_of(terms)), within, _CANDIDATES)
        scores_by_words = _fused([by_words, by_pieces])
        by_vectors = self._by_vectors.ranked(question, _best(scores_by_words, BEST_BY_WORDS), within, _CANDIDATES)
        scores = _fused([by_words, by_pieces, [key for key, _ in by_vectors]])
        best = _best(scores, top)
        chunks = store.chunks(best)
        word_ranks = _ranks(scores_by_words)
        vector_ranks = {key: rank for rank, (key, _) in enumerate(by_vectors, 1)}
        similarity = self._by_vectors.with_sentences(question, chunks, dict(by_vectors))
        return [
            Passage(
                chunks[key],
                scores[key],
                word_ranks.get(key),
                vector_ranks.get(key),
                similarity.get(key),
            )
            for key in best
            if key in chunks
        ]

    def documents(self, within: Sequence[Path] = ()) -> list[IndexedFile]:
        """The documents by their paths."""
        return self._store.files(within)

    def chunks(self, path: Path) -> list[DocumentChunk]:
        """The chunks of one document in their order. Raises `SlmError` (USAGE) when it is not in the index."""
        found = self._store.chunks_of(path)
        if not found:
            raise not_indexed(path)
        return found

    def close(self) -> None:
        """Close the file, and the embedding model. The next use opens the file again."""
        self._database.close()
        self._by_vectors.close()


def _query(terms: Sequence[str]) -> str:
    """Chunks with any of these words, in the language of FTS5: a term has letters and digits only."""
    return " OR ".join(f'"{term}"' + ("*" if words.is_prefix(term) else "") for term in terms)


def _any_of(pieces: Sequence[str]) -> str:
    return " OR ".join(f'"{piece}"' for piece in pieces)


def _fused(lists: Sequence[Sequence[int]]) -> dict[int, float]:
    """The scores of reciprocal rank fusion."""
    scores: dict[int, float] = {}
    for ranked in lists:
        for rank, key in enumerate(ranked, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (_K + rank)
    return scores


def _best(scores: dict[int, float], most: int) -> list[int]:
    return heapq.nlargest(most, scores, key=lambda key: (scores[key], -key))


def _ranks(scores: dict[int, float]) -> dict[int, int]:
    return {key: rank for rank, key in enumerate(sorted(scores, key=lambda key: (-scores[key], key)), 1)}
