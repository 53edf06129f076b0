"""Documents, chunks, words and vectors in the tables, one document in one transaction.

Knows: SQL, the queries of FTS5. Refuses to know: SQLite's errors (database.py), files, which chunk is the best.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time_ns
from typing import Any

from slmchat.database import Database
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval import words
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.documents import Document, DocumentKind
from slmchat.retrieval.loaders.reading import FileContent

_HEADINGS = "\n"  # between the headings of a chunk; a heading is one line
_CHUNK = """SELECT chunks.key, place, page, first_line, last_line, heading, n_tokens, text, lines, path, title, kind
    FROM chunks JOIN documents ON documents.key = chunks.document"""
_PAGE = 1_000  # vectors in memory at a time: 1.5 MB at 768 dimensions


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


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the index knows of a file: as it was when it was read, at `read_at` (nanoseconds); why it has no chunks."""

    key: int
    n_bytes: int
    mtime: int
    sha256: str
    n_chunks: int
    problem: str | None
    read_at: int


class Store:
    """The tables. All methods raise `SlmError` as those of `Database` do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Files

    def known(self, path: Path) -> KnownFile | None:
        """What is known of a file; None: nothing."""
        found = self._database.rows(
            "SELECT key, n_bytes, mtime, sha256, n_chunks, problem, read_at FROM documents WHERE path = ?",
            (os.fsencode(path),),
        )
        return KnownFile(*found[0]) if found else None

    def put(
        self,
        content: FileContent,
        document: Document | None,
        chunks: Iterable[DocumentChunk],
        problem: str | None,
        *,
        replaces: bool,
    ) -> KnownFile:
        """A document with its chunks in the place of what was known of its file, or why it has none.

        Not `replaces`: what is known of a file with the same content stays.
        """
        database = self._database
        with database.transaction(is_synced=False):
            known = self.known(content.path)
            if known is not None:
                if known.sha256 == content.sha256 and not replaces:  # another indexer was faster
                    return known
                self._remove(known.key)
            title = _storable(content.path.name if document is None else document.title)
            read_at = time_ns()
            key = database.run(
                "INSERT INTO documents (path, title, kind, n_bytes, mtime, sha256, n_pages, n_chunks, problem, read_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                (
                    *(
                        os.fsencode(content.path),
                        _storable(title),
                        content.kind.value,
                        len(content.data),
                        content.mtime,
                    ),
                    *(content.sha256, None if document is None else document.n_pages, problem, read_at),
                ),
            )
            n_chunks = 0
            for chunk in chunks:
                self._put_chunk(key, title, chunk)
                n_chunks += 1
            database.run("UPDATE documents SET n_chunks = ? WHERE key = ?", (n_chunks, key))
        return KnownFile(key, len(content.data), content.mtime, content.sha256, n_chunks, problem, read_at)

    def touch(self, key: int, mtime: int) -> None:
        """The file was looked at, and is as it was."""
        with self._database.transaction(is_synced=False):
            self._database.run("UPDATE documents SET mtime = ?, read_at = ? WHERE key = ?", (mtime, time_ns(), key))

    def forget(self, keys: Sequence[int]) -> None:
        """Take documents out."""
        for key in keys:
            with self._database.transaction(is_synced=False):
                self._remove(key)

    def erase(self, keys: Sequence[int]) -> bool:
        """Take documents out, and leave nothing of them in the files; False: traces may stay."""
        database = self._database
        if not keys:
            return True
        try:
            with database.transaction():
                for key in keys:
                    self._remove(key)
                for table in ("words", "pieces"):  # words that were taken out stay until segments merge
                    database.run(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
        except SlmError as error:
            if error.exit_code is not ExitCode.STORAGE:
                raise
            with database.transaction_in_place():  # the disk is full, or the reason comes again
                for key in keys:
                    self._remove(key)
            database.erase()
            return False
        return database.erase()

    def _put_chunk(self, document: int, title: str, chunk: DocumentChunk) -> None:
        database = self._database
        heading = _storable(_HEADINGS.join(" ".join(each.split()) for each in chunk.heading))
        text = _storable(chunk.text)
        key = database.run(
            "INSERT INTO chunks (document, place, page, first_line, last_line, heading, n_tokens, text, lines)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(document, chunk.place, chunk.page, chunk.first_line, chunk.last_line),
                *(heading, chunk.n_tokens, text),
                None if chunk.lines is None else " ".join(map(str, chunk.lines)),
            ),
        )
        self._index(title, heading, text, key, "")

    def _index(self, title: str, heading: str, text: str, key: int, command: str) -> None:
        """Put the words of a chunk in; with the command `delete`, take them out: both by the same words."""
        found = words.words_of("\n".join((title, heading, text)))
        for table, terms in (("words", found), ("pieces", words.pieces_of(found))):
            if command:
                sql = f"INSERT INTO {table} ({table}, rowid, text) VALUES ('{command}', ?, ?)"
            else:
                sql = f"INSERT INTO {table} (rowid, text) VALUES (?, ?)"
            self._database.run(sql, (key, " ".join(terms)))

    def _remove(self, key: int) -> None:
        """Inside a transaction."""
        database = self._database
        rows = database.rows(
            "SELECT title, heading, text, chunks.key FROM chunks JOIN documents ON documents.key = document"
            " WHERE document = ?",
            (key,),
        )
        for title, heading, text, chunk in rows:
            self._index(title, heading, text, chunk, "delete")
        database.run("DELETE FROM vectors WHERE chunk IN (SELECT key FROM chunks WHERE document = ?)", (key,))
        database.run("DELETE FROM chunks WHERE document = ?", (key,))
        database.run("DELETE FROM documents WHERE key = ?", (key,))

    # Lists

    def files(self, within: Sequence[Path]) -> list[IndexedFile]:
        """The documents that have chunks, by their paths."""
        condition, parameters = _below(within)
        rows = self._database.rows(
            "SELECT path, title, kind, n_bytes, n_pages, n_chunks, read_at FROM documents"
            f" WHERE problem IS NULL AND {condition} ORDER BY path",
            parameters,
        )
        return [
            IndexedFile(Path(os.fsdecode(path)), title, DocumentKind(kind), n_bytes, n_pages, n_chunks, _when(read_at))
            for path, title, kind, n_bytes, n_pages, n_chunks, read_at in rows
        ]

    def paths(self, within: Sequence[Path]) -> list[tuple[int, Path]]:
        """The keys and paths of all documents at or below these paths, those without chunks too."""
        condition, parameters = _below(within)
        rows = self._database.rows(f"SELECT key, path FROM documents WHERE {condition}", parameters)
        return [(key, Path(os.fsdecode(path))) for key, path in rows]

    def chunks_of(self, path: Path) -> list[DocumentChunk]:
        """The chunks of a document in their order."""
        return list(map(_chunk, self._database.rows(f"{_CHUNK} WHERE path = ? ORDER BY place", (os.fsencode(path),))))

    def chunks(self, keys: Sequence[int]) -> dict[int, DocumentChunk]:
        """Chunks by their keys; one that is gone is left out."""
        marks = ", ".join("?" * len(keys))
        found = map(_chunk, self._database.rows(f"{_CHUNK} WHERE chunks.key IN ({marks})", keys))
        return {chunk.key: chunk for chunk in found}

    # Words

    def ranked(self, table: str, query: str, within: Sequence[Path], most: int) -> list[int]:
        """Keys of the chunks that match a query of FTS5 best (BM25), the best first."""
        if not query:
            return []
        # with a plus, which keeps SQLite from asking the text index once for each chunk below the paths: of 1,000 files
        # that took 350 times as long
        condition, parameters = _within(within, "+rowid")
        rows = self._database.rows(
            f"SELECT rowid FROM {table} WHERE {table} MATCH ? {condition} ORDER BY rank LIMIT ?",
            (query, *parameters, most),
        )
        return [key for (key,) in rows]

    # Vectors

    def model_key(self, name: str, *, is_made: bool) -> int | None:
        """The number of an embedding model; None: the index has no vectors of it, and none `is_made`."""
        rows = self._database.rows("SELECT key FROM models WHERE name = ?", (name,))
        if rows or not is_made:
            return int(rows[0][0]) if rows else None
        with self._database.transaction(is_synced=False):
            self._database.run("INSERT OR IGNORE INTO models (name) VALUES (?)", (name,))
        return self.model_key(name, is_made=False)

    def without_vector(self, model: int, within: Sequence[Path], most: int) -> list[DocumentChunk]:
        """Chunks that have no vector of this model yet, longest not known: in their order."""
        condition, parameters = _below(within)
        rows = self._database.rows(
            f"{_CHUNK} WHERE {condition} AND NOT EXISTS"
            " (SELECT 1 FROM vectors WHERE model = ? AND chunk = chunks.key) ORDER BY chunks.key LIMIT ?",
            (*parameters, model, most),
        )
        return list(map(_chunk, rows))

    def n_without_vector(self, model: int, within: Sequence[Path]) -> int:
        condition, parameters = _below(within)
        rows = self._database.rows(
            f"SELECT count(*) FROM chunks JOIN documents ON documents.key = document WHERE {condition}"
            " AND NOT EXISTS (SELECT 1 FROM vectors WHERE model = ? AND chunk = chunks.key)",
            (*parameters, model),
        )
        return int(rows[0][0]) if rows else 0

    def put_vectors(self, model: int, vectors: Iterable[tuple[DocumentChunk, bytes]]) -> None:
        """Vectors of chunks; one whose chunk is gone meanwhile is left out."""
        with self._database.transaction(is_synced=False):
            for chunk, vector in vectors:
                self._database.run(
                    "INSERT OR IGNORE INTO vectors (model, chunk, vector) SELECT ?, key, ? FROM chunks WHERE key = ?",
                    (model, vector, chunk.key),
                )

    def vectors_of(self, model: int, keys: Sequence[int]) -> dict[int, bytes]:
        """The vectors of those of these chunks that have one."""
        marks = ", ".join("?" * len(keys))
        return dict(
            self._database.rows(
                f"SELECT chunk, vector FROM vectors WHERE model = ? AND chunk IN ({marks})", (model, *keys)
            )
        )

    def vectors(self, model: int, within: Sequence[Path]) -> Iterator[list[tuple[int, bytes]]]:
        """Keys and vectors of all chunks that have one, in pages."""
        condition, parameters = _within(within, "chunk")
        last = 0
        while rows := self._database.rows(
            f"SELECT chunk, vector FROM vectors WHERE model = ? AND chunk > ? {condition} ORDER BY chunk LIMIT ?",
            (model, last, *parameters, _PAGE),
        ):
            yield rows
            last = rows[-1][0]


def _below(within: Sequence[Path]) -> tuple[str, list[bytes]]:
    """A condition on `documents.path`; all paths where none is given."""
    conditions, parameters = [], []
    for path in within:
        own = os.fsencode(path)
        below = own.rstrip(os.fsencode(os.sep)) + os.fsencode(os.sep)
        conditions.append("path = ? OR (path >= ? AND path < ?)")
        parameters += [own, below, below[:-1] + bytes((below[-1] + 1,))]
    return f"({' OR '.join(conditions) or '1'})", parameters


def _within(within: Sequence[Path], column: str) -> tuple[str, list[bytes]]:
    """The same on a column with keys of chunks, to be put behind another condition."""
    if not within:
        return "", []
    condition, parameters = _below(within)
    documents = f"SELECT key FROM documents WHERE {condition}"
    return f"AND {column} IN (SELECT key FROM chunks WHERE document IN ({documents}))", parameters


def _chunk(row: Sequence[Any]) -> DocumentChunk:
    key, place, page, first_line, last_line, heading, n_tokens, text, lines, path, title, kind = row
    headings = tuple(heading.split(_HEADINGS)) if heading else ()
    return DocumentChunk(
        *(text, Path(os.fsdecode(path)), title, DocumentKind(kind), page, first_line, last_line),
        *(headings, n_tokens, place, key, None if lines is None else tuple(map(int, lines.split()))),
    )


def _storable(text: str) -> str:
    """Texts of documents can be encoded; names of files need not."""
    return text.encode("utf-8", "replace").decode()


def _when(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="seconds")


def not_indexed(path: Path) -> SlmError:
    """The error for a document that the index does not have."""
    return usage_error(f"{path} is not in the index.", "slm docs list")
