"""The tables of the index, version by version.

Knows: which tables documents, chunks, words and vectors lie in. Refuses to know: the file (database.py), what is asked.

`words` and `pieces` hold no text: what goes into them is made of the text of the chunk, by the same rules whenever it
is put in or taken out (words.py). Whoever changes these rules, or how chunks are cut, adds a step that forgets all
documents.
"""

from slmchat.database import Schema

_TERMS = tuple(
    f"CREATE VIRTUAL TABLE {table} USING fts5 (text, content = '', tokenize = 'ascii')" for table in ("words", "pieces")
)

# Never change a step that was released. A path is bytes: names of files need not be UTF-8. `problem`: why a file that
# was parsed has no chunks. `mtime` and `read_at` are nanoseconds.
_STEPS = (
    (
        """CREATE TABLE documents (
            key INTEGER PRIMARY KEY,
            path BLOB NOT NULL UNIQUE,
            title TEXT NOT NULL,
            kind TEXT NOT NULL,
            n_bytes INTEGER NOT NULL,
            mtime INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            n_pages INTEGER,
            n_chunks INTEGER NOT NULL,
            problem TEXT,
            read_at INTEGER NOT NULL
        )""",
        """CREATE TABLE chunks (
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            document INTEGER NOT NULL REFERENCES documents (key),
            place INTEGER NOT NULL,
            page INTEGER,
            first_line INTEGER NOT NULL,
            last_line INTEGER NOT NULL,
            heading TEXT NOT NULL,
            n_tokens INTEGER NOT NULL,
            text TEXT NOT NULL,
            UNIQUE (document, place)
        )""",
        *_TERMS,
        "CREATE TABLE models (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        """CREATE TABLE vectors (
            model INTEGER NOT NULL REFERENCES models (key),
            chunk INTEGER NOT NULL REFERENCES chunks (key),
            vector BLOB NOT NULL,
            PRIMARY KEY (model, chunk)
        ) WITHOUT ROWID""",
        "CREATE INDEX vectors_by_chunk ON vectors (chunk)",
    ),
    # The line of the file for each line of a chunk, where they do not follow one another; such files are read again.
    (
        "ALTER TABLE chunks ADD COLUMN lines TEXT",
        "UPDATE documents SET n_bytes = -1, sha256 = '' WHERE kind IN ('html', 'docx')",
    ),
    # E-mails, notebooks and RTF, which were read as plain text.
    tuple(
        f"UPDATE documents SET n_bytes = -1, sha256 = '' WHERE lower(CAST(path AS TEXT)) LIKE '%.{suffix}'"
        for suffix in ("eml", "ipynb", "rtf")
    ),
    # Words that are divided at the end of a line are found whole, and of DOCX, ODT, RTF and PDF more is read.
    (
        *(f"DROP TABLE {table}" for table in ("words", "pieces")),
        *_TERMS,
        *(f"DELETE FROM {table}" for table in ("vectors", "chunks", "documents")),
    ),
)

SCHEMA = Schema(_STEPS, frozenset({"documents", "chunks", "vectors"}))
