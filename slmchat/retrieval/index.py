"""The index: documents that were read once, found again by words and, with an embedding model, by meaning.

Knows: which files are new, changed, gone; what is asked of the words (words.py) and the
vectors (vectors.py); how their ranks become one. Refuses to know: how a file is read (loaders/), where chunks are cut
(chunks.py), what becomes of a passage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slmchat.engine.cancellable import CancelFlag
from slmchat.reporting import Reporter
from slmchat.retrieval.chunks import DocumentChunk, TokenCounter
from slmchat.retrieval.documents import DocumentKind
from slmchat.retrieval.vectors import Vectors


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that was found. `score` orders passages of one search and means nothing beyond it.

    `word_rank`, `vector_rank`: its place in the two lists, from 1; None where it is not in the list.
    `word_share`: how much of what the question's words weigh (rare ones more, as in BM25) is in the chunk, 0 to 1.
    `similarity`: cosine of the vectors of question and chunk, -1 to 1; None without an embedding model.
    The last two can be compared from one search to the next.
    """

    chunk: DocumentChunk
    score: float
    word_rank: int | None = None
    vector_rank: int | None = None
    word_share: float = 0.0
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A document of the index. `indexed_at` is UTC in ISO 8601; `n_bytes` is the size of the file."""

    path: Path
    title: str
    kind: DocumentKind
    n_bytes: int
    n_pages: int | None
    n_chunks: int
    indexed_at: str


@dataclass(slots=True)
class IndexReport:
    """What became of the paths: files that can be searched now, and those that cannot, by reason.

    `n_files`, `n_chunks`: all that lie below the paths and are in the index, read just now or before. `n_read`: files
    read just now. `n_gone`: files taken out of the index, because they are not there any more.
    `skipped`: reason in words ("is scanned: it has pictures of pages and no text") -> the files.
    `roots`: the paths, resolved: pass them to `search` as `within`. `is_cut`: it was cancelled, or a limit ended it.
    """

    roots: tuple[Path, ...] = ()
    n_files: int = 0
    n_chunks: int = 0
    n_read: int = 0
    n_gone: int = 0
    skipped: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    is_cut: bool = False


class DocumentIndex:
    """The index in `file`, or in memory. One object for each thread of work; many processes may use the file at once.

    The file is made by the first `add`. Every method may raise `SlmError`: STORAGE (no room, another slm writes for too
    long), DAMAGED.
    """

    def __init__(self, file: Path | None, count_tokens: TokenCounter, vectors: Vectors | None = None) -> None:
        """`file` None: in memory (`--private`). `vectors` None: by words alone."""
        raise NotImplementedError

    def add(
        self, paths: Sequence[Path], reporter: Reporter, is_cancelled: CancelFlag, *, is_fresh: bool = False
    ) -> IndexReport:
        """Read what is new or has changed below these files and directories, forget what is gone.

        `is_fresh`: read everything again (`--reindex`). Raises `SlmError` (USAGE) for a path that does not exist; a
        file that cannot be read is skipped and counted. When it is cancelled, what was read until then stays.
        """
        raise NotImplementedError

    def search(self, question: str, top: int, within: Sequence[Path] = ()) -> list[Passage]:
        """The best `top` passages for a question, the best first; none when nothing of it is found.

        `within`: only files at or below these paths (`IndexReport.roots`); empty: all of the index.
        """
        raise NotImplementedError

    def documents(self, within: Sequence[Path] = ()) -> list[IndexedFile]:
        """The documents by their paths."""
        raise NotImplementedError

    def chunks(self, path: Path) -> list[DocumentChunk]:
        """The chunks of one document in their order. Raises `SlmError` (USAGE) when it is not in the index."""
        raise NotImplementedError

    def remove(self, paths: Sequence[Path]) -> int:
        """Forget the documents at or below these paths, and leave nothing of their text; how many there were."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        raise NotImplementedError
